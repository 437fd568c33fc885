"""An embedder that costs nothing: what is measured with it is the engine itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from reshelve.backends import Backends
from reshelve.database.catalog import get_model
from reshelve.domain.models import Embedded, RegisteredModel, Vectors
from reshelve.embedders.hashing import HashingEmbedder
from reshelve.embedders.protocol import Embedder
from reshelve.embedders.registry import OpenEmbedders

_POOL = 20_000


class FreeEmbedder:
    """Answers with slices of one matrix of unit vectors, whatever the texts. It stands in for `hashing-<dimension>`."""

    location = ""
    max_tokens = HashingEmbedder.max_tokens
    costs_nothing = True

    def __init__(self, dimension: int) -> None:
        self.model = HashingEmbedder(dimension).model
        self.pool: Vectors = unit_vectors(_POOL, dimension)
        self._next = 0

    @property
    def tokenizer(self) -> Tokenizer:
        return HashingEmbedder(self.model.dimension).tokenizer

    async def embed_documents(self, texts: Sequence[str]) -> Embedded:
        if len(texts) > _POOL:
            raise ValueError(f"the pool holds {_POOL} vectors")
        start = self._next if self._next + len(texts) <= _POOL else 0
        self._next = start + len(texts)
        return Embedded(self.pool[start : start + len(texts)], len(texts))

    async def embed_queries(self, texts: Sequence[str]) -> Embedded:
        return await self.embed_documents(texts)

    async def aclose(self) -> None:
        return


class WithFreeOne(OpenEmbedders):
    """The registered models, but for the one that the free embedder stands in for."""

    def __init__(self, backends: Backends, free: FreeEmbedder) -> None:
        async def load(model_id: int) -> RegisteredModel:
            async with backends.database.service() as connection:
                return await get_model(connection, model_id)

        super().__init__(load, backends.settings.embedding)
        self._free = free

    async def of(self, model_id: int) -> Embedder:
        found = await super().of(model_id)
        return self._free if found.model.fingerprint == self._free.model.fingerprint else found


def unit_vectors(count: int, dimension: int) -> Vectors:
    drawn = np.random.default_rng(11).standard_normal((count, dimension), dtype=np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
