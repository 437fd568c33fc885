"""The switch, there and back, with readers at work in another process."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncGenerator
from typing import Any

from bench.figures import Figure, percentile
from bench.readers import Readers, Search
from bench.shelf import Server, opened, put_in, settings_for
from reshelve.database.routes import get_route
from reshelve.indexing.building import build_large
from reshelve.indexing.draining import drain
from reshelve.library import Library
from reshelve.migrations import records

MOVES = (("hashing-128", 20_000), ("minilm-l6-v2", 300))
"""Models and chunks: one collection of some size, and one model whose weights have to be loaded."""
READERS = 2
_QUIET_SECONDS = 4.0
_BESIDE_SECONDS = 0.025
"""A search counts as beside the switch if it was under way this long before or after."""


async def run(server: Server) -> AsyncGenerator[list[Figure]]:
    for number, (model, rows) in enumerate(MOVES):
        yield await _move(server.database(f"switch_{number}"), model=model, rows=rows)


async def _move(database: tuple[str, str], *, model: str, rows: int) -> list[Figure]:
    async with opened(settings_for(database, '[rag.embedding]\nmodel = "hashing-64"\n')) as library:
        await put_in(library, rows, fed=True)
        await _feed(library)
    async with opened(settings_for(database, f'[rag.embedding]\nmodel = "{model}"\n')) as library:
        await library.apply()
        readers = Readers(database, readers=READERS)
        quiet_from = time.time()
        await asyncio.sleep(_QUIET_SECONDS)
        quiet_until = time.time()
        await library.cutover()
        await asyncio.sleep(_QUIET_SECONDS / 2)
        migration = await library.rollback()
        await asyncio.sleep(_QUIET_SECONDS / 2)
        searches = await asyncio.to_thread(readers.stop)
        plain = await _plain_milliseconds(library)
        async with library.backends.database.owner() as connection:
            journal = await records.read_journal(connection, migration.id)
    switches = [entry for entry in journal if entry["event"] == "switched"]
    quiet = [each.milliseconds for each in searches if quiet_from <= each.began and each.ended <= quiet_until]
    figures: list[Figure] = []
    for name, switch in zip((f"cutover to {model}", "rollback from it"), switches, strict=True):
        figures += [_figure(name, switch, plain), _longest_beside(switch, searches, percentile(quiet, 0.95))]
    return [*figures, _failed(searches)]


def _figure(name: str, switch: dict[str, Any], plain: float) -> Figure:
    milliseconds = switch["facts"]["switch_ms"]
    return Figure(
        name=f"{name}, the switch itself",
        value=milliseconds,
        unit="ms",
        beside="an UPDATE of one row",
        raw=plain,
        target="< 50 ms",
        met=milliseconds < 50,
    )


def _longest_beside(switch: dict[str, Any], searches: list[Search], p95: float) -> Figure:
    """Of the searches that were under way when the route changed."""
    ended = switch["at"].timestamp() + _BESIDE_SECONDS
    began = switch["at"].timestamp() - switch["facts"]["switch_ms"] / 1000 - _BESIDE_SECONDS
    beside = [each.milliseconds for each in searches if each.began <= ended and each.ended >= began]
    return Figure(
        name=f"  longest of the {len(beside)} searches beside it",
        value=max(beside),
        unit="ms",
        beside="p95 before",
        raw=p95,
    )


def _failed(searches: list[Search]) -> Figure:
    failed = sum(each.model is None for each in searches)
    return Figure(
        name=f"  failed searches, of {len(searches):,} by {READERS} readers",
        value=failed,
        unit="",
        target="0",
        met=failed == 0,
    )


async def _feed(library: Library) -> None:
    """All of the outbox, and the graph: the serving index as it would be."""
    async with library.backends.database.service() as connection:
        route = await get_route(connection, library.settings.collection)
    await drain(library.backends, [route.serving])
    await build_large(library.backends, route.collection_id)


async def _plain_milliseconds(library: Library) -> float:
    """A transaction that changes one row of a table that nobody else uses."""
    times: list[float] = []
    async with library.backends.database.owner() as connection:
        await connection.execute("CREATE TABLE plain AS SELECT 0 AS value")
        for _ in range(20):
            began = time.perf_counter()
            async with connection.transaction():
                await connection.execute("UPDATE plain SET value = value + 1")
            times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)
