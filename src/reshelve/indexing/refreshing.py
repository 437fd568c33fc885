"""One document's embeddings: what each index has of them, and made anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from psycopg import sql

from reshelve.backends import Backends
from reshelve.database.catalog import get_index, live_indexes
from reshelve.database.pools import Connection
from reshelve.database.routes import count_change
from reshelve.domain.indexes import Index, IndexState
from reshelve.errors import NotFoundError
from reshelve.indexing.spending import account
from reshelve.indexing.vectors import ChunkText, Prepared
from reshelve.indexing.writing import delete_entries, write_entries
from reshelve.stores.protocol import Entries


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentEmbeddings:
    """What one index has of a document: `embedded` of its `chunks`."""

    index: int
    model: str
    dimension: int
    state: str
    chunks: int
    embedded: int

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "complete": self.chunks == self.embedded}


async def document_embeddings(
    backends: Backends, external_id: str, *, collection_id: int, tenant: str
) -> list[DocumentEmbeddings]:
    """For every live index of the collection. Raises NotFoundError for a document that is not there."""
    async with backends.database.service() as connection:
        document = await _document(connection, external_id, collection_id=collection_id, tenant=tenant)
        return [
            await _embeddings(backends, connection, index, document)
            for index in await live_indexes(connection, collection_id)
        ]


async def _document(connection: Connection, external_id: str, *, collection_id: int, tenant: str) -> int:
    cursor = await connection.execute(
        "SELECT id FROM documents WHERE collection_id = %s AND tenant = %s AND external_id = %s",
        (collection_id, tenant, external_id),
    )
    row = await cursor.fetchone()
    if row is None:
        raise NotFoundError(f"no document {external_id!r}")
    return row[0]


async def _embeddings(backends: Backends, connection: Connection, index: Index, document: int) -> DocumentEmbeddings:
    cursor = await connection.execute(
        sql.SQL(
            "SELECT count(*), count(h.chunk_id) FROM chunks c LEFT JOIN {} h "
            "ON h.chunk_id = c.id AND h.content_hash = c.content_hash WHERE c.document_id = %s AND c.chunking_id = %s"
        ).format(backends.stores.of(index).holdings(index)),
        (document, index.chunking_id),
    )
    row = await cursor.fetchone()
    assert row is not None
    return DocumentEmbeddings(
        index=index.id,
        model=index.model.name,
        dimension=index.dimension,
        state=index.state,
        chunks=row[0],
        embedded=row[1],
    )


async def _replace(backends: Backends, index: Index, entries: Entries, *, tokens: int) -> None:
    store = backends.stores.of(index)
    ids: list[int] = entries.chunk_ids.tolist()

    async def book(connection: Connection) -> None:
        await account(connection, index, tokens=tokens)

    if store.transactional:
        async with backends.database.service() as connection, connection.transaction():
            await store.delete(connection, index, ids)
            await store.write(connection, index, entries)
            await count_change(connection, index.collection_id)
            await book(connection)
        return
    await delete_entries(backends, index, ids, keep_vectors=False)
    prepared = Prepared(entries=entries, embedded=len(ids), tokens=tokens, spare=False)
    await write_entries(backends, index, prepared, book)


async def refresh_document(
    backends: Backends, index: Index, external_id: str, *, collection_id: int, tenant: str
) -> DocumentEmbeddings:
    """Embed the document's chunks again for this index, whatever it holds of them, and put the new vectors in.

    In a store that takes part in the transaction nobody sees the document without its entries. The index is not dropped
    meanwhile.
    """
    async with backends.pins.reading(index.id):
        async with backends.database.service() as connection:
            document = await _document(connection, external_id, collection_id=collection_id, tenant=tenant)
            if (await get_index(connection, index.id)).state is IndexState.DROPPED:
                raise NotFoundError(
                    f"index {index.id} of {index.model.name} was dropped", advice="See reshelve status."
                )
            cursor = await connection.execute(
                "SELECT id, content_hash, content FROM chunks WHERE document_id = %s AND chunking_id = %s ORDER BY id",
                (document, index.chunking_id),
            )
            chunks = [ChunkText(*row) for row in await cursor.fetchall()]
        if chunks:
            await _embed_anew(backends, index, chunks)
        async with backends.database.service() as connection:
            return await _embeddings(backends, connection, index, document)


async def _embed_anew(backends: Backends, index: Index, chunks: Sequence[ChunkText]) -> None:
    embedder = await backends.embedders.of(index.model_id)
    answer = await embedder.embed_documents([chunk.content for chunk in chunks])
    entries = Entries(
        np.array([chunk.id for chunk in chunks], dtype=np.int64),
        [chunk.content_hash for chunk in chunks],
        answer.vectors,
    )
    await _replace(backends, index, entries, tokens=answer.tokens)
