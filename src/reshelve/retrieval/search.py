"""Search. The route is read once a request; the query's embedding and the index always belong together.

While two indexes share the traffic, the route says which one answers this unit. A candidate that fails, or is left
alone by its circuit breaker, is answered for by the index that served before, and the response says so.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import replace
from typing import Any, get_args

import structlog

from reshelve.backends import Backends
from reshelve.database.catalog import get_live_index, live_indexes
from reshelve.database.pools import Connection
from reshelve.database.routes import get_route, get_route_and_version
from reshelve.domain.indexes import Index, Scope
from reshelve.domain.interleaving import team_draft
from reshelve.domain.routes import Arm, Choice, Route, share_of
from reshelve.errors import DatabaseUnavailable, InputError, NotFoundError, StoreError
from reshelve.operations.recording import Place
from reshelve.operations.search_cache import SearchKey
from reshelve.retrieval.asking import MAX_DEPTH, Answer, Mode, Options, Result, ask
from reshelve.retrieval.cursors import Cursor, read_cursor
from reshelve.retrieval.models import Aggregation, ask_models
from reshelve.retrieval.requests import SearchRequest, SearchResponse, check_choice, check_query
from reshelve.retrieval.reranking import Rerank
from reshelve.retrieval.shadowing import offer_shadow
from reshelve.settings import RolloutSettings

_NOT_THE_ARMS_FAULT = (InputError, NotFoundError, DatabaseUnavailable)
"""The other side would say the same."""
_log = structlog.get_logger(__name__)


async def search(backends: Backends, request: SearchRequest) -> SearchResponse:
    """Raises InputError for an impossible request, NotFoundError for a collection or index that is not there."""
    check_query(request.query, request.options)
    check_choice("aggregation", request.aggregation, get_args(Aggregation))
    if request.interleave and (request.options.offset or request.cursor is not None):
        raise InputError("an interleaved search has one page", advice="Leave interleave out, or offset and cursor.")
    asked = request if request.cursor is None else _next_page(request)
    with backends.spare_time.searching():
        try:
            response = await _search_once(backends, asked)
        except StoreError:
            # The index was dropped between the route and the search: the route names another by now.
            if asked.index_id is not None:
                raise
            response = await _search_once(backends, asked)
    more = len(response.results) == asked.options.top_k and asked.options.end < MAX_DEPTH and not response.interleaved
    if not more:
        return response
    index = None if request.models else response.index
    return replace(response, next=str(Cursor(request.digest, asked.options.end, index)))


def _next_page(request: SearchRequest) -> SearchRequest:
    assert request.cursor is not None
    if request.options.offset:
        raise InputError("a cursor says where the page begins", advice="Leave offset out.")
    cursor = read_cursor(request.cursor, search=request.digest)
    options = replace(request.options, offset=cursor.offset)
    options = replace(options, top_k=min(options.top_k, MAX_DEPTH - options.offset))
    return replace(request, options=options, index_id=cursor.index_id)


async def _search_once(backends: Backends, request: SearchRequest) -> SearchResponse:
    started = time.perf_counter()

    async def look_up(connection: Connection) -> tuple[Route, int | None, Index | None]:
        version = None
        if backends.search_cache.enabled:
            route, version = await get_route_and_version(connection, request.collection, request.options.scope.tenant)
        else:
            route = await get_route(connection, request.collection, request.options.scope.tenant)
        if backends.embedders.look_due():
            live = await live_indexes(connection, route.collection_id)
            backends.embedders.open_ahead(each.model_id for each in live)
        if request.index_id is None:
            return route, version, None
        return route, version, await get_live_index(connection, request.index_id, collection_id=route.collection_id)

    route, version, asked = await backends.database.read(look_up)
    if request.models:
        return await _by_models(backends, request, route, started)
    if asked is not None:
        answer = await _ask(backends, request, asked)
        return _response(route, answer, route.arm_of(asked.id), started)
    if backends.settings.monitoring.query_analytics:
        backends.recorder.remember_query(route.collection_id, request.options.scope.tenant or "", request.query)
    if (
        request.interleave
        and route.new is not None
        and share_in_force(backends.settings.rollout) != 0
        and (request.options.mode != "lexical" or (route.old.has_words and route.new.has_words))
    ):
        response = await _interleaved(backends, request, route, route.new, started)
    else:
        response = await _routed(backends, request, route, started, version=version)
    if backends.settings.monitoring.performance_logging:
        _log.info("search", **_times(request, response))
    return response


async def _by_models(backends: Backends, request: SearchRequest, route: Route, started: float) -> SearchResponse:
    """Not counted among the live searches: the caller chose, not the route."""
    answers, results = await ask_models(
        backends,
        route,
        request.query,
        models=request.models,
        aggregation=request.aggregation,
        options=request.options,
    )
    first = answers[0]
    names = ", ".join(answer.index.model.name for answer in answers)
    whole = replace(
        first,
        embed_ms=max(answer.embed_ms for answer in answers),
        search_ms=max(answer.search_ms for answer in answers),
    )
    response = _response(route, whole, route.arm_of(first.index.id), started, results=results)
    return replace(response, model=names, query_model=names, interleaved=False)


def share_in_force(settings: RolloutSettings) -> int | None:
    """The share that this process's settings put over the route's own; None where they leave it alone."""
    if not settings.enabled:
        return 0
    return None if settings.percentage is None else share_of(settings.percentage)


async def _routed(
    backends: Backends, request: SearchRequest, route: Route, started: float, *, version: int | None
) -> SearchResponse:
    """`version` is the corpus's, where answers are kept."""
    choice = route.choose(request.unit(route.sticky_by), share=share_in_force(backends.settings.rollout))
    if request.options.mode == "lexical" and not choice.index.has_words and choice.otherwise is not None:
        choice = Choice(index=choice.otherwise, arm=Arm.SERVING)
    key = None if version is None else _search_key(request, route, choice.index, version=version)
    if key is not None:
        kept: Answer | None = backends.search_cache.get(key)
        place = Place(route.collection_id, route.tenant, choice.index.id, choice.arm)
        # Counted apart: its time says nothing about the index, and no gate is to see it.
        backends.recorder.count(place, "search_cache_miss" if kept is None else "search_cache_hit")
        if kept is not None:
            answer = replace(kept, embed_ms=0.0, search_ms=0.0, legs_ms={})
            return replace(_response(route, answer, choice.arm, started), cached=True)
    fell_back: str | None = None
    answer: Answer | None = None
    if choice.otherwise is not None:
        answer, fell_back = await _try_candidate(backends, request, route, choice)
        if answer is None:
            choice = Choice(index=choice.otherwise, arm=Arm.SERVING)
    if answer is None:
        answer = await _recorded(backends, request, route, choice)
    if key is not None and fell_back is None:
        backends.search_cache.keep(key, answer)
    offer_shadow(backends, route, answer, arm=choice.arm, query=request.query, options=request.options)
    return _response(route, answer, choice.arm, started, fell_back=fell_back)


def _search_key(request: SearchRequest, route: Route, index: Index, *, version: int) -> SearchKey:
    """Who asks has chosen the index, and makes no other difference."""
    return SearchKey(
        collection_id=route.collection_id,
        tenant=request.options.scope.tenant,
        index_id=index.id,
        epoch=route.epoch,
        version=version,
        request=repr(replace(request, user=None, session=None)),
    )


async def _try_candidate(
    backends: Backends, request: SearchRequest, route: Route, choice: Choice
) -> tuple[Answer | None, str | None]:
    """The candidate's answer, or the reason why the other index has to give one."""
    place = Place(route.collection_id, route.tenant, choice.index.id, choice.arm)
    if not backends.breakers.allows(choice.index.id):
        backends.recorder.count(place, "fallback")
        return None, "the candidate's circuit breaker is open"
    deadline = backends.settings.rollout.candidate_timeout_seconds
    timeout = asyncio.timeout(deadline)
    began = time.monotonic()
    try:
        async with timeout:
            answer = await _recorded(backends, request, route, choice)
    except Exception as error:
        if isinstance(error, _NOT_THE_ARMS_FAULT):
            backends.breakers.released(choice.index.id)
            raise
        if timeout.expired() and backends.database.was_away(since=began):
            backends.breakers.released(choice.index.id)
            return None, "the database was away"
        if timeout.expired():
            backends.recorder.search(place, milliseconds=deadline * 1000, error=True, similarity=None)
        reason = str(error) or f"no answer within {deadline:g} s"
        backends.breakers.failed(choice.index.id, reason)
        backends.recorder.count(place, "fallback")
        _log.warning("the candidate failed, and the serving index answers", index=choice.index.id, reason=reason)
        return None, f"the candidate failed: {reason}"
    except BaseException:
        backends.breakers.released(choice.index.id)
        raise
    backends.breakers.succeeded(choice.index.id)
    return answer, None


async def _recorded(backends: Backends, request: SearchRequest, route: Route, choice: Choice) -> Answer:
    place = Place(route.collection_id, route.tenant, choice.index.id, choice.arm)
    began = time.monotonic()

    def record(answer: Answer | None) -> None:
        # What waited for the database says nothing about the index.
        if answer is not None and backends.database.was_away(since=began):
            return
        similarity = None if answer is None else answer.similarity
        milliseconds = (time.monotonic() - began) * 1000
        backends.recorder.search(place, milliseconds=milliseconds, error=answer is None, similarity=similarity)
        if answer is not None and answer.cached:
            backends.recorder.count(place, "cache_hit")

    try:
        answer = await _ask(backends, request, choice.index)
    except _NOT_THE_ARMS_FAULT:
        raise
    except Exception:
        record(None)
        raise
    record(answer)
    return answer


async def _ask(backends: Backends, request: SearchRequest, index: Index) -> Answer:
    return await ask(backends, index, request.query, request.options)


async def _interleaved(
    backends: Backends, request: SearchRequest, route: Route, new: Index, started: float
) -> SearchResponse:
    """Both sides' results in one list, drafted in turns; without the candidate's where that fails."""
    serving = Choice(index=route.old, arm=Arm.SERVING)
    candidate = Choice(index=new, arm=Arm.CANDIDATE, otherwise=route.old)
    ours, (theirs, fell_back) = await asyncio.gather(
        _recorded(backends, request, route, serving), _try_candidate(backends, request, route, candidate)
    )
    response = _response(route, ours, Arm.SERVING, started, fell_back=fell_back)
    if theirs is None:
        return response
    drafted = team_draft(
        {_key(result): result for result in ours.results},
        {_key(result): result for result in theirs.results},
        length=request.options.top_k,
        seed=response.search_id,
    )
    return _response(route, ours, Arm.SERVING, started, results=[result for result, _ in drafted])


def _key(result: Result) -> tuple[str, str]:
    return (result.document_id, result.content)


def _response(
    route: Route,
    answer: Answer,
    arm: Arm,
    started: float,
    *,
    fell_back: str | None = None,
    results: list[Result] | None = None,
) -> SearchResponse:
    return SearchResponse(
        results=answer.results if results is None else results,
        index=answer.index.id,
        model=answer.index.model.name,
        query_model=answer.query_model,
        epoch=route.epoch,
        mode=answer.mode,
        embed_ms=answer.embed_ms,
        search_ms=answer.search_ms,
        legs_ms=answer.legs_ms,
        search_id=str(uuid.uuid4()),
        arm=arm,
        fell_back=fell_back,
        interleaved=results is not None,
        total_ms=(time.perf_counter() - started) * 1000,
    )


def _times(request: SearchRequest, response: SearchResponse) -> dict[str, Any]:
    return {
        "search_id": response.search_id,
        "collection": request.collection,
        "index": response.index,
        "arm": response.arm,
        "results": len(response.results),
        "cached": response.cached,
        "embed_ms": round(response.embed_ms, 2),
        "search_ms": round(response.search_ms, 2),
        "total_ms": round(response.total_ms, 2),
    }


async def search_documents(
    backends: Backends,
    query: str,
    *,
    collection: str,
    documents: int,
    tenant: str = "",
    index_id: int | None = None,
    mode: Mode | None = None,
    rerank: Rerank | None = None,
) -> list[tuple[str, float]]:
    """The best chunk of each document: (external id, score), best first, at most `documents` of them."""
    async with backends.database.service() as connection:
        route = await get_route(connection, collection, tenant)
        # Asked by its id, so that an evaluation is not counted among the live searches.
        index = (
            route.serving
            if index_id is None
            else await get_live_index(connection, index_id, collection_id=route.collection_id)
        )
    wanted = min(documents * 2, MAX_DEPTH)
    while True:
        options = Options(top_k=wanted, scope=Scope(tenant=tenant), mode=mode, rerank=rerank)
        check_query(query, options)
        answer = await ask(backends, index, query, options)
        best: dict[str, float] = {}
        for result in answer.results:
            best.setdefault(result.document_id, result.score)
        if len(best) >= documents or len(answer.results) < wanted or wanted == MAX_DEPTH:
            return list(best.items())[:documents]
        wanted = min(wanted * 2, MAX_DEPTH)
