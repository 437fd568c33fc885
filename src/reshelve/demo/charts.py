"""The report's charts. Every place is in percent of the chart's width or height, from the top left."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reshelve.demo.facts import DemoFacts, LatencySecond, Moment
from reshelve.display.charts import Tick, latency_scale, line, round_step, round_steps
from reshelve.display.numbers import count, milliseconds
from reshelve.evaluation.paired import PairedDifference


@dataclass(frozen=True, slots=True)
class Mark:
    """A numbered moment; `row` keeps the badges of close moments apart."""

    at: float
    number: int
    label: str
    row: int


@dataclass(frozen=True, slots=True)
class Band:
    left: float
    width: float
    label: str
    is_new: bool


@dataclass(frozen=True, slots=True)
class LatencyChart:
    p50: str
    p95: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    marks: list[Mark]
    bands: list[Band]
    columns: list[Band]
    is_logarithmic: bool


@dataclass(frozen=True, slots=True)
class Interval:
    """A difference and its bounds on a scale that is shared by all, with the place of zero."""

    paired: PairedDifference
    low: float
    middle: float
    high: float


def latency_chart(facts: DemoFacts) -> LatencyChart:
    latency = facts.latency
    seconds = [second for second in latency.timeline if second.count > 0]
    end = max(facts.seconds, max((second.second + 1 for second in seconds), default=1), 1.0)
    place = latency_scale([second.p50_ms for second in seconds], [second.p95_ms for second in seconds])
    return LatencyChart(
        p50=_path(seconds, end=end, height=lambda second: place.at(second.p50_ms)),
        p95=_path(seconds, end=end, height=lambda second: place.at(second.p95_ms)),
        x_ticks=[Tick(100 * value / end, f"{value:g} s") for value in round_steps(end, most=6) if value < end * 0.99],
        y_ticks=[Tick(place.at(value), f"{value:g}") for value in place.ticks],
        marks=_marks(latency.moments, end=end),
        bands=_bands(facts, end=end),
        columns=[Band(100 * second.second / end, 100 / end, _title(second), is_new=False) for second in seconds],
        is_logarithmic=place.is_logarithmic,
    )


def intervals(differences: Sequence[PairedDifference]) -> tuple[list[Interval], list[Tick]]:
    """The differences on one scale that shows zero, and its ticks."""
    if not differences:
        return [], []
    low = min(0.0, *(paired.low for paired in differences))
    high = max(0.0, *(paired.high for paired in differences))
    room = max(high - low, 0.001) * 0.08
    low, high = low - room, high + room

    def at(value: float) -> float:
        return 100 * (value - low) / (high - low)

    drawn = [Interval(paired, at(paired.low), at(paired.difference), at(paired.high)) for paired in differences]
    step = round_step((high - low) / 4)
    first = math.ceil(low / step)
    values = [number * step for number in range(first, math.floor(high / step) + 1)]
    return drawn, [Tick(at(value), f"{value:+.2g}".replace("-", "−") if value else "0") for value in values]


def _path(seconds: Sequence[LatencySecond], *, end: float, height: Callable[[LatencySecond], float]) -> str:
    """A line through the middle of each second, broken where a second saw no search."""
    return line([(each.second, round(100 * (each.second + 0.5) / end, 3), height(each)) for each in seconds])


def _marks(moments: Sequence[Moment], *, end: float) -> list[Mark]:
    marks: list[Mark] = []
    for number, moment in enumerate(moments, 1):
        at = 100 * moment.second / end
        taken = {mark.row for mark in marks if abs(mark.at - at) < 8}
        row = next(row for row in range(len(moments)) if row not in taken)
        marks.append(Mark(at, number, f"{moment.label} at {moment.second:.1f} s", row))
    return marks


def _bands(facts: DemoFacts, *, end: float) -> list[Band]:
    """Which model answered from when to when."""
    moments = facts.latency.moments
    starts = [0.0, *(moment.second for moment in moments)]
    models = [facts.from_model, *(moment.serving for moment in moments)]
    return [
        Band(100 * start / end, 100 * (until - start) / end, model, is_new=model == facts.to_model)
        for start, until, model in zip(starts, [*starts[1:], end], models, strict=True)
    ]


def _title(second: LatencySecond) -> str:
    return (
        f"second {second.second}: p50 {milliseconds(second.p50_ms)}, p95 {milliseconds(second.p95_ms)}, "
        f"{count(second.count)} searches"
    )
