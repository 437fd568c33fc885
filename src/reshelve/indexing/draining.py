"""Waiting for an index: until one's own write is in, or until everything before a barrier is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from reshelve.backends import Backends
from reshelve.database.pools import Connection
from reshelve.database.routes import all_routes
from reshelve.domain.indexes import Index
from reshelve.errors import DatabaseUnavailable, EmbeddingInvalid, LeaseLost, MixedSpacesError
from reshelve.indexing.feeding import PATIENCE, feed_once
from reshelve.indexing.outbox import has_pending_of, long_transactions, older_than, pending, snapshot_xmax

_NEW_INDEX_PATIENCE_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """`barrier` is the transaction id below which everything is in; `changes` were taken in by this call itself."""

    barrier: int
    changes: int
    seconds: float


async def drain(backends: Backends, indexes: Sequence[Index], *, timeout_seconds: float | None = None) -> Drained:
    """Until everything that was written before this call is in every one of the indexes.

    Works itself, beside whatever feeder runs. Raises DatabaseUnavailable when an older transaction stays open, or the
    indexes stay behind, beyond the timeout.
    """
    started = time.monotonic()
    changes = 0
    async with backends.database.service() as connection:
        barrier = await snapshot_xmax(connection)
    while True:
        for index in indexes:
            changes += await _feed(backends, index, barrier=barrier)
        async with backends.database.service() as connection:
            ended = await older_than(connection, barrier)
            left = [await pending(connection, index.id, below_xid=barrier) for index in indexes]
            if ended and not any(left):
                return Drained(barrier=barrier, changes=changes, seconds=time.monotonic() - started)
            if timeout_seconds is not None and time.monotonic() - started > timeout_seconds:
                blockers = await long_transactions(connection, barrier)
                raise DatabaseUnavailable(
                    f"{sum(left):,} changes were not taken in within {timeout_seconds:g} s",
                    advice="Open transactions: " + "; ".join(blockers) if blockers else "Try again.",
                )
        if not ended or any(left):
            await asyncio.sleep(0.005)


async def _feed(backends: Backends, index: Index, *, barrier: int) -> int:
    """Until all from before the barrier is in. What comes after it may come faster than it is taken in."""
    taken = 0
    wrong_answers = 0
    while True:
        try:
            worked = await feed_once(backends, index)
        except LeaseLost:
            continue
        except (EmbeddingInvalid, MixedSpacesError):
            wrong_answers += 1
            if wrong_answers > PATIENCE:
                raise
            await asyncio.sleep(0.1 * 2**wrong_answers)
            continue
        taken += worked
        if not worked:
            return taken
        async with backends.database.service() as connection:
            if not await pending(connection, index.id, below_xid=barrier):
                return taken


async def wait_for_write(
    backends: Backends,
    *,
    collection_id: int,
    xid: int,
    on_left: Callable[[int], None] | None = None,
    patience_seconds: float = 120.0,
) -> None:
    """Until the write of transaction `xid` is in every index that answers searches. Somebody else does the feeding.

    An index that is new in a rollout, and fails or takes nothing in, does not hold writers up: the one that was there
    before answers for it. `on_left` is told, every second or so, how many changes are still to be taken in. Raises
    DatabaseUnavailable when their number has not shrunk for `patience_seconds`.
    """
    waiting = _Waiting(patience_seconds, on_left)
    pause = 0.002
    while True:
        async with backends.database.service() as connection:
            answering = await _answering(backends, connection, collection_id, waiting)
            open_for = [each for each in answering if await has_pending_of(connection, each, up_to_xid=xid)]
            if not open_for:
                return
            if waiting.due():
                waiting.look({index: await pending(connection, index, below_xid=xid + 1) for index in open_for})
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, 0.05)


async def _answering(backends: Backends, connection: Connection, collection_id: int, waiting: _Waiting) -> set[int]:
    answering: set[int] = set()
    for route in await all_routes(connection, collection_id):
        answering.add(route.old.id)
        if route.new is None or not (route.share_now or backends.settings.rollout.percentage):
            continue
        if waiting.idle_seconds(route.new.id) < _NEW_INDEX_PATIENCE_SECONDS and backends.breakers.closed(route.new.id):
            answering.add(route.new.id)
    return answering


@dataclass(slots=True)
class _Waiting:
    """`fewest` changes were left of each index so far, and `shrunk_at` is when that became so."""

    patience_seconds: float
    on_left: Callable[[int], None] | None
    began_at: float = field(default_factory=time.monotonic)
    looked_at: float = field(default_factory=time.monotonic)
    fewest: dict[int, int] = field(default_factory=dict[int, int])
    shrunk_at: dict[int, float] = field(default_factory=dict[int, float])

    def due(self) -> bool:
        return time.monotonic() - self.looked_at > 1.0

    def idle_seconds(self, index: int) -> float:
        """For so long the index has taken nothing of it in."""
        return time.monotonic() - self.shrunk_at.get(index, self.began_at)

    def look(self, left: Mapping[int, int]) -> None:
        self.looked_at = time.monotonic()
        for index, changes in left.items():
            if index in self.fewest and changes < self.fewest[index]:
                self.shrunk_at[index] = self.looked_at
            self.fewest[index] = min(changes, self.fewest.get(index, changes))
        total = sum(left.values())
        if self.on_left is not None:
            self.on_left(total)
        if min(map(self.idle_seconds, left)) > self.patience_seconds:
            raise DatabaseUnavailable(
                f"the write is stored, but {total:,} changes wait for an index for {self.patience_seconds:g} s by now",
                advice="Nothing is lost: see reshelve status for the lag, and the log for the reason.",
            )
