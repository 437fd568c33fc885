"""A store that lost its memory with the last process is filled again from what the ledger says it held."""

from __future__ import annotations

from reshelve.backends import Backends
from reshelve.database.catalog import live_indexes
from reshelve.domain.indexes import Index
from reshelve.indexing.vectors import prepare, read_chunks

_BATCH = 512


async def restore_volatile(backends: Backends) -> None:
    async with backends.database.service() as connection:
        lost = [index for index in await live_indexes(connection) if not backends.stores.of(index).durable]
    for index in lost:
        await _restore(backends, index)


async def _restore(backends: Backends, index: Index) -> None:
    store = backends.stores.of(index)
    after = 0
    while True:
        async with backends.database.service() as connection:
            cursor = await connection.execute(
                "SELECT chunk_id FROM ledger WHERE index_id = %s AND chunk_id > %s ORDER BY chunk_id LIMIT %s",
                (index.id, after, _BATCH),
            )
            ids = [row[0] for row in await cursor.fetchall()]
            if not ids:
                return
            chunks = await read_chunks(connection, ids)
        prepared = await prepare(backends, index, chunks)
        async with backends.database.service() as connection:
            await store.write(connection, index, prepared.entries)
        after = ids[-1]
