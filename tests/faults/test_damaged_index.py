"""Entries that were damaged, taken away or added behind the program's back: verification names each, and mends it."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import numpy as np
import pytest

import reshelve
from reshelve.database.catalog import get_index
from reshelve.domain.migration import State
from reshelve.stores.memory import MemoryStore
from tests.faults.conftest import ROWS, Declare, Outsider, Scene
from tests.support.embedding_endpoint import EmbeddingEndpoint
from tests.support.oracle import assert_indexes_equal_source
from tests.support.writers import documents

NOBODY = 1_000_000_007


@pytest.fixture
async def moved(scene: Scene) -> AsyncGenerator[reshelve.Library]:
    """Verified, and before the cutover."""
    async with reshelve.connect(scene.target) as library:
        assert (await library.apply()).state is State.VERIFYING
        yield library


async def _damage(owner: Outsider, index: int) -> tuple[object, object]:
    """One vector corrupted, one dropped, one added; returns the chunks of the first two."""
    table = f"embeddings_{index}"
    cursor = await owner.execute(f"SELECT chunk_id FROM {table} ORDER BY chunk_id LIMIT 2".encode())
    [(corrupted,), (dropped,)] = await cursor.fetchall()
    for statement, values in (
        (
            "UPDATE {} a SET embedding = b.embedding FROM {} b WHERE a.chunk_id = %s AND b.chunk_id = %s",
            [corrupted, dropped],
        ),
        ("INSERT INTO {} SELECT %s, content_hash, embedding, checksum FROM {} WHERE chunk_id = %s", [NOBODY, dropped]),
        ("DELETE FROM {} WHERE chunk_id = %s", [dropped]),
    ):
        await owner.execute(statement.replace("{}", table).encode(), values)
    return corrupted, dropped


async def _assert_named_and_mended(library: reshelve.Library, index: int, corrupted: object, dropped: object) -> None:
    proof = await library.verify(index=index)
    assert set(proof.named) == {
        f"chunk {corrupted}: the vector was changed",
        f"chunk {dropped}: no vector",
        f"chunk {NOBODY}: a vector too many",
    }
    assert (proof.passed, proof.repaired, proof.missing, proof.extra, proof.flawed) == (True, 3, 0, 0, 0)
    again = await library.verify(index=index)
    assert (again.passed, again.passes, again.repaired, again.named) == (True, 1, 0, [])


@pytest.mark.parametrize("which", ["serving", "target"])
async def test_damaged_by_sql(moved: reshelve.Library, owner: Outsider, which: str) -> None:
    index = (await moved.status()).indexes[which == "target"].id
    corrupted, dropped = await _damage(owner, index)
    await _assert_named_and_mended(moved, index, corrupted, dropped)
    assert await assert_indexes_equal_source(moved) == 2 * ROWS


async def test_damaged_before_the_cutover(moved: reshelve.Library, owner: Outsider) -> None:
    """The cutover's own verification finds it, and nobody is sent to a damaged index."""
    corrupted, dropped = await _damage(owner, (await moved.status()).indexes[1].id)
    migration = await moved.cutover()
    assert migration.state is State.SOAKING
    assert migration.verification is not None
    assert migration.verification["repaired"] == 3
    assert {f"chunk {corrupted}: the vector was changed", f"chunk {dropped}: no vector"} < {
        *migration.verification["named"]
    }
    assert await assert_indexes_equal_source(moved) == 2 * ROWS


async def test_what_is_damaged_is_never_used_again(declare: Declare, owner: Outsider) -> None:
    """Vectors that cost something are looked for before a text is embedded: damaged ones must not be found."""
    with EmbeddingEndpoint(dimension=64) as endpoint:
        file = declare("paid", embedding=f'base_url = "{endpoint.base_url}"')
        async with reshelve.connect(file) as library:
            await library.ingest(documents(20))
            [index] = (await library.status()).indexes
            await _damage(owner, index.id)
            copies = [
                reshelve.Document(external_id=f"copy{number}", content=each.content)
                for number, each in enumerate(documents(20))
            ]
            await library.ingest(copies)
            await library.delete([each.external_id for each in documents(20)])
            await library.ingest(documents(20))
            assert (await library.verify()).passed
            assert await assert_indexes_equal_source(library) == 40


async def test_damaged_in_a_store_outside_postgresql(declare: Declare) -> None:
    async with reshelve.connect(declare(backend="mock")) as library:
        await library.ingest(documents(30))
        backends = library.backends
        [status] = (await library.status()).indexes
        async with backends.database.service() as connection:
            index = await get_index(connection, status.id)
            await connection.execute(
                "INSERT INTO ledger SELECT index_id, %s, content_hash FROM ledger ORDER BY chunk_id LIMIT 1", (NOBODY,)
            )
        store = backends.stores.of(index)
        assert isinstance(store, MemoryStore)
        shelf = store._shelf(index)
        corrupted, dropped, *_ = sorted(shelf.vectors)
        shelf.vectors[corrupted] = np.ones(64, np.float32) / 8
        del shelf.vectors[dropped]
        proof = await library.verify()
        assert set(proof.named) == {
            f"chunk {corrupted}: the vector was changed",
            f"chunk {dropped}: the vector is gone",
            f"chunk {NOBODY}: a vector too many",
        }
        assert (proof.passed, proof.repaired) == (True, 3)
        assert (await library.verify()).passes == 1
        assert await assert_indexes_equal_source(library) == 30
