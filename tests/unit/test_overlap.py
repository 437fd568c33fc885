"""How alike two rankings are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reshelve.domain.overlap import overlap_at_k, rank_biased_overlap

RANKINGS = st.lists(st.integers(0, 30), unique=True, max_size=15)


def test_overlap_counts_what_both_have_of_as_many_as_there_are() -> None:
    assert overlap_at_k("abcd", "bcax", 3) == 1
    assert overlap_at_k("abcd", "xbyz", 4) == 0.25
    assert overlap_at_k("ab", "ab", 10) == 1
    assert overlap_at_k("ab", "abcd", 10) == 0.5
    assert overlap_at_k("", "", 10) == 1
    assert overlap_at_k("", "a", 10) == 0


def _by_definition(a: list[int], b: list[int], p: float, depth: int) -> float:
    """The sum of definition 4 of the paper, as far as the lists go on agreeing as they did at their end."""
    agreement = [len(set(a[:d]) & set(b[:d])) / d for d in range(1, len(a) + 1)]
    agreement += [agreement[-1]] * (depth - len(a))
    return (1 - p) * sum(value * p**d for d, value in enumerate(agreement))


@given(st.permutations(range(8)), st.lists(st.integers(0, 15), unique=True, min_size=8, max_size=8))
def test_lists_of_equal_length_have_the_value_of_the_definition(a: list[int], b: list[int]) -> None:
    assert rank_biased_overlap(a, b) == pytest.approx(_by_definition(a, b, 0.9, 400))


def test_unequal_lengths_extrapolate_as_in_the_paper() -> None:
    # Equation 32 by hand: S = "a", L = "ab", p = 0.9; X = 1, 1, agreement 1 and 1/2, plus 1·1/2 for the unseen half.
    by_hand = (0.1 / 0.9) * (1 * 0.9 + 0.5 * 0.81 + 0.5 * 0.81) + (0 / 2 + 1) * 0.81
    assert rank_biased_overlap("a", "ab") == pytest.approx(by_hand) == pytest.approx(1)
    assert rank_biased_overlap("b", "ab") == pytest.approx((0.1 / 0.9) * (0.5 * 0.81) + (1 / 2) * 0.81)


@given(RANKINGS, RANKINGS)
def test_it_is_symmetric_bounded_and_one_for_equal_lists(a: list[int], b: list[int]) -> None:
    value = rank_biased_overlap(a, b)
    assert 0 <= value <= 1 + 1e-12
    assert value == pytest.approx(rank_biased_overlap(b, a))
    assert rank_biased_overlap(a, a) == pytest.approx(1)
    assert (value > 0) == (not set(a).isdisjoint(b) or not (a or b))


def test_the_top_weighs_more_than_the_end() -> None:
    assert rank_biased_overlap("abcdef", "abcdyz") > rank_biased_overlap("abcdef", "yzcdef")


@pytest.mark.parametrize("p", [0.0, 1.0, -1.0])
def test_p_lies_between_zero_and_one(p: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        rank_biased_overlap("a", "a", p)
