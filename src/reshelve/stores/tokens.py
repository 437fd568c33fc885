"""Token vectors beside an index: a row a chunk, packed, in a table of the index's own, whatever store has its vectors.

They are written in the transaction that writes the chunk's entry, or acknowledges its range; a chunk that goes takes
them with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import LiteralString, NamedTuple

import psycopg
from psycopg import sql

from reshelve.domain.indexes import Index
from reshelve.errors import StoreError
from reshelve.stores.protocol import Connection


class TokenRow(NamedTuple):
    """`packed` as `domain.late_interaction.pack` makes it."""

    chunk_id: int
    packed: bytes


def table_name(index: Index) -> str:
    return f"token_vectors_{index.id}"


def _filled(statement: LiteralString, index: Index, **more: sql.Composable) -> sql.Composed:
    return sql.SQL(statement).format(table=sql.Identifier("reshelve", table_name(index)), **more)


async def create(connection: Connection, index: Index) -> None:
    """Make room. The connection is the owner's. Idempotent."""
    if not index.has_tokens:
        return
    await connection.execute(
        _filled(
            """
            CREATE TABLE IF NOT EXISTS {table} (
                chunk_id bigint PRIMARY KEY, vectors bytea NOT NULL, checksum bigint NOT NULL
            );
            -- There is nothing in them to compress.
            ALTER TABLE {table} ALTER COLUMN vectors SET STORAGE EXTERNAL;
            DO $$ BEGIN
                IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'reshelve_service') THEN
                    GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO reshelve_service;
                END IF;
            END $$
            """,
            index,
        )
    )


async def drop(connection: Connection, index: Index) -> None:
    if index.has_tokens:
        await connection.execute(_filled("DROP TABLE IF EXISTS {table}", index))


async def write(connection: Connection, index: Index, rows: Sequence[TokenRow]) -> None:
    """Those whose chunk still lives and that are not there yet."""
    if index.has_tokens and rows:
        await connection.execute(
            _filled(
                """
                INSERT INTO {table} (chunk_id, vectors, checksum)
                SELECT s.chunk_id, s.vectors, hashbyteaextended(s.vectors, 0)
                FROM unnest(%b::bigint[], %b::bytea[]) s (chunk_id, vectors)
                WHERE EXISTS (SELECT FROM chunks c WHERE c.id = s.chunk_id) ON CONFLICT DO NOTHING
                """,
                index,
            ),
            [[row.chunk_id for row in rows], [row.packed for row in rows]],
        )


async def copy_range(connection: Connection, index: Index, other: Index, *, lo: int, hi: int) -> None:
    """Those of the chunks from `lo` to `hi` that another index of the same chunking and token space has."""
    await connection.execute(
        _filled(
            """
            INSERT INTO {table} (chunk_id, vectors, checksum)
            SELECT t.chunk_id, t.vectors, t.checksum FROM {other} t JOIN chunks c ON c.id = t.chunk_id
            WHERE t.chunk_id BETWEEN %s AND %s AND hashbyteaextended(t.vectors, 0) = t.checksum ON CONFLICT DO NOTHING
            """,
            index,
            other=sql.Identifier("reshelve", table_name(other)),
        ),
        [lo, hi],
    )


async def remove(connection: Connection, index: Index, chunk_ids: Sequence[int], *, dead_only: bool = True) -> None:
    if index.has_tokens:
        dead = sql.SQL("AND NOT EXISTS (SELECT FROM chunks c WHERE c.id = t.chunk_id)" if dead_only else "")
        await connection.execute(
            _filled("DELETE FROM {table} t WHERE t.chunk_id = ANY(%s) {dead}", index, dead=dead), [list(chunk_ids)]
        )


def holdings(index: Index) -> sql.Composed:
    """A relation (chunk_id, content_hash), the hash NULL, of the chunks whose token vectors are there."""
    return _filled("(SELECT chunk_id, NULL::uuid AS content_hash FROM {table})", index)


async def wrong(connection: Connection, index: Index, *, most: int) -> list[int]:
    """The first `most` chunks whose token vectors are not those that were written."""
    cursor = await connection.execute(
        _filled(
            "SELECT chunk_id FROM {table} WHERE hashbyteaextended(vectors, 0) <> checksum ORDER BY chunk_id LIMIT %s",
            index,
        ),
        [most],
    )
    return [row[0] for row in await cursor.fetchall()]


async def read(connection: Connection, index: Index, chunk_ids: Sequence[int]) -> dict[int, bytes]:
    """The packed token vectors of those that are there. Raises StoreError when the index was dropped meanwhile."""
    try:
        cursor = await connection.execute(
            _filled("SELECT chunk_id, vectors FROM {table} WHERE chunk_id = ANY(%s)", index),
            [list(chunk_ids)],
            binary=True,
        )
        return dict(await cursor.fetchall())
    except psycopg.errors.UndefinedTable as error:
        raise StoreError(
            f"the token vectors of index {index.id} were dropped",
            advice="Search again: the route names the index that serves now.",
        ) from error
