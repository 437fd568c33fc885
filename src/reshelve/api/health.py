"""Whether the service is alive, well, and able to answer."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from reshelve.api.answers import answer
from reshelve.api.service import Service, service_of
from reshelve.domain.indexes import Scope
from reshelve.errors import ReshelveError
from reshelve.retrieval.asking import Options, ask

if TYPE_CHECKING:
    from reshelve.domain.indexes import Index
    from reshelve.library import Library

router = APIRouter(tags=["health"])
_PATIENCE_SECONDS = 5.0
_SCARCE_SHARE = 0.05
_MIB = 1024**2


class Welcome(BaseModel):
    name: str
    version: str
    collection: str
    docs: str


class Check(BaseModel):
    """`latency_ms` is how long the answer took; what is "configured" was not asked."""

    status: Literal["ok", "warning", "down", "configured", "not configured"]
    latency_ms: float | None
    detail: str


class Health(BaseModel):
    """`status` is "down" where the database or the embedding model is, and "degraded" where something is short."""

    status: Literal["ok", "degraded", "down"]
    version: str
    uptime_seconds: float
    checks: dict[str, Check]


class Ready(BaseModel):
    ready: bool


class IndexHealth(BaseModel):
    """Whether `index` answers a test query: the candidate, or else the newest one."""

    status: Literal["ok", "down"]
    index: int | None
    model: str | None
    latency_ms: float | None
    detail: str


@router.get("/", response_model=Welcome)
async def welcome(request: Request) -> Response:
    """Answers as long as the process lives."""
    from reshelve import __version__

    collection = service_of(request).settings.collection
    return answer({"name": "reshelve", "version": __version__, "collection": collection, "docs": "/docs"})


@router.get("/health", response_model=Health, responses={503: {"model": Health}})
async def health(request: Request) -> Response:
    """Every part with its own status. 503 where searches cannot be answered."""
    from reshelve import __version__

    service = service_of(request)
    looks: dict[str, Callable[[Service], Awaitable[dict[str, Any]]]] = {
        "database": _database,
        "embeddings": _embeddings,
        "llm": _llm,
        "memory": _memory,
        "disk": _disk,
    }
    found = await asyncio.gather(*(_looked(look, service) for look in looks.values()))
    checks = dict(zip(looks, found, strict=True))
    states = {each["status"] for each in found}
    overall = "down" if "down" in states else "degraded" if "warning" in states else "ok"
    uptime = time.time() - service.started_at
    document = {"status": overall, "version": __version__, "uptime_seconds": round(uptime, 1), "checks": checks}
    return answer(document, status=503 if overall == "down" else 200)


@router.get("/ready", response_model=Ready)
async def ready(request: Request) -> Response:
    """503 until searches can be answered, and once the service is about to stop."""
    await service_of(request).check_ready()
    return answer({"ready": True})


@router.get("/api/rag/v2/health", response_model=IndexHealth, responses={503: {"model": IndexHealth}})
async def candidate_health(request: Request) -> Response:
    """Asks the candidate a test query, or the newest index where there is no candidate."""
    library = service_of(request).library
    found: dict[str, Any] = {"index": None, "model": None}

    async def look(_: Service) -> dict[str, Any]:
        index = await _newest(library)
        if index is None:
            return {"status": "down", "detail": f"there is no collection {library.settings.collection!r} yet"}
        found.update(index=index.id, model=index.model.name)
        # Past the route, and so past the figures of live searches.
        answered = await ask(library.backends, index, "health", Options(top_k=1, scope=Scope(tenant=None)))
        return {"status": "ok", "detail": f"it answered a test query with {len(answered.results)} results"}

    checked = await _looked(look, service_of(request))
    return answer({**checked, **found}, status=200 if checked["status"] == "ok" else 503)


async def _looked(look: Callable[[Service], Awaitable[dict[str, Any]]], service: Service) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            checked = await look(service)
    except TimeoutError:
        checked = {"status": "down", "detail": f"no answer within {_PATIENCE_SECONDS:g} s"}
    except ReshelveError as error:
        checked = {"status": "down", "detail": error.message}
    return {"latency_ms": round((time.perf_counter() - started) * 1000, 3), **checked}


async def _database(service: Service) -> dict[str, Any]:
    async with service.library.backends.database.service() as connection:
        row = await (await connection.execute("SHOW server_version")).fetchone()
    return {"status": "ok", "detail": f"PostgreSQL {row[0] if row else '?'}"}


async def _embeddings(service: Service) -> dict[str, Any]:
    """The model of the index that serves turns a word into a vector."""
    from reshelve.database.routes import find_route

    backends = service.library.backends
    async with backends.database.service() as connection:
        route = await find_route(connection, service.settings.collection)
    if route is None:
        return {"status": "ok", "detail": "nothing to embed: the collection is not there yet"}
    embedder = await backends.embedders.of(route.serving.model_id)
    await embedder.embed_queries(["health"])
    return {"status": "ok", "detail": f"{embedder.model.name}, {embedder.model.dimension} dimensions"}


async def _llm(service: Service) -> dict[str, Any]:
    """Not asked: each look would be paid for."""
    llm = service.library.backends.llm
    if llm is None:
        return {"status": "not configured", "latency_ms": None, "detail": "answers are extractive"}
    return {"status": "configured", "latency_ms": None, "detail": f"{llm.model} at {llm.base_url}"}


async def _memory(_: Service) -> dict[str, Any]:
    import psutil

    memory = psutil.virtual_memory()
    ours = psutil.Process().memory_info().rss
    scarce = memory.available < _SCARCE_SHARE * memory.total
    detail = f"{ours // _MIB:,} MB used by this process, {memory.available // _MIB:,} MB available"
    return {"status": "warning" if scarce else "ok", "detail": detail}


async def _disk(service: Service) -> dict[str, Any]:
    """Where the embedded server's data are; with a server of your own, where this process runs."""
    database = service.settings.database
    place = Path(database.directory) if database.url is None else Path.cwd()
    usage = await asyncio.to_thread(shutil.disk_usage, place)
    scarce = usage.free < _SCARCE_SHARE * usage.total
    detail = f"{usage.free // _MIB:,} MB free of {usage.total // _MIB:,} MB at {place}"
    return {"status": "warning" if scarce else "ok", "detail": detail}


async def _newest(library: Library) -> Index | None:
    from reshelve.database.catalog import live_indexes
    from reshelve.database.routes import find_route

    async with library.backends.database.service() as connection:
        route = await find_route(connection, library.settings.collection)
        if route is None:
            return None
        if route.new is not None:
            return route.new
        return max(await live_indexes(connection, route.collection_id), key=lambda index: index.id)
