"""Vectors for chunks: found again where the same text has one already, embedded where not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np
from psycopg import sql

from reshelve.backends import Backends
from reshelve.crash_points import crash_point
from reshelve.database.catalog import live_indexes
from reshelve.database.pools import Connection
from reshelve.domain.indexes import Index
from reshelve.domain.models import Vectors
from reshelve.stores.protocol import Entries


@dataclass(frozen=True, slots=True)
class ChunkText:
    id: int
    content_hash: UUID
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Entries ready to be written. `embedded` of them were embedded now, for `tokens` tokens."""

    entries: Entries
    embedded: int
    tokens: int


async def prepare(backends: Backends, index: Index, chunks: Sequence[ChunkText]) -> Prepared:
    """One vector a chunk. No transaction is open while a provider is asked."""
    embedder = await backends.embedders.of(index.model_id)
    texts = {chunk.content_hash: chunk.content for chunk in chunks}
    known: dict[UUID, Vectors] = {}
    if texts and not embedder.costs_nothing:
        async with backends.database.service() as connection:
            known = await _known_vectors(backends, connection, index, list(texts))
    missing = [digest for digest in texts if digest not in known]
    tokens = 0
    if missing:
        embedded = await embedder.embed_documents([texts[digest] for digest in missing])
        crash_point("prepare.after_embedding")
        tokens = embedded.tokens
        known |= dict(zip(missing, embedded.vectors, strict=True))
        if not embedder.costs_nothing:
            async with backends.database.service() as connection:
                await keep_spare(connection, index, {digest: known[digest] for digest in missing})
    vectors = np.stack([known[chunk.content_hash] for chunk in chunks]) if chunks else _none(index)
    entries = Entries(
        np.array([chunk.id for chunk in chunks], dtype=np.int64), [chunk.content_hash for chunk in chunks], vectors
    )
    return Prepared(entries=entries, embedded=len(missing), tokens=tokens)


def _none(index: Index) -> Vectors:
    return np.empty((0, index.dimension), dtype=np.float32)


async def _known_vectors(
    backends: Backends, connection: Connection, index: Index, hashes: list[UUID]
) -> dict[UUID, Vectors]:
    """Vectors of the same space for the same texts, from whichever index holds them, and from the spares."""
    known: dict[UUID, Vectors] = {}
    for other in await live_indexes(connection):
        wanted = [digest for digest in hashes if digest not in known]
        if not wanted:
            return known
        if other.model.fingerprint != index.model.fingerprint:
            continue
        store = backends.stores.of(other)
        cursor = await connection.execute(
            sql.SQL(
                "SELECT DISTINCT ON (c.content_hash) c.id FROM chunks c JOIN {} h ON h.chunk_id = c.id "
                "WHERE c.content_hash = ANY(%s)"
            ).format(store.holdings(other)),
            (wanted,),
        )
        found = await store.read(connection, other, [row[0] for row in await cursor.fetchall()])
        known |= dict(zip(found.content_hashes, found.vectors, strict=True))
    cursor = await connection.execute(
        "SELECT content_hash, embedding FROM spare_vectors WHERE fingerprint = %s AND content_hash = ANY(%s)",
        (index.model.fingerprint, [digest for digest in hashes if digest not in known]),
    )
    for digest, raw in await cursor.fetchall():
        known[digest] = np.frombuffer(raw, dtype="<f4").astype(np.float32)
    return known


async def keep_spare(connection: Connection, index: Index, vectors: dict[UUID, Vectors]) -> None:
    """Remember vectors that no index holds yet (a retry will want them) or any more (the text may come back)."""
    digests = sorted(vectors)
    await connection.execute(
        """
        INSERT INTO spare_vectors (fingerprint, content_hash, embedding)
        SELECT %s, * FROM unnest(%s::uuid[], %s::bytea[])
        ON CONFLICT (fingerprint, content_hash) DO UPDATE SET at = now()
        """,
        (index.model.fingerprint, digests, [vectors[digest].astype("<f4").tobytes() for digest in digests]),
    )


async def forget_spare(connection: Connection, index: Index, hashes: Sequence[UUID]) -> None:
    """An index holds them now."""
    await connection.execute(
        "DELETE FROM spare_vectors WHERE fingerprint = %s AND content_hash = ANY(%s)",
        (index.model.fingerprint, list(hashes)),
    )
