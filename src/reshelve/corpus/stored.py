"""Documents as they are stored, for people who want to see them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

from psycopg.rows import class_row

from reshelve.database.pools import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDocument:
    """`text` is None in a list; `chunks` are those of the serving index's chunking."""

    id: str
    title: str
    text: str | None
    metadata: dict[str, Any]
    format: str
    characters: int
    chunks: int
    created_at: datetime
    updated_at: datetime


_SELECT: LiteralString = """
    SELECT d.external_id AS id, d.title, {0} AS text, d.metadata, d.format, char_length(d.content) AS characters,
           (SELECT count(*) FROM chunks c WHERE c.document_id = d.id AND c.chunking_id = s.chunking_id) AS chunks,
           d.created_at, d.updated_at
    FROM documents d JOIN routes r ON r.collection_id = d.collection_id AND r.tenant = ''
    JOIN indexes s ON s.id = r.serving_index_id
    WHERE d.collection_id = %s AND d.tenant = %s
"""


async def find_document(
    connection: Connection, external_id: str, *, collection_id: int, tenant: str
) -> StoredDocument | None:
    cursor = connection.cursor(row_factory=class_row(StoredDocument))
    await cursor.execute(_SELECT.format("d.content") + " AND d.external_id = %s", (collection_id, tenant, external_id))
    return await cursor.fetchone()


async def list_documents(
    connection: Connection, *, collection_id: int, tenant: str, after: str, limit: int
) -> list[StoredDocument]:
    """The next `limit` documents in the order of their ids, without their texts."""
    cursor = connection.cursor(row_factory=class_row(StoredDocument))
    await cursor.execute(
        _SELECT.format("NULL") + " AND d.external_id > %s ORDER BY d.external_id LIMIT %s",
        (collection_id, tenant, after, limit),
    )
    return await cursor.fetchall()


async def has_documents(connection: Connection, *, collection_id: int, tenant: str) -> bool:
    cursor = await connection.execute(
        "SELECT EXISTS (SELECT FROM documents WHERE collection_id = %s AND tenant = %s)", (collection_id, tenant)
    )
    row = await cursor.fetchone()
    return bool(row and row[0])
