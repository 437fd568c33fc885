"""Queries that were asked a while ago keep their vectors for a time: the same question is not embedded twice."""

from __future__ import annotations

from cachetools import TTLCache

from reshelve.domain.models import EmbeddingModel, Vectors
from reshelve.settings import EmbeddingSettings


class QueryCache:
    """By the model's fingerprint and the text, so that no model ever gets another's vector."""

    def __init__(self, settings: EmbeddingSettings) -> None:
        size = settings.cache_size if settings.cache_enabled else 0
        self._kept = TTLCache[tuple[str, str], Vectors](size, settings.cache_ttl_seconds)

    def get(self, model: EmbeddingModel, query: str) -> Vectors | None:
        return self._kept.get((model.fingerprint, query))

    def keep(self, model: EmbeddingModel, query: str, vector: Vectors) -> None:
        if self._kept.maxsize:
            self._kept[model.fingerprint, query] = vector
