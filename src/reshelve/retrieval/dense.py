"""One index asked: the query embedded by the index's own model, the nearest chunks, and what they stand for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reshelve.backends import Backends
from reshelve.database.pools import Connection
from reshelve.domain.indexes import Index, Scope
from reshelve.stores.protocol import Hit
from reshelve.stores.scope import passages


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One chunk that was found. `start` and `end` are code points of the document's content."""

    document_id: str
    title: str
    chunk_id: int
    content: str
    start: int
    end: int
    score: float
    metadata: dict[str, Any]
    index: int
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one index answered. `query_model` made the query's vector, `index.model` the index's: the same, always."""

    index: Index
    query_model: str
    results: list[Result]
    cached: bool
    """The query's vector was kept from an earlier search."""
    embed_ms: float
    search_ms: float


async def ask(backends: Backends, index: Index, query: str, *, top_k: int, scope: Scope, exact: bool = False) -> Answer:
    """Raises what the embedder and the store raise; StoreError when the index was dropped meanwhile."""
    async with backends.pins.reading(index.id):
        embedder = await backends.embedders.of(index.model_id)
        started = time.perf_counter()
        known = backends.query_cache.get(embedder.model, query)
        vector = await backends.queries.embed(embedder, query) if known is None else known
        backends.query_cache.keep(embedder.model, query, vector)
        embedded = time.perf_counter()
        store = backends.stores.of(index)

        async def look_up(connection: Connection) -> list[Result]:
            hits = await store.search(connection, index, vector, limit=top_k, scope=scope, exact=exact)
            return await _results(connection, index, hits)

        results = await backends.database.read(look_up)
    return Answer(
        index=index,
        query_model=embedder.model.name,
        results=results,
        cached=known is not None,
        embed_ms=(embedded - started) * 1000,
        search_ms=(time.perf_counter() - embedded) * 1000,
    )


async def _results(connection: Connection, index: Index, hits: Sequence[Hit]) -> list[Result]:
    """Hits with what they stand for, best first. A chunk that went away a moment ago is left out."""
    bare = [hit.chunk_id for hit in hits if hit.passage is None]
    read = await passages(connection, bare) if bare else {}
    return [
        Result(
            document_id=passage.document_id,
            title=passage.title,
            chunk_id=hit.chunk_id,
            content=passage.content,
            start=passage.start,
            end=passage.end,
            score=hit.score,
            metadata=passage.metadata,
            index=index.id,
            model=index.model.name,
        )
        for hit in hits
        if (passage := hit.passage or read.get(hit.chunk_id)) is not None
    ]
