"""Dense search. The route is read once a request; the query's embedding and the index always belong together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from reshelve.backends import Backends
from reshelve.database.catalog import get_index, get_route, live_indexes
from reshelve.database.pools import Connection
from reshelve.domain.indexes import Index, IndexState, Scope
from reshelve.errors import InputError, NotFoundError, StoreError
from reshelve.stores.protocol import Hit

MAX_TOP_K = 1000
MAX_QUERY_CHARACTERS = 20_000


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
class SearchResponse:
    """`query_model` made the query's vector and `model` the index's: the same fingerprint, always."""

    results: list[Result]
    index: int
    model: str
    query_model: str
    epoch: int
    embed_ms: float
    search_ms: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_query(query: str, *, top_k: int) -> None:
    if not query.strip():
        raise InputError("the query is empty", advice="Give at least one word.")
    if len(query) > MAX_QUERY_CHARACTERS:
        raise InputError(
            f"the query has {len(query):,} characters; {MAX_QUERY_CHARACTERS:,} are the most", advice="Shorten it."
        )
    if "\0" in query:
        raise InputError("the query holds a NUL character", advice="Remove it.")
    if not 1 <= top_k <= MAX_TOP_K:
        raise InputError(f"top_k is {top_k}; it must be from 1 to {MAX_TOP_K:,}")


async def search(
    backends: Backends,
    query: str,
    *,
    collection: str,
    top_k: int = 10,
    scope: Scope | None = None,
    index_id: int | None = None,
    exact: bool = False,
) -> SearchResponse:
    """Raises InputError for an impossible request, NotFoundError for a collection or index that is not there."""
    check_query(query, top_k=top_k)
    try:
        return await _search_once(
            backends, query, collection=collection, top_k=top_k, scope=scope, index_id=index_id, exact=exact
        )
    except StoreError:
        # The index was dropped between the route and the search: the route names another by now.
        if index_id is not None:
            raise
        return await _search_once(
            backends, query, collection=collection, top_k=top_k, scope=scope, index_id=None, exact=exact
        )


async def _search_once(
    backends: Backends,
    query: str,
    *,
    collection: str,
    top_k: int,
    scope: Scope | None,
    index_id: int | None,
    exact: bool,
) -> SearchResponse:
    async with backends.database.service() as connection:
        route = await get_route(connection, collection)
        index = route.serving if index_id is None else await _readable(connection, index_id, route.collection_id)
        if backends.embedders.look_due():
            live = await live_indexes(connection, route.collection_id)
            backends.embedders.open_ahead(each.model_id for each in live)
    async with backends.pins.reading(index.id):
        embedder = await backends.embedders.of(index.model_id)
        started = time.perf_counter()
        vector = (await embedder.embed_queries([query])).vectors[0]
        embedded = time.perf_counter()
        async with backends.database.service() as connection:
            store = backends.stores.of(index)
            hits = await store.search(connection, index, vector, limit=top_k, scope=scope or Scope(), exact=exact)
            results = await _hydrate(connection, index, hits)
    return SearchResponse(
        results=results,
        index=index.id,
        model=index.model.name,
        query_model=embedder.model.name,
        epoch=route.epoch,
        embed_ms=(embedded - started) * 1000,
        search_ms=(time.perf_counter() - embedded) * 1000,
    )


async def _readable(connection: Connection, index_id: int, collection_id: int) -> Index:
    index = await get_index(connection, index_id)
    if index.collection_id != collection_id or index.state is IndexState.DROPPED:
        raise NotFoundError(f"index {index_id} is not one of this collection's", advice="See reshelve status.")
    return index


async def _hydrate(connection: Connection, index: Index, hits: Sequence[Hit]) -> list[Result]:
    """Hits with what they stand for, best first. A chunk that went away a moment ago is left out."""
    if not hits:
        return []
    cursor = await connection.execute(
        """
        SELECT c.id, d.external_id, d.title, c.content, c.start_char, c.end_char, d.metadata
        FROM chunks c JOIN documents d ON d.id = c.document_id WHERE c.id = ANY(%s)
        """,
        ([hit.chunk_id for hit in hits],),
    )
    rows = {row[0]: row for row in await cursor.fetchall()}
    return [
        Result(
            document_id=row[1],
            title=row[2],
            chunk_id=row[0],
            content=row[3],
            start=row[4],
            end=row[5],
            score=hit.score,
            metadata=row[6],
            index=index.id,
            model=index.model.name,
        )
        for hit in hits
        if (row := rows.get(hit.chunk_id)) is not None
    ]


async def search_documents(
    backends: Backends,
    query: str,
    *,
    collection: str,
    documents: int,
    tenant: str = "",
    index_id: int | None = None,
) -> list[tuple[str, float]]:
    """The best chunk of each document: (external id, score), best first, at most `documents` of them."""
    wanted = min(documents * 2, MAX_TOP_K)
    while True:
        response = await search(
            backends, query, collection=collection, top_k=wanted, scope=Scope(tenant=tenant), index_id=index_id
        )
        best: dict[str, float] = {}
        for result in response.results:
            best.setdefault(result.document_id, result.score)
        if len(best) >= documents or len(response.results) < wanted or wanted == MAX_TOP_K:
            return list(best.items())[:documents]
        wanted = min(wanted * 2, MAX_TOP_K)
