"""Feeding: what the outbox says, applied to an index, batch by batch."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import psycopg
import structlog

from reshelve.backends import Backends
from reshelve.crash_points import crash_point
from reshelve.database.catalog import get_model, live_indexes
from reshelve.database.pools import Connection
from reshelve.domain.indexes import Index
from reshelve.embedders.canary import canary, check_canary
from reshelve.errors import (
    DatabaseUnavailable,
    EmbeddingError,
    EmbeddingInvalid,
    EmbeddingRefused,
    LeaseLost,
    ModelError,
    ReshelveError,
)
from reshelve.indexing.comparing import sweep_orphans
from reshelve.indexing.leases import QueueItem, QueueLease, acknowledge_queue, claim_queue, held, taken
from reshelve.indexing.outbox import dispatch
from reshelve.indexing.spending import account
from reshelve.indexing.token_rows import token_rows
from reshelve.indexing.vectors import prepare, read_chunks
from reshelve.indexing.writing import delete_entries, write_entries
from reshelve.stores import tokens
from reshelve.tasks import cancel_and_wait

BATCH_CHANGES = 256
PATIENCE = 3
"""So often a batch may get an invalid answer before its texts are tried one by one."""
_log = structlog.get_logger(__name__)


async def feed_once(backends: Backends, index: Index) -> int:
    """Take one batch of changes in; returns how many. Safe to run anywhere, any number of times at once."""
    seconds = backends.settings.migration.lease_seconds

    async def claim(connection: Connection) -> QueueLease | None:
        await dispatch(connection)
        return await claim_queue(connection, index, limit=BATCH_CHANGES, seconds=seconds)

    lease = await taken(backends.database, "index_queue", claim)
    if lease is None:
        return 0
    async with held(backends.database, "index_queue", lease.epoch, seconds=seconds):
        for kind in ("truncated", "removed", "added"):
            items = [item for item in lease.items if item.kind == kind]
            if items:
                await _apply(backends, index, lease, kind, items)
    return len(lease.items)


async def _apply(backends: Backends, index: Index, lease: QueueLease, kind: str, items: list[QueueItem]) -> None:
    async def acknowledge(connection: Connection) -> None:
        await acknowledge_queue(connection, lease.epoch, [item.id for item in items])

    match kind:
        case "truncated":
            await sweep_orphans(backends, index)
            async with backends.database.service() as connection, connection.transaction():
                await _forget_refused(connection, index)
                await acknowledge(connection)
        case "removed":
            await delete_entries(backends, index, _chunk_ids(items), acknowledge)
            async with backends.database.service() as connection:
                await _forget_refused(connection, index)
        case _:
            await _add(backends, index, lease, items)


async def _forget_refused(connection: Connection, index: Index) -> None:
    """A chunk that is gone is no longer refused either."""
    await connection.execute(
        "DELETE FROM index_queue q WHERE index_id = %s AND refusal IS NOT NULL "
        "AND NOT EXISTS (SELECT FROM chunks WHERE id = q.chunk_id)",
        (index.id,),
    )


def _chunk_ids(items: Sequence[QueueItem]) -> list[int]:
    return [item.chunk_id for item in items if item.chunk_id is not None]


async def _add(backends: Backends, index: Index, lease: QueueLease, items: list[QueueItem]) -> None:
    """A text that the model refuses must not hold the others up: the batch is halved until it stands alone."""
    async with backends.database.service() as connection:
        chunks = await read_chunks(connection, _chunk_ids(items))
    crash_point("apply.after_read")

    async def acknowledge(connection: Connection) -> None:
        await tokens.write(connection, index, rows)
        await acknowledge_queue(connection, lease.epoch, [item.id for item in items])
        await account(connection, index, tokens=prepared.tokens)

    try:
        prepared = await prepare(backends, index, chunks)
        rows = await token_rows(backends, index, chunks)
        await write_entries(backends, index, prepared, acknowledge)
    except (EmbeddingRefused, EmbeddingInvalid) as error:
        if not await texts_are_to_blame(backends, index, error, attempts=max(item.attempts for item in items)):
            raise
        if len(items) == 1:
            await _park(backends, lease, items[0], error)
            return
        half = len(items) // 2
        await _add(backends, index, lease, items[:half])
        await _add(backends, index, lease, items[half:])


async def texts_are_to_blame(
    backends: Backends, index: Index, error: EmbeddingRefused | EmbeddingInvalid, *, attempts: int
) -> bool:
    """It is one of the texts that will not do, and not the provider: that still takes a sentence it took before.

    A wrong answer may be right the next time; it is believed only after some attempts.
    """
    if isinstance(error, EmbeddingInvalid) and attempts < PATIENCE:
        return False
    async with backends.database.service() as connection:
        known = await get_model(connection, index.model_id)
    try:
        check_canary(known.canary, await canary(await backends.embedders.of(index.model_id)))
    except (EmbeddingError, ModelError) as broken:
        _log.warning("the model answers nothing right", index=index.id, reason=broken.message)
        return False
    return True


async def _park(backends: Backends, lease: QueueLease, item: QueueItem, error: ReshelveError) -> None:
    _log.warning("chunk refused by the model", chunk=item.chunk_id, reason=error.message)
    async with backends.database.service() as connection:
        await connection.execute(
            "UPDATE index_queue SET refusal = %s, lease = NULL WHERE id = %s AND lease = %s",
            (error.message, item.id, lease.epoch),
        )


class Feeder:
    """Feeds every live index for as long as it runs: one task an index, so that a slow one holds no other up."""

    def __init__(self, backends: Backends, *, poll_seconds: float = 0.1) -> None:
        self._backends = backends
        self._poll_seconds = poll_seconds
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._wake: dict[int, asyncio.Event] = {}
        self._supervisor: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._supervisor is None:
            self._supervisor = asyncio.create_task(self._supervise())

    def wake(self) -> None:
        """There is something to do: do not wait for the next look."""
        for event in self._wake.values():
            event.set()

    async def stop(self) -> None:
        """Ends at once; a batch in flight gives its lease back."""
        if self._supervisor is not None:
            await cancel_and_wait(self._supervisor)
            self._supervisor = None
        await cancel_and_wait(*self._tasks.values())
        self._tasks.clear()

    async def _supervise(self) -> None:
        while True:
            try:
                async with self._backends.database.service() as connection:
                    live = {index.id: index for index in await live_indexes(connection)}
                for index_id in set(self._tasks) - set(live):
                    await cancel_and_wait(self._tasks.pop(index_id))
                self._bury()
                for index_id, index in live.items():
                    if index_id not in self._tasks:
                        self._wake[index_id] = asyncio.Event()
                        self._tasks[index_id] = asyncio.create_task(self._feed(index))
            except (ReshelveError, psycopg.Error) as error:
                _log.warning("the feeder cannot see the indexes", error=str(error))
            await asyncio.sleep(0.5)

    def _bury(self) -> None:
        """A task that died of something nobody foresaw is begun again."""
        for index_id, task in list(self._tasks.items()):
            if task.done():
                _log.error("a feeder died, and is begun again", index=index_id, error=repr(task.exception()))
                del self._tasks[index_id]

    async def _feed(self, index: Index) -> None:
        failures = 0
        while True:
            try:
                worked = await feed_once(self._backends, index)
                failures = 0
            except LeaseLost:
                worked = 1
            except (ReshelveError, psycopg.Error) as error:
                failures += 1
                _log.warning("feeding failed, and is tried again", index=index.id, error=str(error), times=failures)
                await asyncio.sleep(min(0.2 * 2**failures, 1 if isinstance(error, DatabaseUnavailable) else 30))
                continue
            if not worked:
                event = self._wake[index.id]
                # Not wait_for: before Python 3.12 it can swallow a cancellation, and `stop` would hang.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._poll_seconds):
                        await event.wait()
                event.clear()
