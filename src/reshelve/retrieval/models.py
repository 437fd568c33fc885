"""Searches that name their model, or several: which index a model has, and one list out of several answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from reshelve.backends import Backends
from reshelve.database.catalog import live_indexes
from reshelve.database.pools import Connection
from reshelve.database.routes import get_route
from reshelve.domain.fusion import best_of_each_first, reciprocal_rank_fusion
from reshelve.domain.indexes import Index, IndexState
from reshelve.domain.routes import Route
from reshelve.errors import NoIndexForModel
from reshelve.retrieval.asking import MAX_DEPTH, Answer, Options, Result, ask

Aggregation = Literal["union", "intersection"]
Role = Literal["serving", "candidate", "previous", "standby"]
_WIDER = 3
"""An intersection looks so many times deeper into each list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchableModel:
    """A model that has an index in the collection. `role` is that one's part in the route; `standby` is none."""

    model: str
    provider: str
    dimension: int
    index: int
    role: Role


async def searchable_models(backends: Backends, *, collection: str, tenant: str = "") -> list[SearchableModel]:
    async with backends.database.service() as connection:
        route = await get_route(connection, collection, tenant)
        found = await _ready_indexes(connection, route)
    return [
        SearchableModel(
            model=index.model.name,
            provider=index.model.provider,
            dimension=index.dimension,
            index=index.id,
            role=_role(route, index),
        )
        for index in found
    ]


def _role(route: Route, index: Index) -> Role:
    roles: tuple[Role, ...] = ("serving", "candidate", "previous")
    for name in roles:
        named: Index | None = getattr(route, name)
        if named is not None and named.id == index.id:
            return name
    return "standby"


async def _ready_indexes(connection: Connection, route: Route) -> list[Index]:
    """The serving one first, then the newest: of two indexes of one model, the first is asked."""
    live = [each for each in await live_indexes(connection, route.collection_id) if each.state is IndexState.READY]
    return sorted(live, key=lambda index: (index.id != route.serving.id, -index.id))


async def index_of_model(connection: Connection, route: Route, model: str) -> Index:
    """Raises NoIndexForModel, with what there is."""
    ready = await _ready_indexes(connection, route)
    for index in ready:
        if index.model.name == model:
            return index
    raise NoIndexForModel(
        f"Column does not exist: no index of this collection was made by {model!r}",
        advice=f"Searchable: {', '.join(dict.fromkeys(index.model.name for index in ready))}. For another one set "
        "rag.embedding.model, then reshelve apply.",
    )


async def ask_models(
    backends: Backends,
    route: Route,
    query: str,
    *,
    models: Sequence[str],
    aggregation: Aggregation,
    options: Options,
) -> tuple[list[Answer], list[Result]]:
    """Each model's own answer, and one list: fused by rank, its scores are the fused ones.

    A page further on is fused from longer lists: it may repeat, or miss, what stood at the end of the page before.
    """
    names = list(dict.fromkeys(models))
    async with backends.database.service() as connection:
        indexes = [await index_of_model(connection, route, name) for name in names]
    if len(indexes) == 1:
        answer = await ask(backends, indexes[0], query, options)
        return [answer], answer.results
    deep = min(options.end * (1 if aggregation == "union" else _WIDER), MAX_DEPTH)
    each = replace(options, top_k=deep, offset=0, min_score=None)
    answers = await asyncio.gather(*(ask(backends, index, query, each) for index in indexes))
    known: dict[tuple[str, str], Result] = {}
    for answer in answers:
        for result in answer.results:
            known.setdefault(_key(result), result)
    rankings = [[_key(result) for result in answer.results] for answer in answers]
    fused = reciprocal_rank_fusion(rankings, in_all=aggregation == "intersection")
    results = [replace(known[key], score=score) for key, score in fused]
    if options.min_score is not None:
        results = [result for result in results if result.score >= options.min_score]
    if options.diversify:
        results = best_of_each_first(results, lambda result: result.document_id)
    return answers, results[options.offset : options.end]


def _key(result: Result) -> tuple[str, str]:
    """Two chunkings give the same text chunks of their own."""
    return (result.document_id, result.content)
