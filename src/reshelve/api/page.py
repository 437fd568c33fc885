"""The dashboard as a page for people: HTML from the server that asks for itself again, and no script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from starlette.responses import HTMLResponse, Response

from reshelve.api.monitoring import DashboardParams
from reshelve.api.service import service_of
from reshelve.display.charts import Scale, Tick, latency_scale, line, linear_scale
from reshelve.display.numbers import milliseconds
from reshelve.display.pages import render
from reshelve.migrations.dashboard import RANGES, ArmReport, Dashboard, Series

router = APIRouter(tags=["monitoring"])
_REFRESH_SECONDS = 5
_TICKS = 6
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
}
FIGURES = (
    ("requests", "Searches"),
    ("errors", "Errors"),
    ("error_rate", "Error rate"),
    ("fallbacks", "Answered by the other side"),
    ("mean_ms", "Average"),
    ("p50_ms", "p50"),
    ("p95_ms", "p95"),
    ("p99_ms", "p99"),
    ("cache_hit_rate", "Cache hits"),
    ("search_cache_hit_rate", "Answers from the cache"),
    ("similarity", "Similarity of the first result"),
    ("shadowed", "Shadow searches"),
    ("shadow_errors", "Shadow errors"),
    ("shadow_p95_ms", "Shadow p95"),
    ("overlap", "Overlap of the first ten"),
    ("rbo", "Rank-biased overlap"),
    ("answers", "Answers"),
    ("abstentions", "Abstentions"),
    ("answer_errors", "Failed answers"),
    ("dropped_citations", "Dropped citations"),
    ("answer_p95_ms", "p95 of an answer"),
)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart: an SVG path, and the class that colours it."""

    path: str
    style: str
    label: str


@dataclass(frozen=True, slots=True)
class Spot:
    """What is said where the pointer is."""

    left: float
    width: float
    label: str


@dataclass(frozen=True, slots=True)
class Chart:
    lines: list[Line]
    y_ticks: list[Tick]
    x_ticks: list[Tick]
    spots: list[Spot]


@router.get("/dashboard", response_class=HTMLResponse, responses={404: {}})
async def page(request: Request, params: Annotated[DashboardParams, Query()]) -> Response:
    """The figures of /api/monitoring/dashboard as a page. It comes again every few seconds."""
    library = service_of(request).of(params.collection)
    seen = await library.dashboard(range=params.range, tenant=params.tenant)
    return HTMLResponse(page_of(seen, collection=params.collection), headers=_HEADERS)


def page_of(seen: Dashboard, *, collection: str | None = None) -> str:
    """A whole HTML document. `collection` goes into its links, where it was asked for."""
    kept = {"collection": collection, "tenant": seen.tenant}
    values = {
        "seen": seen,
        "sides": [report for report in seen.arms if report.now],
        "earlier": [report for report in seen.arms if not report.now],
        "figures": FIGURES,
        "refresh_seconds": _REFRESH_SECONDS,
        "links": {each: _link(range=each, **kept) for each in RANGES},
        "latency": _latency(seen),
        "traffic": _traffic(seen),
    }
    return render("reshelve.api", "dashboard.html.j2", values)


def _link(**parameters: str | None) -> str:
    return "?" + urlencode({name: value for name, value in parameters.items() if value is not None})


def _current(seen: Dashboard) -> list[tuple[ArmReport, Series]]:
    series = {(each.index, each.arm): each for each in seen.series}
    sides = [report for report in seen.arms if report.now and (report.index, report.arm) in series]
    return [(report, series[report.index, report.arm]) for report in sides]


def _latency(seen: Dashboard) -> Chart | None:
    sides = _current(seen)
    points = [point for _, series in sides for point in series.points]
    usual = [point.p50_ms for point in points if point.p50_ms is not None]
    slow = [point.p95_ms for point in points if point.p95_ms is not None]
    if not usual:
        return None
    scale = latency_scale(usual, slow)
    lines = [
        Line(_path(seen, series, name, scale), f"{report.arm} {name[:3]}", f"{report.arm} {name[:3]}")
        for report, series in sides
        for name in ("p50_ms", "p95_ms")
    ]
    ticks = [Tick(scale.at(value), f"{value:g}") for value in scale.ticks]
    return Chart(lines, ticks, _times(seen), _spots(seen, sides))


def _traffic(seen: Dashboard) -> Chart | None:
    sides = _current(seen)
    rates = [_rate(point.requests, point.seconds) for _, series in sides for point in series.points]
    if not rates:
        return None
    scale = linear_scale(max(rates))
    lines = [
        Line(_path(seen, series, "requests", scale), f"{report.arm} p95", f"{report.arm}") for report, series in sides
    ]
    ticks = [Tick(scale.at(value), f"{value:g}") for value in scale.ticks]
    return Chart(lines, ticks, _times(seen), _spots(seen, sides))


def _rate(requests: int, seconds: int) -> float:
    """Searches a minute."""
    return requests * 60 / seconds


def _path(seen: Dashboard, series: Series, name: str, scale: Scale) -> str:
    drawn: list[tuple[int, float, float]] = []
    for point in series.points:
        value = _rate(point.requests, point.seconds) if name == "requests" else getattr(point, name)
        if value is not None:
            x = _place(seen, point.at + point.seconds / 2)
            drawn.append((int(point.at // point.seconds), x, scale.at(value)))
    return line(drawn)


def _place(seen: Dashboard, at: float) -> float:
    """From a time to its place on the chart; a bucket that began before the range is drawn at its edge."""
    span = RANGES[seen.range]
    start = seen.at.timestamp() - span
    return round(min(100.0, max(0.0, 100 * (at - start) / span)), 3)


def _times(seen: Dashboard) -> list[Tick]:
    span = RANGES[seen.range]
    start = seen.at.timestamp() - span
    form = "%d %b" if span > 86_400 else "%H:%M"
    moments = [start + span * number / _TICKS for number in range(_TICKS)]
    return [Tick(_place(seen, at), _utc(at).strftime(form)) for at in moments]


def _spots(seen: Dashboard, sides: Sequence[tuple[ArmReport, Series]]) -> list[Spot]:
    said: dict[tuple[float, int], list[str]] = {}
    for report, series in sides:
        for point in series.points:
            words = f"{report.arm}: {point.requests:,} searches, {point.errors:,} errors"
            if point.p50_ms is not None and point.p95_ms is not None:
                words += f", p50 {milliseconds(point.p50_ms)}, p95 {milliseconds(point.p95_ms)}"
            said.setdefault((point.at, point.seconds), []).append(words)
    span = RANGES[seen.range]
    return [
        Spot(_place(seen, at), round(100 * seconds / span, 3), "; ".join([_utc(at).strftime("%d %b %H:%M:%S"), *words]))
        for (at, seconds), words in sorted(said.items())
    ]


def _utc(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
