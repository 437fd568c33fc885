"""The registered models that this process has open, each once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable

import structlog

from reshelve.domain.models import RegisteredModel
from reshelve.embedders.protocol import Embedder
from reshelve.settings import EmbeddingSettings
from reshelve.tasks import cancel_and_wait

_LOOK_SECONDS = 1.0
_PAUSE_SECONDS = 30.0
_log = structlog.get_logger(__name__)

LoadModel = Callable[[int], Awaitable[RegisteredModel]]


class OpenEmbedders:
    def __init__(self, load: LoadModel, settings: EmbeddingSettings) -> None:
        self._load = load
        self._settings = settings
        self._open: dict[int, Embedder] = {}
        self._opening: dict[int, asyncio.Lock] = {}
        self._ahead: dict[int, asyncio.Task[None]] = {}
        self._looked_at = float("-inf")

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
                try:
                    check_canary(known.canary, await canary(embedder))
                except BaseException:
                    await embedder.aclose()
                    raise
                self._open[model_id] = embedder
            return self._open[model_id]

    def look_due(self) -> bool:
        """True once a second: time to see which models the collection's indexes have by now."""
        now = time.monotonic()
        due = now - self._looked_at >= _LOOK_SECONDS
        if due:
            self._looked_at = now
        return due

    def open_ahead(self, model_ids: Iterable[int]) -> None:
        """Open these in the background: weights take a second, and the first search after a switch must not wait."""
        for model_id in set(model_ids) - self._open.keys() - self._ahead.keys():
            self._ahead[model_id] = asyncio.create_task(self._try_to_open(model_id))

    async def _try_to_open(self, model_id: int) -> None:
        try:
            await self.of(model_id)
        except Exception as error:  # whoever needs the model will meet it
            _log.warning("a model cannot be opened ahead of its use", model=model_id, error=str(error))
            await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            del self._ahead[model_id]

    async def close(self) -> None:
        await cancel_and_wait(*self._ahead.values())
        for embedder in self._open.values():
            await embedder.aclose()
        self._open.clear()
