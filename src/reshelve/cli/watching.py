"""`monitor`, `compare`, `baseline` and `feedback`: what operators watch."""

from __future__ import annotations

import asyncio
import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reshelve.cli.options import JsonOption, TenantOption
from reshelve.cli.session import FAILED, OK, Answer, Session, perform, print_answer

if TYPE_CHECKING:
    from reshelve.library import Library


class Range(enum.StrEnum):
    HOUR = "1h"
    DAY = "24h"
    WEEK = "7d"


RangeOption = Annotated[Range, typer.Option("--range", help="How far back the figures go.")]
JudgedOption = Annotated[
    Path | None,
    typer.Option("--judged", metavar="DIRECTORY", help="Also score the judged queries in this folder (see eval)."),
]

baseline = typer.Typer(
    name="baseline",
    help="Keep the serving index's figures, and compare later ones with them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def register(app: typer.Typer) -> None:
    app.command()(monitor)
    app.command()(compare)
    baseline.command("save")(baseline_save)
    baseline.command("compare")(baseline_compare)
    app.add_typer(baseline)
    app.command()(feedback)


def monitor(
    context: typer.Context,
    continuous: Annotated[bool, typer.Option("--continuous", help="Look again and again, until Ctrl-C.")] = False,
    every: Annotated[
        float, typer.Option("--every", metavar="SECONDS", min=0.1, help="Between two looks of --continuous.")
    ] = 300.0,
    range: RangeOption = Range.DAY,
    tenant: Annotated[
        str | None, typer.Option("--tenant", metavar="NAME", help="Whose searches. Default: all together.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show both sides' figures against their thresholds. Exit code 1 where one is breached."""

    async def work(session: Session) -> Answer:
        async with session.library() as library:
            answer = await _look(library, range, tenant)
            while continuous:
                print_answer(answer, as_json=as_json)
                await asyncio.sleep(every)
                answer = await _look(library, range, tenant)
        return answer

    perform(context, work, as_json=as_json)


async def _look(library: Library, range: Range, tenant: str | None) -> Answer:
    from reshelve.cli.monitor_view import dashboard_lines

    seen = await library.dashboard(range=range.value, tenant=tenant)
    code = FAILED if seen.breaches else OK
    return Answer(document=seen.as_dict(), lines=list(dashboard_lines(seen)), code=code)


def compare(
    context: typer.Context,
    queries: Annotated[list[str] | None, typer.Argument(metavar="[QUERY]...", help="What to ask both sides.")] = None,
    recent: Annotated[
        int | None,
        typer.Option("--recent", metavar="N", min=1, max=1000, help="The last N live queries, where they are kept."),
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="How many results of each side.")] = 10,
    index: Annotated[
        list[int] | None,
        typer.Option("--index", metavar="ID", help="Given twice: these two indexes, not the rollout's sides."),
    ] = None,
    tenant: TenantOption = "",
    as_json: JsonOption = False,
) -> None:
    """Ask both sides of a rollout the same queries, side by side. Without a query: the last 10 live ones."""
    if index and len(index) != 2:
        raise typer.BadParameter("name two indexes, or none", param_hint="--index")
    pair = (index[0], index[1]) if index else None

    async def work(session: Session) -> Answer:
        from reshelve.cli.comparison_view import side_by_side_lines

        async with session.library() as library:
            found = await library.compare(
                queries or (),
                recent=10 if recent is None and not queries else recent,
                top_k=top_k,
                tenant=tenant,
                indexes=pair,
            )
        return Answer(document=found.as_dict(), lines=list(side_by_side_lines(found)))

    perform(context, work, as_json=as_json)


def baseline_save(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Under which it is kept.")] = "default",
    judged: JudgedOption = None,
    range: RangeOption = Range.DAY,
    as_json: JsonOption = False,
) -> None:
    """Keep the serving index's figures under a name. One that has it is replaced."""

    async def work(session: Session) -> Answer:
        from reshelve.cli.comparison_view import baseline_lines

        async with session.library() as library:
            with session.progress() as progress:
                found = await library.baseline_save(
                    name,
                    judged=judged,
                    range=range.value,
                    on_progress=lambda done, total: progress.show("judging", done=done, total=total, unit="queries"),
                )
        return Answer(document=found.as_dict(), lines=list(baseline_lines(found)))

    perform(context, work, as_json=as_json)


def baseline_compare(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Default: the latest.")] = None,
    judged: Annotated[
        Path | None,
        typer.Option("--judged", metavar="DIRECTORY", help="Instead of the folder that the baseline was made with."),
    ] = None,
    range: Annotated[Range | None, typer.Option("--range", help="Default: the baseline's own.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the serving index with a baseline. Exit code 1 where something is worse."""

    async def work(session: Session) -> Answer:
        from reshelve.cli.comparison_view import baseline_comparison_lines

        async with session.library() as library:
            with session.progress() as progress:
                found = await library.baseline_compare(
                    name,
                    judged=judged,
                    range=range.value if range is not None else None,
                    on_progress=lambda done, total: progress.show("judging", done=done, total=total, unit="queries"),
                )
        code = FAILED if found.worse else OK
        return Answer(document=found.as_dict(), lines=list(baseline_comparison_lines(found)), code=code)

    perform(context, work, as_json=as_json)


def feedback(
    context: typer.Context,
    search_id: Annotated[str | None, typer.Argument(metavar="[SEARCH_ID]", help="Of a search's answer.")] = None,
    chunk_id: Annotated[int | None, typer.Argument(metavar="[CHUNK_ID]", help="The result that was used.")] = None,
    index: Annotated[
        int | None, typer.Option("--index", metavar="ID", help="The index that the result came from.")
    ] = None,
    interleaved: Annotated[
        bool, typer.Option("--interleaved", help="The answer held results of both sides, in turns.")
    ] = False,
    user: Annotated[str | None, typer.Option("--user", metavar="NAME", help="Who used it.")] = None,
    tenant: Annotated[
        str | None, typer.Option("--tenant", metavar="NAME", help="Whose searches. The tally is of all by default.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Count the results that were used, by side; or say that one was used."""
    if search_id is not None and (chunk_id is None or index is None):
        raise typer.BadParameter("a used result is SEARCH_ID CHUNK_ID --index ID", param_hint="CHUNK_ID")

    async def work(session: Session) -> Answer:
        from reshelve.cli.comparison_view import tally_lines

        async with session.library() as library:
            if search_id is None or chunk_id is None or index is None:
                tally = await library.feedback_tally(tenant=tenant)
                return Answer(document=tally.as_dict(), lines=list(tally_lines(tally)))
            kept = await library.feedback(
                search_id, chunk_id, index=index, interleaved=interleaved, user=user, tenant=tenant or ""
            )
        said = f"Kept: result {kept.chunk_id} of search {kept.search_id}, from index {kept.index}, was used."
        return Answer(document=kept.as_dict(), lines=[said])

    perform(context, work, as_json=as_json)
