"""The geometry of the report's charts. Every place is in percent of the chart's width or height, from the top left.

The template draws shapes in an SVG that is stretched to its box, and writes the labels as text above it: so a chart
fills any width and its labels keep their size on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from reshelve.demo.facts import DemoFacts, LatencySecond, Moment
from reshelve.demo.figures import count, milliseconds
from reshelve.evaluation.paired import PairedDifference

_LOG_ABOVE = 20.0
"""A slowest second this many times the usual one would press every other second to the ground."""


@dataclass(frozen=True, slots=True)
class Tick:
    at: float
    label: str


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
    place = _scale(seconds)
    return LatencyChart(
        p50=_path(seconds, end=end, height=lambda second: place.at(second.p50_ms)),
        p95=_path(seconds, end=end, height=lambda second: place.at(second.p95_ms)),
        x_ticks=[Tick(100 * value / end, f"{value:g} s") for value in _round_steps(end, most=6) if value < end * 0.99],
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
    step = _round_step((high - low) / 4)
    first = math.ceil(low / step)
    values = [number * step for number in range(first, math.floor(high / step) + 1)]
    return drawn, [Tick(at(value), f"{value:+.2g}".replace("-", "−") if value else "0") for value in values]


@dataclass(frozen=True, slots=True)
class _Scale:
    bottom: float
    top: float
    ticks: list[float]
    is_logarithmic: bool

    def at(self, value: float) -> float:
        if self.is_logarithmic:
            low, high, here = math.log(self.bottom), math.log(self.top), math.log(max(value, self.bottom))
        else:
            low, high, here = self.bottom, self.top, value
        return round(100 - 100 * (here - low) / (high - low), 2)


def _scale(seconds: Sequence[LatencySecond]) -> _Scale:
    slowest = max((second.p95_ms for second in seconds), default=1.0)
    usual = median(second.p50_ms for second in seconds) if seconds else 1.0
    fastest = min((second.p50_ms for second in seconds), default=1.0)
    if fastest > 0 and slowest > _LOG_ABOVE * usual:
        bottom, top = 10.0 ** math.floor(math.log10(fastest)), slowest * 1.15
        powers = [10.0**power for power in range(math.floor(math.log10(bottom)), math.ceil(math.log10(top)) + 1)]
        return _Scale(bottom, top, [value for value in powers if value <= top], is_logarithmic=True)
    top = max(slowest, 0.1) * 1.1
    return _Scale(0.0, top, _round_steps(top, most=5), is_logarithmic=False)


def _path(seconds: Sequence[LatencySecond], *, end: float, height: Callable[[LatencySecond], float]) -> str:
    """A line through the middle of each second, broken where a second saw no search."""
    parts: list[str] = []
    before: int | None = None
    for second in seconds:
        x = round(100 * (second.second + 0.5) / end, 3)
        joined = before is not None and second.second == before + 1
        parts.append(f"{'L' if joined else 'M'}{x} {height(second)}" + ("" if joined else "h0.01"))
        before = second.second
    return "".join(parts)


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


def _round_steps(end: float, *, most: int) -> list[float]:
    step = _round_step(end / most)
    return [number * step for number in range(int(end / step) + 1)]


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, 20 … (or 0.5, 0.2, 0.1 …) that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * 0.999999)
