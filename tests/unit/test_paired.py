"""Paired differences between two sides of the same queries."""

from __future__ import annotations

import math
import random
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reshelve.errors import InputError
from reshelve.evaluation.paired import paired_difference

SIDES = st.integers(2, 25).flatmap(
    lambda size: st.tuples(*[st.lists(st.floats(0, 1).map(lambda v: round(v, 3)), min_size=size, max_size=size)] * 2)
)


def _named(values: list[float]) -> dict[str, float]:
    return {f"q{number}": value for number, value in enumerate(values)}


@settings(max_examples=40, deadline=None)
@given(SIDES)
def test_swapping_the_sides_flips_the_sign(sides: tuple[list[float], list[float]]) -> None:
    before, after = map(_named, sides)
    there = paired_difference("RR", before, after, resamples=200)
    back = paired_difference("RR", after, before, resamples=200)
    assert back.difference == pytest.approx(-there.difference)
    assert (back.low, back.high) == (pytest.approx(-there.high), pytest.approx(-there.low))
    assert back.p_value == pytest.approx(there.p_value)
    assert (back.better, back.worse, back.equal) == (there.worse, there.better, there.equal)


@settings(max_examples=40, deadline=None)
@given(SIDES)
def test_the_interval_stays_within_the_differences(sides: tuple[list[float], list[float]]) -> None:
    found = paired_difference("RR", _named(sides[0]), _named(sides[1]), resamples=200)
    differences = [new - old for old, new in zip(*sides, strict=True)]
    assert min(differences) - 1e-12 <= found.low <= found.high <= max(differences) + 1e-12
    assert 0 < found.p_value <= 1
    assert found.better + found.worse + found.equal == found.queries == len(differences)
    assert found.difference == pytest.approx(found.after - found.before)


@pytest.mark.parametrize("shift", [0.0, 0.25])
def test_equal_differences_have_an_interval_of_no_width_and_no_warning(shift: float) -> None:
    before = _named([0.25, 0.5, 0.75, 0.5, 0.0, 0.125])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = paired_difference("RR", before, {query: value + shift for query, value in before.items()})
    assert (found.low, found.difference, found.high) == (shift, shift, shift)
    assert found.p_value == pytest.approx(1.0 if shift == 0 else 2 / 2**6)


def test_a_clear_gain_is_told_from_noise_and_the_answer_repeats() -> None:
    draw = random.Random(1)
    before = _named([draw.random() for _ in range(300)])
    noise = {query: value + draw.gauss(0, 0.2) for query, value in before.items()}
    gain = {query: value + 0.1 for query, value in noise.items()}
    same, better = paired_difference("RR", before, noise), paired_difference("RR", before, gain)
    assert same.low < 0 < same.high
    assert same.p_value > 0.05
    # A normal approximation of the same interval: 1.96 standard errors of 0.2 / sqrt(300).
    assert better.high - better.low == pytest.approx(2 * 1.96 * 0.2 / math.sqrt(300), rel=0.15)
    assert better.low > 0.05
    assert better.p_value < 0.001
    assert paired_difference("RR", before, gain) == better
    wider = paired_difference("RR", before, gain, confidence=0.99)
    assert wider.high - wider.low > better.high - better.low


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InputError, match="different queries, for example b"):
        paired_difference("RR", {"a": 1.0}, {"a": 1.0, "b": 1.0})
    with pytest.raises(InputError, match="at least two"):
        paired_difference("RR", {"a": 1.0}, {"a": 1.0})
    with pytest.raises(InputError, match="not a number"):
        paired_difference("RR", {"a": 1.0, "b": math.nan}, {"a": 1.0, "b": 1.0})
