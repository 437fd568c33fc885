"""`demo`: a real collection moves to another model while it is read and written."""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reshelve.cli.options import JsonOption
from reshelve.cli.session import FAILED, OK, Answer, Session, perform
from reshelve.errors import InputError

if TYPE_CHECKING:
    from reshelve.demo.facts import DemoFacts


def register(app: typer.Typer) -> None:
    app.command()(demo)


def demo(
    context: typer.Context,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the collection's folder, to look around in.")] = False,
    report: Annotated[Path | None, typer.Option("--report", metavar="PATH", help="Write an HTML report.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Watch a live collection move to another model. From hashing-512 to minilm-l6-v2, there, back and there."""

    async def work(session: Session) -> Answer:
        if report is not None and not report.resolve().parent.is_dir():
            raise InputError(f"there is no folder {report.parent} to write the report into")
        with _folder(keep=keep) as folder:
            return await _demo(session, folder, kept=keep, report=report)

    perform(context, work, as_json=as_json)


@contextmanager
def _folder(*, keep: bool) -> Generator[Path]:
    if keep:
        yield Path(tempfile.mkdtemp(prefix="reshelve-demo-")) / "collection"
        return
    with tempfile.TemporaryDirectory(prefix="reshelve-demo-", ignore_cleanup_errors=True) as folder:
        yield Path(folder) / "collection"


async def _demo(session: Session, folder: Path, *, kept: bool, report: Path | None) -> Answer:
    from reshelve.demo.facts import as_json
    from reshelve.demo.run import run_demo
    from reshelve.demo.table import print_table

    with session.progress() as progress:
        facts = await run_demo(folder, on_step=lambda name, how_far: progress.show(name, doing=how_far))
    document = as_json(facts)
    places: list[str] = []
    if report is not None:
        _write_report(facts, report)
        places.append(f"The report: {report}")
    if kept:
        places.append(f"The collection: {folder}")
    return Answer(
        document=document,
        show=lambda console: print_table(facts, console),
        lines=places,
        code=OK if document["passed"] else FAILED,
    )


def _write_report(facts: DemoFacts, path: Path) -> None:
    from reshelve.demo.report import render_report

    try:
        path.write_text(render_report(facts), encoding="utf-8")
    except OSError as error:
        raise InputError(f"the report cannot be written to {path}: {error.strerror}") from error
