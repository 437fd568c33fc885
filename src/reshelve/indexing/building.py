"""Building an index's search structure beside its reads and writes, and telling how far that is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from psycopg import sql

from reshelve.backends import Backends
from reshelve.crash_points import crash_point
from reshelve.database import catalog
from reshelve.database.pools import Connection
from reshelve.database.priority import step_back
from reshelve.domain.indexes import Index, IndexState
from reshelve.stores import lexical
from reshelve.tasks import cancel_and_wait

_BUILD_LOCK = 0x7265_7362
_LOOK_SECONDS = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildProgress:
    """PostgreSQL's own words for the phase, and its count of rows, where it has one."""

    phase: str
    rows: int
    of_rows: int


OnBuild = Callable[[BuildProgress], None]


def _silent(_: BuildProgress) -> None:
    return


async def build_index(backends: Backends, index: Index, *, on_build: OnBuild = _silent) -> None:
    """Build what is not built, or was left invalid by a builder that died. Waits for whoever builds it already."""
    async with backends.database.alone() as connection:
        # The server notices within a second that we died, and ends the build.
        await connection.execute("SET client_connection_check_interval = '1s'")
        await _only_builder(connection, index)
        building = asyncio.create_task(backends.stores.of(index).build(connection, index))
        try:
            while not building.done():
                await _let_searches_go_first(backends, connection)
                await asyncio.wait([building], timeout=_LOOK_SECONDS)
                await _tell(backends, index, on_build)
            await building
        finally:
            await cancel_and_wait(building)
        await lexical.tidy(connection, index)


async def _only_builder(connection: Connection, index: Index) -> None:
    """Asked again and again: whoever waited in one query would hold a snapshot, for whose end the builder waits."""
    while True:
        cursor = await connection.execute("SELECT pg_try_advisory_lock(%s, %s)", (_BUILD_LOCK, index.id))
        row = await cursor.fetchone()
        if row is not None and row[0]:
            return
        await asyncio.sleep(_LOOK_SECONDS)


async def _let_searches_go_first(backends: Backends, building: Connection) -> None:
    """The builder and its helpers, who come as it goes on: together they would take every core."""
    async with backends.database.owner() as connection:
        cursor = await connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE %(pid)s IN (pid, leader_pid)", {"pid": building.info.backend_pid}
        )
        step_back(building, [row[0] for row in await cursor.fetchall()])


async def _tell(backends: Backends, index: Index, on_build: OnBuild) -> None:
    async with backends.database.owner() as connection:
        cursor = await connection.execute(
            "SELECT phase, tuples_done, tuples_total FROM pg_stat_progress_create_index WHERE relid = to_regclass(%s)",
            (f"reshelve.{index.table}",),
        )
        row = await cursor.fetchone()
    if row is not None:
        crash_point("build.running")
        on_build(BuildProgress(phase=row[0], rows=row[1], of_rows=row[2]))


async def build_large(backends: Backends, collection_id: int, *, on_build: OnBuild = _silent) -> list[int]:
    """Build the ready indexes that have grown beyond `hnsw.min_rows` without a graph; returns their ids.

    Smaller ones are searched exactly, which is as fast, and building as they fill would make every write slower.
    """
    built: list[int] = []
    async with backends.database.service() as connection:
        ready = [
            index for index in await catalog.live_indexes(connection, collection_id) if index.state is IndexState.READY
        ]
        large = [index for index in ready if await _wants_graph(backends, connection, index)]
    for index in large:
        await build_index(backends, index, on_build=on_build)
        built.append(index.id)
    return built


async def _wants_graph(backends: Backends, connection: Connection, index: Index) -> bool:
    store = backends.stores.of(index)
    if await store.built(connection, index):
        return False
    least = backends.settings.vector_storage.hnsw.min_rows
    cursor = await connection.execute(
        sql.SQL("SELECT count(*) FROM (SELECT FROM {} h LIMIT %s) counted").format(store.holdings(index)), (least,)
    )
    row = await cursor.fetchone()
    return row is not None and row[0] >= least
