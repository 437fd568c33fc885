"""`ingest` and `delete`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reshelve.cli.options import JsonOption, TenantOption
from reshelve.cli.session import FAILED, OK, PARTLY, Answer, Session, perform
from reshelve.cli.words import counted, one_line
from reshelve.errors import DocumentRefused

if TYPE_CHECKING:
    from rich.console import RenderableType

    from reshelve.cli.progress import Progress
    from reshelve.corpus.ingest import IngestReport, Refusal
    from reshelve.domain.documents import Document
    from reshelve.library import Library
    from reshelve.settings import ReadingSettings

_SHOWN_REFUSALS = 100
_AGAIN = "What was read so far is stored. Run the same ingest again: only what is missing is taken in."


def register(app: typer.Typer) -> None:
    app.command()(ingest)
    app.command()(delete)


def ingest(
    context: typer.Context,
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH", help="Files, folders, archives or patterns; - is standard input.")
    ],
    tenant: TenantOption = "",
    format: Annotated[
        str | None,
        typer.Option("--format", metavar="NAME", help="text, markdown, jsonl, csv, html, docx, pdf, zip or tar."),
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return once stored, before searches find it.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Add, change or leave documents, by their ids. What cannot be taken is named; the rest goes on."""

    async def work(session: Session) -> Answer:
        reading = session.settings.reading
        taken: dict[str, Path] | None = {} if len(paths) > 1 else None
        sources = [(path, _opened(path, format, reading, taken)) for path in paths]
        async with session.library(worker=not no_wait) as library:
            with session.progress() as progress:
                report = await library.ingest(
                    _located(sources), tenant=tenant, wait=False, on_progress=lambda now: _tell(progress, now)
                )
                if not no_wait:
                    await _searchable(library, progress)
        return _answer(report)

    perform(context, work, as_json=as_json, after_ctrl_c=_AGAIN)


def _opened(
    path: Path, format: str | None, settings: ReadingSettings, taken: dict[str, Path] | None
) -> Iterator[Document | DocumentRefused]:
    """Raises InputError for a path that is not there, before anything is written."""
    from reshelve.corpus.readers import read_documents

    if str(path) == "-":
        return read_documents(Path("/dev/stdin"), format=format or "jsonl", settings=settings, taken=taken)
    return read_documents(path, format=format, settings=settings, taken=taken)


def _located(
    sources: Sequence[tuple[Path, Iterator[Document | DocumentRefused]]],
) -> Iterator[Document | DocumentRefused]:
    """All of them one after the other; each refusal says where in which file it is."""
    for path, documents in sources:
        for document in documents:
            yield _with_place(path, document) if isinstance(document, DocumentRefused) else document


def _with_place(path: Path, refused: DocumentRefused) -> DocumentRefused:
    place = f"{path}/{refused.file}" if refused.file else str(path)
    reason = refused.message.removeprefix(f"{refused.file}: ")
    line = f":{refused.line}" if refused.line is not None else ""
    return DocumentRefused(f"{place}{line}: {reason}", line=refused.line, advice=refused.advice)


def _tell(progress: Progress, report: IngestReport) -> None:
    progress.show(
        "reading", doing=counted(report.chunks_added, "new chunk"), done=report.seen, total=None, unit="documents"
    )


async def _searchable(library: Library, progress: Progress) -> None:
    """Until searches find all that is stored, also what an earlier, interrupted ingest left behind."""
    from reshelve.database.routes import get_route
    from reshelve.indexing.building import BuildProgress, build_large
    from reshelve.indexing.draining import wait_for_write
    from reshelve.indexing.outbox import snapshot_xmax

    backends, most = library.backends, 0

    def tell_left(left: int) -> None:
        nonlocal most
        most = max(most, left)
        progress.show("embedding", done=most - left, total=most, unit="changes")

    def tell_build(build: BuildProgress) -> None:
        progress.show("building", doing=build.phase, done=build.rows, total=build.of_rows or None)

    async with backends.database.service() as connection:
        collection_id = (await get_route(connection, library.settings.collection)).collection_id
        latest = await snapshot_xmax(connection)
    await wait_for_write(backends, collection_id=collection_id, xid=latest, on_left=tell_left)
    await build_large(backends, collection_id, on_build=tell_build)


def _answer(report: IngestReport) -> Answer:
    document = {
        "added": report.added,
        "updated": report.updated,
        "unchanged": report.unchanged,
        "chunks_added": report.chunks_added,
        "chunks_removed": report.chunks_removed,
        "refused_count": report.refused_count,
        "refused": report.refused,
    }
    return Answer(document=document, lines=list(_lines(report)), code=_code(report))


def _code(report: IngestReport) -> int:
    if not report.refused_count:
        return OK
    return FAILED if report.refused_count == report.seen else PARTLY


def _lines(report: IngestReport) -> Iterator[RenderableType]:
    from rich.text import Text

    said = _said(report.refused)
    for reason, lines in list(said.items())[:_SHOWN_REFUSALS]:
        again = f" (and {counted(lines - 1, 'more line')})" if lines > 1 else ""
        yield Text(f"refused: {one_line(reason)}{again}", "yellow")
    more = report.refused_count - sum(list(said.values())[:_SHOWN_REFUSALS])
    if more > 0:
        yield Text(f"refused: {more:,} more; --json lists the first thousand", "yellow")
    yield (
        f"{report.added:,} added, {report.updated:,} updated, {report.unchanged:,} unchanged, "
        f"{report.refused_count:,} refused; {report.chunks_added:,} chunks added, {report.chunks_removed:,} removed"
    )


def _said(refusals: Sequence[Refusal]) -> dict[str, int]:
    """Each reason, as it was given first, and for how many lines of the same file: a file may be wrong in every one."""
    first: dict[str, str] = {}
    lines: dict[str, int] = {}
    for refused in refusals:
        named = f"{refused.external_id}: " if refused.external_id is not None else ""
        reason = named + refused.reason
        key = reason.replace(f":{refused.line}: ", ": ", 1)
        first.setdefault(key, reason)
        lines[key] = lines.get(key, 0) + 1
    return {first[key]: count for key, count in lines.items()}


def delete(
    context: typer.Context,
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="The documents' external ids.")],
    tenant: TenantOption = "",
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return before the indexes let go of them.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete documents by their external ids."""

    async def work(session: Session) -> Answer:
        async with session.library(worker=not no_wait) as library:
            deleted = await library.delete(ids, tenant=tenant, wait=not no_wait)
        unknown = len(set(ids)) - deleted
        said = f"{counted(deleted, 'document')} deleted" + (f"; {unknown:,} not found" if unknown else "")
        return Answer(document={"deleted": deleted, "not_found": unknown}, lines=[said])

    perform(context, work, as_json=as_json)
