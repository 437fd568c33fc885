"""Writing entries and taking them away, so that a store inside PostgreSQL and one outside end the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from reshelve.backends import Backends
from reshelve.crash_points import crash_point
from reshelve.database.pools import Connection
from reshelve.database.routes import count_change
from reshelve.domain.indexes import Index
from reshelve.indexing.vectors import Prepared, forget_spare, keep_spare
from reshelve.stores import lexical, tokens

Acknowledge = Callable[[Connection], Awaitable[None]]
"""Marks the work as done inside the given transaction. Raises LeaseLost, which takes everything back."""


async def write_entries(backends: Backends, index: Index, prepared: Prepared, acknowledge: Acknowledge) -> int:
    """Write, then acknowledge, in one transaction; a store outside PostgreSQL is written before. Returns rows added."""
    store = backends.stores.of(index)
    entries = prepared.entries
    written = 0
    async with backends.database.service() as connection:
        if not store.transactional:
            written = await store.write(connection, index, entries)
            crash_point("apply.after_target_write")
        async with connection.transaction():
            if store.transactional:
                written = await store.write(connection, index, entries)
                crash_point("apply.after_target_write")
            else:
                await _enter_in_ledger(connection, index, prepared)
            await lexical.add(connection, index, entries.chunk_ids.tolist())
            if prepared.spare:
                await forget_spare(connection, index, entries.content_hashes)
            if written or not store.transactional:
                await count_change(connection, index.collection_id)
            await acknowledge(connection)
            crash_point("apply.before_commit")
        crash_point("apply.after_commit")
        await _fold_now_and_then(backends, connection, index)
    return written


async def _fold_now_and_then(backends: Backends, connection: Connection, index: Index) -> None:
    """A word has a row more after each change: some dozens are read as fast as one."""
    if backends.folding.due:
        with backends.folding.work():
            await lexical.fold(connection, index)


async def _enter_in_ledger(connection: Connection, index: Index, prepared: Prepared) -> None:
    await connection.execute(
        "INSERT INTO ledger (index_id, chunk_id, content_hash) "
        "SELECT %s, e.chunk_id, e.content_hash FROM unnest(%s::bigint[], %s::uuid[]) e (chunk_id, content_hash) "
        "JOIN chunks c ON c.id = e.chunk_id ON CONFLICT DO NOTHING",
        (index.id, prepared.entries.chunk_ids.tolist(), list(prepared.entries.content_hashes)),
    )


async def delete_entries(
    backends: Backends,
    index: Index,
    chunk_ids: Sequence[int],
    acknowledge: Acknowledge | None = None,
    *,
    keep_vectors: bool = True,
) -> int:
    """Take entries away. Vectors that cost something are kept as spares, where they are not what is wrong.

    Returns how many entries there were.
    """
    store = backends.stores.of(index)
    keep_vectors = keep_vectors and not (await backends.embedders.of(index.model_id)).costs_nothing
    deleted = 0
    async with backends.database.service() as connection:
        gone = await store.read(connection, index, chunk_ids) if keep_vectors else None
        if not store.transactional:
            await store.delete(connection, index, chunk_ids)
        async with connection.transaction():
            if gone is not None and len(gone.chunk_ids):
                await keep_spare(connection, index, dict(zip(gone.content_hashes, gone.vectors, strict=True)))
            if store.transactional:
                deleted = await store.delete(connection, index, chunk_ids)
            else:
                cursor = await connection.execute(
                    "DELETE FROM ledger WHERE index_id = %s AND chunk_id = ANY(%s)", (index.id, list(chunk_ids))
                )
                deleted = cursor.rowcount
            await lexical.remove_dead(connection, index, chunk_ids)
            await tokens.remove(connection, index, chunk_ids)
            if deleted or not store.transactional:
                await count_change(connection, index.collection_id)
            if acknowledge is not None:
                await acknowledge(connection)
        await _fold_now_and_then(backends, connection, index)
    return deleted
