"""Gates: what passes, what holds, and what takes a rollout back."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reshelve.domain.figures import ArmFigures, bin_of
from reshelve.domain.gates import (
    Evidence,
    JudgedEvidence,
    Limits,
    Outcome,
    Verdict,
    quality,
    safety,
    worst,
)

LIMITS = Limits(p95_floor_ms=0)
PASS, HOLD, FAIL = Outcome.PASS, Outcome.HOLD, Outcome.FAIL


def arm(latencies: Iterable[float] = (), *, errors: int = 0, fallbacks: int = 0, compared: int = 0) -> ArmFigures:
    rows = [("request", bin, count, 0.0) for bin, count in Counter(map(bin_of, latencies)).items()]
    rows += [("error", 0, errors, 0.0), ("fallback", 0, fallbacks, 0.0), ("overlap", 0, compared, 0.6 * compared)]
    return ArmFigures.from_counts(rows)


JUDGED = JudgedEvidence(
    difference=0.01, low=-0.005, high=0.025, serving_now=0.60, candidate=0.61, serving_at_start=0.60, queries=200
)
GOOD = Evidence(
    candidate=arm([20] * 1000, compared=200),
    recent=arm([20] * 60),
    serving=arm([18] * 1000),
    lag_seconds=0.4,
    verified=True,
    triggers_present=True,
    breaker_open=False,
    judged=JUDGED,
    spent_usd=1.0,
    planned_usd=1.0,
)


def of(gate: str, evidence: Evidence, limits: Limits = LIMITS) -> Verdict:
    [found] = [each for each in safety(evidence, limits) + quality(evidence, limits) if each.gate == gate]
    return found


def test_good_evidence_passes_every_gate() -> None:
    verdicts = safety(GOOD, LIMITS) + quality(GOOD, LIMITS)
    assert {each.outcome for each in verdicts} == {PASS}
    assert worst(verdicts) is PASS
    assert [each.gate for each in verdicts if each.safety] == [
        "error_rate",
        "circuit_breaker",
        "p95",
        "p95_ratio",
        "freshness",
        "verification",
    ]
    assert [each.gate for each in verdicts if not each.safety] == ["judged_queries", "overlap", "cost"]


def test_nothing_known_holds_everywhere() -> None:
    nothing = Evidence(candidate=ArmFigures(), recent=ArmFigures(), serving=ArmFigures())
    verdicts = safety(nothing, LIMITS) + quality(nothing, replace(LIMITS, min_similarity=0.7))
    assert {each.outcome for each in verdicts} == {HOLD}
    assert all(each.reason for each in verdicts)
    assert worst([]) is HOLD


NAN = math.nan
NO_FIGURE = replace(GOOD.candidate, p95_ms=NAN, overlap=NAN, similarity=NAN, similarity_count=500)


@pytest.mark.parametrize(
    ("gate", "evidence"),
    [
        ("p95", replace(GOOD, candidate=NO_FIGURE)),
        ("p95_ratio", replace(GOOD, candidate=NO_FIGURE)),
        ("p95_ratio", replace(GOOD, serving=replace(GOOD.serving, p95_ms=NAN))),
        ("freshness", replace(GOOD, lag_seconds=NAN)),
        ("overlap", replace(GOOD, candidate=NO_FIGURE)),
        ("similarity", replace(GOOD, candidate=NO_FIGURE)),
        ("cost", replace(GOOD, spent_usd=NAN)),
        ("cost", replace(GOOD, planned_usd=NAN)),
        *[
            ("judged_queries", replace(GOOD, judged=replace(JUDGED, **{name: NAN})))
            for name in ("difference", "low", "high", "serving_now", "candidate", "serving_at_start")
        ],
    ],
)
def test_what_is_not_a_number_holds(gate: str, evidence: Evidence) -> None:
    verdict = of(gate, evidence, replace(LIMITS, min_similarity=0.5))
    assert verdict.outcome is HOLD
    json.dumps(verdict.as_dict(), allow_nan=False)


@given(
    st.builds(
        Evidence,
        candidate=st.integers(0, 199).map(lambda n: arm([20] * n)),
        recent=st.integers(0, 49).map(lambda n: arm([5000] * n)),
        serving=st.just(arm([18] * 100)),
        lag_seconds=st.sampled_from([None, NAN, math.inf]),
        breaker_open=st.sampled_from([None, True]),
        triggers_present=st.sampled_from([None, False]),
        verified=st.sampled_from([None, True, False]),
    )
)
def test_too_few_or_missing_is_never_more_and_never_less_than_a_hold(evidence: Evidence) -> None:
    verdicts = safety(evidence, LIMITS) + quality(evidence, LIMITS)
    assert {each.outcome for each in verdicts} == {HOLD}


# Errors ---------------------------------------------------------------------------------------------------------


def test_a_candidate_that_fails_every_search_fails_after_a_few_of_them() -> None:
    broken = arm([20] * 5, errors=5, fallbacks=5)
    verdict = of("error_rate", replace(GOOD, recent=broken, candidate=broken))
    assert (verdict.outcome, verdict.safety) == (FAIL, True)
    assert verdict.reason == "5 of 5 searches failed in the last minute; at most 0.10% may"
    two = arm([20] * 5, errors=2)
    assert of("error_rate", replace(GOOD, recent=two, candidate=two)).outcome is HOLD


def test_errors_of_the_last_minute_count_after_days_without_one() -> None:
    long_good = arm([20] * 100_000, errors=5)
    evidence = replace(GOOD, candidate=long_good, recent=arm([20] * 60, errors=5))
    assert of("error_rate", evidence).outcome is FAIL
    assert of("error_rate", replace(evidence, recent=arm([20] * 60))).outcome is PASS


def test_searches_that_the_breaker_kept_from_the_candidate_are_failed_ones() -> None:
    """Else an open breaker would hide the failure from the gate: nothing is asked, so nothing fails."""
    kept_away = arm([20] * 10_000, errors=5, fallbacks=2_000)
    verdict = of("error_rate", replace(GOOD, recent=kept_away))
    assert verdict.outcome is FAIL
    assert verdict.reason.startswith("2,000 of 11,995 searches failed")
    assert of("circuit_breaker", replace(GOOD, breaker_open=True)).outcome is HOLD


def test_some_errors_too_many_hold_before_they_are_evidence() -> None:
    some = arm([20] * 1000, errors=2)
    verdict = of("error_rate", replace(GOOD, candidate=some, recent=some))
    assert (verdict.outcome, verdict.observed, verdict.threshold) == (HOLD, 0.002, 0.001)


# Latencies ------------------------------------------------------------------------------------------------------


def test_a_slow_candidate_fails_and_a_few_slow_searches_do_not() -> None:
    assert of("p95", replace(GOOD, recent=arm([20] * 30 + [2000] * 30))).outcome is FAIL
    assert of("p95", replace(GOOD, recent=arm([20] * 54 + [2000] * 6))).outcome is PASS
    assert of("p95", replace(GOOD, recent=arm([2000] * 49))).outcome is PASS
    slightly = replace(GOOD, candidate=arm([20] * 940 + [2000] * 60))
    verdict = of("p95", slightly)
    assert (verdict.outcome, verdict.threshold) == (HOLD, 800)
    assert verdict.observed == pytest.approx(2000, rel=0.05)


def test_the_candidate_may_be_so_much_slower_than_the_serving_side() -> None:
    assert of("p95_ratio", replace(GOOD, candidate=arm([25] * 1000))).outcome is PASS
    slow = replace(GOOD, candidate=arm([60] * 1000), recent=arm([60] * 60))
    assert of("p95_ratio", slow).outcome is FAIL
    assert of("p95", slow).outcome is PASS
    assert of("p95_ratio", replace(slow, serving=arm([18] * 49))).outcome is HOLD


def test_a_serving_side_that_is_hardly_known_takes_nothing_back() -> None:
    """Two slow searches of fifty may be chance: the serving p95 may well be as high as they are."""
    few = replace(GOOD, candidate=arm([60] * 1000), serving=arm([18] * 48 + [90] * 2))
    assert of("p95_ratio", few).outcome is HOLD


@pytest.mark.parametrize("seed", range(5))
def test_noise_of_a_day_takes_no_good_candidate_back(seed: int) -> None:
    """Latencies with a long tail, just under both limits, looked at every ten seconds."""
    noise = random.Random(seed)
    limits = replace(LIMITS, max_p95_ms=100, max_error_rate=0.001)
    windows = [[noise.lognormvariate(3.6, 0.57) for _ in range(100)] for _ in range(2_000)]
    errors = [sum(noise.random() < 0.0008 for _ in range(100)) for _ in range(2_000)]
    serving = arm(each for window in windows[:100] for each in window)
    for window, failed in zip(windows, errors, strict=True):
        recent = arm(window, errors=failed)
        verdicts = safety(replace(GOOD, candidate=recent, recent=recent, serving=serving), limits)
        assert FAIL not in {each.outcome for each in verdicts}


# Freshness and proof --------------------------------------------------------------------------------------------


def test_freshness_and_verification() -> None:
    assert of("freshness", replace(GOOD, lag_seconds=60)).outcome is PASS
    assert of("freshness", replace(GOOD, lag_seconds=61)).outcome is HOLD
    assert of("freshness", replace(GOOD, lag_seconds=61, late_seconds=7)).outcome is HOLD
    assert of("freshness", replace(GOOD, lag_seconds=61, late_seconds=8)).outcome is FAIL
    assert of("freshness", replace(GOOD, lag_seconds=60, late_seconds=61)).outcome is PASS
    assert of("verification", replace(GOOD, verified=False)).outcome is FAIL
    assert of("verification", replace(GOOD, triggers_present=False)).outcome is HOLD
    assert of("verification", replace(GOOD, triggers_present=False, verified=False)).outcome is HOLD


# Quality --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (-0.019, 0.03, PASS),
        (-0.02, 0.03, HOLD),
        (-0.05, 0.01, HOLD),
        (-0.05, -0.02, HOLD),
        (-0.05, -0.021, FAIL),
    ],
)
def test_judged_queries_decide_by_the_interval(low: float, high: float, outcome: Outcome) -> None:
    verdict = of("judged_queries", replace(GOOD, judged=replace(JUDGED, low=low, high=high)))
    assert (verdict.outcome, verdict.safety, verdict.threshold) == (outcome, False, -0.02)


def test_without_judged_queries_a_person_decides_unless_told_otherwise() -> None:
    for judged in (None, replace(JUDGED, queries=0)):
        unjudged = replace(GOOD, judged=judged)
        assert of("judged_queries", unjudged).outcome is HOLD
        relaxed = quality(unjudged, replace(LIMITS, require_judged=False))
        assert "judged_queries" not in {each.gate for each in relaxed}


def test_a_serving_side_that_fell_is_no_excuse_for_the_candidate() -> None:
    """Fault 26: both sides are worse than the serving side was when the migration began."""
    fallen = replace(JUDGED, serving_now=0.40, candidate=0.41, serving_at_start=0.60)
    verdict = of("judged_queries", replace(GOOD, judged=fallen))
    assert verdict.outcome is HOLD
    assert "the serving index itself fell from 0.600 to 0.400 since the start" in verdict.reason
    assert "the candidate is worse than it was then" in verdict.reason
    rescued = of("judged_queries", replace(GOOD, judged=replace(fallen, candidate=0.60)))
    assert rescued.outcome is PASS
    assert "fell from" in rescued.reason
    assert "fell" not in of("judged_queries", GOOD).reason


def test_overlap_cost_and_similarity_hold_and_never_fail() -> None:
    assert of("overlap", replace(GOOD, candidate=arm([20] * 1000, compared=99))).outcome is HOLD
    assert of("overlap", GOOD, replace(LIMITS, min_overlap=0.61)).outcome is HOLD
    assert of("cost", replace(GOOD, spent_usd=1.22)).outcome is HOLD
    assert of("cost", replace(GOOD, spent_usd=0.0, planned_usd=0.0)).outcome is PASS
    similar = replace(GOOD, candidate=replace(GOOD.candidate, similarity=0.8, similarity_count=200))
    assert of("similarity", similar, replace(LIMITS, min_similarity=0.7)).outcome is PASS
    assert of("similarity", similar, replace(LIMITS, min_similarity=0.9)).outcome is HOLD
    few = replace(similar.candidate, similarity_count=199)
    assert of("similarity", replace(similar, candidate=few), replace(LIMITS, min_similarity=0.7)).outcome is HOLD


def test_nothing_is_compared_where_nothing_is_to_be() -> None:
    none = replace(GOOD, candidate=arm([20] * 1000))
    assert "overlap" not in {each.gate for each in quality(none, replace(LIMITS, min_shadowed=0))}


def test_the_worst_decides() -> None:
    verdicts = {each: Verdict(gate="g", outcome=each, reason="r") for each in Outcome}
    assert worst([verdicts[PASS], verdicts[HOLD]]) is HOLD
    assert worst(verdicts.values()) is FAIL
    assert worst([verdicts[PASS]]) is PASS


def test_what_slows_both_sides_down_is_not_the_candidates_fault() -> None:
    slow = replace(GOOD, recent=arm([400] * 200))
    assert of("p95_ratio", slow).outcome is FAIL
    assert of("p95_ratio", replace(slow, serving_recent=arm([380] * 200))).outcome is PASS
    assert of("p95_ratio", replace(slow, serving_recent=arm([18] * 200))).outcome is FAIL
    # A handful of slow ones say nothing about the serving side.
    assert of("p95_ratio", replace(slow, serving_recent=arm([380] * 10))).outcome is FAIL


def test_judged_queries_that_find_nothing_on_either_side_prove_nothing() -> None:
    nothing = JudgedEvidence(difference=0, low=0, high=0, serving_now=0, candidate=0, queries=200)
    assert of("judged_queries", replace(GOOD, judged=nothing)).outcome is HOLD
