"""Live figures: counted in memory off the request's path, and added to those of all processes once a second.

PostgreSQL keeps them in buckets of ten seconds by its own clock, and of five minutes once they are an hour old. Adding
survives a lost connection without counting anything twice: what became of a COMMIT without an answer is looked up.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

import psycopg
import structlog

from reshelve.database.pools import Connection, Database
from reshelve.domain.figures import bin_of
from reshelve.domain.routes import Arm
from reshelve.errors import DatabaseUnavailable
from reshelve.operations.repeating import Repeating
from reshelve.operations.retention import BUCKET_SECONDS, tidy

_FLUSH_SECONDS = 1.0
_TIDY_SECONDS = 60.0
_MOST_COUNTERS = 50_000
_MOST_QUERIES = 1_000
_log = structlog.get_logger(__name__)


class Place(NamedTuple):
    """Whose figures these are. `tenant` is the route's: "" for everybody without a route of their own."""

    collection_id: int
    tenant: str
    index_id: int
    arm: Arm


_Key = tuple[Place, str, int]
"""Place, name, bin."""


@dataclass(slots=True)
class _Batch:
    """What was counted and not yet written. `xid` is the transaction that may have written it."""

    counts: dict[_Key, tuple[int, float]] = field(default_factory=dict[_Key, tuple[int, float]])
    queries: deque[tuple[int, str, str]] = field(default_factory=lambda: deque(maxlen=_MOST_QUERIES))
    xid: str | None = None

    def add(self, key: _Key, count: int, total: float) -> bool:
        """False where there is no room for another counter."""
        before = self.counts.get(key)
        if before is None and len(self.counts) >= _MOST_COUNTERS:
            return False
        counted, added_up = before or (0, 0.0)
        self.counts[key] = (counted + count, added_up + total)
        return True


class Recorder:
    """Counting never waits and never fails. `start` begins the writing, `stop` ends it with what is left."""

    def __init__(self, database: Database, *, retention_days: float) -> None:
        self._database = database
        self._retention_days = retention_days
        self._batch = _Batch()
        self._sent: _Batch | None = None
        self._dropped = 0
        self._tidied_at = time.monotonic()
        self._mutex = asyncio.Lock()
        self._writing = Repeating("writing the live figures", self._write_and_tidy, seconds=_FLUSH_SECONDS)

    def count(self, place: Place, name: str, *, bin: int = 0, value: float = 0.0) -> None:
        if not self._batch.add((place, name, bin), 1, value):
            self._dropped += 1

    def search(
        self, place: Place, *, milliseconds: float, error: bool = False, similarity: float | None = None
    ) -> None:
        """A live search that this arm answered, or failed to."""
        self.count(place, "request", bin=bin_of(milliseconds), value=milliseconds)
        if error:
            self.count(place, "error")
        if similarity is not None:
            self.count(place, "similarity", value=similarity)

    def shadow(self, place: Place, *, milliseconds: float) -> None:
        """A search that ran beside a live one."""
        self.count(place, "shadow", bin=bin_of(milliseconds), value=milliseconds)

    def remember_query(self, collection_id: int, tenant: str, query: str) -> None:
        """Keep a query for comparisons. Of many in a second, the last thousand."""
        # What PostgreSQL cannot store must not keep the rest from being stored.
        storable = query.replace("\0", "").encode("utf-8", "replace").decode()
        self._batch.queries.append((collection_id, tenant, storable))

    def start(self) -> None:
        self._writing.start()

    async def stop(self) -> None:
        await self._writing.stop()

    async def flush(self) -> None:
        """Write what was counted up to now. Raises DatabaseUnavailable, and then keeps it for the next time."""
        async with self._mutex, self._database.service() as connection:
            if self._sent is not None:
                await self._settle(connection, self._sent)
            if not self._batch.counts and not self._batch.queries:
                return
            sent = self._sent = self._batch
            self._batch = _Batch()
            try:
                async with connection.transaction():
                    sent.xid = await _transaction_id(connection)
                    await _add_figures(connection, sent)
                    await _add_queries(connection, sent)
            except (psycopg.DataError, psycopg.IntegrityError):
                # It would be refused every time, and keep what comes after it from being written.
                self._sent = None
                raise
            self._sent = None

    async def _settle(self, connection: Connection, sent: _Batch) -> None:
        """Find out what became of a batch where that is not known, so that it counts once."""
        if sent.xid is not None:
            row = await (await connection.execute("SELECT pg_xact_status(%s::text::xid8)", (sent.xid,))).fetchone()
            status = row[0] if row else None
            if status == "in progress":
                raise DatabaseUnavailable("an earlier write of live figures is still under way")
            if status != "aborted":
                self._sent = None
                return
        self._sent = None
        for key, (count, total) in sent.counts.items():
            if not self._batch.add(key, count, total):
                self._dropped += count
        self._batch.queries = deque([*sent.queries, *self._batch.queries], maxlen=_MOST_QUERIES)

    async def _write_and_tidy(self) -> None:
        if self._dropped:
            _log.warning("there were too many live figures to keep", dropped=self._dropped)
            self._dropped = 0
        await self.flush()
        if time.monotonic() - self._tidied_at >= _TIDY_SECONDS:
            self._tidied_at = time.monotonic()
            async with self._database.service() as connection:
                await tidy(connection, retention_days=self._retention_days)


async def _transaction_id(connection: Connection) -> str:
    row = await (await connection.execute("SELECT pg_current_xact_id()::text")).fetchone()
    assert row is not None
    return row[0]


async def _add_figures(connection: Connection, batch: _Batch) -> None:
    """A change of the route begins a new bucket: what a step counts is what happened since it began."""
    # In order, so that two processes that add to the same rows never wait for each other in a circle.
    rows = [(*place, name, bin, *entry) for (place, name, bin), entry in sorted(batch.counts.items())]
    if not rows:
        return
    columns = [list(column) for column in zip(*rows, strict=True)]
    columns[3] = [str(arm) for arm in columns[3]]
    await connection.execute(
        """
        INSERT INTO figures AS f (collection_id, tenant, index_id, arm, name, at, seconds, bin, count, total)
        SELECT n.collection_id, n.tenant, n.index_id, n.arm, n.name,
               greatest(date_bin(make_interval(secs => %s), statement_timestamp(), 'epoch'), r.changed_at),
               %s, n.bin, n.count, n.total
        FROM unnest(%s::int[], %s::text[], %s::int[], %s::text[], %s::text[], %s::int[], %s::bigint[], %s::float8[])
             WITH ORDINALITY AS n (collection_id, tenant, index_id, arm, name, bin, count, total, position)
        JOIN indexes i ON i.id = n.index_id AND i.collection_id = n.collection_id
        LEFT JOIN routes r ON r.collection_id = n.collection_id AND r.tenant = n.tenant
                          AND r.changed_at <= statement_timestamp()
        ORDER BY n.position
        ON CONFLICT (collection_id, at, tenant, index_id, arm, name, bin)
            DO UPDATE SET count = f.count + EXCLUDED.count, total = f.total + EXCLUDED.total
        """,
        (BUCKET_SECONDS, BUCKET_SECONDS, *columns),
    )


async def _add_queries(connection: Connection, batch: _Batch) -> None:
    if not batch.queries:
        return
    await connection.execute(
        """
        INSERT INTO recent_queries (collection_id, tenant, query)
        SELECT n.collection_id, n.tenant, n.query
        FROM unnest(%s::int[], %s::text[], %s::text[]) AS n (collection_id, tenant, query)
        JOIN collections c ON c.id = n.collection_id
        """,
        [list(column) for column in zip(*batch.queries, strict=True)],
    )
