"""The oracle of every fault: once drained, every live index equals the source. Written apart from the product's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg

import reshelve
from reshelve.database.catalog import live_indexes
from reshelve.domain.indexes import IndexState
from reshelve.indexing.comparing import sweep_orphans
from reshelve.indexing.draining import drain


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
        rows += len(source)
    return rows


async def _rows(connection: psycopg.AsyncConnection[Any], statement: str, *values: object) -> list[tuple[Any, ...]]:
    if statement.lstrip().startswith("("):
        statement = f"SELECT chunk_id FROM {statement} held"
    return await (await connection.execute(statement.encode(), values)).fetchall()
