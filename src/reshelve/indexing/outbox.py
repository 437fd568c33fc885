"""From the outbox to the queue of every live index, and how far behind each of them is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reshelve.database.pools import Connection
from reshelve.domain.indexes import Index
from reshelve.errors import GateHeld

_TRIGGERS = ("chunks_added", "chunks_removed", "chunks_truncated", "chunks_are_immutable")


async def dispatch(connection: Connection, *, batch: int = 5000) -> int:
    """Hand outbox rows to every live index that has to hear of them; returns how many rows.

    One statement, so one snapshot: a row that is seen without an index was committed before that index, and its
    backfill has it. Rows are taken as they are found, never by a cursor, because their numbers commit out of order.
    """
    cursor = await connection.execute(
        """
        WITH taken AS (
            DELETE FROM outbox WHERE seq IN (SELECT seq FROM outbox ORDER BY seq LIMIT %s FOR UPDATE SKIP LOCKED)
            RETURNING seq, chunking_id, chunk_id, kind, xid, at
        ), handed AS (
            INSERT INTO index_queue (index_id, chunk_id, kind, xid, at)
            SELECT i.id, t.chunk_id, t.kind, t.xid, t.at FROM taken t
            JOIN indexes i ON i.state <> 'dropped' AND (i.chunking_id = t.chunking_id OR t.kind = 'truncated')
            ORDER BY t.seq
        )
        SELECT count(*) FROM taken
        """,
        (batch,),
    )
    row = await cursor.fetchone()
    return row[0] if row else 0


async def enqueue(connection: Connection, index: Index, chunk_ids: Sequence[int]) -> None:
    """Ask for chunks to be taken in (again)."""
    await connection.execute(
        "INSERT INTO index_queue (index_id, chunk_id, kind, xid, at) "
        "SELECT %s, chunk_id, 'added', pg_current_xact_id(), clock_timestamp() FROM unnest(%s::bigint[]) chunk_id",
        (index.id, list(chunk_ids)),
    )


async def snapshot_xmax(connection: Connection) -> int:
    """Every transaction that has written by now has an id below this."""
    row = await (await connection.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")).fetchone()
    assert row is not None
    return row[0]


async def older_than(connection: Connection, xid: int) -> bool:
    """Every transaction below `xid` has ended."""
    row = await (
        await connection.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint >= %s", (xid,))
    ).fetchone()
    return bool(row and row[0])


async def long_transactions(connection: Connection, xid: int) -> list[str]:
    """Who still holds a transaction below `xid` open: for a person who wonders what is being waited for."""
    cursor = await connection.execute(
        """
        SELECT format('pid %%s (%%s, %%s, open since %%s)', pid, usename, coalesce(nullif(application_name, ''), '?'),
                      to_char(xact_start, 'HH24:MI:SS'))
        FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND backend_xid::text::bigint < %s %% 4294967296
        ORDER BY xact_start LIMIT 5
        """,
        (xid,),
    )
    return [row[0] for row in await cursor.fetchall()]


async def pending(connection: Connection, index_id: int, *, below_xid: int | None = None) -> int:
    """Changes that the index has not taken in, of all transactions or of those below one."""
    cursor = await connection.execute(
        """
        SELECT (SELECT count(*) FROM outbox o JOIN indexes i ON i.id = %(index)s
                AND (o.chunking_id = i.chunking_id OR o.kind = 'truncated')
                WHERE %(xid)s::text IS NULL OR o.xid < %(xid)s::text::xid8)
             + (SELECT count(*) FROM index_queue
                WHERE index_id = %(index)s AND refusal IS NULL AND (%(xid)s::text IS NULL OR xid < %(xid)s::text::xid8))
        """,
        {"index": index_id, "xid": None if below_xid is None else str(below_xid)},
    )
    row = await cursor.fetchone()
    return row[0] if row else 0


async def has_pending_of(connection: Connection, index_id: int, *, up_to_xid: int) -> bool:
    """Cheap form of `pending` for a writer who waits: is anything of transactions up to this one still open?"""
    cursor = await connection.execute(
        """
        SELECT EXISTS (SELECT FROM outbox WHERE xid <= %(xid)s::text::xid8)
            OR EXISTS (SELECT FROM index_queue
                       WHERE index_id = %(index)s AND refusal IS NULL AND xid <= %(xid)s::text::xid8)
        """,
        {"index": index_id, "xid": str(up_to_xid)},
    )
    row = await cursor.fetchone()
    return bool(row and row[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """How far an index is behind: changes not taken in, the age of the oldest, and chunks the model refused."""

    changes: int
    seconds: float
    refused: int


async def lag(connection: Connection, index_id: int) -> Lag:
    cursor = await connection.execute(
        """
        SELECT count(*) FILTER (WHERE NOT refused), coalesce(extract(epoch FROM clock_timestamp() - min(at)
               FILTER (WHERE NOT refused)), 0)::float, count(*) FILTER (WHERE refused)
        FROM (
            SELECT at, refusal IS NOT NULL AS refused FROM index_queue WHERE index_id = %(index)s
            UNION ALL
            SELECT o.at, false FROM outbox o JOIN indexes i ON i.id = %(index)s
            WHERE o.chunking_id = i.chunking_id OR o.kind = 'truncated'
        ) waiting
        """,
        {"index": index_id},
    )
    row = await cursor.fetchone()
    assert row is not None
    return Lag(changes=row[0], seconds=max(row[1], 0.0), refused=row[2])


async def require_triggers(connection: Connection) -> None:
    """Without its triggers the outbox misses writes, and nothing can be proven. Raises GateHeld."""
    cursor = await connection.execute(
        """
        SELECT tgname FROM pg_trigger
        WHERE tgrelid = 'reshelve.chunks'::regclass AND NOT tgisinternal AND tgenabled = 'A'
        """
    )
    present = {row[0] for row in await cursor.fetchall()}
    missing = [name for name in _TRIGGERS if name not in present]
    if missing:
        raise GateHeld(
            f"triggers on chunks are missing or not ENABLE ALWAYS: {', '.join(missing)}",
            advice="Writes made without them were not recorded. Enable them (ALTER TABLE reshelve.chunks ENABLE ALWAYS "
            "TRIGGER <name>), then run reshelve verify: it finds and repairs what was missed.",
        )
