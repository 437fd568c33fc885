"""`eval`: how well an index answers judged queries, and whether it does better than another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reshelve.cli.options import IndexOption, JsonOption, Mode, ModeOption, Rerank, RerankOption, TenantOption
from reshelve.cli.session import Answer, Session, perform
from reshelve.cli.words import counted, duration
from reshelve.display.numbers import difference, percent, probability, score

if TYPE_CHECKING:
    from rich.console import RenderableType

    from reshelve.evaluation.judged import Judged
    from reshelve.evaluation.paired import PairedDifference
    from reshelve.evaluation.runs import Evaluation
    from reshelve.library import Library

_NAMES = {"nDCG@10": "nDCG@10", "R@10": "recall@10", "R@100": "recall@100", "RR": "MRR"}


def register(app: typer.Typer) -> None:
    app.command("eval")(evaluate)


def evaluate(
    context: typer.Context,
    directory: Annotated[
        Path | None,
        typer.Argument(metavar="DIRECTORY", help="A folder with queries.jsonl and qrels.tsv, as BEIR lays them out."),
    ] = None,
    queries: Annotated[Path | None, typer.Option("--queries", metavar="FILE", help="Instead of the folder.")] = None,
    qrels: Annotated[Path | None, typer.Option("--qrels", metavar="FILE", help="Instead of the folder.")] = None,
    index: IndexOption = None,
    against: Annotated[
        int | None, typer.Option("--against", metavar="ID", help="A second index: differences are from it.")
    ] = None,
    tenant: TenantOption = "",
    mode: ModeOption = None,
    rerank: RerankOption = None,
    ann: Annotated[bool, typer.Option("--ann", help="Also measure the graph's recall against exact search.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Score an index, or two, on judged queries. By nDCG@10, recall@10 and @100, and MRR."""
    if (directory is None) == (queries is None and qrels is None) or (queries is None) != (qrels is None):
        raise typer.BadParameter("give a folder, or both --queries and --qrels", param_hint="DIRECTORY")

    async def work(session: Session) -> Answer:
        judged = _judged(directory, queries, qrels)
        async with session.library() as library:
            after = await _run(session, library, judged, index=index, tenant=tenant, mode=mode, rerank=rerank)
            before = None
            if against is not None:
                before = await _run(session, library, judged, index=against, tenant=tenant, mode=mode, rerank=rerank)
            wanted = [index, *([against] if against is not None else [])]
            recalls = {_name(one): await library.ann_recall(index=one) for one in wanted} if ann else None
        return _answer(after, before, recalls)

    perform(context, work, as_json=as_json)


def _judged(directory: Path | None, queries: Path | None, qrels: Path | None) -> Judged:
    from reshelve.evaluation.judged import load_judged, load_judged_directory

    if directory is not None:
        return load_judged_directory(directory)
    assert queries is not None
    assert qrels is not None
    return load_judged(queries, qrels)


def _name(index: int | None) -> str:
    return "serving index" if index is None else f"index {index}"


async def _run(
    session: Session,
    library: Library,
    judged: Judged,
    *,
    index: int | None,
    tenant: str,
    mode: Mode | None,
    rerank: Rerank | None,
) -> Evaluation:
    with session.progress() as progress:

        def tell(done: int, total: int) -> None:
            progress.show(_name(index), done=done, total=total, unit="queries")

        return await library.evaluate(
            judged,
            index=index,
            tenant=tenant,
            mode=None if mode is None else mode.value,
            rerank=None if rerank is None else rerank.value,
            on_progress=tell,
        )


def _answer(after: Evaluation, before: Evaluation | None, recalls: dict[str, float | None] | None) -> Answer:
    differences = _differences(before, after) if before is not None else []
    document = {
        "queries": after.queries,
        "index": after.as_dict(),
        "against": before.as_dict() if before is not None else None,
        "differences": differences,
        "ann_recall": recalls,
    }
    table = _scores(after) if before is None else _compared(before, after, differences)
    asked = f"{counted(after.queries, 'query').replace('querys', 'queries')} in {duration(after.seconds)}"
    return Answer(document=document, lines=[table, asked, *_recall_lines(recalls or {})])


def _differences(before: Evaluation, after: Evaluation) -> list[PairedDifference]:
    from reshelve.evaluation.paired import paired_difference

    return [paired_difference(metric, before.scores[metric], after.scores[metric]) for metric in after.means]


def _scores(found: Evaluation) -> RenderableType:
    from rich import box
    from rich.table import Table

    table = Table("metric", found.name, box=box.SIMPLE_HEAD)
    for metric, mean in found.means.items():
        table.add_row(_NAMES[metric], score(mean))
    return table


def _compared(before: Evaluation, after: Evaluation, differences: Sequence[PairedDifference]) -> RenderableType:
    from rich import box
    from rich.table import Table

    interval = f"difference [{percent(differences[0].confidence)} interval]"
    table = Table("metric", before.name, after.name, interval, "", "better, worse, equal", box=box.SIMPLE_HEAD)
    for paired in differences:
        table.add_row(
            _NAMES[paired.metric],
            score(paired.before),
            score(paired.after),
            f"{difference(paired.difference)} [{difference(paired.low)}, {difference(paired.high)}]",
            probability(paired.p_value),
            f"{paired.better:,}, {paired.worse:,}, {paired.equal:,}",
        )
    return table


def _recall_lines(recalls: dict[str, float | None]) -> Iterator[str]:
    for name, recall in recalls.items():
        yield f"{name}: " + ("empty" if recall is None else f"recall@10 of the graph against exact search {recall:.3f}")
