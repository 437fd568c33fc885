"""Leases: who works on what, until when. A result counts only while the lease is still one's own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import psycopg

from reshelve.crash_points import crash_point
from reshelve.database.pools import Connection, Database
from reshelve.domain.indexes import Index
from reshelve.errors import LeaseLost, ReshelveError
from reshelve.tasks import cancel_and_wait

_TOO_FAR = 2
"""A lease that ends later than so many of its lengths from now was given before the clock was put back: it is over."""
LeasedTable = Literal["index_queue", "backfill_ranges"]


@dataclass(frozen=True, slots=True)
class QueueItem:
    id: int
    chunk_id: int | None
    kind: str
    attempts: int


@dataclass(frozen=True, slots=True)
class QueueLease:
    epoch: int
    items: list[QueueItem]


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeLease:
    """`kind` is `chunks` (embed them) or `documents` (cut them)."""

    epoch: int
    id: int
    kind: str
    lo: int
    hi: int
    rows: int
    attempts: int


_Lease = TypeVar("_Lease", QueueLease, RangeLease)


async def claim_queue(connection: Connection, index: Index, *, limit: int, seconds: float) -> QueueLease | None:
    async with connection.transaction():
        cursor = await connection.execute(
            """
            WITH lease AS (SELECT nextval('leases') AS epoch), picked AS (
                SELECT id FROM index_queue
                WHERE index_id = %(index)s AND refusal IS NULL
                  AND (leased_until IS NULL
                       OR leased_until NOT BETWEEN now() AND now() + make_interval(secs => %(far)s))
                ORDER BY id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
            )
            UPDATE index_queue q
            SET lease = lease.epoch, leased_until = now() + make_interval(secs => %(seconds)s), attempts = attempts + 1
            FROM picked, lease WHERE q.id = picked.id
            RETURNING lease.epoch, q.id, q.chunk_id, q.kind, q.attempts
            """,
            {"index": index.id, "limit": limit, "seconds": seconds, "far": seconds * _TOO_FAR},
        )
        rows = await cursor.fetchall()
        crash_point("claim.before_commit")
    if not rows:
        return None
    return QueueLease(rows[0][0], sorted((QueueItem(*row[1:]) for row in rows), key=lambda item: item.id))


async def claim_range(
    connection: Connection, index: Index, *, seconds: float, most: int | None = None
) -> RangeLease | None:
    """Documents come before chunks: what they are cut into is fed by the outbox. A range over `most` is divided."""
    async with connection.transaction():
        cursor = await connection.execute(
            """
            UPDATE backfill_ranges
            SET lease = nextval('leases'), leased_until = now() + make_interval(secs => %s), attempts = attempts + 1
            WHERE id = (
                SELECT id FROM backfill_ranges
                WHERE index_id = %s AND done_at IS NULL
                  AND (leased_until IS NULL OR leased_until NOT BETWEEN now() AND now() + make_interval(secs => %s))
                ORDER BY kind DESC, id LIMIT 1 FOR UPDATE SKIP LOCKED
            )
            RETURNING lease, id, kind, lo, hi, rows, attempts
            """,
            (seconds, index.id, seconds * _TOO_FAR),
        )
        row = await cursor.fetchone()
        if row is None:
            return None
        lease = RangeLease(epoch=row[0], id=row[1], kind=row[2], lo=row[3], hi=row[4], rows=row[5], attempts=row[6])
        if most is not None and lease.rows > most:
            lease = await _divided(connection, index, lease, most)
        crash_point("claim.before_commit")
    return lease


async def _divided(connection: Connection, index: Index, lease: RangeLease, most: int) -> RangeLease:
    """Keep the first `most` rows of the range, and leave the others as a range of their own."""
    cursor = await connection.execute(
        "SELECT max(id) FROM (SELECT id FROM chunks WHERE %(kind)s = 'chunks' AND chunking_id = %(chunking)s "
        "AND id BETWEEN %(lo)s AND %(hi)s UNION ALL SELECT id FROM documents WHERE %(kind)s = 'documents' "
        "AND collection_id = %(collection)s AND id BETWEEN %(lo)s AND %(hi)s ORDER BY id LIMIT %(most)s) first",
        {
            "kind": lease.kind,
            "chunking": index.chunking_id,
            "collection": index.collection_id,
            "lo": lease.lo,
            "hi": lease.hi,
            "most": most,
        },
    )
    row = await cursor.fetchone()
    if row is None or row[0] is None or row[0] >= lease.hi:
        return lease
    await connection.execute("UPDATE backfill_ranges SET hi = %s, rows = %s WHERE id = %s", (row[0], most, lease.id))
    await connection.execute(
        "INSERT INTO backfill_ranges (index_id, kind, lo, hi, rows) VALUES (%s, %s, %s, %s, %s)",
        (index.id, lease.kind, row[0] + 1, lease.hi, lease.rows - most),
    )
    return replace(lease, hi=row[0], rows=most)


async def acknowledge_queue(connection: Connection, epoch: int, ids: list[int]) -> None:
    cursor = await connection.execute("DELETE FROM index_queue WHERE id = ANY(%s) AND lease = %s", (ids, epoch))
    if cursor.rowcount != len(ids):
        raise LeaseLost(f"{len(ids) - cursor.rowcount} of {len(ids)} changes are somebody else's now")


async def acknowledge_range(connection: Connection, lease: RangeLease) -> None:
    cursor = await connection.execute(
        "UPDATE backfill_ranges SET done_at = now(), lease = NULL WHERE id = %s AND lease = %s", (lease.id, lease.epoch)
    )
    if cursor.rowcount != 1:
        raise LeaseLost(f"range {lease.lo}..{lease.hi} is somebody else's now")


async def give_back(connection: Connection, table: LeasedTable, epoch: int) -> None:
    """Somebody else may take it at once."""
    if table == "index_queue":
        await connection.execute("UPDATE index_queue SET lease = NULL, leased_until = NULL WHERE lease = %s", (epoch,))
    else:
        await connection.execute(
            "UPDATE backfill_ranges SET lease = NULL, leased_until = NULL WHERE lease = %s", (epoch,)
        )


async def taken(
    database: Database, table: LeasedTable, claim: Callable[[Connection], Awaitable[_Lease | None]]
) -> _Lease | None:
    """What `claim` takes. A cancellation that meets the claim waits for it, and gives the lease back."""

    async def take() -> _Lease | None:
        async with database.service() as connection:
            return await claim(connection)

    claiming = asyncio.create_task(take())
    try:
        return await asyncio.shield(claiming)
    except asyncio.CancelledError:
        # Where even this fails, the lease runs out by itself.
        with contextlib.suppress(ReshelveError, psycopg.Error):
            lease = await claiming
            if lease is not None:
                async with database.service() as connection:
                    await give_back(connection, table, lease.epoch)
        raise


@asynccontextmanager
async def held(database: Database, table: LeasedTable, epoch: int, *, seconds: float) -> AsyncGenerator[None]:
    """Renew the lease while the block runs, and give it back if the block fails.

    Raises LeaseLost where the index was dropped meanwhile.
    """
    renewal = asyncio.create_task(_renew(database, table, epoch, seconds))
    try:
        yield
    except psycopg.errors.UndefinedTable as error:
        raise LeaseLost("the index was dropped meanwhile") from error
    except BaseException:
        # Where even this fails, the lease runs out by itself.
        with contextlib.suppress(ReshelveError, psycopg.Error):
            async with database.service() as connection:
                await give_back(connection, table, epoch)
        raise
    finally:
        await cancel_and_wait(renewal)


async def _renew(database: Database, table: LeasedTable, epoch: int, seconds: float) -> None:
    statement = (
        "UPDATE index_queue SET leased_until = now() + make_interval(secs => %s) WHERE lease = %s"
        if table == "index_queue"
        else "UPDATE backfill_ranges SET leased_until = now() + make_interval(secs => %s) WHERE lease = %s"
    )
    while True:
        await asyncio.sleep(seconds / 3)
        # A renewal that fails is tried again; if the lease runs out meanwhile, the acknowledgement notices.
        with contextlib.suppress(ReshelveError, psycopg.Error):
            async with database.service() as connection:
                await connection.execute(statement, (seconds, epoch))
