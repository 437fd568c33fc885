"""Whether a rollout may take its next step, must wait, or has to go back: figures in, verdicts with reasons out.

Missing, not-a-number or too few data is *hold*, never *pass*. Only the safety gates take a rollout back by themselves:
they fail on evidence that noise does not make, however often one looks (`evalues.rate_above`). Quality that is not
proven, and even quality that is proven worse, waits for a person.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from reshelve.domain.evalues import rate_above
from reshelve.domain.figures import ArmFigures, quantile

ENOUGH_EVIDENCE = 1000.0
"""The e-value at which a safety gate fails: a good candidate ever reaches it with a chance of at most 1 in 1,000."""
LEAST_ERRORS = 3
LONGEST_LATE_SECONDS = 8.0
_CENT_USD = 0.01
"""The proof embeds a sample again, also where nothing else had to be embedded."""
LEAST_RECENT = 50
LEAST_SERVING = 50
_SLOW_SHARE = 0.05
"""Of the requests, at most so many are slower than their 95th percentile."""
_Z_99 = 2.326


class Outcome(StrEnum):
    PASS = "pass"
    HOLD = "hold"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one gate says. A `safety` gate that fails takes the rollout back."""

    gate: str
    outcome: Outcome
    reason: str
    observed: float | None = None
    threshold: float | None = None
    safety: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which knows no NaN."""
        observed = self.observed if self.observed is not None and math.isfinite(self.observed) else None
        return {**asdict(self), "outcome": self.outcome.value, "observed": observed}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The numbers of `[rag.rollout]` that gates compare with."""

    min_requests: int = 200
    min_shadowed: int = 100
    max_error_rate: float = 0.001
    max_p95_ms: float = 800.0
    max_p95_ratio: float = 1.5
    p95_floor_ms: float = 200.0
    max_lag_seconds: float = 60.0
    require_judged: bool = True
    max_quality_loss: float = 0.02
    min_overlap: float = 0.1
    max_cost_ratio: float = 1.2
    min_similarity: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedEvidence:
    """Mean nDCG@10 of both sides on judged queries; `difference` is candidate − serving.

    `low` and `high` are its one-sided bounds. `serving_at_start` is what the serving side had when the migration began.
    """

    difference: float
    low: float
    high: float
    serving_now: float
    candidate: float
    serving_at_start: float | None = None
    queries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """`candidate` is since the step began, `recent` the last minute of it, `serving` beside it or shortly before.

    `serving_recent` is the serving side's last minute: what slows both down is no fault of the candidate's.

    `late_seconds` is for how long by now every look found the lag above its limit; `spent_usd` what the way to the
    proof has cost.
    """

    candidate: ArmFigures
    recent: ArmFigures
    serving: ArmFigures
    serving_recent: ArmFigures = field(default_factory=ArmFigures)
    lag_seconds: float | None = None
    late_seconds: float | None = None
    verified: bool | None = None
    triggers_present: bool | None = None
    breaker_open: bool | None = None
    judged: JudgedEvidence | None = None
    spent_usd: float | None = None
    planned_usd: float | None = None


def worst(verdicts: Iterable[Verdict]) -> Outcome:
    """Fail before hold before pass; no verdict at all holds."""
    outcomes = {verdict.outcome for verdict in verdicts}
    if Outcome.FAIL in outcomes:
        return Outcome.FAIL
    return Outcome.PASS if outcomes == {Outcome.PASS} else Outcome.HOLD


# Safety ---------------------------------------------------------------------------------------------------------


def safety(evidence: Evidence, limits: Limits) -> list[Verdict]:
    return [
        _error_rate(evidence, limits),
        _breaker(evidence),
        _latency("p95", evidence, limits, **dict.fromkeys(("limit", "certain", "certain_recent"), limits.max_p95_ms)),
        _latency_ratio(evidence, limits),
        _lag(evidence, limits),
        _verification(evidence),
    ]


def _error_rate(evidence: Evidence, limits: Limits) -> Verdict:
    """Of the searches that were the candidate's, those that it did not answer; a closed-off candidate answers none."""
    limit = limits.max_error_rate
    for figures, when in ((evidence.recent, "in the last minute"), (evidence.candidate, "since the step began")):
        failed, tried = figures.failed, figures.tried
        if failed >= LEAST_ERRORS and rate_above(failed, tried, limit=limit) >= ENOUGH_EVIDENCE:
            reason = f"{failed:,} of {tried:,} searches failed {when}; at most {limit:.2%} may"
            return _safe("error_rate", Outcome.FAIL, reason, failed / tried, limit)
    failed, tried = evidence.candidate.failed, evidence.candidate.tried
    rate = failed / tried if tried else None
    if tried < limits.min_requests:
        return _safe("error_rate", Outcome.HOLD, _too_few(tried, limits.min_requests), rate, limit)
    outcome = Outcome.PASS if rate is not None and rate <= limit else Outcome.HOLD
    return _safe("error_rate", outcome, f"{failed:,} of {tried:,} searches failed", rate, limit)


def _breaker(evidence: Evidence) -> Verdict:
    match evidence.breaker_open:
        case None:
            return _safe("circuit_breaker", Outcome.HOLD, "its state is not known")
        case True:
            return _safe("circuit_breaker", Outcome.HOLD, "the candidate failed several times in a row")
        case False:
            return _safe("circuit_breaker", Outcome.PASS, "closed")


def _latency(
    gate: str,
    evidence: Evidence,
    limits: Limits,
    *,
    limit: float,
    certain: float,
    certain_recent: float,
) -> Verdict:
    """Passes by the p95 against `limit`; fails when certainly more than 5 % of the requests are above `certain`.

    In the last minute: above `certain_recent`.
    """
    if not all(map(math.isfinite, (limit, certain, certain_recent))):
        return _safe(gate, Outcome.HOLD, "the limit is not a number")
    windows = (
        (evidence.recent, LEAST_RECENT, certain_recent),
        (evidence.candidate, limits.min_requests, certain),
    )
    for figures, enough, above in windows:
        timed = sum(figures.latencies.values())
        slow = figures.slower_than(above)
        if timed >= enough and rate_above(slow, timed, limit=_SLOW_SHARE) >= ENOUGH_EVIDENCE:
            reason = f"{slow:,} of {timed:,} searches took longer than {above:,.1f} ms; at most 5 % may"
            return _safe(gate, Outcome.FAIL, reason, figures.p95_ms, limit)
    observed, requests = evidence.candidate.p95_ms, evidence.candidate.requests
    if requests < limits.min_requests:
        return _safe(gate, Outcome.HOLD, _too_few(requests, limits.min_requests), observed, limit)
    if observed is None or not math.isfinite(observed):
        return _safe(gate, Outcome.HOLD, "there are no latencies", observed, limit)
    outcome = Outcome.PASS if observed <= limit else Outcome.HOLD
    return _safe(gate, outcome, f"p95 is {observed:,.1f} ms, the limit {limit:,.1f} ms", observed, limit)


def _latency_ratio(evidence: Evidence, limits: Limits) -> Verdict:
    """Against the serving arm. To fail, the candidate must be slow even where the serving p95 is its upper bound.

    Its last minute is held against the serving side's last minute too, where that has enough searches.
    """
    serving, gate = evidence.serving, "p95_ratio"
    timed = sum(serving.latencies.values())
    if serving.p95_ms is None or min(timed, serving.requests) < LEAST_SERVING:
        reason = f"the serving side has {serving.requests:,} searches to compare with; {LEAST_SERVING} are needed"
        return _safe(gate, Outcome.HOLD, reason)
    limit = max(limits.max_p95_ratio * serving.p95_ms, limits.p95_floor_ms)
    certain = max(limits.max_p95_ratio * max(serving.p95_ms, _p95_bound(serving)), limits.p95_floor_ms)
    recent = evidence.serving_recent
    enough = sum(recent.latencies.values()) >= LEAST_SERVING
    beside = limits.max_p95_ratio * _p95_bound(recent) if enough else 0.0
    return _latency(gate, evidence, limits, limit=limit, certain=certain, certain_recent=max(certain, beside))


def _p95_bound(figures: ArmFigures) -> float:
    """The one-sided 99 % upper bound of the p95: the order statistic of rank n·(0.95 + z·√(0.95·0.05/n)).

    Conover, Practical Nonparametric Statistics, 3rd edition, 1999, section 3.2.
    """
    timed = sum(figures.latencies.values())
    return quantile(figures.latencies, min(1.0, 0.95 + _Z_99 * math.sqrt(0.95 * 0.05 / timed))) or 0.0


def _lag(evidence: Evidence, limits: Limits) -> Verdict:
    """Fails when it stays so: whatever waits has grown old at once where the clock jumped, or the worker was away."""
    lag, limit = evidence.lag_seconds, limits.max_lag_seconds
    if lag is None or not math.isfinite(lag):
        return _safe("freshness", Outcome.HOLD, "it is not known how far the candidate lags behind", lag, limit)
    outcome = Outcome.PASS if lag <= limit else Outcome.HOLD
    if outcome is Outcome.HOLD and evidence.late_seconds is not None and evidence.late_seconds >= LONGEST_LATE_SECONDS:
        outcome = Outcome.FAIL
    return _safe("freshness", outcome, f"the candidate lags {lag:,.1f} s behind; at most {limit:g} s", lag, limit)


def _verification(evidence: Evidence) -> Verdict:
    gate = "verification"
    # A write that no trigger saw is missing on both sides: going back would not help.
    if not evidence.triggers_present:
        known = "are not known to be there" if evidence.triggers_present is None else "are missing or disabled"
        return _safe(gate, Outcome.HOLD, f"the triggers that record every write {known}")
    match evidence.verified:
        case None:
            return _safe(gate, Outcome.HOLD, "the candidate is not verified")
        case True:
            return _safe(gate, Outcome.PASS, "the candidate is proven complete")
        case False:
            return _safe(gate, Outcome.FAIL, "the last verification of the candidate failed")


# Quality --------------------------------------------------------------------------------------------------------


def quality(evidence: Evidence, limits: Limits) -> list[Verdict]:
    found = [
        _judged(evidence.judged, limits),
        _overlap(evidence.candidate, limits),
        _cost(evidence, limits),
        _similarity(evidence.candidate, limits),
    ]
    return [verdict for verdict in found if verdict is not None]


def _judged(judged: JudgedEvidence | None, limits: Limits) -> Verdict | None:
    """Non-inferiority by the confidence interval of the paired difference (FDA, Non-Inferiority Trials, 2016)."""
    gate, threshold = "judged_queries", -limits.max_quality_loss
    if judged is None or judged.queries == 0:
        if not limits.require_judged:
            return None
        return _verdict(gate, Outcome.HOLD, "no judged queries say how good the candidate is", None, threshold)
    values = (judged.difference, judged.low, judged.high, judged.serving_now, judged.candidate)
    start = judged.serving_at_start
    if not all(math.isfinite(value) for value in (*values, start if start is not None else 0.0)):
        return _verdict(gate, Outcome.HOLD, "a judged value is not a number", judged.difference, threshold)
    reason = (
        f"nDCG@10 {judged.serving_now:.3f} → {judged.candidate:.3f} on {judged.queries:,} judged queries, "
        f"{judged.difference:+.3f} ({judged.low:+.3f} to {judged.high:+.3f}); {threshold:+.3f} is allowed"
    )
    outcome = Outcome.HOLD
    if judged.serving_now == judged.candidate == 0:
        # Other documents than these are in the collection, or they are a tenant's.
        return _verdict(gate, outcome, "neither side finds a judged document", judged.difference, threshold)
    if judged.high < threshold:
        outcome = Outcome.FAIL
    elif judged.low > threshold:
        outcome = Outcome.PASS
    if start is not None and judged.serving_now < start + threshold:
        reason += f"; the serving index itself fell from {start:.3f} to {judged.serving_now:.3f} since the start"
        if outcome is Outcome.PASS and judged.candidate < start + threshold:
            outcome = Outcome.HOLD
            reason += ", and the candidate is worse than it was then"
    return _verdict(gate, outcome, reason, judged.difference, threshold)


def _overlap(candidate: ArmFigures, limits: Limits) -> Verdict | None:
    """None where nothing is to be compared: `min_shadowed` is 0, and nothing was."""
    gate, threshold = "overlap", limits.min_overlap
    if limits.min_shadowed == 0 and candidate.compared == 0:
        return None
    if candidate.compared < limits.min_shadowed:
        reason = f"{candidate.compared:,} searches were compared on both sides; {limits.min_shadowed:,} are needed"
        return _verdict(gate, Outcome.HOLD, reason, candidate.overlap, threshold)
    return _at_least(gate, "of the first ten results are the same", candidate.overlap, threshold)


def _cost(evidence: Evidence, limits: Limits) -> Verdict:
    spent, planned = evidence.spent_usd, evidence.planned_usd
    if spent is None or planned is None or not (math.isfinite(spent) and math.isfinite(planned)):
        return _verdict("cost", Outcome.HOLD, "what was spent, or what was planned, is not known", spent, None)
    threshold = planned * limits.max_cost_ratio + _CENT_USD
    outcome = Outcome.PASS if spent <= threshold else Outcome.HOLD
    return _verdict("cost", outcome, f"{spent:,.2f} USD spent of {planned:,.2f} planned", spent, threshold)


def _similarity(candidate: ArmFigures, limits: Limits) -> Verdict | None:
    """Only where it is asked for: cosines of two models do not compare."""
    gate, threshold = "similarity", limits.min_similarity
    if threshold is None:
        return None
    if candidate.similarity_count < limits.min_requests:
        reason = _too_few(candidate.similarity_count, limits.min_requests)
        return _verdict(gate, Outcome.HOLD, reason, candidate.similarity, threshold)
    return _at_least(gate, "is the mean score of the first results", candidate.similarity, threshold)


def _at_least(gate: str, what: str, observed: float | None, threshold: float) -> Verdict:
    if observed is None or not math.isfinite(observed):
        return _verdict(gate, Outcome.HOLD, "there is no figure", observed, threshold)
    outcome = Outcome.PASS if observed >= threshold else Outcome.HOLD
    return _verdict(gate, outcome, f"{observed:.3f} {what}; {threshold:g} is wanted", observed, threshold)


def _too_few(there: int, needed: int) -> str:
    return f"{there:,} searches so far; {needed:,} are needed"


def _verdict(gate: str, outcome: Outcome, reason: str, observed: float | None, threshold: float | None) -> Verdict:
    # The journal is JSON, which has no NaN.
    known = observed if observed is not None and math.isfinite(observed) else None
    return Verdict(gate=gate, outcome=outcome, reason=reason, observed=known, threshold=threshold)


def _safe(
    gate: str, outcome: Outcome, reason: str, observed: float | None = None, threshold: float | None = None
) -> Verdict:
    return replace(_verdict(gate, outcome, reason, observed, threshold), safety=True)
