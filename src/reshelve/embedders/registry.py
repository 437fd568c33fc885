"""The registered models that this process has open, each once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from reshelve.domain.models import RegisteredModel
from reshelve.embedders.protocol import Embedder
from reshelve.settings import EmbeddingSettings

LoadModel = Callable[[int], Awaitable[RegisteredModel]]


class OpenEmbedders:
    def __init__(self, load: LoadModel, settings: EmbeddingSettings) -> None:
        self._load = load
        self._settings = settings
        self._open: dict[int, Embedder] = {}
        self._opening: dict[int, asyncio.Lock] = {}

    async def of(self, model_id: int) -> Embedder:
        """The embedder of a registered model. Raises ModelChangedError when it no longer makes the same vectors."""
        found = self._open.get(model_id)
        if found is not None:
            return found
        from reshelve.embedders.canary import canary, check_canary
        from reshelve.embedders.opening import reopen_embedder

        # A lock a model: one whose endpoint does not answer must not keep the others from being opened.
        async with self._opening.setdefault(model_id, asyncio.Lock()):
            if model_id not in self._open:
                known = await self._load(model_id)
                embedder = await reopen_embedder(known.model, location=known.location, settings=self._settings)
                check_canary(known.canary, await canary(embedder))
                self._open[model_id] = embedder
            return self._open[model_id]

    async def close(self) -> None:
        for embedder in self._open.values():
            await embedder.aclose()
        self._open.clear()
