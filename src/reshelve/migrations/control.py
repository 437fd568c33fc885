"""The right to work on a migration: one controller at a time."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

import psycopg

from reshelve.backends import Backends
from reshelve.database.pools import Connection
from reshelve.errors import DatabaseUnavailable, TransitionRefused

_CONTROLLER_LOCK = 0x7265_7363
_TRIES = 10
"""A server notices within this many fifths of a second that our lost connection is gone, and with it the lock."""


@dataclass(slots=True)
class Control:
    """An advisory lock. It goes with its connection, however the controller ends."""

    backends: Backends
    migration_id: int
    _connection: Connection | None = field(default=None, init=False)

    async def hold(self) -> None:
        """Take the lock, or make sure that it is still held: a lost connection has lost it, and it is taken anew.

        Raises TransitionRefused when somebody else has it, and DatabaseUnavailable.
        """
        had_it = self._connection is not None
        if self._connection is not None:
            with contextlib.suppress(psycopg.OperationalError):
                await self._connection.execute("SELECT 1")
                return
            await self.close()
        for _ in range(_TRIES if had_it else 1):
            if await self._take():
                return
            await asyncio.sleep(0.2)
        raise TransitionRefused(
            f"another process is at work on migration {self.migration_id}",
            advice="Watch it: reshelve status --watch. Or stop it: reshelve pause.",
        )

    async def _take(self) -> bool:
        connection = await self.backends.database.dedicated()
        try:
            cursor = await connection.execute(
                "SELECT pg_try_advisory_lock(%s, %s)", (_CONTROLLER_LOCK, self.migration_id)
            )
            row = await cursor.fetchone()
        except psycopg.OperationalError as error:
            await connection.close()
            raise DatabaseUnavailable(f"the database failed: {str(error).strip()}") from error
        if row is not None and row[0]:
            self._connection = connection
            return True
        await connection.close()
        return False

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
