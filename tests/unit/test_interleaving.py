"""Team drafts, and the bet on who wins."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reshelve.domain.evalues import rate_above
from reshelve.domain.interleaving import anytime_valid, team_draft
from reshelve.domain.routes import Arm

RANKINGS = st.lists(st.integers(0, 12), unique=True, max_size=10)


def _side(ranking: list[int], name: str) -> dict[int, str]:
    return {key: f"{name}{key}" for key in ranking}


@given(RANKINGS, RANKINGS, st.integers(0, 12), st.text(max_size=5))
def test_a_draft_has_each_item_once_in_turns_and_in_order(
    serving: list[int], candidate: list[int], length: int, seed: str
) -> None:
    drafted = team_draft(_side(serving, "s"), _side(candidate, "c"), length=length, seed=seed)
    keys = [int(item[1:]) for item, _ in drafted]
    assert len(drafted) == len(set(keys)) == min(length, len(set(serving) | set(candidate)))
    for (item, arm), key in zip(drafted, keys, strict=True):
        assert item[0] == ("s" if arm is Arm.SERVING else "c")
        assert key in (serving if arm is Arm.SERVING else candidate)
    for ranking, arm in ((serving, Arm.SERVING), (candidate, Arm.CANDIDATE)):
        own = [key for key, (_, by) in zip(keys, drafted, strict=True) if by is arm]
        assert own == [key for key in ranking if key in own]
    if set(serving).isdisjoint(candidate):
        fair = 2 * min(len(serving), len(candidate), length // 2)
        assert [arm for _, arm in drafted[:fair]].count(Arm.SERVING) == fair // 2
    assert drafted == team_draft(_side(serving, "s"), _side(candidate, "c"), length=length, seed=seed)


def test_the_coin_is_fair_and_the_same_everywhere() -> None:
    first = [team_draft({1: "s"}, {1: "c"}, length=1, seed=str(seed))[0][1] for seed in range(1000)]
    assert 400 < first.count(Arm.SERVING) < 600
    assert [arm.value for arm in first[:6]] == ["candidate", "serving", "serving", "serving", "serving", "candidate"]


def test_the_evidence_grows_with_a_preference_and_stays_small_without_one() -> None:
    assert anytime_valid(candidate_wins=0, serving_wins=0) == 1
    assert anytime_valid(candidate_wins=2, serving_wins=0) == pytest.approx(4 / 3)
    assert anytime_valid(candidate_wins=30, serving_wins=5) > 1000
    assert anytime_valid(candidate_wins=5, serving_wins=30) > 1000
    assert anytime_valid(candidate_wins=500, serving_wins=500) < 0.1
    assert anytime_valid(candidate_wins=10_000, serving_wins=0) > 1e300


def test_a_fair_coin_seldom_looks_unfair_however_often_one_looks() -> None:
    """Ville's inequality: in at most one of twenty runs the evidence ever reaches twenty."""
    coins = random.Random(1)
    alarms = 0
    for _ in range(400):
        wins = 0
        for tosses in range(1, 301):
            wins += coins.random() < 0.5
            if anytime_valid(candidate_wins=wins, serving_wins=tosses - wins) >= 20:
                alarms += 1
                break
    assert alarms <= 20


@pytest.mark.parametrize("limit", [0.001, 0.05, 0.3])
def test_a_rate_at_its_limit_seldom_looks_higher_however_often_one_looks(limit: float) -> None:
    coins = random.Random(2)
    alarms = 0
    for _ in range(200):
        hits = 0
        for trials in range(1, 501):
            hits += coins.random() < limit
            if rate_above(hits, trials, limit=limit) >= 20:
                alarms += 1
                break
    assert alarms <= 10


@given(st.floats(0.0001, 0.99), st.integers(0, 5000), st.integers(0, 5000))
def test_more_hits_are_more_evidence(limit: float, hits: int, misses: int) -> None:
    evidence = rate_above(hits, hits + misses, limit=limit)
    assert 0 <= evidence < float("inf")
    assert rate_above(hits + 1, hits + 1 + misses, limit=limit) >= evidence
    assert rate_above(hits, hits + misses + 1, limit=limit) <= evidence
