"""The dashboard's figures, as people read them in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from reshelve.cli.words import duration, one_line
from reshelve.display.numbers import count, figure, limit

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from reshelve.domain.thresholds import Check
    from reshelve.migrations.dashboard import ArmReport, Dashboard, MigrationReport

FIGURES = {
    "requests": "searches",
    "errors": "errors",
    "error_rate": "error rate",
    "fallbacks": "answered by the other side",
    "mean_ms": "average",
    "p50_ms": "p50",
    "p95_ms": "p95",
    "p99_ms": "p99",
    "cache_hit_rate": "cache hit rate",
    "search_cache_hit_rate": "answers from the cache",
    "similarity": "similarity",
    "shadowed": "shadow searches",
    "shadow_errors": "shadow errors",
    "shadow_p95_ms": "shadow p95",
    "overlap": "overlap of the first ten",
    "rbo": "rank-biased overlap",
    "answers": "answers",
    "abstentions": "abstentions",
    "answer_errors": "failed answers",
    "dropped_citations": "dropped citations",
    "answer_p95_ms": "p95 of an answer",
}
_STYLES = {"pass": "green", "hold": "yellow", "fail": "bold red"}


def dashboard_lines(seen: Dashboard) -> Iterator[RenderableType]:
    from rich.text import Text

    who = "" if seen.tenant is None else f", tenant {one_line(seen.tenant) or 'nobody'}"
    yield Text(
        f"Collection {seen.collection}{who}, last {seen.range}, {seen.at.astimezone():%Y-%m-%d %H:%M:%S}", "bold"
    )
    yield _figures([report for report in seen.arms if report.now])
    for report in seen.arms:
        if not report.now:
            values = report.figures
            yield Text(
                f"earlier, {report.arm} index {report.index} ({one_line(report.model)}): "
                f"{count(int(values['requests'] or 0))} searches, p95 {figure('p95_ms', values['p95_ms'])}",
                "dim",
            )
    if seen.migration is not None:
        yield from _migration(seen.migration)
    for behind in seen.lag:
        late = any(one.outcome == "breach" for one in behind.checks)
        words = f"{behind.changes:,} changes behind ({duration(behind.seconds)})" if behind.changes else "up to date"
        yield Text(f"index {behind.index}: {words}, {behind.refused:,} refused", "bold red" if late else "")
    for breaker in seen.breakers:
        said = f": {one_line(breaker.reason)}" if breaker.reason else ""
        words = f"circuit breaker of index {breaker.index} in {breaker.process}: {breaker.state}"
        style = "" if breaker.state == "closed" else "bold red"
        yield Text(f"{words}, {breaker.failures} failures{said}", style)
    for alert in seen.alerts:
        words = f"alert {alert.id}, {alert.at.astimezone():%H:%M:%S}, {alert.severity}: {one_line(alert.type)}"
        yield Text(f"{words}: {one_line(alert.message or alert.outcome)}", "dim")
    if seen.breaches:
        yield Text("Over a threshold:", "bold red")
        yield from (Text(f"  ✗ {words}", "red") for words in seen.breaches)
    else:
        yield Text("No gate is breached.", "bold green")


def _figures(reports: Sequence[ArmReport]) -> RenderableType:
    from rich import box
    from rich.table import Table

    table = Table("", box=box.SIMPLE_HEAD)
    for report in reports:
        table.add_column(f"{report.arm}: index {report.index}, {one_line(report.model)}", justify="right")
    table.add_column("target")
    table.add_column("gate")
    for name, words in FIGURES.items():
        checks = [[one for one in report.checks if one.figure == name] for report in reports]
        cells = [_cell(report.figures[name], name, own) for report, own in zip(reports, checks, strict=True)]
        every = [one for own in checks for one in own]
        table.add_row(words, *cells, _limits(every, "target"), _limits(every, "gate"))
    return table


def _cell(value: float | None, name: str, checks: Sequence[Check]) -> Text:
    from rich.text import Text

    failed = [one for one in checks if one.outcome == "breach"]
    sign = "" if not checks or value is None else " ✗" if failed else " ✓"
    style = "" if not failed else "bold red" if any(one.decides for one in failed) else "yellow"
    return Text(figure(name, value) + sign, style)


def _limits(checks: Sequence[Check], kind: str) -> str:
    words = dict.fromkeys(limit(one.figure, one.limit, at_most=one.at_most) for one in checks if one.kind == kind)
    return ", ".join(words)


def _migration(migration: MigrationReport) -> Iterator[RenderableType]:
    from rich.text import Text

    yield Text(
        f"Migration {migration.id}: {one_line(migration.from_model)} → {one_line(migration.to_model)}: "
        f"{migration.state}, {migration.percent:g} %",
        "bold",
    )
    if migration.reason:
        yield Text(f"  reason: {one_line(migration.reason)}", "yellow")
    yield from (_verdict(verdict) for verdict in migration.verdicts)


def _verdict(verdict: dict[str, Any]) -> RenderableType:
    from rich.text import Text

    outcome = str(verdict["outcome"])
    words = f"{verdict['gate']}: {one_line(str(verdict['reason']))}"
    return Text.assemble("  ", (f"{outcome:<5}", _STYLES.get(outcome, "")), words)
