"""One list from several rankings."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
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


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one leg of a search had it: rank from 1, the leg's own score, and what that added to the fused score."""

    rank: int
    score: float
    share: float


@dataclass(slots=True)
class Fused(Generic[Key]):
    key: Key
    score: float = 0.0
    legs: dict[str, Standing] = field(default_factory=dict[str, Standing])

    @property
    def best_rank(self) -> int:
        return min(standing.rank for standing in self.legs.values())


def fuse(
    legs: Mapping[str, Sequence[tuple[Key, float]]], *, depth: int, weights: Mapping[str, float] | None = None
) -> list[Fused[Key]]:
    """One list from the legs of a hybrid search, each (key, score) best first; best first.

    With `weights`: the sum of the scores, each leg's first `depth` normalised to [0, 1] between its worst and its best,
    times its weight (a convex combination: Bruch, Gai and Ingber, ACM TOIS 2023). Without: reciprocal ranks. What no
    leg has among its first `depth` adds nothing, and follows by its best rank: the order does not depend on how much
    deeper the legs go, so that pages of one search fit together.
    """
    fused: dict[Key, Fused[Key]] = {}
    for name, leg in legs.items():
        head = leg[:depth]
        for rank, (key, score) in enumerate(leg, 1):
            share = 0.0
            if rank <= depth:
                share = 1 / (RRF_K + rank) if weights is None else weights[name] * _normalised(score, head)
            one = fused.setdefault(key, Fused(key))
            one.score += share
            one.legs[name] = Standing(rank, score, share)
    return sorted(fused.values(), key=lambda one: (-one.score, one.best_rank))


def _normalised(score: float, head: Sequence[tuple[Key, float]]) -> float:
    best, worst = head[0][1], head[-1][1]
    return (score - worst) / (best - worst) if best > worst else 1.0


def rerank(ranked: Sequence[Fused[Key]], scores: Mapping[Key, float], *, leg: str, weight: float) -> list[Fused[Key]]:
    """Those of `ranked` that have one of the `scores`, in their new order; the others follow, as they were.

    A score is normalised to between the worst and the best that these keys had in `ranked`, and has `weight` in the new
    one. So none leaves that range: what followed them still does, and a least score means what it meant before.
    """
    head = [one for one in ranked if one.key in scores]
    if not head:
        return list(ranked)
    best, worst = head[0].score, head[-1].score
    by_score = sorted(((one.key, scores[one.key]) for one in head), key=lambda one: -one[1])
    moved: dict[Key, Fused[Key]] = {}
    for rank, (key, score) in enumerate(by_score, 1):
        share = weight * (worst + (best - worst) * _normalised(score, by_score))
        moved[key] = Fused(key, share, {leg: Standing(rank, score, share)})
    for one in head:
        for name, standing in one.legs.items():
            moved[one.key].legs[name] = replace(standing, share=standing.share * (1 - weight))
        moved[one.key].score += one.score * (1 - weight)
    return [
        *sorted((moved[one.key] for one in head), key=lambda one: -one.score),
        *(one for one in ranked if one.key not in scores),
    ]


def best_of_each_first(ranked: Sequence[Item], group_of: Callable[[Item], Hashable]) -> list[Item]:
    """The best of each group in their order, then the second of each, and so on: nothing is left out."""
    seen: dict[Hashable, int] = {}
    turns: list[int] = []
    for item in ranked:
        group = group_of(item)
        seen[group] = seen.get(group, 0) + 1
        turns.append(seen[group])
    return [ranked[at] for at in sorted(range(len(ranked)), key=lambda at: turns[at])]
