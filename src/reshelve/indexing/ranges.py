"""The backfill: what was there before an index was registered, divided into ranges and taken in one by one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from psycopg import sql

from reshelve.backends import Backends
from reshelve.crash_points import crash_point
from reshelve.database.catalog import live_indexes
from reshelve.database.pools import Connection
from reshelve.domain.indexes import Index
from reshelve.errors import EmbeddingInvalid, EmbeddingRefused
from reshelve.indexing.feeding import texts_are_to_blame
from reshelve.indexing.leases import RangeLease, acknowledge_range, claim_range, held, taken
from reshelve.indexing.outbox import enqueue
from reshelve.indexing.spending import account
from reshelve.indexing.token_rows import token_rows
from reshelve.indexing.vectors import ChunkText, prepare
from reshelve.indexing.writing import write_entries
from reshelve.stores import lexical, tokens

CutDocuments = Callable[[Connection, RangeLease], Awaitable[int]]
"""Cuts the documents of a range for the index's chunking, inside the transaction; returns chunks made."""
_RANGES_A_TRANSACTION = 50


async def enumerate_some(connection: Connection, index: Index, *, rows: int) -> bool:
    """Divide some more of what is there; cursor and ranges commit together. Returns False when all is divided."""
    more = False
    async with connection.transaction():
        for kind in ("documents", "chunks"):
            for _ in range(_RANGES_A_TRANSACTION):
                if not await _next_range(connection, index, kind, rows=rows):
                    break
            else:
                more = True
    return more


async def _next_range(connection: Connection, index: Index, kind: str, *, rows: int) -> bool:
    source = (
        "SELECT id FROM documents WHERE collection_id = %(collection)s AND id > i.next_document"
        if kind == "documents"
        else "SELECT id FROM chunks WHERE chunking_id = %(chunking)s AND id > i.next_chunk"
    )
    cursor = await connection.execute(
        sql.SQL(
            """
            WITH i AS (SELECT coalesce(next_document, 9223372036854775807) AS next_document,
                              coalesce(next_chunk, 9223372036854775807) AS next_chunk FROM indexes WHERE id = %(index)s)
            SELECT min(id), max(id), count(*) FROM (
                SELECT s.id FROM i, LATERAL ({source} ORDER BY id LIMIT %(rows)s) s
            ) span
            """
        ).format(source=sql.SQL(source)),
        {"index": index.id, "collection": index.collection_id, "chunking": index.chunking_id, "rows": rows},
    )
    row = await cursor.fetchone()
    column = sql.Identifier("next_document" if kind == "documents" else "next_chunk")
    update = sql.SQL("UPDATE indexes SET {} = %s WHERE id = %s").format(column)
    if row is None or not row[2]:
        await connection.execute(update, (None, index.id))
        return False
    await connection.execute(update, (row[1], index.id))
    crash_point("enumerate.after_cursor")
    await connection.execute(
        "INSERT INTO backfill_ranges (index_id, kind, lo, hi, rows) VALUES (%s, %s, %s, %s, %s)",
        (index.id, kind, row[0], row[1], row[2]),
    )
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Rows of all ranges, and of those that are done. Documents to cut and chunks to embed both count as rows."""

    rows: int
    done: int

    @property
    def left(self) -> int:
        return self.rows - self.done


async def progress(connection: Connection, index_id: int) -> Progress:
    cursor = await connection.execute(
        "SELECT coalesce(sum(rows), 0), coalesce(sum(rows) FILTER (WHERE done_at IS NOT NULL), 0) "
        "FROM backfill_ranges WHERE index_id = %s",
        (index_id,),
    )
    row = await cursor.fetchone()
    assert row is not None
    return Progress(rows=int(row[0]), done=int(row[1]))


async def fill_one_range(
    backends: Backends, index: Index, *, cut_documents: CutDocuments, most: int | None = None
) -> int | None:
    """Lease a range, of at most `most` rows, and take it in, at `backends.pace`.

    Returns its rows, or None when there is none to take.
    """
    seconds = backends.settings.migration.lease_seconds

    async def claim(connection: Connection) -> RangeLease | None:
        return await claim_range(connection, index, seconds=seconds, most=most)

    lease = await taken(backends.database, "backfill_ranges", claim)
    if lease is None:
        return None
    async with held(backends.database, "backfill_ranges", lease.epoch, seconds=seconds):
        if lease.kind == "documents":
            async with (
                backends.pace.working(),
                backends.database.service() as connection,
                connection.transaction(),
            ):
                await cut_documents(connection, lease)
                await acknowledge_range(connection, lease)
        else:
            await _fill_chunks(backends, index, lease)
    return lease.rows


async def _fill_chunks(backends: Backends, index: Index, lease: RangeLease) -> None:
    async with backends.pace.working(), backends.database.service() as connection:
        reused = await _copy_from_siblings(backends, connection, index, lease)
        chunks = await _absent_chunks(connection, index, lease, backends.stores.of(index).holdings(index))
        tokenless = await _absent_chunks(connection, index, lease, tokens.holdings(index)) if index.has_tokens else []
    crash_point("apply.after_read")
    try:
        prepared = await prepare(backends, index, chunks, pace=backends.pace)
        rows = await token_rows(backends, index, tokenless, pace=backends.pace)
    except (EmbeddingRefused, EmbeddingInvalid) as error:
        if not await texts_are_to_blame(backends, index, error, attempts=lease.attempts):
            raise
        await _hand_to_queue(
            backends, index, lease, list({chunk.id: chunk for chunk in (*chunks, *tokenless)}.values())
        )
        return

    async def acknowledge(connection: Connection) -> None:
        await lexical.add_range(connection, index, lo=lease.lo, hi=lease.hi)
        await tokens.write(connection, index, rows)
        await acknowledge_range(connection, lease)
        await account(
            connection,
            index,
            embedded=prepared.embedded,
            reused=reused + len(chunks) - prepared.embedded,
            tokens=prepared.tokens,
        )

    async with backends.pace.working():
        await write_entries(backends, index, prepared, acknowledge)


async def _hand_to_queue(backends: Backends, index: Index, lease: RangeLease, chunks: list[ChunkText]) -> None:
    """One of the texts will not do. The queue finds out which, and takes the others in."""
    async with backends.database.service() as connection, connection.transaction():
        await enqueue(connection, index, [chunk.id for chunk in chunks])
        await lexical.add_range(connection, index, lo=lease.lo, hi=lease.hi)
        await acknowledge_range(connection, lease)


async def _absent_chunks(
    connection: Connection, index: Index, lease: RangeLease, holdings: sql.Composed
) -> list[ChunkText]:
    """Those of the range that are not among the holdings."""
    cursor = await connection.execute(
        sql.SQL(
            # The bounds stand on both sides: the planner does not carry them over, and would read all that is held.
            "SELECT c.id, c.content_hash, c.content FROM chunks c "
            "LEFT JOIN {} h ON h.chunk_id = c.id AND h.chunk_id BETWEEN %(lo)s AND %(hi)s "
            "WHERE c.chunking_id = %(chunking)s AND c.id BETWEEN %(lo)s AND %(hi)s AND h.chunk_id IS NULL ORDER BY c.id"
        ).format(holdings),
        {"chunking": index.chunking_id, "lo": lease.lo, "hi": lease.hi},
    )
    return list(map(ChunkText._make, await cursor.fetchall()))


async def _copy_from_siblings(backends: Backends, connection: Connection, index: Index, lease: RangeLease) -> int:
    """A change of HNSW parameters alone embeds nothing: the same chunks have the same vectors in another table."""
    copied = 0
    for other in await live_indexes(connection, index.collection_id):
        if other.id == index.id or other.chunking_id != index.chunking_id:
            continue
        if index.has_tokens and other.token_space == index.token_space:
            await tokens.copy_range(connection, index, other, lo=lease.lo, hi=lease.hi)
        same = other.model.fingerprint == index.model.fingerprint
        if same and other.backend == index.backend == "pgvector":
            cursor = await connection.execute(
                sql.SQL(
                    "INSERT INTO {} (chunk_id, content_hash, embedding, checksum) "
                    "SELECT e.chunk_id, e.content_hash, e.embedding, e.checksum FROM {} e "
                    "JOIN chunks c ON c.id = e.chunk_id AND c.id BETWEEN %(lo)s AND %(hi)s "
                    "WHERE e.chunk_id BETWEEN %(lo)s AND %(hi)s ON CONFLICT (chunk_id) DO NOTHING"
                ).format(sql.Identifier("reshelve", index.table), sql.Identifier("reshelve", other.table)),
                {"lo": lease.lo, "hi": lease.hi},
            )
            copied += cursor.rowcount
    return copied
