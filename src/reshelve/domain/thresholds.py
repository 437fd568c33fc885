"""What the figures of a side are held against: the targets of the rollout's plan, and the limits of its gates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from reshelve.domain.figures import ArmFigures

Outcome = Literal["ok", "breach", "no data"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """`figure` must be at most, or else at least, `limit`.

    A target says what is wished for, a gate what a rollout needs. One that does not decide is shown, and no more.
    """

    figure: str
    limit: float
    at_most: bool
    kind: Literal["target", "gate"]
    decides: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A threshold with what was seen; no data is never ok."""

    figure: str
    value: float | None
    limit: float
    at_most: bool
    kind: Literal["target", "gate"]
    decides: bool
    outcome: Outcome


TARGETS = (
    Threshold(figure="mean_ms", limit=800.0, at_most=True, kind="target"),
    Threshold(figure="p95_ms", limit=1200.0, at_most=True, kind="target"),
    Threshold(figure="error_rate", limit=0.001, at_most=True, kind="target"),
    # Queries that differ cannot hit a cache, and cosines of two models do not compare.
    Threshold(figure="cache_hit_rate", limit=0.7, at_most=False, kind="target", decides=False),
    Threshold(figure="similarity", limit=0.7, at_most=False, kind="target", decides=False),
)


def measured(figures: ArmFigures) -> dict[str, float | int | None]:
    """The figures by name: with rates, 0..1, and without the histograms. Where nothing was cached, nothing caches."""

    def rate(count: int) -> float | None:
        return count / figures.requests if figures.requests else None

    looked_up = figures.search_cache_hits + figures.search_cache_misses
    return {
        "requests": figures.requests,
        "errors": figures.errors,
        "fallbacks": figures.fallbacks,
        "error_rate": rate(figures.errors),
        "mean_ms": figures.mean_ms,
        "p50_ms": figures.p50_ms,
        "p95_ms": figures.p95_ms,
        "p99_ms": figures.p99_ms,
        "cache_hits": figures.cache_hits,
        "cache_hit_rate": rate(figures.cache_hits) if figures.cache_hits else None,
        "search_cache_hits": figures.search_cache_hits,
        "search_cache_misses": figures.search_cache_misses,
        "search_cache_hit_rate": figures.search_cache_hits / looked_up if looked_up else None,
        "similarity": figures.similarity,
        "shadowed": figures.shadowed,
        "shadow_errors": figures.shadow_errors,
        "shadow_p95_ms": figures.shadow_p95_ms,
        "compared": figures.compared,
        "overlap": figures.overlap,
        "rbo": figures.rbo,
        "answers": figures.answers,
        "extractive_answers": figures.extractive_answers,
        "abstentions": figures.abstentions,
        "answer_errors": figures.answer_errors,
        "citations": figures.citations,
        "dropped_citations": figures.dropped_citations,
        "answer_p95_ms": figures.answer_p95_ms,
    }


def check(values: Mapping[str, float | None], thresholds: Iterable[Threshold]) -> list[Check]:
    """In the order of the thresholds. A figure that is not a number is no data."""
    return [_check(values.get(threshold.figure), threshold) for threshold in thresholds]


def _check(value: float | None, threshold: Threshold) -> Check:
    outcome: Outcome = "no data"
    if value is not None and value == value:  # NaN is not itself
        kept = value <= threshold.limit if threshold.at_most else value >= threshold.limit
        outcome = "ok" if kept else "breach"
    return Check(
        figure=threshold.figure,
        value=value,
        limit=threshold.limit,
        at_most=threshold.at_most,
        kind=threshold.kind,
        decides=threshold.decides,
        outcome=outcome,
    )
