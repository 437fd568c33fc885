"""The right to work on a migration: one controller at a time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

import psycopg

from reshelve.backends import Backends
from reshelve.database.pools import Connection
from reshelve.errors import DatabaseUnavailable, TransitionRefused
from reshelve.tasks import cancel_and_wait

_CONTROLLER_LOCK = 0x7265_7363
_LOST_SECONDS = 2.0
"""A server notices within this time that our lost connection is gone, and with it the lock."""
_PAUSE_SECONDS = 0.1
_SILENT_SECONDS = 6
"""A controller that says nothing for so long is frozen: the server ends its connection, and others may go on."""
_WORD_SECONDS = 2.0


@dataclass(slots=True)
class Control:
    """An advisory lock. It goes with its connection, however the controller ends, and while a stopped one lasts."""

    backends: Backends
    migration_id: int
    patience_seconds: float = 0.0
    _connection: Connection | None = field(default=None, init=False)
    _word: asyncio.Task[None] | None = field(default=None, init=False)

    async def hold(self) -> None:
        """Take the lock, or make sure that it is still held: a lost connection has lost it, and it is taken anew.

        Raises TransitionRefused when somebody else has it, and DatabaseUnavailable.
        """
        patience = self.patience_seconds
        if self._connection is not None:
            with contextlib.suppress(psycopg.OperationalError):
                await self._connection.execute("SELECT 1")
                return
            await self.close()
            patience = max(patience, _LOST_SECONDS)
        deadline = time.monotonic() + patience
        while not await self._take():
            if time.monotonic() >= deadline:
                raise TransitionRefused(
                    f"another process is at work on migration {self.migration_id}",
                    advice="Watch it: reshelve status --watch. Or stop it: reshelve pause.",
                )
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _take(self) -> bool:
        connection = await self.backends.database.dedicated()
        try:
            cursor = await connection.execute(
                "SELECT pg_try_advisory_lock(%s, %s), set_config('idle_session_timeout', %s, false)",
                (_CONTROLLER_LOCK, self.migration_id, f"{_SILENT_SECONDS}s"),
            )
            row = await cursor.fetchone()
            if row is not None and row[0]:
                self._connection = connection
                self._word = asyncio.create_task(_keep_word(connection))
        except psycopg.OperationalError as error:
            raise DatabaseUnavailable(f"the database failed: {str(error).strip()}") from error
        finally:
            if self._connection is not connection:
                await connection.close()
        return self._connection is connection

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        word, self._word = self._word, None
        try:
            if word is not None:
                await cancel_and_wait(word)
        finally:
            if connection is not None:
                await connection.close()


async def _keep_word(connection: Connection) -> None:
    """Where it fails, `hold` finds out."""
    with contextlib.suppress(psycopg.OperationalError):
        while True:
            await asyncio.sleep(_WORD_SECONDS)
            await connection.execute("SELECT 1")
