"""Late interaction: a query is held against every token of a passage, not against one vector of the whole.

Khattab and Zaharia, "ColBERT: Efficient and Effective Passage Search via Contextualized Late Interaction over BERT",
SIGIR 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reshelve.domain.models import Vectors

STORED_DIMENSIONS = 96
"""So many bytes a token. Of 64, 96 and 128 the least whose loss is within 0.002 nDCG@10 (docs/decisions/0028)."""
_SEED = 26
_ONE_THREAD = 1 << 18
"""Multiplications. OpenBLAS shares larger products among threads, and where the cores are busy to wait for those takes
longer than the product: 21 ms instead of 0.1 for a query's projection."""


def unit_rows(vectors: NDArray[Any]) -> Vectors:
    """Each row made unit length; a row of zeros stays one. `vectors`: (rows, dimension) of any type."""
    rows = vectors.astype(np.float32, copy=False)
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    return rows / np.maximum(lengths, 1e-12)[:, None]


def maxsim(query: Vectors, passages: Sequence[Vectors]) -> NDArray[np.float32]:
    """For each passage the sum, over the query's tokens, of the greatest cosine with any of the passage's.

    `query`: (tokens, dimension), `passages`: one such array each, all rows of unit length. A passage without tokens
    has 0.
    """
    scores = np.zeros(len(passages), np.float32)
    full = [place for place, passage in enumerate(passages) if len(passage)]
    if not full or not len(query):
        return scores
    cosines = _product(np.concatenate([passages[place] for place in full]), query.T)
    starts = np.cumsum([0, *(len(passages[place]) for place in full[:-1])])
    scores[full] = np.maximum.reduceat(cosines, starts, axis=0).sum(axis=1)
    return scores


def reduce(vectors: Vectors, *, dimensions: int = STORED_DIMENSIONS) -> Vectors:
    """(tokens, dimension) to (tokens, at most `dimensions`), of unit length: angles are about what they were.

    By a fixed random projection onto orthogonal directions (Johnson and Lindenstrauss, 1984): it needs no training, and
    fits every model and language alike.
    """
    if vectors.shape[1] <= dimensions:
        return unit_rows(vectors)
    return unit_rows(_product(vectors, _projection(vectors.shape[1], dimensions)))


def _product(left: Vectors, right: Vectors) -> Vectors:
    """`left @ right`, piece by piece, each on this thread."""
    found = np.empty((len(left), right.shape[1]), np.float32)
    rows = max(1, _ONE_THREAD // max(1, right.size))
    for start in range(0, len(left), rows):
        np.matmul(left[start : start + rows], right, out=found[start : start + rows])
    return found


@cache
def _projection(dimension: int, dimensions: int) -> Vectors:
    # RandomState's numbers are promised never to change, and the signs are made those of a positive diagonal.
    drawn = np.random.RandomState(_SEED).standard_normal((dimension, dimensions))
    directions, triangle = np.linalg.qr(drawn)
    return (directions * np.sign(np.diag(triangle))).astype(np.float32)


def pack(vectors: Vectors, *, dimensions: int = STORED_DIMENSIONS) -> bytes:
    """Token vectors of any dimension, reduced, in signed bytes: each token's greatest component is 127.

    Its length is not kept: it is one.
    """
    reduced = reduce(vectors, dimensions=dimensions)
    greatest: NDArray[np.float32] = np.abs(reduced).max(axis=1, keepdims=True, initial=1e-12)
    scaled = np.round(reduced * (127 / greatest))
    return scaled.astype(np.int8).tobytes()


def unpack(packed: bytes, *, dimension: int) -> Vectors:
    """(tokens, dimension) of unit length. `dimension` is that of the reduced query."""
    return unit_rows(np.frombuffer(packed, np.int8).reshape(-1, dimension))
