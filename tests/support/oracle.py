"""The oracle of every fault: once drained, every live index equals the source. Written apart from the product's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg

import reshelve
from reshelve.database.catalog import live_indexes
from reshelve.domain.bm25 import POSTING
from reshelve.domain.indexes import Index, IndexState
from reshelve.domain.late_interaction import reduce
from reshelve.indexing.comparing import sweep_orphans
from reshelve.indexing.draining import drain
from reshelve.stores import lexical, tokens


async def assert_indexes_equal_source(library: reshelve.Library) -> int:
    """In every live index: the same keys and hashes, the right vectors, no key too many. Returns how many rows."""
    backends = library.backends
    async with backends.database.service() as connection:
        indexes = await live_indexes(connection)
    assert indexes
    await drain(backends, indexes, timeout_seconds=60)
    rows = 0
    for index in indexes:
        await sweep_orphans(backends, index)
        async with backends.database.service() as connection:
            source = await _rows(
                connection, "SELECT id, content_hash, content FROM chunks WHERE chunking_id = %s", index.chunking_id
            )
        store = backends.stores.of(index)
        async with backends.database.service() as connection:
            held_ids = [row[0] for row in await _rows(connection, store.holdings(index).as_string())]
            held = await store.read(connection, index, held_ids)
        # What was changed behind the program's back is not read at all.
        assert held.chunk_ids.tolist() == sorted(held_ids)
        hashes = {row[0]: row[1] for row in source}
        if index.state is IndexState.READY:
            assert sorted(held_ids) == sorted(hashes)
        # A migration that was taken back half-way leaves an index that may lack rows, but holds no wrong one.
        assert set(held_ids) <= hashes.keys()
        assert all(
            hashes[key] == held_hash
            for key, held_hash in zip(held.chunk_ids.tolist(), held.content_hashes, strict=True)
        )
        embedder = await backends.embedders.of(index.model_id)
        texts = {row[0]: row[2] for row in source}
        if texts:
            fresh = await embedder.embed_documents([texts[chunk_id] for chunk_id in held.chunk_ids.tolist()])
            assert np.allclose(fresh.vectors, held.vectors, atol=1e-3)
        if index.has_words:
            await _assert_words_are_those_of_the_texts(library, index, {row[0] for row in source})
        if index.has_tokens:
            await _assert_tokens_are_those_of_the_texts(library, index, texts)
        rows += len(source)
    return rows


async def _assert_tokens_are_those_of_the_texts(library: reshelve.Library, index: Index, texts: dict[int, str]) -> None:
    """A row for every chunk of a ready index, and in each the directions of the text's tokens, made anew."""
    async with library.backends.database.service() as connection:
        rows = await _rows(connection, f"SELECT chunk_id, vectors FROM {tokens.table_name(index)}")
    held = dict(rows)
    assert held.keys() <= texts.keys()
    if index.state is IndexState.READY:
        assert held.keys() == texts.keys()
    embedder = await library.backends.rerankers.token_embedder(await library.backends.embedders.of(index.model_id))
    fresh = await embedder.token_vectors([texts[chunk] for chunk in held])
    for packed, vectors in zip(held.values(), fresh, strict=True):
        stored = np.frombuffer(packed, np.int8).astype(np.float64)
        meant = reduce(vectors)
        assert stored.size == meant.size
        cosines = (stored.reshape(meant.shape) * meant).sum(axis=1) / np.linalg.norm(
            stored.reshape(meant.shape), axis=1
        )
        # Bytes, and the sums of a batch that was cut another way.
        assert (cosines > 0.99).all()


async def _assert_words_are_those_of_the_texts(library: reshelve.Library, index: Index, chunks: set[int]) -> None:
    """Every passage has a living chunk, a ready index all of them; and the postings are what PostgreSQL makes anew."""
    postings, passages, totals = lexical.table_names(index)
    async with library.backends.database.service() as connection:
        held = {row[0] for row in await _rows(connection, f"SELECT chunk_id FROM {passages}")}
        assert held <= chunks
        if index.state is IndexState.READY:
            assert held == chunks
        meant = await _rows(
            connection,
            f"""
            SELECT hashtextextended(v.lexeme, hashtextextended(d.tenant, 0)), c.id, cardinality(v.positions)
            FROM {passages} p JOIN chunks c ON c.id = p.chunk_id JOIN documents d ON d.id = c.document_id,
                 unnest(to_tsvector('{index.language}', c.content)) v
            """,
        )
        packed = await _rows(connection, f"SELECT word, records FROM {postings}")
        sums = await _rows(connection, f"SELECT sum(passages), sum(length) FROM {totals}")
    found = sorted(
        (word, chunk, frequency)
        for word, records in packed
        for chunk, frequency, _ in np.frombuffer(records, POSTING).tolist()
        if chunk in held
    )
    assert found == sorted(meant)
    assert (sums[0][0] or 0, sums[0][1] or 0) == (len(held), sum(row[2] for row in meant))


async def _rows(connection: psycopg.AsyncConnection[Any], statement: str, *values: object) -> list[tuple[Any, ...]]:
    if statement.lstrip().startswith("("):
        statement = f"SELECT chunk_id FROM {statement} held"
    return await (await connection.execute(statement.encode(), values)).fetchall()
