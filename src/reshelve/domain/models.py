"""Embedding models, and the vectors they make."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reshelve.errors import EmbeddingInvalid, MixedSpacesError

Vectors = NDArray[np.float32]
"""Row-major float32 of shape (texts, dimension)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingModel:
    """Everything that decides where a text lands in the vector space, and what it costs to put it there.

    `revision` names the exact weights (a content hash, a commit, an API's model version).
    """

    name: str
    provider: str
    dimension: int
    revision: str = ""
    query_prefix: str = ""
    document_prefix: str = ""
    pooling: str = "mean"
    normalized: bool = True
    price_per_million_tokens: float = 0.0

    @property
    def fingerprint(self) -> str:
        """128-bit hex hash of the vector space. The price is not part of it: it moves no vector."""
        identity = [
            self.name,
            self.provider,
            self.dimension,
            self.revision,
            self.query_prefix,
            self.document_prefix,
            self.pooling,
            self.normalized,
        ]
        return hashlib.blake2b(json.dumps(identity).encode(), digest_size=16).hexdigest()

    def cost_usd(self, tokens: int) -> float:
        return tokens * self.price_per_million_tokens / 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredModel:
    """A model as the database knows it: where to open it again, and how it answered the canary sentence, (1, d)."""

    id: int
    model: EmbeddingModel
    location: str
    canary: Vectors


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors of shape (texts, dimension) in the order of the texts, and the tokens that were paid for."""

    vectors: Vectors
    tokens: int


def check_vectors(vectors: Vectors, *, model: EmbeddingModel, expected: int) -> Vectors:
    """Refuse anything that is not `expected` finite, non-zero vectors of the model's dimension."""
    if vectors.ndim != 2 or vectors.shape[0] != expected:
        raise EmbeddingInvalid(f"{model.name} answered {vectors.shape[0]} vectors for {expected} texts")
    if vectors.shape[1] != model.dimension:
        raise MixedSpacesError(
            f"Embedding dimension mismatch: {model.name} answered {vectors.shape[1]} dimensions, "
            f"and {model.dimension} are registered",
            advice="Check the model's name and `dimensions`; a model of another size needs a migration.",
        )
    norms = np.linalg.norm(vectors, axis=1)
    if not np.isfinite(norms).all():
        raise EmbeddingInvalid(f"{model.name} answered a vector with NaN or infinite values")
    if (norms == 0).any():
        raise EmbeddingInvalid(f"{model.name} answered a zero vector")
    return vectors
