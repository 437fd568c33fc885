"""The geometry of charts. Every place is in percent of the chart's width or height, from the top left.

A template draws shapes in an SVG that is stretched to its box, and writes the labels as text above it: so a chart
fills any width and its labels keep their size on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

_LOG_ABOVE = 20.0
"""A slowest point this many times the usual one would press every other point to the ground."""


@dataclass(frozen=True, slots=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to heights. `ticks` are round values between the bottom and the top."""

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


def latency_scale(usual: Sequence[float], slow: Sequence[float]) -> Scale:
    """For milliseconds: `usual` are medians, `slow` the highest values. Logarithmic where one dwarfs the others."""
    slowest = max(slow, default=1.0)
    fastest = min(usual, default=1.0)
    if fastest > 0 and slowest > _LOG_ABOVE * (median(usual) if usual else 1.0):
        bottom, top = 10.0 ** math.floor(math.log10(fastest)), slowest * 1.15
        powers = [10.0**power for power in range(math.floor(math.log10(bottom)), math.ceil(math.log10(top)) + 1)]
        return Scale(bottom, top, [value for value in powers if value <= top], is_logarithmic=True)
    return linear_scale(slowest)


def linear_scale(most: float) -> Scale:
    """From 0 to a little above `most`."""
    top = max(most, 0.1) * 1.1
    return Scale(0.0, top, round_steps(top, most=5), is_logarithmic=False)


def line(points: Sequence[tuple[int, float, float]]) -> str:
    """An SVG path through (number, x, y), broken where a number is missing."""
    parts: list[str] = []
    before: int | None = None
    for number, x, y in points:
        joined = before is not None and number == before + 1
        parts.append(f"{'L' if joined else 'M'}{x} {y}" + ("" if joined else "h0.01"))
        before = number
    return "".join(parts)


def round_steps(end: float, *, most: int) -> list[float]:
    """0 and the round values up to `end`, about `most` of them."""
    step = round_step(end / most)
    return [number * step for number in range(int(end / step) + 1)]


def round_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, 20 … (or 0.5, 0.2, 0.1 …) that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * 0.999999)
