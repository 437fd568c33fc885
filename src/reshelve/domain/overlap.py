"""How alike two rankings are. This says that an answer changed, never that it became better or worse."""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def overlap_at_k(a: Sequence[Hashable], b: Sequence[Hashable], k: int) -> float:
    """Share of the first `k` that both have, of as many as the longer one has; 1 where both are empty."""
    left, right = set(a[:k]), set(b[:k])
    most = max(len(left), len(right))
    return len(left & right) / most if most else 1.0


def rank_biased_overlap(a: Sequence[Hashable], b: Sequence[Hashable], p: float = 0.9) -> float:
    """0..1, weighted to the top: with p = 0.9 the first ten carry 86 %. 1 where both are empty, 0 where one is.

    Extrapolated, for lists of unequal length, each item once: Webber, Moffat and Zobel, A similarity measure for
    indefinite rankings, ACM TOIS 28(4), 2010, equation 32.
    """
    if not 0 < p < 1:
        raise ValueError(f"p is {p}; it must lie between 0 and 1")
    shorter, longer = sorted((list(dict.fromkeys(a)), list(dict.fromkeys(b))), key=len)
    s, length = len(shorter), len(longer)
    if s == 0:
        return 1.0 if length == 0 else 0.0
    common = [0]
    short_seen: set[Hashable] = set()
    long_seen: set[Hashable] = set()
    for depth in range(1, length + 1):
        long_seen.add(longer[depth - 1])
        if depth <= s:
            short_seen.add(shorter[depth - 1])
        common.append(len(short_seen & long_seen))
    at_s, at_end = common[s], common[length]
    seen = sum(common[d] / d * p**d for d in range(1, length + 1))
    unseen = sum(at_s * (d - s) / (s * d) * p**d for d in range(s + 1, length + 1))
    return (1 - p) / p * (seen + unseen) + ((at_end - at_s) / length + at_s / s) * p**length
