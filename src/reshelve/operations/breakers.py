"""The circuit breakers of this process, one an index, and what PostgreSQL knows of those of all processes."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from reshelve.database.pools import Connection, Database
from reshelve.domain.breaker import Breaker, BreakerLimits, BreakerState
from reshelve.operations.repeating import Repeating
from reshelve.settings import CircuitBreakerSettings

_FLUSH_SECONDS = 1.0
_SEEN_SECONDS = 5.0
_GONE_SECONDS = 15.0
"""A process that has not been heard of for so long is not there any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerRow:
    """One process's breaker, as it said last."""

    process: str
    index_id: int
    state: BreakerState
    failures: int
    reason: str | None
    changed_at: datetime
    seen_at: datetime


class Breakers:
    """Asked at every search of a candidate: no method waits. `start` begins to tell the other processes."""

    def __init__(
        self, database: Database, settings: CircuitBreakerSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._clock = clock
        self._limits = BreakerLimits(
            failures=settings.failures, open_seconds=settings.open_seconds, trials=settings.trials
        )
        self._breakers: dict[int, Breaker] = {}
        self._told: dict[int, Breaker] = {}
        self._told_at = 0.0
        self._process = f"{socket.gethostname()}:{os.getpid()}"
        self._telling = Repeating("telling of the circuit breakers", self.flush, seconds=_FLUSH_SECONDS)

    def allows(self, index_id: int) -> bool:
        """May this search go to the index? If so, it ends in `succeeded`, `failed` or `released`."""
        after = self._breaker(index_id).allowed(self._clock())
        if after is None:
            return False
        self._breakers[index_id] = after
        return True

    def closed(self, index_id: int) -> bool:
        """Nothing speaks against searches that are not needed."""
        return self._breaker(index_id).state is BreakerState.CLOSED

    def succeeded(self, index_id: int) -> None:
        self._breakers[index_id] = self._breaker(index_id).succeeded(self._clock())

    def failed(self, index_id: int, reason: str) -> None:
        self._breakers[index_id] = self._breaker(index_id).failed(self._clock(), reason)

    def released(self, index_id: int) -> None:
        self._breakers[index_id] = self._breaker(index_id).released(self._clock())

    def states(self) -> dict[int, Breaker]:
        """By index, as they are now."""
        return {index_id: self._breaker(index_id) for index_id in self._breakers}

    def _breaker(self, index_id: int) -> Breaker:
        now = self._clock()
        found = self._breakers.get(index_id)
        return Breaker(limits=self._limits, changed_at=now) if found is None else found.at(now)

    def start(self) -> None:
        self._telling.start()

    async def stop(self) -> None:
        await self._telling.stop()

    async def flush(self) -> None:
        """Tell the other processes what changed, and now and then that this one is still there."""
        states, now = self.states(), self._clock()
        if not states or (states == self._told and now - self._told_at < _SEEN_SECONDS):
            return
        rows = [
            (index_id, each.state.value, each.failures, each.reason, now - each.changed_at)
            for index_id, each in sorted(states.items())
        ]
        async with self._database.service() as connection:
            await _write(connection, self._process, rows)
        self._told, self._told_at = states, now


async def _write(connection: Connection, process: str, rows: list[tuple[int, str, int, str | None, float]]) -> None:
    async with connection.transaction():
        await connection.execute(
            """
            INSERT INTO circuit_breakers (process, index_id, state, failures, reason, changed_at, seen_at)
            SELECT %s, n.index_id, n.state, n.failures, n.reason,
                   statement_timestamp() - make_interval(secs => n.age), statement_timestamp()
            FROM unnest(%s::int[], %s::text[], %s::int[], %s::text[], %s::float8[])
                 AS n (index_id, state, failures, reason, age)
            JOIN indexes i ON i.id = n.index_id
            ON CONFLICT (process, index_id) DO UPDATE
                SET state = EXCLUDED.state, failures = EXCLUDED.failures, reason = EXCLUDED.reason,
                    changed_at = EXCLUDED.changed_at, seen_at = EXCLUDED.seen_at
            """,
            (process, *(list(column) for column in zip(*rows, strict=True))),
        )
        await connection.execute("DELETE FROM circuit_breakers WHERE seen_at < now() - interval '1 day'")


async def read_breakers(connection: Connection, *, index_id: int | None = None) -> list[BreakerRow]:
    """Those of the processes that are there, of one index or of all."""
    cursor = await connection.execute(
        """
        SELECT process, index_id, state, failures, reason, changed_at, seen_at FROM circuit_breakers
        WHERE seen_at > clock_timestamp() - make_interval(secs => %s) AND (%s::int IS NULL OR index_id = %s)
        ORDER BY index_id, process
        """,
        (_GONE_SECONDS, index_id, index_id),
    )
    return [
        BreakerRow(
            process=row[0],
            index_id=row[1],
            state=BreakerState(row[2]),
            failures=row[3],
            reason=row[4],
            changed_at=row[5],
            seen_at=row[6],
        )
        for row in await cursor.fetchall()
    ]
