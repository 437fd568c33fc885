"""BM25 over postings: what the words of a query are worth, and which passages have most of it.

Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009). The idf is Lucene's, and never
negative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

POSTING = np.dtype([("chunk", ">i8"), ("frequency", ">i2"), ("length", ">i2")])
"""A word in a passage: the chunk's id, how often the word is there, and the passage's length in words."""
Postings = NDArray[Any]
"""Of `POSTING`, one dimension."""
_SPARSE = 16
"""More slots than so many times the postings take longer to clear than it takes to sort the ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bm25:
    """`k1`: how soon a word that comes again adds nothing more. `b`: how much a long passage is held against it."""

    k1: float
    b: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryWord:
    """`repeated`: how often the query has it. `postings`: of each passage that has it, in any number of pieces."""

    repeated: int
    postings: Sequence[Postings]

    @property
    def containing(self) -> int:
        return sum(map(len, self.postings))


def idf(passages: int, containing: int) -> float:
    return math.log(1 + (passages - containing + 0.5) / (containing + 0.5))


def best_passages(
    words: Sequence[QueryWord], bm25: Bm25, *, passages: int, length: int, most: int
) -> list[tuple[int, float]]:
    """(chunk, score) of the `most` passages that score highest, best first. `length` words are in all `passages`.

    Equal scores are ordered by the chunk's id.
    """
    found = [piece["chunk"] for word in words for piece in word.postings if len(piece)]
    if not found:
        return []
    ids, slots = _slots(found)
    scores = np.zeros(len(ids))
    mean_length = max(length, 1) / max(passages, 1)
    at = 0
    for word in words:
        # The counts may lag behind by what was removed and not cleared away yet.
        weight = idf(max(passages, word.containing), word.containing) * word.repeated * (bm25.k1 + 1)
        for piece in word.postings:
            if not len(piece):
                continue
            frequency = piece["frequency"].astype(np.float64)
            norm = bm25.k1 * (1 - bm25.b + bm25.b / mean_length * piece["length"])
            # A word has one posting a passage, so no slot comes twice in a piece.
            scores[slots[at]] += weight * frequency / (frequency + norm)
            at += 1
    return _highest(ids, scores, most)


def _slots(found: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
    """Ids by slot, and the slot of each posting. One for each id of the span, or, where that is wide, that is met."""
    low, high = min(int(ids.min()) for ids in found), max(int(ids.max()) for ids in found)
    if high - low < _SPARSE * sum(map(len, found)):
        return np.arange(low, high + 1), [ids.astype(np.int64) - low for ids in found]
    met, inverse = np.unique(np.concatenate(found).astype(np.int64), return_inverse=True)
    return met, np.split(inverse, np.cumsum([len(ids) for ids in found])[:-1])


def _highest(ids: NDArray[np.int64], scores: NDArray[np.float64], most: int) -> list[tuple[int, float]]:
    positive = np.flatnonzero(scores)
    if len(positive) > most:
        least = np.partition(scores[positive], len(positive) - most)[len(positive) - most]
        positive = positive[scores[positive] >= least]
    order = positive[np.lexsort((ids[positive], -scores[positive]))][:most]
    return list(zip(ids[order].tolist(), scores[order].tolist(), strict=True))
