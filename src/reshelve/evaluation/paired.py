"""Is one index better than another? Paired differences over the same judged queries."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reshelve.errors import InputError

_BATCH_VALUES = 4_000_000
"""Values that one batch of resamples holds, so that memory stays flat in the number of queries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """A metric on two sides of the same queries; `difference` is after − before.

    `low` and `high` bound the mean difference, two-sided, at `confidence`. `p_value` is that of "there is no
    difference", two-sided. `better`, `worse` and `equal` count queries, seen from the after side.
    """

    metric: str
    before: float
    after: float
    difference: float
    low: float
    high: float
    confidence: float
    queries: int
    p_value: float
    better: int
    worse: int
    equal: int


def paired_difference(
    metric: str,
    before: Mapping[str, float],
    after: Mapping[str, float],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedDifference:
    """Compare two sides query by query: query id -> value, the same queries on both.

    The interval is a bootstrap of the mean of the differences (bias-corrected and accelerated, Efron 1987; percentile
    where that is undefined), the p value a permutation test that flips signs, exact where the flips can be counted
    out. The same arguments give the same answer. Raises InputError for unequal or fewer than two queries.
    """
    if before.keys() != after.keys():
        odd = sorted(before.keys() ^ after.keys())
        raise InputError(f"{metric}: the two sides have different queries, for example {odd[0]}")
    if len(before) < 2:
        raise InputError(f"{metric}: a comparison needs at least two judged queries, and there are {len(before)}")
    order = sorted(before)
    old = np.array([before[query] for query in order], dtype=np.float64)
    new = np.array([after[query] for query in order], dtype=np.float64)
    differences = new - old
    if not np.isfinite(differences).all():
        raise InputError(f"{metric}: a query has a value that is not a number")
    low, high = _interval(differences, confidence=confidence, resamples=resamples, seed=seed)
    return PairedDifference(
        metric=metric,
        before=float(old.mean()),
        after=float(new.mean()),
        difference=float(differences.mean()),
        low=low,
        high=high,
        confidence=confidence,
        queries=len(order),
        p_value=_p_value(differences, resamples=resamples, seed=seed),
        better=int((differences > 0).sum()),
        worse=int((differences < 0).sum()),
        equal=int((differences == 0).sum()),
    )


def _interval(differences: NDArray[np.float64], *, confidence: float, resamples: int, seed: int) -> tuple[float, float]:
    if (differences == differences[0]).all():
        return float(differences[0]), float(differences[0])
    stats: Any = importlib.import_module("scipy.stats")
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            # "BCa interval cannot be calculated": the percentile interval is then what we want.
            warnings.simplefilter("ignore")
            found = stats.bootstrap(
                (differences,),
                np.mean,
                confidence_level=confidence,
                n_resamples=resamples,
                method=method,
                batch=max(1, _BATCH_VALUES // len(differences)),
                rng=np.random.default_rng(seed),
            ).confidence_interval
        if np.isfinite([found.low, found.high]).all():
            break
    return float(found.low), float(found.high)


def _p_value(differences: NDArray[np.float64], *, resamples: int, seed: int) -> float:
    if not differences.any():
        return 1.0
    stats: Any = importlib.import_module("scipy.stats")
    found = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, _BATCH_VALUES // len(differences)),
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)
