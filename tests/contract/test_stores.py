"""What every vector store does, on the real thing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from uuid import UUID

import numpy as np
import pytest

from reshelve.database import catalog
from reshelve.database.pools import Database
from reshelve.domain.documents import Chunking, content_hash
from reshelve.domain.filters import Compare
from reshelve.domain.indexes import Hnsw, Index, IndexDefinition, IndexState, Metric, Scope
from reshelve.domain.models import EmbeddingModel, Vectors
from reshelve.errors import MixedSpacesError
from reshelve.stores.memory import MemoryStore
from reshelve.stores.pgvector import PgvectorStore
from reshelve.stores.protocol import Entries, VectorStore

DOCUMENTS = 60


@dataclass
class Shelf:
    store: VectorStore
    database: Database
    index: Index
    ids: list[int]
    hashes: list[UUID]
    vectors: Vectors

    async def fill(self) -> int:
        entries = Entries(np.array(self.ids, dtype=np.int64), self.hashes, self.vectors)
        async with self.database.service() as connection, connection.transaction():
            written = await self.store.write(connection, self.index, entries)
            if not self.store.transactional:
                await connection.cursor().executemany(
                    "INSERT INTO ledger VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                    [(self.index.id, chunk, digest) for chunk, digest in zip(self.ids, self.hashes, strict=True)],
                )
        return written

    async def search(self, vector: Vectors, *, limit: int = 5, scope: Scope | None = None, exact: bool = False):
        async with self.database.service() as connection:
            return await self.store.search(
                connection, self.index, vector, limit=limit, scope=scope or Scope(tenant=None), exact=exact
            )


@pytest.fixture(
    params=[
        ("pgvector", 8, Metric.COSINE),
        ("pgvector", 8, Metric.L2),
        ("pgvector", 8, Metric.INNER_PRODUCT),
        ("pgvector", 3072, Metric.COSINE),
        ("mock", 8, Metric.COSINE),
        ("mock", 8, Metric.L2),
        ("mock", 8, Metric.INNER_PRODUCT),
    ],
    ids=lambda value: f"{value[0]}-{value[1]}-{value[2]}",
)
async def shelf(request: pytest.FixtureRequest, database_urls: tuple[str, str]) -> AsyncGenerator[Shelf]:
    backend, dimension, metric = request.param
    database = Database(
        owner=database_urls[0], service=database_urls[1], pool_size=4, ef_search=100, idle_in_transaction_seconds=60
    )
    await database.open()
    store: VectorStore = PgvectorStore() if backend == "pgvector" else MemoryStore()
    model = EmbeddingModel(name="test", provider="test", dimension=dimension)
    vectors = np.random.default_rng(1).normal(size=(DOCUMENTS, dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    async with database.owner() as connection:
        collection = await catalog.ensure_collection(connection, "shelf")
        chunking = Chunking(strategy="semantic", chunk_size=100, max_chunk_size=100, overlap=0, tokenizer="none")
        definition = IndexDefinition(
            collection_id=collection,
            chunking_id=await catalog.ensure_chunking(connection, collection, chunking),
            model_id=await catalog.register_model(connection, model, location="", canary=vectors[:1]),
            backend=backend,
            metric=metric,
            m=Hnsw().m,
            ef_construction=Hnsw().ef_construction,
            language="none",
            token_space="none",
        )
        index_id = await catalog.insert_index(connection, definition, state=IndexState.READY)
        index = await catalog.get_index(connection, index_id)
        await store.create(connection, index)
        await store.create(connection, index)
        ids, hashes = [], []
        for number in range(DOCUMENTS):
            cursor = await connection.execute(
                "INSERT INTO documents (collection_id, tenant, external_id, content, metadata, content_hash) "
                "VALUES (%s, %s, %s, 'x', jsonb_build_object('parity', %s::int), gen_random_uuid()) RETURNING id",
                (collection, "a" if number < 40 else "b", str(number), number % 2),
            )
            document = (await cursor.fetchone() or (0,))[0]
            digest = content_hash(str(number))
            cursor = await connection.execute(
                "INSERT INTO chunks (document_id, chunking_id, content, content_hash, token_count, ordinal, "
                "start_char, end_char) VALUES (%s, %s, %s, %s, 1, 0, 0, 1) RETURNING id",
                (document, definition.chunking_id, str(number), digest),
            )
            ids.append((await cursor.fetchone() or (0,))[0])
            hashes.append(digest)
    yield Shelf(store, database, index, ids, hashes, vectors)
    await database.close()


async def test_nearest_first_within_the_scope(shelf: Shelf) -> None:
    assert await shelf.fill() == DOCUMENTS
    for scope in (Scope(tenant=None), Scope(tenant="a"), Scope(tenant="b", filter=Compare(("parity",), "eq", 1))):
        inside = [
            at
            for at in range(DOCUMENTS)
            if scope.tenant is None or (at < 40) == (scope.tenant == "a")
            if scope.filter is None or at % 2 == 1
        ]
        query = shelf.vectors[inside[3]] + 0.01
        if shelf.index.metric is Metric.L2:
            order = sorted(inside, key=lambda at: float(np.linalg.norm(shelf.vectors[at] - query)))
        else:
            order = sorted(inside, key=lambda at: -float(shelf.vectors[at] @ query))
        hits = await shelf.search(query, scope=scope)
        assert [hit.chunk_id for hit in hits] == [shelf.ids[at] for at in order[:5]]
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert await shelf.search(shelf.vectors[0], scope=Scope(tenant="nobody")) == []


async def test_scores_are_similarities(shelf: Shelf) -> None:
    await shelf.fill()
    best = (await shelf.search(shelf.vectors[0]))[0]
    assert best.chunk_id == shelf.ids[0]
    assert best.score == pytest.approx(1.0, abs=2e-3)


async def test_the_graph_answers_as_the_exact_search_does(shelf: Shelf) -> None:
    await shelf.fill()
    connection = await shelf.database.dedicated()
    try:
        await shelf.store.build(connection, shelf.index)
        await shelf.store.build(connection, shelf.index)
        assert await shelf.store.built(connection, shelf.index)
    finally:
        await connection.close()
    for query in shelf.vectors[:5]:
        graph = [hit.chunk_id for hit in await shelf.search(query)]
        assert graph == [hit.chunk_id for hit in await shelf.search(query, exact=True)]


async def test_an_entry_is_right_or_absent(shelf: Shelf) -> None:
    """A repeated write adds nothing, and a write for a chunk that is gone leaves nothing."""
    async with shelf.database.service() as connection:
        await connection.execute("DELETE FROM chunks WHERE id = %s", (shelf.ids[0],))
    assert await shelf.fill() == DOCUMENTS - 1
    assert await shelf.fill() == 0
    async with shelf.database.service() as connection:
        held = await shelf.store.read(connection, shelf.index, shelf.ids)
    assert held.chunk_ids.tolist() == shelf.ids[1:]
    assert list(held.content_hashes) == shelf.hashes[1:]
    assert np.allclose(held.vectors, shelf.vectors[1:], atol=1e-3)


async def test_an_orphan_is_never_shown(shelf: Shelf) -> None:
    await shelf.fill()
    async with shelf.database.service() as connection:
        await connection.execute("DELETE FROM chunks WHERE id = %s", (shelf.ids[7],))
    hits = await shelf.search(shelf.vectors[7], limit=10)
    assert shelf.ids[7] not in {hit.chunk_id for hit in hits}
    assert len(hits) == 10


async def test_deleted_entries_are_gone(shelf: Shelf) -> None:
    await shelf.fill()
    async with shelf.database.service() as connection:
        assert await shelf.store.delete(connection, shelf.index, shelf.ids[:3]) == 3
        assert await shelf.store.delete(connection, shelf.index, shelf.ids[:3]) == 0
    assert shelf.ids[0] not in {hit.chunk_id for hit in await shelf.search(shelf.vectors[0])}


async def test_another_space_is_refused(shelf: Shelf) -> None:
    wrong = np.ones((1, shelf.index.dimension + 1), dtype=np.float32)
    with pytest.raises(MixedSpacesError, match="dimension mismatch"):
        await shelf.search(wrong[0])
    with pytest.raises(MixedSpacesError, match="dimension mismatch"):
        async with shelf.database.service() as connection:
            await shelf.store.write(connection, shelf.index, Entries(np.array([1]), shelf.hashes[:1], wrong))


async def test_flaws_are_found_by_name(shelf: Shelf) -> None:
    shelf.vectors[3] *= 2
    shelf.vectors[4] *= 0
    await shelf.fill()
    async with shelf.database.service() as connection:
        flaws = await shelf.store.flaws(connection, shelf.index)
    assert {flaw.chunk_id for flaw in flaws} == {shelf.ids[3], shelf.ids[4]}


async def test_searches_and_writes_at_once(shelf: Shelf) -> None:
    fill = asyncio.create_task(shelf.fill())
    for _ in range(10):
        await shelf.search(shelf.vectors[0])
    assert await fill == DOCUMENTS


async def test_drop_leaves_nothing(shelf: Shelf) -> None:
    await shelf.fill()
    async with shelf.database.owner() as connection:
        await shelf.store.drop(connection, shelf.index)
        await shelf.store.create(connection, shelf.index)
    async with shelf.database.service() as connection:
        held = await shelf.store.read(connection, shelf.index, shelf.ids)
    assert len(held.chunk_ids) == 0
