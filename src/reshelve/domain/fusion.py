"""One list from several rankings."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)
RRF_K = 60


def reciprocal_rank_fusion(
    rankings: Sequence[Sequence[Key]], *, in_all: bool = False, k: int = RRF_K
) -> list[tuple[Key, float]]:
    """Every key with the sum of 1 / (k + rank) over the rankings that have it (rank 1 is the best), best first.

    With `in_all` only those that every ranking has. Ranks, because the scores of two models do not compare (Cormack,
    Clarke and Büttcher, SIGIR 2009). Equal sums keep the order in which the keys came.
    """
    scores: dict[Key, float] = {}
    found: dict[Key, int] = {}
    for ranking in rankings:
        for rank, key in enumerate(dict.fromkeys(ranking), 1):
            scores[key] = scores.get(key, 0.0) + 1 / (k + rank)
            found[key] = found.get(key, 0) + 1
    kept = [(key, score) for key, score in scores.items() if not in_all or found[key] == len(rankings)]
    return sorted(kept, key=lambda one: -one[1])
