"""Late interaction: a query is held against every token of a passage, not against one vector of the whole.

Khattab and Zaharia, "ColBERT: Efficient and Effective Passage Search via Contextualized Late Interaction over BERT",
SIGIR 2020.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reshelve.domain.models import Vectors


def unit_rows(vectors: Vectors) -> Vectors:
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
    cosines = np.concatenate([passages[place] for place in full]) @ query.T
    starts = np.cumsum([0, *(len(passages[place]) for place in full[:-1])])
    scores[full] = np.maximum.reduceat(cosines, starts, axis=0).sum(axis=1)
    return scores
