"""Vectors for chunks: found again where the same text has one already, embedded where not."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

import numpy as np
from psycopg import sql

from reshelve.backends import Backends
from reshelve.crash_points import crash_point
from reshelve.database import arrays
from reshelve.database.catalog import get_model, live_indexes
from reshelve.database.pools import Connection
from reshelve.domain.indexes import Index
from reshelve.domain.models import Embedded, Vectors
from reshelve.embedders.canary import CANARY, check_canary
from reshelve.embedders.pace import Pace
from reshelve.embedders.protocol import Embedder
from reshelve.indexing.spending import account, left_usd, purse_of
from reshelve.stores.protocol import Entries


class ChunkText(NamedTuple):
    id: int
    content_hash: UUID
    content: str


async def read_chunks(connection: Connection, chunk_ids: Sequence[int]) -> list[ChunkText]:
    """Those of the chunks that still live."""
    cursor = await connection.execute(
        "SELECT id, content_hash, content FROM chunks WHERE id = ANY(%s) ORDER BY id", (list(chunk_ids),)
    )
    return [ChunkText(*row) for row in await cursor.fetchall()]


_SPECIAL_TOKENS = 4
"""A provider may count these for a text, beside the tokens that are made of its bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Entries ready to be written. `embedded` of them were embedded now; `tokens` of that are not in the books yet.

    `spare`: their vectors may stand among the spares, which an index that holds them makes superfluous.
    """

    entries: Entries
    embedded: int
    tokens: int
    spare: bool


EmbedDocuments = Callable[[Sequence[str]], Awaitable[Embedded]]


async def prepare(
    backends: Backends, index: Index, chunks: Sequence[ChunkText], *, pace: Pace | None = None
) -> Prepared:
    """One vector a chunk. No transaction is open while a provider is asked. Without a `pace` nothing is held back.

    Raises what the embedder raises, ModelChangedError, and BudgetReached. What was paid for until then is kept.
    """
    embedder = await backends.embedders.of(index.model_id)
    texts = {chunk.content_hash: chunk.content for chunk in chunks}
    tokens = 0
    embed = embedder.embed_documents if pace is None else functools.partial(pace.embed_documents, embedder)
    if embedder.costs_nothing:
        embedded = await embed(list(texts.values()))
        crash_point("prepare.after_embedding")
        known = dict(zip(texts, embedded.vectors, strict=True))
        new, tokens = len(texts), embedded.tokens
    else:
        known, new = await _paid_vectors(backends, index, embedder, texts, embed)
    vectors = np.stack([known[chunk.content_hash] for chunk in chunks]) if chunks else _none(index)
    entries = Entries(
        np.array([chunk.id for chunk in chunks], dtype=np.int64), [chunk.content_hash for chunk in chunks], vectors
    )
    return Prepared(entries=entries, embedded=new, tokens=tokens, spare=not embedder.costs_nothing)


def _none(index: Index) -> Vectors:
    return np.empty((0, index.dimension), dtype=np.float32)


async def _paid_vectors(
    backends: Backends, index: Index, embedder: Embedder, texts: dict[UUID, str], embed: EmbedDocuments
) -> tuple[dict[UUID, Vectors], int]:
    """A vector for each text, and how many of them had to be embedded."""
    known: dict[UUID, Vectors] = {}
    embedded = 0
    fingerprint = index.model.fingerprint
    while missing := [digest for digest in texts if digest not in known]:
        # Claimed before they are looked up: what another task has just let go of is found then.
        with backends.flights.claimed(fingerprint, missing) as mine:
            known |= await _known_vectors(backends, index, mine)
            wanted = {digest: texts[digest] for digest in mine if digest not in known}
            if wanted:
                known |= await _embed(backends, index, embedder, wanted, embed)
                embedded += len(wanted)
        await backends.flights.landed(fingerprint, [digest for digest in missing if digest not in known])
    return known, embedded


async def _embed(
    backends: Backends, index: Index, embedder: Embedder, texts: dict[UUID, str], embed: EmbedDocuments
) -> dict[UUID, Vectors]:
    """Each request of a remote model is kept as it comes in, so that a later one that fails costs nothing again."""
    digests = list(texts)
    reference: Vectors | None = None
    size = len(digests)
    if embedder.model.provider == "openai":
        async with backends.database.service() as connection:
            reference = (await get_model(connection, index.model_id)).canary
        size = max(1, backends.settings.embedding.batch_size - 1)
    pieces = [digests[at : at + size] for at in range(0, len(digests), size)]
    found = await asyncio.gather(
        *(_embed_piece(backends, index, embed, {key: texts[key] for key in piece}, reference) for piece in pieces),
        return_exceptions=True,
    )
    known: dict[UUID, Vectors] = {}
    for each in found:
        if isinstance(each, BaseException):
            raise each
        known |= each
    return known


async def _embed_piece(
    backends: Backends, index: Index, embed: EmbedDocuments, texts: dict[UUID, str], reference: Vectors | None
) -> dict[UUID, Vectors]:
    """Embed, book and keep, as many at a time as the spend cap allows.

    With a `reference` the canary goes along: a model that was changed behind its name is noticed in the very answer.
    """
    known: dict[UUID, Vectors] = {}
    watch = [] if reference is None else [CANARY]
    prefix = len(index.model.document_prefix.encode())
    while rest := [digest for digest in texts if digest not in known]:
        sizes = [len(texts[digest].encode()) + prefix + _SPECIAL_TOKENS for digest in rest]
        sizes[0] += sum(len(text.encode()) for text in watch)
        async with purse_of(backends, index).reserved(sizes, lambda: left_usd(backends, index)) as expense:
            some = rest[: expense.texts]
            answer = await embed([*(texts[digest] for digest in some), *watch])
            if reference is not None:
                check_canary(reference, answer.vectors[-1])
            crash_point("prepare.after_embedding")
            new = dict(zip(some, answer.vectors[: len(some)], strict=True))
            async with backends.database.service() as connection, connection.transaction():
                await keep_spare(connection, index, new)
                await account(connection, index, tokens=answer.tokens)
            expense.tokens = answer.tokens
        crash_point("prepare.after_keeping")
        known |= new
    return known


async def _known_vectors(backends: Backends, index: Index, hashes: Sequence[UUID]) -> dict[UUID, Vectors]:
    """Vectors of the same space for the same texts, from whichever index holds them, and from the spares.

    In one snapshot: a vector that moves from the spares to an index meanwhile is in one of them.
    """
    async with backends.database.service() as connection, connection.transaction():
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        known: dict[UUID, Vectors] = {}
        for other in await live_indexes(connection):
            wanted = [digest for digest in hashes if digest not in known]
            if wanted and other.model.fingerprint == index.model.fingerprint:
                known |= await _held_vectors(backends, connection, other, wanted)
        cursor = await connection.execute(
            "SELECT content_hash, embedding FROM spare_vectors "
            "WHERE fingerprint = %s AND content_hash = ANY(%b::uuid[])",
            (index.model.fingerprint, arrays.uuids([digest for digest in hashes if digest not in known])),
        )
        for digest, raw in await cursor.fetchall():
            known[digest] = np.frombuffer(raw, dtype="<f4").astype(np.float32)
    return known


async def _held_vectors(
    backends: Backends, connection: Connection, other: Index, hashes: list[UUID]
) -> dict[UUID, Vectors]:
    store = backends.stores.of(other)
    cursor = await connection.execute(
        sql.SQL(
            "SELECT DISTINCT ON (c.content_hash) c.id FROM chunks c JOIN {} h ON h.chunk_id = c.id "
            "WHERE c.content_hash = ANY(%b::uuid[])"
        ).format(store.holdings(other)),
        (arrays.uuids(hashes),),
    )
    found = await store.read(connection, other, [row[0] for row in await cursor.fetchall()])
    return dict(zip(found.content_hashes, found.vectors, strict=True))


async def keep_spare(connection: Connection, index: Index, vectors: dict[UUID, Vectors]) -> None:
    """Remember vectors that no index holds yet (a retry will want them) or any more (the text may come back)."""
    digests = sorted(vectors)
    if not digests:
        return
    await connection.execute(
        """
        INSERT INTO spare_vectors (fingerprint, content_hash, embedding)
        SELECT %s, * FROM unnest(%b::uuid[], %b::bytea[])
        ON CONFLICT (fingerprint, content_hash) DO UPDATE SET at = now()
        """,
        (
            index.model.fingerprint,
            arrays.uuids(digests),
            arrays.byteas(np.stack([vectors[digest] for digest in digests])),
        ),
    )


async def forget_spare(connection: Connection, index: Index, hashes: Sequence[UUID]) -> None:
    """An index holds them now."""
    await connection.execute(
        "DELETE FROM spare_vectors WHERE fingerprint = %s AND content_hash = ANY(%b::uuid[])",
        (index.model.fingerprint, arrays.uuids(hashes)),
    )
