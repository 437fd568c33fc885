"""Reciprocal rank fusion: ranks alone decide."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reshelve.domain.fusion import RRF_K, best_of_each_first, fuse, reciprocal_rank_fusion

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


leg = st.lists(st.tuples(st.integers(0, 20), st.floats(0, 100)), unique_by=lambda one: one[0], max_size=15).map(
    lambda found: sorted(found, key=lambda one: -one[1])
)
legs = st.fixed_dictionaries({"dense": leg, "lexical": leg})
weights = st.floats(0, 1).map(lambda weight: {"dense": weight, "lexical": 1 - weight})


@given(legs, weights | st.none(), st.integers(1, 15), st.integers(0, 15))
def test_going_deeper_adds_to_the_end_and_changes_nothing_before(
    whole: dict[str, list[tuple[int, float]]], weighted: dict[str, float] | None, depth: int, more: int
) -> None:
    shallow = fuse({name: one[: depth + more] for name, one in whole.items()}, depth=depth, weights=weighted)
    deep = fuse(whole, depth=depth, weights=weighted)
    certain = [one.key for one in shallow if one.best_rank <= depth]
    assert [one.key for one in deep][: len(certain)] == certain


@given(legs, weights)
def test_a_convex_score_is_the_sum_of_its_shares_and_lies_between_0_and_1(
    found: dict[str, list[tuple[int, float]]], weighted: dict[str, float]
) -> None:
    fused = fuse(found, depth=15, weights=weighted)
    assert {one.key for one in fused} == {key for one in found.values() for key, _ in one}
    for one in fused:
        assert one.score == pytest.approx(sum(place.share for place in one.legs.values()))
        assert -1e-9 <= one.score <= 1 + 1e-9
        assert all(found[name][place.rank - 1] == (one.key, place.score) for name, place in one.legs.items())
    assert [one.score for one in fused] == sorted((one.score for one in fused), reverse=True)


@given(legs)
def test_without_weights_it_is_reciprocal_rank_fusion(found: dict[str, list[tuple[int, float]]]) -> None:
    by_rank = dict(reciprocal_rank_fusion([[key for key, _ in one] for one in found.values()]))
    assert {one.key: one.score for one in fuse(found, depth=15)} == pytest.approx(by_rank)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 100))))
def test_the_best_of_each_group_come_first_and_nothing_is_lost(ranked: list[tuple[int, int]]) -> None:
    mixed = best_of_each_first(ranked, lambda one: one[0])
    assert sorted(mixed) == sorted(ranked)
    groups = {one[0] for one in ranked}
    firsts = list({one[0]: one for one in reversed(ranked)}.values())
    assert sorted(mixed[: len(groups)]) == sorted(firsts)
    for group in groups:
        assert [one for one in mixed if one[0] == group] == [one for one in ranked if one[0] == group]
