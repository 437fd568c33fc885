"""Which indexes this process reads, as shared advisory locks that every other process can see.

A lock outlives the request that took it by a second or so, so that a busy reader asks the database once and not at
every request. When the process dies its connection goes, and the locks with it. `cleanup` asks for the same lock
exclusively, and is refused while anybody holds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import psycopg

from reshelve.database.pools import PATIENCE_SECONDS, Connection, Database, has_ended
from reshelve.errors import DatabaseUnavailable
from reshelve.tasks import cancel_and_wait

LOCK_CLASS = 0x7265_7361
"""The first key of the advisory locks; the second is the index's id."""
_IDLE_SECONDS = 1.0
_PAUSE_SECONDS = 0.1


class IndexPins:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: Connection | None = None
        self._mutex = asyncio.Lock()
        self._readers: dict[int, int] = {}
        self._last_used: dict[int, float] = {}
        self._janitor: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def reading(self, index_id: int) -> AsyncGenerator[None]:
        """Hold the index for as long as the block runs: it is not dropped meanwhile."""
        self._readers[index_id] = self._readers.get(index_id, 0) + 1
        try:
            if index_id not in self._last_used or self._connection is None or has_ended(self._connection):
                await self._lock(index_id)
            yield
        finally:
            self._readers[index_id] -= 1
            if index_id in self._last_used:
                self._last_used[index_id] = time.monotonic()

    async def _lock(self, index_id: int) -> None:
        patience_until = time.monotonic() + PATIENCE_SECONDS
        async with self._mutex:
            while True:
                try:
                    await self._lock_now(index_id)
                except (DatabaseUnavailable, psycopg.OperationalError) as error:
                    if time.monotonic() > patience_until:
                        raise DatabaseUnavailable(f"the database does not answer: {error}") from error
                    await asyncio.sleep(_PAUSE_SECONDS)
                else:
                    break
            if self._janitor is None:
                self._janitor = asyncio.create_task(self._release_idle())

    async def _lock_now(self, index_id: int) -> None:
        if self._connection is None or has_ended(self._connection):
            if self._connection is not None:
                await self._connection.close()
            self._connection = await self._database.dedicated()
            self._last_used.clear()
            for held in [held for held, readers in self._readers.items() if readers > 0 and held != index_id]:
                await self._take(self._connection, held)
        if index_id not in self._last_used:
            await self._take(self._connection, index_id)

    async def _take(self, connection: Connection, index_id: int) -> None:
        await connection.execute("SELECT pg_advisory_lock_shared(%s, %s)", (LOCK_CLASS, index_id))
        self._last_used[index_id] = time.monotonic()

    async def _release_idle(self) -> None:
        while True:
            await asyncio.sleep(_IDLE_SECONDS)
            async with self._mutex:
                now = time.monotonic()
                for index_id, used in list(self._last_used.items()):
                    if self._readers.get(index_id, 0) or now - used < _IDLE_SECONDS or self._connection is None:
                        continue
                    del self._last_used[index_id]
                    # A lost connection has lost its locks too, and the next reader takes them anew.
                    with contextlib.suppress(psycopg.OperationalError):
                        await self._connection.execute(
                            "SELECT pg_advisory_unlock_shared(%s, %s)", (LOCK_CLASS, index_id)
                        )

    async def close(self) -> None:
        if self._janitor is not None:
            await cancel_and_wait(self._janitor)
        if self._connection is not None:
            await self._connection.close()


async def try_exclusive(connection: Connection, index_id: int) -> list[int]:
    """Take the lock for the rest of the transaction. Returns the server pids of those who read the index instead."""
    row = await (
        await connection.execute("SELECT pg_try_advisory_xact_lock(%s, %s)", (LOCK_CLASS, index_id))
    ).fetchone()
    if row is not None and row[0]:
        return []
    cursor = await connection.execute(
        """
        SELECT pid FROM pg_locks
        WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND classid::bigint = %s AND objid::bigint = %s AND granted
        """,
        (LOCK_CLASS, index_id),
    )
    return [row[0] for row in await cursor.fetchall()] or [0]
