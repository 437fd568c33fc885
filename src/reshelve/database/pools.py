"""Connections: a pool for the service's role, one for the schema's owner, and single ones that outlive requests."""

from __future__ import annotations

import asyncio
import select
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import psycopg
from pgvector.psycopg import register_vector_async  # pyright: ignore[reportUnknownVariableType]
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from reshelve.database.arrays import register_arrays
from reshelve.errors import DatabaseUnavailable

Connection = psycopg.AsyncConnection[tuple[Any, ...]]
_Read = TypeVar("_Read")

SCHEMA = "reshelve"
PATIENCE_SECONDS = 20.0
"""For so long a server that is away is waited for: it may be starting again."""
_OPTIONS = "-c hnsw.iterative_scan=strict_order -c application_name=reshelve"


class _LastUsedFirst(deque[Connection]):
    """The server's process behind the connection of a moment ago is still warm (measured: 0.25 ms of a search)."""

    def popleft(self) -> Connection:
        return self.pop()


class Database:
    """An open database. Connections are in autocommit; a transaction is opened where one is meant.

    `vector_schema` is where the server keeps pgvector: not everywhere is it `public`.
    """

    def __init__(
        self,
        *,
        owner: str,
        service: str,
        pool_size: int,
        ef_search: int,
        idle_in_transaction_seconds: float,
        vector_schema: str = "public",
    ) -> None:
        self.owner_address = owner
        self._options = (
            f"{_OPTIONS} -c search_path={SCHEMA},{vector_schema} -c hnsw.ef_search={ef_search} "
            f"-c idle_in_transaction_session_timeout={idle_in_transaction_seconds * 1000:.0f}"
        )
        self._owner = self._pool(owner, size=4)
        self._service = self._pool(service, size=pool_size)
        self._away = False
        self._back_at = float("-inf")

    def _pool(self, address: str, *, size: int) -> AsyncConnectionPool[Connection]:
        pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            address,
            min_size=1,
            max_size=size,
            open=False,
            timeout=PATIENCE_SECONDS,
            max_idle=60,
            kwargs={"autocommit": True, "options": self._options},
            configure=_configure,
            check=self._check,
        )
        pool._pool = _LastUsedFirst()  # pyright: ignore[reportPrivateUsage]
        return pool

    async def _check(self, connection: Connection) -> None:
        if has_ended(connection):
            try:
                await AsyncConnectionPool.check_connection(connection)
            except psycopg.OperationalError:
                self._away = True
                raise

    @property
    def service_pool_size(self) -> int:
        return self._service.max_size

    async def open(self) -> None:
        try:
            await self._owner.open(wait=True)
            await self._service.open(wait=True)
        except PoolTimeout as error:
            await self.close()
            raise DatabaseUnavailable(
                "the database does not answer",
                advice="Check `rag.database.url`, or start the embedded one: reshelve up.",
            ) from error

    async def close(self) -> None:
        await self._service.close()
        await self._owner.close()

    @asynccontextmanager
    async def service(self) -> AsyncGenerator[Connection]:
        """A connection of least privilege: reads and writes rows, changes no table."""
        async with _borrowed(self._service) as connection:
            yield connection

    async def read(self, act: Callable[[Connection], Awaitable[_Read]]) -> _Read:
        """What `act` reads with a connection of the service. Done again where the connection is lost on the way.

        As often as the pool has connections, and twice more: each of them may be one that is about to end.
        """
        for tries_left in reversed(range(self.service_pool_size + 2)):
            async with self.service() as connection:
                try:
                    found = await act(connection)
                except psycopg.OperationalError:
                    self._away = self._away or connection.closed
                    if not tries_left or not connection.closed:
                        raise
                else:
                    if self._away:
                        self._away, self._back_at = False, time.monotonic()
                    return found
        raise AssertionError("the last try returns or raises")

    def was_away(self, *, since: float) -> bool:
        """Reads have met lost connections since then (`time.monotonic()`): what was slow may have waited for them."""
        return self._away or self._back_at >= since

    @asynccontextmanager
    async def owner(self) -> AsyncGenerator[Connection]:
        """A connection that may create and drop tables."""
        async with _borrowed(self._owner) as connection:
            yield connection

    async def dedicated(self) -> Connection:
        """A connection outside the pools, for what lasts longer than a request: locks, index builds."""
        try:
            connection = await psycopg.AsyncConnection.connect(
                self.owner_address, autocommit=True, options=self._options
            )
        except psycopg.OperationalError as error:
            self._away = True
            raise DatabaseUnavailable(f"the database does not answer: {error}") from error
        register_arrays(connection)
        return connection

    @asynccontextmanager
    async def alone(self) -> AsyncGenerator[Connection]:
        """A dedicated connection for the length of the block."""
        connection = await self.dedicated()
        try:
            async with _translated():
                yield connection
        finally:
            await connection.close()


def has_ended(connection: Connection) -> bool:
    """Nothing comes on an idle connection, but for its end: a lost server is seen without a round trip.

    Where it is not idle, this may be wrong.
    """
    if connection.closed:
        return True
    looker = select.poll()
    looker.register(connection.fileno(), select.POLLIN)
    return bool(looker.poll(0))


async def _configure(connection: Connection) -> None:
    await register_vector_async(connection)
    register_arrays(connection)


@asynccontextmanager
async def _borrowed(pool: AsyncConnectionPool[Connection]) -> AsyncGenerator[Connection]:
    async with _translated(), pool.connection() as connection:
        yield connection


@asynccontextmanager
async def _translated() -> AsyncGenerator[None]:
    try:
        yield
    except PoolTimeout as error:
        raise DatabaseUnavailable("no database connection became free in time") from error
    except (psycopg.OperationalError, psycopg.errors.IdleInTransactionSessionTimeout) as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            # The query was cancelled because we were: that must not look like a fault that passes.
            raise asyncio.CancelledError from error
        raise DatabaseUnavailable(f"the database failed: {str(error).strip()}") from error
