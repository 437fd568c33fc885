"""Answers of searches, kept in this process under all that they depend on: a change of any of it finds nothing."""

from __future__ import annotations

import pickle
from typing import Any, NamedTuple

from cachetools import TTLCache

from reshelve.settings import CacheSettings


class SearchKey(NamedTuple):
    """`version` is the corpus's, read before the search; `request` is all of what was asked, written out.

    Written out, because 1, 1.0 and True are one key to Python and three values to a filter.
    """

    collection_id: int
    tenant: str | None
    index_id: int
    epoch: int
    version: int
    request: str


class SearchCache:
    """Kept pickled, so that nobody changes what another one is given."""

    def __init__(self, settings: CacheSettings) -> None:
        size = settings.search_cache_size if settings.search_cache_enabled else 0
        self._kept = TTLCache[SearchKey, bytes](size, settings.search_cache_ttl_seconds)

    @property
    def enabled(self) -> bool:
        return self._kept.maxsize > 0

    def get(self, key: SearchKey) -> Any | None:
        kept = self._kept.get(key)
        return None if kept is None else pickle.loads(kept)

    def keep(self, key: SearchKey, answer: Any) -> None:
        self._kept[key] = pickle.dumps(answer)
