"""The words of an index, in PostgreSQL, whatever store holds the vectors. They are searched in `word_search`,
and checked in `word_checks`.

Indexes of one chunking and one language share their words, in three tables:

- passages: one row a chunk whose words are there, with a checksum of them.
- postings: rows of (word, records), the records packed: many passages a row. A word's key is the hash of its stem,
  seeded by the tenant's name: nobody reads another tenant's. Every batch of writes appends rows of its own, so that
  writers never wait for each other, and `fold` makes few large rows out of many small ones.
- totals: how many passages a tenant has, and how long they are together: rows that are summed up, folded too.

A chunk's words are written in the transaction that writes its vector. When a chunk goes, its passage goes; its postings
are left behind, shown to nobody, until they are folded. Stems and stop words are PostgreSQL's own.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import LiteralString

import numpy as np
from numpy.typing import NDArray
from psycopg import AsyncServerCursor, sql

from reshelve.database import arrays
from reshelve.domain.bm25 import POSTING, Postings
from reshelve.domain.indexes import Index
from reshelve.stores.protocol import Connection

_ROWS_A_TIER = 16
"""Of so many rows of one word and about one size one is made, sixteen times the size."""
_FOLD_LOCK = 0x7265_7366
_WORDS_AT_ONCE = 500
_ROWS_AT_ONCE = 10_000


def table_names(index: Index) -> list[str]:
    return [f"lexical_{kind}_{index.chunking_id}_{index.language}" for kind in ("postings", "passages", "totals")]


def filled(statement: LiteralString, index: Index, **more: sql.Composable) -> sql.Composed:
    """The statement on this index's tables, in its language."""
    postings, passages, totals = (sql.Identifier("reshelve", name) for name in table_names(index))
    return sql.SQL(statement).format(
        postings=postings,
        passages=passages,
        totals=totals,
        configuration=sql.Literal(f"pg_catalog.{index.language}"),
        chunking=sql.Literal(index.chunking_id),
        **more,
    )


async def create(connection: Connection, index: Index) -> None:
    """Make room. The connection is the owner's. Idempotent."""
    if not index.has_words:
        return
    name, _, _ = table_names(index)
    await connection.execute(
        filled(
            """
            CREATE TABLE IF NOT EXISTS {passages} (
                chunk_id bigint PRIMARY KEY, tenant bigint NOT NULL, length smallint NOT NULL, checksum bigint NOT NULL
            );
            CREATE TABLE IF NOT EXISTS {postings} (
                id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                word bigint NOT NULL, tier smallint NOT NULL, records bytea NOT NULL
            );
            -- Compressed they would be read more slowly.
            ALTER TABLE {postings} ALTER COLUMN records SET STORAGE EXTERNAL;
            CREATE INDEX IF NOT EXISTS {by_word} ON {postings} (word, tier);
            CREATE TABLE IF NOT EXISTS {totals} (
                tenant bigint NOT NULL, passages bigint NOT NULL, length bigint NOT NULL
            );
            CREATE INDEX IF NOT EXISTS {by_tenant} ON {totals} (tenant);
            DO $$ BEGIN
                IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'reshelve_service') THEN
                    GRANT SELECT, INSERT, UPDATE, DELETE ON {postings}, {passages}, {totals} TO reshelve_service;
                END IF;
            END $$
            """,
            index,
            by_word=sql.Identifier(f"{name}_by_word"),
            by_tenant=sql.Identifier(f"{name}_by_tenant"),
        )
    )


async def drop(connection: Connection, index: Index) -> None:
    """The caller knows that no other index shares them."""
    if index.has_words:
        await connection.execute(filled("DROP TABLE IF EXISTS {postings}, {passages}, {totals}", index))


# The words of some chunks: key, chunk, tenant, how often. A chunk of nothing but stop words has one row without a key.
CUT: LiteralString = """
    SELECT c.id AS chunk_id, hashtextextended(d.tenant, 0) AS tenant,
           least(coalesce(cardinality(v.positions), 0), 32767)::smallint AS frequency,
           hashtextextended(v.lexeme, hashtextextended(d.tenant, 0)) AS word
    FROM chunks c JOIN documents d ON d.id = c.document_id
    LEFT JOIN LATERAL unnest(to_tsvector({configuration}::regconfig, c.content)) v ON true
    WHERE c.chunking_id = {chunking} AND {chosen}
"""
SUMS = sql.SQL(
    "least(coalesce(sum(frequency), 0), 32767)::smallint AS length, "
    "coalesce(sum(((word >> 24) & 1073741823) * frequency), 0)::bigint AS checksum"
)
_ADD: LiteralString = (
    "WITH cut AS MATERIALIZED ("
    + CUT
    + """
        AND NOT EXISTS (SELECT FROM {passages} p WHERE p.chunk_id = c.id)
    ), fresh AS (
        INSERT INTO {passages} (chunk_id, tenant, length, checksum)
        SELECT chunk_id, tenant, {sums} FROM cut
        GROUP BY chunk_id, tenant ORDER BY chunk_id
        ON CONFLICT DO NOTHING RETURNING chunk_id, tenant, length
    ), counted AS (
        INSERT INTO {totals} (tenant, passages, length) SELECT tenant, count(*), sum(length) FROM fresh GROUP BY tenant
    )
    INSERT INTO {postings} (word, tier, records)
    SELECT word, (ln(count(*)) / ln(16))::integer,
           string_agg(int8send(chunk_id) || int2send(frequency) || int2send(length), ''::bytea ORDER BY chunk_id)
    FROM cut JOIN fresh USING (chunk_id) WHERE word IS NOT NULL GROUP BY word
    """
)
_REMOVE: LiteralString = """
    WITH locked AS (
        SELECT p.chunk_id FROM {passages} p WHERE {chosen} ORDER BY p.chunk_id FOR UPDATE
    ), gone AS (
        DELETE FROM {passages} p USING locked WHERE p.chunk_id = locked.chunk_id RETURNING p.tenant, p.length
    )
    INSERT INTO {totals} (tenant, passages, length) SELECT tenant, -count(*), -sum(length) FROM gone GROUP BY tenant
"""


async def add(connection: Connection, index: Index, chunk_ids: Sequence[int]) -> None:
    """The words of those chunks that live and are not there yet."""
    if index.has_words and chunk_ids:
        await connection.execute(filled(_ADD, index, chosen=sql.SQL("c.id = ANY(%s)"), sums=SUMS), [list(chunk_ids)])


async def add_range(connection: Connection, index: Index, *, lo: int, hi: int) -> None:
    """The same for every chunk whose id is from `lo` to `hi`."""
    if index.has_words:
        await connection.execute(filled(_ADD, index, chosen=sql.SQL("c.id BETWEEN %s AND %s"), sums=SUMS), [lo, hi])


async def remove_dead(connection: Connection, index: Index, chunk_ids: Sequence[int]) -> None:
    """Those of the chunks that live no more: other indexes may share the words of those that do."""
    if index.has_words:
        chosen = sql.SQL("p.chunk_id = ANY(%s) AND NOT EXISTS (SELECT FROM chunks c WHERE c.id = p.chunk_id)")
        await connection.execute(filled(_REMOVE, index, chosen=chosen), [list(chunk_ids)])


async def replace(connection: Connection, index: Index, chunk_ids: Sequence[int]) -> None:
    """Whatever is there of those chunks goes, and their words are written anew.

    Inside a transaction. Reads all the postings there are.
    """
    if not index.has_words:
        return
    await connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (_FOLD_LOCK, index.chunking_id))
    # Whoever writes words of these chunks now is waited for, or waits: theirs would be stripped, and not written again.
    await add(connection, index, chunk_ids)
    await connection.execute(filled(_REMOVE, index, chosen=sql.SQL("p.chunk_id = ANY(%s)")), [list(chunk_ids)])
    doomed = np.array(chunk_ids, np.int64)
    async with connection.cursor("postings", binary=True) as cursor:
        await cursor.execute(filled("SELECT id, records FROM {postings}", index))
        await _strip(connection, index, cursor, lambda chunks: np.isin(chunks, doomed))
    await add(connection, index, chunk_ids)


async def clear(connection: Connection, index: Index) -> None:
    """Take away the postings of chunks that are gone. Inside a transaction. Reads all the postings there are.

    Folding meets only words that many changes had.
    """
    if not index.has_words:
        return
    await connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (_FOLD_LOCK, index.chunking_id))
    async with connection.cursor("postings", binary=True) as cursor:
        await cursor.execute(filled("SELECT id, records FROM {postings}", index))
        # Read after the postings' snapshot was taken: whatever lived then and is not here is gone.
        living = await _living(connection, index)
        await _strip(connection, index, cursor, lambda chunks: ~np.isin(chunks, living))


async def _living(connection: Connection, index: Index) -> NDArray[np.int64]:
    found = [np.empty(0, np.int64)]
    async with connection.cursor("living", binary=True) as cursor:
        await cursor.execute(filled("SELECT chunk_id FROM {passages}", index))
        while rows := await cursor.fetchmany(_ROWS_AT_ONCE):
            found.append(np.array(rows, np.int64)[:, 0])
    return np.concatenate(found)


async def _strip(
    connection: Connection,
    index: Index,
    rows: AsyncServerCursor[tuple[int, bytes]],
    dead: Callable[[NDArray[np.int64]], NDArray[np.bool_]],
) -> None:
    """Take the dead out of the rows of postings. The fold's lock is held: nobody else changes them."""
    while some := await rows.fetchmany(_ROWS_AT_ONCE):
        changed = await asyncio.to_thread(_without, some, dead)
        empty = [row_id for row_id, records in changed if not records]
        left = [(row_id, records) for row_id, records in changed if records]
        if empty:
            await connection.execute(filled("DELETE FROM {postings} WHERE id = ANY(%s)", index), [empty])
        if left:
            statement = (
                "UPDATE {postings} p SET records = s.records FROM unnest(%s::bigint[], %s::bytea[]) s (id, records) "
                "WHERE p.id = s.id"
            )
            await connection.execute(filled(statement, index), [*map(list, zip(*left, strict=True))])


def _without(
    rows: Sequence[tuple[int, bytes]], dead: Callable[[NDArray[np.int64]], NDArray[np.bool_]]
) -> list[tuple[int, bytes]]:
    """The rows that have dead ones, without those."""
    postings = np.frombuffer(b"".join(records for _, records in rows), POSTING)
    kept = ~dead(postings["chunk"].astype(np.int64))
    starts = np.cumsum([0, *(len(records) // POSTING.itemsize for _, records in rows)])
    return [
        (row_id, postings[start:end][kept[start:end]].tobytes())
        for (row_id, _), start, end in zip(rows, starts[:-1], starts[1:], strict=True)
        if not kept[start:end].all()
    ]


def holdings(index: Index) -> sql.Composed:
    """A relation (chunk_id, content_hash), the hash NULL, of the chunks whose words are there."""
    return filled("(SELECT chunk_id, NULL::uuid AS content_hash FROM {passages})", index)


async def recount(connection: Connection, index: Index) -> int:
    """Set the totals right. Returns for how many tenants they were wrong.

    A passage and its tenant's total change together, so one statement sees both as of one instant, whoever writes.
    """
    if not index.has_words:
        return 0
    async with connection.transaction():
        # Two at once would both add what is missing.
        await connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (_FOLD_LOCK, index.chunking_id))
        cursor = await connection.execute(filled(_RECOUNT, index))
    return cursor.rowcount


_RECOUNT: LiteralString = """
    INSERT INTO {totals} (tenant, passages, length)
    SELECT tenant, sum(passages), sum(length) FROM (
        SELECT tenant, count(*) AS passages, sum(length) AS length FROM {passages} GROUP BY tenant
        UNION ALL SELECT tenant, -sum(passages), -sum(length) FROM {totals} GROUP BY tenant
    ) both_sides GROUP BY tenant HAVING sum(passages) <> 0 OR sum(length) <> 0
"""


async def fold(connection: Connection, index: Index) -> None:
    """Make one row out of many of a size, without the chunks that are gone. In transactions of its own.

    Whoever comes while another is at it goes away.
    """
    if not index.has_words:
        return
    cursor = await connection.execute(filled(_MANY, index), [_ROWS_A_TIER])
    many = [row[0] for row in await cursor.fetchall()]
    for start in range(0, len(many), _WORDS_AT_ONCE):
        async with connection.transaction():
            cursor = await connection.execute(
                "SELECT pg_try_advisory_xact_lock(%s, %s)", (_FOLD_LOCK, index.chunking_id)
            )
            row = await cursor.fetchone()
            if row is None or not row[0]:
                return
            await _fold_postings(connection, index, many[start : start + _WORDS_AT_ONCE])
    await connection.execute(filled(_FOLD_TOTALS, index), [_ROWS_A_TIER])


_MANY: LiteralString = "SELECT DISTINCT word FROM {postings} GROUP BY word, tier HAVING count(*) >= %s"
_TAKE_OUT: LiteralString = """
    DELETE FROM {postings} p USING (
        SELECT word, tier FROM {postings} WHERE word = ANY(%s) GROUP BY word, tier HAVING count(*) >= %s
    ) many WHERE p.word = many.word AND p.tier = many.tier RETURNING p.word, p.records
"""
_FOLD_TOTALS: LiteralString = """
    WITH gone AS (
        DELETE FROM {totals} WHERE tenant IN (SELECT tenant FROM {totals} GROUP BY tenant HAVING count(*) > %s)
        RETURNING tenant, passages, length
    )
    INSERT INTO {totals} SELECT tenant, sum(passages), sum(length) FROM gone GROUP BY tenant
"""


async def _fold_postings(connection: Connection, index: Index, words: Sequence[int]) -> None:
    cursor = await connection.execute(filled(_TAKE_OUT, index), [list(words), _ROWS_A_TIER], binary=True)
    taken = await cursor.fetchall()
    if not taken:
        return
    of_words, postings, met = await asyncio.to_thread(_joined, taken)
    dead = await gone(connection, index, met)
    rows = await asyncio.to_thread(_rows_of_living, of_words, postings, dead)
    async with connection.cursor() as writing:
        await writing.executemany(
            filled("INSERT INTO {postings} (word, tier, records) VALUES (%s, %s, %b)", index), rows
        )


async def gone(connection: Connection, index: Index, chunk_ids: NDArray[np.int64]) -> list[int]:
    """Those of the chunks whose words are not there any more."""
    statement = filled(
        "SELECT m FROM unnest(%b::bigint[]) m WHERE NOT EXISTS (SELECT FROM {passages} p WHERE p.chunk_id = m)", index
    )
    cursor = await connection.execute(statement, [arrays.bigints(chunk_ids)])
    return [row[0] for row in await cursor.fetchall()]


def _joined(taken: list[tuple[int, bytes]]) -> tuple[NDArray[np.int64], Postings, NDArray[np.int64]]:
    """The word of each posting, the postings, word by word, and the chunks that are met in them."""
    taken.sort(key=itemgetter(0))
    postings = np.frombuffer(b"".join(records for _, records in taken), POSTING)
    sizes = [len(records) // POSTING.itemsize for _, records in taken]
    of_words = np.repeat(np.array([word for word, _ in taken], np.int64), sizes)
    return of_words, postings, np.unique(postings["chunk"].astype(np.int64))


def _rows_of_living(
    of_words: NDArray[np.int64], postings: Postings, dead: Sequence[int]
) -> list[tuple[int, int, bytes]]:
    """(word, tier, records), one row a word."""
    alive = ~np.isin(postings["chunk"].astype(np.int64), dead)
    words, starts = np.unique(of_words[alive], return_index=True)
    pieces = np.split(postings[alive], starts[1:])
    return [(word, _tier(len(piece)), piece.tobytes()) for word, piece in zip(words.tolist(), pieces, strict=False)]


def _tier(postings: int) -> int:
    return round(math.log(postings, _ROWS_A_TIER))


async def tidy(connection: Connection, index: Index) -> None:
    """After many writes. The connection is the owner's, in no transaction."""
    await fold(connection, index)
    if index.has_words:
        for name in table_names(index):
            await connection.execute(sql.SQL("VACUUM (ANALYZE) {}").format(sql.Identifier("reshelve", name)))
