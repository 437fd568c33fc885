"""Rows a second of the backfill, with an embedder that costs nothing and through an endpoint that answers at once.

The time is the migration's own: from its journal, between entering `backfilling` and entering `building`. Beside it,
the same vectors go by binary COPY into a table without an index.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress

import numpy as np
from psycopg import sql

from bench.figures import Figure
from bench.free_embedder import FreeEmbedder, unit_vectors
from bench.shelf import Server, opened, put_in, settings_for
from reshelve.domain.migration import State
from reshelve.library import Library
from reshelve.migrations import records
from reshelve.migrations.engine import Happening

ROWS = 100_000
ENDPOINT_ROWS = 30_000
DIMENSION = 384
ROUNDS = 3
_SOURCE = '[rag.embedding]\nmodel = "hashing-64"\n'


class _Filled(Exception):
    """The backfill is over, and the rest of the migration is not measured here."""


def _stop_at_the_build(event: Happening) -> None:
    if event.state is State.BUILDING:
        raise _Filled


async def backfill_seconds(library: Library) -> float:
    """Run the declared migration through its backfill, then take it back; the backfill's own time."""
    with suppress(_Filled):
        await library.apply(on_event=_stop_at_the_build)
    migration = await library.pause()
    async with library.backends.database.owner() as connection:
        journal = await records.read_journal(connection, migration.id)
        cursor = await connection.execute(
            sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(f"embeddings_{migration.target_index_id}"))
        )
        row = await cursor.fetchone()
        chunks = await (await connection.execute("SELECT count(*) FROM chunks")).fetchone()
    if row != chunks:
        raise RuntimeError(f"the backfill left out rows: {row} of {chunks}")
    at = {entry["after"]: entry["at"] for entry in journal}
    await library.rollback()
    await library.cleanup()
    return (at[State.BUILDING] - at[State.BACKFILLING]).total_seconds()


async def copy_seconds(library: Library, *, rows: int, batch: int) -> float:
    """Binary COPY of as many vectors into a table without an index, each batch a transaction. The bytes are ready."""
    pool = unit_vectors(min(rows, 20_000), DIMENSION)
    vectors = np.concatenate([pool] * -(-rows // len(pool)))[:rows]
    batches = []
    for start in range(0, rows, batch):
        ids = np.arange(start, min(start + batch, rows), dtype=np.int64)
        batches.append(_binary_rows(ids, vectors[start : start + batch]))
    async with library.backends.database.owner() as connection:
        await connection.execute("DROP TABLE IF EXISTS side")
        await connection.execute(
            sql.SQL("CREATE TABLE side (chunk_id bigint, content_hash uuid, embedding vector({}))").format(DIMENSION)
        )
        began = time.perf_counter()
        for ready in batches:
            async with connection.cursor().copy("COPY side FROM STDIN (FORMAT binary)") as copy:
                await copy.write(ready)
        return time.perf_counter() - began


def _binary_rows(ids: np.ndarray, vectors: np.ndarray) -> bytes:
    """Rows of (bigint, uuid, vector) as COPY takes them: every row has the same width, so an array is the wire form."""
    dimension = vectors.shape[1]
    row = np.dtype(
        [
            ("fields", ">i2"),
            ("id_size", ">i4"),
            ("id", ">i8"),
            ("hash_size", ">i4"),
            ("hash", ">i8", (2,)),
            ("vector_size", ">i4"),
            ("dimension", ">i2"),
            ("unused", ">i2"),
            ("vector", ">f4", (dimension,)),
        ]
    )
    rows = np.zeros(len(ids), dtype=row)
    sizes = {"fields": 3, "id_size": 8, "hash_size": 16, "vector_size": 4 + 4 * dimension, "dimension": dimension}
    for name, value in sizes.items():
        rows[name] = value
    rows["id"] = ids
    rows["hash"] = ids[:, None]
    rows["vector"] = vectors
    return b"PGCOPY\n\xff\r\n\0" + bytes(8) + rows.tobytes() + b"\xff\xff"


async def free(server: Server, *, rows: int = ROWS, rounds: int = ROUNDS) -> list[Figure]:
    """The engine alone. The sides take turns; the best of each counts."""
    database = server.database("free")
    async with opened(settings_for(database, _SOURCE)) as library:
        await put_in(library, rows, fed=False)
    ours, batched, at_once = [], [], []
    target = settings_for(database, f'[rag.embedding]\nmodel = "hashing-{DIMENSION}"\n')
    async with opened(target, free=FreeEmbedder(DIMENSION)) as library:
        for _ in range(rounds):
            batched.append(await copy_seconds(library, rows=rows, batch=1000))
            ours.append(await backfill_seconds(library))
            at_once.append(await copy_seconds(library, rows=rows, batch=rows))
    rate, raw, whole = rows / min(ours), rows / min(batched), rows / min(at_once)
    name = f"backfill, free embedder, {rows:,} x {DIMENSION}"
    return [
        Figure(
            name=name,
            value=rate,
            unit="rows/s",
            beside="binary COPY by 1,000",
            raw=raw,
            target=">= 0.25 of it",
            met=rate >= 0.25 * raw,
        ),
        Figure(name="  the same, in one go", value=rate, unit="rows/s", beside="binary COPY in one go", raw=whole),
    ]


@contextmanager
def endpoint() -> Iterator[str]:
    """The base URL of an OpenAI-compatible endpoint in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.embedding_endpoint", "--dimension", str(DIMENSION)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(30)


async def through_an_endpoint(server: Server, *, rows: int = ENDPOINT_ROWS, rounds: int = ROUNDS) -> list[Figure]:
    """Over HTTP, with every text sent and every vector received."""
    database = server.database("endpoint")
    async with opened(settings_for(database, _SOURCE)) as library:
        await put_in(library, rows, fed=False)
    seconds, batched = [], []
    with endpoint() as url:
        embedding = f'[rag.embedding]\nmodel = "instant"\nprovider = "openai"\nbase_url = "{url}"\n'
        async with opened(settings_for(database, embedding)) as library:
            for _ in range(rounds):
                batched.append(await copy_seconds(library, rows=rows, batch=1000))
                seconds.append(await backfill_seconds(library))
                await _forget_vectors(library)
    return [
        Figure(
            name=f"backfill, OpenAI-compatible endpoint, {rows:,} x {DIMENSION}",
            value=rows / min(seconds),
            unit="rows/s",
            beside="binary COPY by 1,000",
            raw=rows / min(batched),
            target=">= 5,000 rows/s",
            met=rows / min(seconds) >= 5000,
        )
    ]


async def _forget_vectors(library: Library) -> None:
    """A next round would find them again, and ask the endpoint for nothing."""
    async with library.backends.database.owner() as connection:
        await connection.execute("TRUNCATE spare_vectors")


async def run(server: Server) -> AsyncGenerator[list[Figure]]:
    yield await free(server)
    yield await through_an_endpoint(server)
