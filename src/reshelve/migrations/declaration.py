"""What `rag.toml` asks for, as something that can be compared with what is there, stored, and made."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

from reshelve.backends import Backends
from reshelve.corpus.chunkers import Chunker, tokenizer_fingerprint
from reshelve.database import catalog
from reshelve.database.pools import Connection
from reshelve.domain.documents import Chunking
from reshelve.domain.indexes import NO_LANGUAGE, NO_TOKENS, Hnsw, Index, IndexDefinition, IndexState, Metric
from reshelve.domain.models import EmbeddingModel
from reshelve.embedders.canary import canary
from reshelve.embedders.opening import open_embedder, reopen_embedder
from reshelve.embedders.protocol import Embedder
from reshelve.embedders.rerankers import Rerankers, stored_space
from reshelve.embedders.wordpiece import wordpiece
from reshelve.errors import NotFoundError
from reshelve.settings import ChunkingSettings, Settings
from reshelve.stores import lexical, tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """An index that does not need to exist yet. `location` is where the model is opened from."""

    model: EmbeddingModel
    location: str
    chunking: Chunking
    backend: str
    metric: Metric
    hnsw: Hnsw
    language: str
    token_space: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Declaration:
        return cls(
            model=EmbeddingModel(**stored["model"]),
            location=stored["location"],
            chunking=Chunking(**stored["chunking"]),
            backend=stored["backend"],
            metric=Metric(stored["metric"]),
            hnsw=Hnsw(**stored["hnsw"]),
            language=stored.get("language", NO_LANGUAGE),
            token_space=stored.get("token_space", NO_TOKENS),
        )

    @property
    def identity(self) -> tuple[object, ...]:
        """Equal for two declarations that mean the same index."""
        return (
            self.model.fingerprint,
            self.chunking.fingerprint,
            self.backend,
            self.metric,
            self.hnsw,
            self.language,
            self.token_space,
        )


def _chunking(settings: ChunkingSettings, *, room: int, tokenizer: str) -> Chunking:
    """No size is above `room`. One that is the same as for other documents is left out: it is no other chunking."""
    most = min(settings.max_chunk_size, room)
    size = min(settings.chunk_size, most)

    def own(wanted: int | None, longest: int | None) -> tuple[int | None, int | None]:
        longest = min(settings.max_chunk_size if longest is None else longest, room)
        wanted = min(settings.chunk_size if wanted is None else wanted, longest)
        return None if wanted == min(size, longest) else wanted, None if longest == most else longest

    csv_size, csv_most = own(settings.csv_chunk_tokens, settings.csv_chunk_max_tokens)
    pdf_size, pdf_most = own(settings.pdf_chunk_tokens, settings.pdf_chunk_max_tokens)
    return Chunking(
        strategy=settings.strategy,
        chunk_size=size,
        max_chunk_size=most,
        overlap=min(settings.overlap, most - 1),
        tokenizer=tokenizer,
        min_chunk_size=min(settings.min_chunk_size, size),
        csv_chunk_tokens=csv_size,
        csv_chunk_max_tokens=csv_most,
        pdf_chunk_tokens=pdf_size,
        pdf_chunk_max_tokens=pdf_most,
    )


@asynccontextmanager
async def declared(settings: Settings) -> AsyncGenerator[tuple[Declaration, Embedder]]:
    """The file's wish, with its embedder open for as long as the block runs."""
    embedder = await open_embedder(settings.embedding, dimensions=settings.vector_storage.dimensions)
    try:
        yield _declaration(settings, embedder, await _token_space(settings, embedder)), embedder
    finally:
        await embedder.aclose()


async def _token_space(settings: Settings, embedder: Embedder) -> str:
    if not settings.search.late_interaction:
        return NO_TOKENS
    rerankers = Rerankers(settings.search)
    try:
        return stored_space(await rerankers.token_embedder(embedder))
    finally:
        await rerankers.close()


def _declaration(settings: Settings, embedder: Embedder, token_space: str) -> Declaration:
    # What the model would cut off is not worth storing: [CLS] and [SEP] take two places.
    room = embedder.max_tokens - 2
    return Declaration(
        model=embedder.model,
        location=embedder.location,
        chunking=_chunking(settings.chunking, room=room, tokenizer=tokenizer_fingerprint(embedder.tokenizer)),
        backend=settings.vector_storage.backend,
        metric=Metric(settings.vector_storage.metric),
        hnsw=Hnsw(m=settings.vector_storage.hnsw.m, ef_construction=settings.vector_storage.hnsw.ef_construction),
        language=settings.search.language,
        token_space=token_space,
    )


async def opened(declaration: Declaration, settings: Settings) -> Embedder:
    """The embedder of a declaration that was stored."""
    return await reopen_embedder(declaration.model, location=declaration.location, settings=settings.embedding)


async def find_declared(connection: Connection, declaration: Declaration, collection_id: int) -> Index | None:
    """The live index that is already what the declaration asks for."""
    model_id = await catalog.find_model(connection, declaration.model.fingerprint)
    chunking_id = await catalog.find_chunking(connection, collection_id, declaration.chunking)
    if model_id is None or chunking_id is None:
        return None
    return await catalog.find_index(connection, _definition(declaration, collection_id, chunking_id, model_id))


def _definition(declaration: Declaration, collection_id: int, chunking_id: int, model_id: int) -> IndexDefinition:
    return IndexDefinition(
        collection_id=collection_id,
        chunking_id=chunking_id,
        model_id=model_id,
        backend=declaration.backend,
        metric=declaration.metric,
        m=declaration.hnsw.m,
        ef_construction=declaration.hnsw.ef_construction,
        language=declaration.language,
        token_space=declaration.token_space,
    )


Record = Callable[[Connection, Index], Awaitable[None]]
"""Writes down, inside the given transaction, what an index was registered for."""


async def register(
    backends: Backends,
    declaration: Declaration,
    embedder: Embedder,
    *,
    collection_id: int,
    state: IndexState,
    record: Record | None = None,
) -> Index:
    """Make the index, or find the live one that is the same. From its commit on the outbox feeds it.

    `record` commits with it: no index is fed that nobody knows of.
    """
    reference = await canary(embedder)
    async with backends.database.owner() as connection, connection.transaction():
        # Two programs that declare the same collection at once must end with one index.
        await catalog.lock_collection(connection, collection_id)
        model_id = await catalog.register_model(
            connection, declaration.model, location=declaration.location, canary=reference
        )
        cut = not await catalog.chunking_is_complete(connection, collection_id, declaration.chunking)
        chunking_id = await catalog.ensure_chunking(connection, collection_id, declaration.chunking)
        definition = _definition(declaration, collection_id, chunking_id, model_id)
        index = await catalog.find_index(connection, definition)
        if index is None:
            index_id = await catalog.insert_index(
                connection, definition, state=state, cut_documents=cut and state is IndexState.FILLING
            )
            index = await catalog.get_index(connection, index_id)
            await backends.stores.of(index).create(connection, index)
            await lexical.create(connection, index)
            await tokens.create(connection, index)
        if record is not None:
            await record(connection, index)
        return index


async def chunker_of(backends: Backends, chunking: catalog.RegisteredChunking) -> Chunker:
    """The chunker of a registered chunking: its tokenizer comes from a model that has it.

    Most often that is the built-in one, and no model is opened: a write must not wait for a provider that is down.
    """
    built_in = wordpiece()
    if tokenizer_fingerprint(built_in) == chunking.chunking.tokenizer:
        return Chunker(chunking.chunking, built_in)
    async with backends.database.service() as connection:
        indexes = [index for index in await catalog.live_indexes(connection) if index.chunking_id == chunking.id]
    for index in indexes:
        embedder = await backends.embedders.of(index.model_id)
        if tokenizer_fingerprint(embedder.tokenizer) == chunking.chunking.tokenizer:
            return Chunker(chunking.chunking, embedder.tokenizer)
    raise NotFoundError(
        f"no live index has the tokenizer of chunking {chunking.id}", advice="See reshelve status for the indexes."
    )
