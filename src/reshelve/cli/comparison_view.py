"""Two sides next to each other, as people read them: search results, baselines, what was used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from reshelve.cli.words import counted, duration, one_line
from reshelve.display.numbers import count, difference, figure, milliseconds, percent, probability, score
from reshelve.operations.feedback import ENOUGH_EVIDENCE

if TYPE_CHECKING:
    from rich.console import RenderableType

    from reshelve.evaluation.baselines import Baseline, BaselineComparison
    from reshelve.evaluation.side_by_side import QueryComparison, SideBySide
    from reshelve.operations.feedback import Tally

_TITLE_CHARACTERS = 60
_STYLES = {"worse": "bold red", "better": "green", "same": "", "unknown": "dim"}


def side_by_side_lines(found: SideBySide) -> Iterator[RenderableType]:
    from rich.text import Text

    sides = (
        f"A: index {found.index_a} ({one_line(found.model_a)})   B: index {found.index_b} ({one_line(found.model_b)})"
    )
    yield Text(sides, "bold")
    for query in found.queries:
        yield ""
        yield Text(one_line(query.query, most=120), "bold")
        yield _ranks(query)
        yield Text(
            f"  overlap@{found.top_k} {query.overlap:.3f}, rank-biased overlap {query.rbo:.3f}; "
            f"A {milliseconds(query.a_ms)}, B {milliseconds(query.b_ms)}",
            "dim",
        )
    yield ""
    asked = f"{count(len(found.queries))} {'query' if len(found.queries) == 1 else 'queries'}"
    yield (
        f"{asked}: overlap@{found.top_k} {found.overlap:.3f}, rank-biased overlap {found.rbo:.3f}; "
        f"on average A {milliseconds(found.a_ms)}, B {milliseconds(found.b_ms)}"
    )
    yield Text("Overlap says that answers changed, not that they became better or worse: see reshelve eval.", "dim")


def _ranks(query: QueryComparison) -> RenderableType:
    from rich import box
    from rich.table import Table

    table = Table("A", "B", "document", box=box.SIMPLE_HEAD)
    for row in query.rows:
        sides = [str(rank) if rank is not None else "–" for rank in (row.rank_a, row.rank_b)]
        table.add_row(*sides, one_line(row.title or row.document_id, most=_TITLE_CHARACTERS))
    return table


def baseline_lines(kept: Baseline) -> Iterator[RenderableType]:
    from rich.text import Text

    words = "replaced" if kept.replaced else "saved"
    yield Text(f"Baseline {one_line(kept.name)} {words}: index {kept.index}, {one_line(kept.model)}", "bold")
    yield f"  {counted(kept.requests, 'search').replace('searchs', 'searches')} in {duration(kept.seconds)}"
    if kept.requests:
        yield "  " + ", ".join(f"{name} {figure(name, value)}" for name, value in kept.figures.items())
    if kept.quality is not None:
        means = ", ".join(f"{metric} {score(mean)}" for metric, mean in kept.quality.means.items())
        yield f"  {means} on {one_line(kept.quality.judged)}"


def baseline_comparison_lines(found: BaselineComparison) -> Iterator[RenderableType]:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    before, now = found.baseline, found.now
    yield Text(f"Baseline {one_line(before.name)} of {before.at.astimezone():%Y-%m-%d %H:%M:%S}", "bold")
    table = Table(
        "", f"index {before.index}, {one_line(before.model)}", f"now: index {now.index}, {one_line(now.model)}", "",
        box=box.SIMPLE_HEAD,
    )  # fmt: skip
    table.add_row("searches", count(before.requests), count(now.requests), "")
    for each in found.figures:
        cells = (figure(each.name, each.before), figure(each.name, each.now))
        table.add_row(each.name, *cells, Text(_change(each.change), _STYLES[each.change]))
    for paired in found.quality:
        interval = (
            f"{difference(paired.difference)} [{difference(paired.low)}, {difference(paired.high)}] "
            f"at {percent(paired.confidence)}, {probability(paired.p_value)}"
        )
        style = "bold red" if paired.high < 0 else "green" if paired.low > 0 else ""
        table.add_row(paired.metric, score(paired.before), score(paired.after), Text(interval, style))
    yield table
    if found.worse:
        yield Text(f"Worse than the baseline: {', '.join(found.worse)}", "bold red")
    else:
        yield Text("Nothing is worse than the baseline.", "bold green")


def _change(change: str) -> str:
    return "not to be compared" if change == "unknown" else change


def tally_lines(tally: Tally) -> Iterator[RenderableType]:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table("side", "index", "model", "results used", "in searches", "interleaved wins", box=box.SIMPLE_HEAD)
    for arm in tally.arms:
        figures = (count(arm.used), count(arm.searches), count(arm.wins))
        table.add_row(arm.arm, str(arm.index), one_line(arm.model), *figures)
    yield table
    if tally.e_value is None:
        yield "There is no candidate: nothing to compare."
        return
    verdict = f"users prefer the {tally.preferred} side" if tally.preferred else "no preference is proven"
    wins = sum(arm.wins for arm in tally.arms)
    yield Text(
        f"{verdict}: evidence {tally.e_value:.3g} of {ENOUGH_EVIDENCE:g} that are needed, from {wins:,} interleaved "
        f"searches with a winner and {tally.ties:,} ties",
        "bold" if tally.preferred else "",
    )
