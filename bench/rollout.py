"""A whole rollout under load: up to 100 %, taken back, and up again, with searches and writes from another process.

Nothing may fail, nothing be lost, and no answer come of a query that another model embedded; and searches must stay
about as fast while the new index is filled.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from psycopg import sql

from bench.figures import Figure, percentile
from bench.http import served_as_usual
from bench.load import Load, Search, Seen
from bench.service import Wire, config_file, served
from bench.shelf import Server, opened, settings_for
from reshelve.database.catalog import live_indexes
from reshelve.indexing.draining import drain

ROWS = 10_000
REQUESTS = 20_000
RATE = 120.0
CLIENTS = 6
WRITERS = 2
STEPS = (10, 25, 50, 75, 100)
BEFORE, AFTER = "hashing-256", "hashing-384"
_CALM_SECONDS = 25.0
_STEP_SECONDS = 4.0
_LOOK_SECONDS = 0.5


async def run(server: Server) -> AsyncGenerator[list[Figure]]:
    database = server.database("rollout")
    old, new = (f'[rag.embedding]\nmodel = "{model}"\n' for model in (BEFORE, AFTER))
    async with opened(settings_for(database, old)) as library:
        await served_as_usual(library, ROWS)
    with tempfile.TemporaryDirectory() as folder:
        config = config_file(Path(folder), database, old)
        with served(config) as address:
            load = Load(address, clients=CLIENTS, requests=REQUESTS, rate=RATE, writers=WRITERS)
            load.begin()
            began = time.time()
            await asyncio.sleep(_CALM_SECONDS)
            config_file(Path(folder), database, new)
            wire = await Wire.open(address)
            first = await _climb(wire)
            await _settled(wire, await wire.demand("POST", f"/api/v1/migrations/{first['id']}/rollback"), "rolled_back")
            await asyncio.sleep(_STEP_SECONDS)
            await _climb(wire)
            seen = await asyncio.to_thread(load.end)
            await wire.close()
    async with opened(settings_for(database, new)) as library:
        lost = await _lost(library, seen)
        journal = (await library.migration(first["id"])).journal
    yield [*_answers(seen, lost), *_latencies(seen.searches, journal, began)]


async def _climb(wire: Wire) -> dict[str, Any]:
    """Start it, wait for the proof, and give the new index more and more of the users."""
    started = await wire.demand("POST", "/api/v1/migrations", {"schedule": ""})
    await _settled(wire, started, "verifying", "shadowing")
    for percent in STEPS:
        shown = await wire.demand("PUT", f"/api/v1/migrations/{started['id']}/share", {"percent": percent})
        await asyncio.sleep(_STEP_SECONDS)
    await _settled(wire, shown, "soaking", "completed")
    return started


async def _settled(wire: Wire, migration: dict[str, Any], *states: str) -> None:
    """Until it is in one of the states, and proven where that is asked for."""
    while True:
        now = await wire.demand("GET", f"/api/v1/migrations/{migration['id']}")
        proven = now["state"] != "verifying" or (now["verification"] or {}).get("passed")
        if now["state"] in states and proven:
            return
        if now["state"] in ("failed", "paused"):
            raise RuntimeError(f"the migration is {now['state']}: {now['reason']}")
        await asyncio.sleep(_LOOK_SECONDS)


async def _lost(library: Any, seen: Seen) -> int:
    """Documents that are not as they were last written, and chunks that an index does not hold."""
    lost = 0
    async with library.backends.database.service() as connection:
        indexes = await live_indexes(connection)
    await drain(library.backends, indexes, timeout_seconds=120)
    async with library.backends.database.service() as connection:
        cursor = await connection.execute(
            "SELECT external_id, content FROM documents WHERE external_id LIKE 'written-%'"
        )
        there = dict(await cursor.fetchall())
        lost += sum(there.get(name) != text for name, text in seen.kept.items())
        for index in indexes:
            cursor = await connection.execute(
                sql.SQL(
                    "SELECT count(*) FROM chunks c WHERE c.chunking_id = %s "
                    "AND NOT EXISTS (SELECT FROM {} h WHERE h.chunk_id = c.id)"
                ).format(library.backends.stores.of(index).holdings(index)),
                (index.chunking_id,),
            )
            row = await cursor.fetchone()
            assert row is not None
            lost += row[0]
    return lost


def _answers(seen: Seen, lost: int) -> list[Figure]:
    searches = seen.searches
    failed = sum(each.status != 200 for each in searches) + seen.failed_writes
    mixed = sum(each.mixed for each in searches)
    moved = sum(each.model == AFTER for each in searches)
    return [
        Figure(
            name=f"rollout to 100 %, back, and up again: failed of {len(searches):,} searches, {seen.writes:,} writes",
            value=failed,
            unit="",
            target="0",
            met=failed == 0,
        ),
        Figure(name="  lost writes", value=lost, unit="", target="0", met=lost == 0),
        Figure(name="  answers that mix two models", value=mixed, unit="", target="0", met=mixed == 0),
        Figure(name="  answers of the new index", value=moved, unit=""),
    ]


def _latencies(searches: list[Search], journal: list[dict[str, Any]], began: float) -> list[Figure]:
    from datetime import datetime

    at = {entry["after"]: datetime.fromisoformat(entry["at"]).timestamp() for entry in reversed(journal)}
    start = min(at.values())
    calm = _between(searches, began + 5, start)
    filling = _between(searches, at["backfilling"], at["building"])
    building = _between(searches, at["building"], at["verifying"])
    proving = _between(searches, at["verifying"], at.get("rolling_out", at["verifying"]))
    before, during = percentile(calm, 0.95), percentile(filling, 0.95)
    seconds = at["building"] - at["backfilling"]
    return [
        Figure(
            name=f"  p95 during the backfill of {ROWS:,} rows ({seconds:.0f} s, {len(filling):,} searches)",
            value=during,
            unit="ms",
            beside="p95 before",
            raw=before,
            target="<= 1.5 times",
            met=during <= 1.5 * before,
        ),
        Figure(
            name=f"  p95 while the graph is built ({at['verifying'] - at['building']:.0f} s)",
            value=percentile(building, 0.95) if building else 0.0,
            unit="ms",
            beside="p95 before",
            raw=before,
        ),
        Figure(
            name="  p95 while it is verified",
            value=percentile(proving, 0.95) if proving else 0.0,
            unit="ms",
            beside="p95 before",
            raw=before,
        ),
        Figure(name="  p95 of all", value=percentile([each.milliseconds for each in searches], 0.95), unit="ms"),
    ]


def _between(searches: list[Search], start: float, end: float) -> list[float]:
    return [each.milliseconds for each in searches if start <= each.began < end]
