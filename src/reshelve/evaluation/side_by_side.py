"""Two indexes asked the same queries: what each one answers, in which order, and how fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from reshelve.backends import Backends
from reshelve.database import catalog, routes
from reshelve.database.pools import Connection
from reshelve.domain.indexes import Index, Scope
from reshelve.domain.overlap import overlap_at_k, rank_biased_overlap
from reshelve.errors import InputError
from reshelve.retrieval.asking import Answer, Options, ask
from reshelve.retrieval.requests import check_query


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A document that at least one side found; its rank counts documents from 1, None: not among the first."""

    document_id: str
    title: str
    rank_a: int | None
    rank_b: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryComparison:
    """`overlap` and `rbo` are of the documents, in [0, 1]; `rows` begins with what side A found."""

    query: str
    rows: list[Row]
    overlap: float
    rbo: float
    a_ms: float
    b_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SideBySide:
    """Side A is the serving index and side B the candidate, unless two were named. Means are over the queries."""

    index_a: int
    index_b: int
    model_a: str
    model_b: str
    top_k: int
    queries: list[QueryComparison]
    overlap: float
    rbo: float
    a_ms: float
    b_ms: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


async def compare(
    backends: Backends,
    queries: Sequence[str],
    *,
    collection: str,
    top_k: int = 10,
    tenant: str = "",
    indexes: tuple[int, int] | None = None,
) -> SideBySide:
    """Not counted among the live searches. Raises InputError where there is no second side, or no query."""
    if not queries:
        raise InputError("there is no query to compare", advice="Name some, or take recent ones: --recent 20.")
    for query in queries:
        check_query(query, Options(top_k=top_k))
    a, b = await _sides(backends, collection=collection, tenant=tenant, indexes=indexes)
    for index in (a, b):
        # What it takes to load a model is no search's time.
        await backends.embedders.of(index.model_id)
    options = Options(top_k=top_k, scope=Scope(tenant=tenant))
    compared = [
        _compared(
            query,
            await ask(backends, a, query, options),
            await ask(backends, b, query, options),
            top_k=top_k,
        )
        for query in queries
    ]
    return SideBySide(
        index_a=a.id,
        index_b=b.id,
        model_a=a.model.name,
        model_b=b.model.name,
        top_k=top_k,
        queries=compared,
        overlap=fmean(each.overlap for each in compared),
        rbo=fmean(each.rbo for each in compared),
        a_ms=fmean(each.a_ms for each in compared),
        b_ms=fmean(each.b_ms for each in compared),
    )


async def recent_queries(
    connection: Connection, *, collection_id: int, tenant: str | None = None, limit: int
) -> list[str]:
    """The last different queries that were kept, newest first. Empty where none were: see `query_analytics`."""
    cursor = await connection.execute(
        """
        SELECT query FROM recent_queries
        WHERE collection_id = %(collection)s AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s)
        GROUP BY query ORDER BY max(id) DESC LIMIT %(limit)s
        """,
        {"collection": collection_id, "tenant": tenant, "limit": limit},
    )
    return [row[0] for row in await cursor.fetchall()]


async def _sides(
    backends: Backends, *, collection: str, tenant: str, indexes: tuple[int, int] | None
) -> tuple[Index, Index]:
    async with backends.database.service() as connection:
        route = await routes.get_route(connection, collection, tenant)
        if indexes is None:
            if route.new is None:
                raise InputError(
                    "there is no candidate to compare with", advice="Name two indexes: --index ID --index ID."
                )
            return route.old, route.new
        a, b = [
            await catalog.get_live_index(connection, index_id, collection_id=route.collection_id)
            for index_id in indexes
        ]
    return a, b


def _compared(query: str, a: Answer, b: Answer, *, top_k: int) -> QueryComparison:
    ranks_a, ranks_b = _ranks(a), _ranks(b)
    titles = {result.document_id: result.title for result in (*b.results, *a.results)}
    return QueryComparison(
        query=query,
        rows=[
            Row(document_id=name, title=titles[name], rank_a=ranks_a.get(name), rank_b=ranks_b.get(name))
            for name in dict.fromkeys([*ranks_a, *ranks_b])
        ],
        overlap=overlap_at_k(list(ranks_a), list(ranks_b), top_k),
        rbo=rank_biased_overlap(list(ranks_a), list(ranks_b)),
        a_ms=a.embed_ms + a.search_ms,
        b_ms=b.embed_ms + b.search_ms,
    )


def _ranks(answer: Answer) -> dict[str, int]:
    """Each document by its best chunk."""
    names = dict.fromkeys(result.document_id for result in answer.results)
    return {name: rank for rank, name in enumerate(names, 1)}
