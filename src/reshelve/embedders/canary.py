"""One fixed sentence that shows whether a model is still the one that was registered.

An endpoint can put another model behind the same name. No name or revision tells; the vectors do.
"""

from __future__ import annotations

import numpy as np

from reshelve.domain.models import Vectors
from reshelve.embedders.protocol import Embedder
from reshelve.errors import ModelChangedError

CANARY = "A library can be reshelved while its readers keep borrowing: 42 shelves, Zürich, 東京, naïve café."
_LEAST_COSINE = 0.99
"""Precision (bf16 against fp32, another GPU) moves it by less than 0.001; another model by more than 0.3."""


async def canary(embedder: Embedder) -> Vectors:
    """The sentence's vector as a document, of shape (1, dimension)."""
    return (await embedder.embed_documents([CANARY])).vectors


def check_canary(stored: Vectors, now: Vectors) -> None:
    """Raise ModelChangedError unless the two vectors, of shape (1, dimension) or (dimension,), are of one space."""
    before, after = np.ravel(stored).astype(np.float64), np.ravel(now).astype(np.float64)
    if before.shape != after.shape:
        raise ModelChangedError(
            f"The model answers {after.size} dimensions now, and {before.size} when it was registered", advice=_ADVICE
        )
    cosine = float(before @ after / (np.linalg.norm(before) * np.linalg.norm(after)))
    if not cosine >= _LEAST_COSINE:  # NaN too
        raise ModelChangedError(
            f"The model has changed behind its name: its canary's cosine with the registered one is {cosine:.4f}, "
            f"and at least {_LEAST_COSINE} is needed",
            advice=_ADVICE,
        )


_ADVICE = "Bring the registered model back, or migrate to the new one under a name of its own."
