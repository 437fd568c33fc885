"""Destroy last: the index that lost is dropped when a person asks for it, and nobody reads it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import psycopg
from psycopg import sql

from reshelve.backends import Backends
from reshelve.database import catalog, routes
from reshelve.database.pins import try_exclusive
from reshelve.database.pools import Connection
from reshelve.domain.indexes import Index, IndexState
from reshelve.domain.migration import State
from reshelve.errors import IndexInUse, TransitionRefused
from reshelve.migrations import records
from reshelve.migrations.records import Migration
from reshelve.stores import lexical, tokens

_LOCK_TIMEOUT_MS = 2000
_SPARE_DAYS = 30
_LET_GO_SECONDS = 3.0
"""A process that has stopped reading an index lets go of it within two seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaned:
    """`dropped` is None when the index was gone already, or still serves another purpose."""

    migration: int
    dropped: int | None
    rows: int


async def clean_up(backends: Backends, migration: Migration) -> Cleaned:
    """Drop what the migration left behind. Raises IndexInUse while it is read, TransitionRefused while it runs."""
    if not migration.over:
        raise TransitionRefused(
            f"the migration is {migration.state}: the way back is still open",
            advice="Complete it first (the soak ends by itself; --skip-soak ends it now), or roll it back.",
        )
    deadline = time.monotonic() + _LET_GO_SECONDS
    while True:
        try:
            return await _clean_up(backends, migration)
        except IndexInUse:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)


async def _clean_up(backends: Backends, migration: Migration) -> Cleaned:
    loser = migration.source_index_id if migration.state is State.COMPLETED else migration.target_index_id
    async with backends.database.owner() as connection:
        rows: int | None = None
        async with connection.transaction():
            await catalog.lock_collection(connection, migration.collection_id)
            if loser is not None:
                rows = await _drop(backends, connection, migration, await catalog.get_index(connection, loser))
            await connection.execute("UPDATE migrations SET cleaned_at = now() WHERE id = %s", (migration.id,))
            await connection.execute(
                "DELETE FROM spare_vectors WHERE at < now() - make_interval(days => %s)", (_SPARE_DAYS,)
            )
            await records.journal(
                connection, migration.id, "cleaned up", facts={"dropped": loser if rows is not None else None}
            )
    return Cleaned(migration=migration.id, dropped=loser if rows is not None else None, rows=rows or 0)


async def _drop(backends: Backends, connection: Connection, migration: Migration, index: Index) -> int | None:
    if index.state is IndexState.DROPPED:
        return None
    if index.id in await routes.routed_index_ids(connection, migration.collection_id):
        raise TransitionRefused(
            f"index {index.id} is serving", advice="A later migration, or a tenant's route, came back to it."
        )
    for active in await records.active_ids(connection, collection_id=migration.collection_id):
        other = await records.get(connection, active)
        if index.id in (other.source_index_id, other.target_index_id):
            raise TransitionRefused(f"index {index.id} is part of migration {other.id}", advice="Wait for its end.")
    readers = await try_exclusive(connection, index.id)
    if readers:
        raise IndexInUse(
            f"index {index.id} is being read by {len(readers)} processes (server pids {readers})",
            advice="Nothing was dropped. Let the readers finish, and try again.",
        )
    rows = await _entries(connection, backends, index)
    await connection.execute("SELECT set_config('lock_timeout', %s, true)", (str(_LOCK_TIMEOUT_MS),))
    try:
        await backends.stores.of(index).drop(connection, index)
        if not await catalog.words_are_shared(connection, index):
            await lexical.drop(connection, index)
        await tokens.drop(connection, index)
    except psycopg.errors.LockNotAvailable as error:
        raise IndexInUse(f"index {index.id} is locked by somebody", advice="Nothing was dropped. Try again.") from error
    await catalog.set_index_state(connection, index.id, IndexState.DROPPED)
    await connection.execute("DELETE FROM backfill_ranges WHERE index_id = %s", (index.id,))
    await connection.execute("DELETE FROM ledger WHERE index_id = %s", (index.id,))
    # Also what was handed to an index at the very moment when an earlier cleanup dropped it.
    await connection.execute(
        "DELETE FROM index_queue WHERE index_id IN (SELECT id FROM indexes WHERE state = 'dropped')"
    )
    await _retire_chunking(connection, index)
    return rows


async def _entries(connection: Connection, backends: Backends, index: Index) -> int:
    cursor = await connection.execute(
        sql.SQL("SELECT count(*) FROM {} h").format(backends.stores.of(index).holdings(index))
    )
    row = await cursor.fetchone()
    return row[0] if row else 0


async def _retire_chunking(connection: Connection, index: Index) -> None:
    """Chunks that no index is made of any more go too."""
    cursor = await connection.execute(
        """
        UPDATE chunkings SET live = false WHERE id = %s
        AND NOT EXISTS (SELECT FROM indexes WHERE chunking_id = chunkings.id AND state <> 'dropped') RETURNING id
        """,
        (index.chunking_id,),
    )
    if await cursor.fetchone() is not None:
        await connection.execute("DELETE FROM chunks WHERE chunking_id = %s", (index.chunking_id,))
