"""Reciprocal rank fusion: ranks alone decide."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reshelve.domain.fusion import RRF_K, reciprocal_rank_fusion

ranking = st.lists(st.integers(0, 12), max_size=12)
rankings = st.lists(ranking, max_size=5)


@given(rankings)
def test_every_key_has_the_sum_of_its_reciprocal_ranks(given_rankings: list[list[int]]) -> None:
    fused = reciprocal_rank_fusion(given_rankings)
    unique = [list(dict.fromkeys(one)) for one in given_rankings]
    expected = {
        key: sum(1 / (RRF_K + one.index(key) + 1) for one in unique if key in one)
        for key in {key for one in unique for key in one}
    }
    assert dict(fused) == pytest.approx(expected)
    assert len(fused) == len(expected)
    scores = [score for _, score in fused]
    assert scores == sorted(scores, reverse=True)


@given(rankings)
def test_the_intersection_is_what_every_ranking_has_with_the_same_scores(given_rankings: list[list[int]]) -> None:
    union = reciprocal_rank_fusion(given_rankings)
    in_all = reciprocal_rank_fusion(given_rankings, in_all=True)
    assert in_all == [one for one in union if all(one[0] in ranked for ranked in given_rankings)]


@given(rankings, st.randoms())
def test_the_order_of_the_rankings_changes_no_score(given_rankings: list[list[int]], chance: random.Random) -> None:
    shuffled = given_rankings.copy()
    chance.shuffle(shuffled)
    assert dict(reciprocal_rank_fusion(shuffled)) == pytest.approx(dict(reciprocal_rank_fusion(given_rankings)))


@given(ranking)
def test_one_ranking_keeps_its_order(one: list[int]) -> None:
    assert [key for key, _ in reciprocal_rank_fusion([one])] == list(dict.fromkeys(one))


@given(ranking, ranking, st.integers(0, 12))
def test_rising_in_one_ranking_never_costs(one: list[int], other: list[int], key: int) -> None:
    risen = [key, *(each for each in one if each != key)]
    before = dict(reciprocal_rank_fusion([one, other]))
    after = dict(reciprocal_rank_fusion([risen, other]))
    assert after[key] >= before.get(key, 0.0)


def test_equal_sums_keep_the_order_in_which_the_keys_came() -> None:
    assert [key for key, _ in reciprocal_rank_fusion([["a", "b"], ["b", "a"]])] == ["a", "b"]
    assert reciprocal_rank_fusion([]) == []
