"""Tests that may be looked at after every observation, and stopped at any of them.

An e-value grows like a bet against the null hypothesis: while that is true, the chance that it ever reaches E is at
most 1/E (Ville, Étude critique de la notion de collectif, 1939; Ramdas, Grünwald, Vovk and Shafer, Game-theoretic
statistics and safe anytime-valid inference, Statistical Science 38, 2023). A p value has no such promise.
"""

from __future__ import annotations

import math

_LARGEST_LOG = 700.0
"""e to this still is a float."""


def rate_above(hits: int, trials: int, *, limit: float) -> float:
    """E-value against "at most a share of `limit` hits".

    The mean of the likelihood ratios of a few larger rates to `limit` (the method of mixtures: Robbins, Statistical
    methods related to the law of the iterated logarithm, Annals of Mathematical Statistics 41, 1970). Each ratio is a
    supermartingale for every rate up to `limit`, so their mean is.
    """
    wanted = (2 * limit, 5 * limit, 20 * limit, 0.1, 0.5)
    rates = [rate for rate in wanted if limit < rate < 1] or [(1 + limit) / 2]
    logs = [
        hits * math.log(rate / limit) + (trials - hits) * (math.log1p(-rate) - math.log1p(-limit)) for rate in rates
    ]
    largest = max(logs)
    log_sum = largest + math.log(sum(math.exp(log - largest) for log in logs) / len(logs))
    return math.exp(min(log_sum, _LARGEST_LOG))


def uneven(wins: int, losses: int) -> float:
    """E-value against "wins and losses are equally likely", whichever is the more likely one.

    The likelihood ratio of an unknown rate, uniform over 0..1, to one half: 2^n · B(wins + 1, losses + 1) (the
    beta-binomial mixture: Robbins 1970; Howard, Ramdas, McAuliffe and Sekhon, Annals of Statistics 49, 2021).
    """
    n = wins + losses
    log_beta = math.lgamma(wins + 1) + math.lgamma(losses + 1) - math.lgamma(n + 2)
    return math.exp(min(n * math.log(2) + log_beta, _LARGEST_LOG))
