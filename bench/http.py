"""Search over HTTP: what it adds to embedding and plain SQL in the same run, and its throughput beside our own."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import psycopg

from bench.figures import Figure, percentile
from bench.load import Load
from bench.search import plain_search
from bench.service import Address, Wire, config_file, served
from bench.shelf import Server, opened, put_in, queries, settings_for
from reshelve.database.routes import get_route
from reshelve.indexing.building import build_large
from reshelve.indexing.draining import drain
from reshelve.library import Library

ROWS = 10_000
SEARCHES = 500
CLIENTS = 8
LOAD_SEARCHES = 3000
ROUNDS = 3
EMBEDDING = '[rag.embedding]\nmodel = "hashing-384"\n'
_WARM_UP = 100
_OPTIONS = "-c search_path=reshelve,public -c hnsw.ef_search=200 -c hnsw.iterative_scan=strict_order"


async def run(server: Server) -> AsyncGenerator[list[Figure]]:
    database = server.database("http")
    with tempfile.TemporaryDirectory() as folder:
        config = config_file(Path(folder), database, EMBEDDING)
        async with opened(settings_for(database, EMBEDDING)) as library:
            await served_as_usual(library, ROWS)
        with served(config) as address:
            async with opened(settings_for(database, EMBEDDING), worker=False) as library:
                yield await _added(library, database[1], address)
                yield [await _throughput(library, address)]


async def served_as_usual(library: Library, rows: int) -> None:
    """A collection that has been taken in, with its graph built."""
    await put_in(library, rows, fed=True)
    async with library.backends.database.service() as connection:
        route = await get_route(connection, library.settings.collection)
    await drain(library.backends, [route.serving])
    await build_large(library.backends, route.collection_id)


async def _added(library: Library, service: str, address: Address) -> list[Figure]:
    """The three take turns, query by query."""
    async with library.backends.database.service() as connection:
        index = (await get_route(connection, library.settings.collection)).serving
    embedder = await library.backends.embedders.of(index.model_id)
    wire = await Wire.open(address)
    bare: list[float] = []
    own: list[float] = []
    http: list[float] = []
    async with await psycopg.AsyncConnection.connect(service, autocommit=True, options=_OPTIONS) as connection:
        for query in queries(SEARCHES + _WARM_UP, seed=1):
            began = time.perf_counter()
            vector = (await embedder.embed_queries([query])).vectors[0]
            await plain_search(connection, index, vector)
            embedded = time.perf_counter()
            await library.search(query)
            searched = time.perf_counter()
            status, _ = await wire.ask("POST", "/api/v1/search", {"query": query})
            ended = time.perf_counter()
            if status != 200:
                raise RuntimeError(f"the search was answered with {status}")
            bare.append((embedded - began) * 1000)
            own.append((searched - embedded) * 1000)
            http.append((ended - searched) * 1000)
    await wire.close()
    raw, ours, whole = (statistics.median(times[_WARM_UP:]) for times in (bare, own, http))
    added = statistics.median(over - under for over, under in zip(http[_WARM_UP:], bare[_WARM_UP:], strict=True))
    name = f"search over HTTP, {ROWS:,} x 384"
    return [
        Figure(name=f"{name}: p50", value=whole, unit="ms", beside="embedding and plain SQL", raw=raw),
        Figure(name="  added to it, at p50", value=added, unit="ms", target="<= 2 ms", met=added <= 2),
        Figure(name="  the same in this process: p50", value=ours, unit="ms", beside="the same", raw=raw),
        Figure(name="  over HTTP: p95", value=percentile(http[_WARM_UP:], 0.95), unit="ms"),
    ]


async def _throughput(library: Library, address: Address) -> Figure:
    """The sides take turns; the best of each counts."""
    over_http: list[float] = []
    in_process: list[float] = []
    for _ in range(ROUNDS):
        over_http.append(await asyncio.to_thread(_http_rate, address))
        in_process.append(await _own_rate(library))
    rate, raw = max(over_http), max(in_process)
    return Figure(
        name=f"  throughput, {CLIENTS} clients",
        value=rate,
        unit="searches/s",
        beside=f"{CLIENTS} tasks in one process",
        raw=raw,
        target=">= 0.6 of it",
        met=rate >= 0.6 * raw,
    )


def _http_rate(address: Address) -> float:
    load = Load(address, clients=CLIENTS, requests=LOAD_SEARCHES)
    load.begin()
    seen = load.end()
    if any(each.status != 200 for each in seen.searches):
        raise RuntimeError("a search failed")
    began = min(each.began for each in seen.searches)
    ended = max(each.began + each.milliseconds / 1000 for each in seen.searches)
    return len(seen.searches) / (ended - began)


async def _own_rate(library: Library) -> float:
    async def search(number: int) -> None:
        for query in queries(LOAD_SEARCHES // CLIENTS, seed=number):
            await library.search(query, user=f"user {number}")

    began = time.perf_counter()
    await asyncio.gather(*(search(number) for number in range(CLIENTS)))
    return LOAD_SEARCHES // CLIENTS * CLIENTS / (time.perf_counter() - began)
