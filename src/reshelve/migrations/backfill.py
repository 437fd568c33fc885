"""The backfill: several ranges at a time, throttled, within the budget, until none is left."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from reshelve.backends import Backends
from reshelve.corpus.ingest import rechunk
from reshelve.database import catalog
from reshelve.database.pools import Connection
from reshelve.domain.indexes import Index
from reshelve.domain.migration import State
from reshelve.errors import BudgetReached, DatabaseUnavailable, LeaseLost, ReshelveError
from reshelve.indexing.leases import RangeLease
from reshelve.indexing.ranges import Progress, fill_one_range, progress
from reshelve.migrations import records
from reshelve.migrations.declaration import chunker_of
from reshelve.migrations.throttle import Throttle
from reshelve.tasks import cancel_and_wait

_log = structlog.get_logger(__name__)
_LOOK_SECONDS = 0.3
_STEER_SECONDS = 2.0
_FEWEST_ROWS, _MANY_ROWS = 16, 256
"""Rows at a time while searches are live: few enough for about a second, with the rests between."""
_PATIENCE = 5
"""So many passing faults in a row, each after the embedder's own retries, and the engine looks at it again."""
_SECOND_CHANCES = 3
"""So many failures of other kinds: a wrong answer may be right the next time."""
_LONGEST_WAIT_SECONDS = 30.0


@dataclass(slots=True)
class RateLimit:
    """At most `rows_per_second` on average, over all tasks of this process."""

    rows_per_second: float | None
    _free_at: float = 0.0

    def spend(self, rows: int) -> float:
        """Seconds to wait before the next rows."""
        if self.rows_per_second is None:
            return 0.0
        now = time.monotonic()
        self._free_at = max(self._free_at, now) + rows / self.rows_per_second
        return max(0.0, self._free_at - now)


@dataclass(slots=True)
class Backfill:
    """One run of the backfill of one index. `rows_allowed` is what `--limit` leaves."""

    backends: Backends
    migration_id: int
    index: Index
    rows_allowed: int | None
    on_progress: Callable[[Progress], None]
    rows_done: int = 0
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _trouble: ReshelveError | None = None
    _in_flight: int = 0
    _throttle: Throttle | None = None
    _few_rows: int = _FEWEST_ROWS

    def _allowance(self) -> int | None:
        """Rows that may still be started; None without a limit."""
        return None if self.rows_allowed is None else self.rows_allowed - self.rows_done - self._in_flight

    async def run(self) -> None:
        """Until nothing is left, the migration leaves `backfilling`, or a limit is reached.

        Raises BudgetReached, and the fault that would not pass; the ranges of other workers are finished before.
        """
        async with self.backends.database.service() as connection:
            migration = await records.get(connection, self.migration_id)
        if self.backends.settings.migration.throttle.enabled:
            async with self.backends.database.owner() as connection:
                self._throttle = await Throttle.begin(connection, self.backends, migration)
        limit = RateLimit(migration.max_rate)
        watch = asyncio.create_task(self._watch())
        workers = [asyncio.create_task(self._work(limit)) for _ in range(self.backends.settings.migration.workers)]
        try:
            await asyncio.gather(*workers)
            self._stop.set()
            await watch
        finally:
            await cancel_and_wait(*workers, watch)
            await self._let_go()
        if self._trouble is not None:
            raise self._trouble

    async def _watch(self) -> None:
        """From the first row to the last one. Where the listener raises, the run ends."""
        steer_at = time.monotonic() + _STEER_SECONDS
        try:
            while True:
                last = self._stop.is_set()
                # A worker that meets the same fault decides what comes of it.
                with contextlib.suppress(DatabaseUnavailable):
                    await self._look()
                    if time.monotonic() >= steer_at:
                        steer_at = time.monotonic() + _STEER_SECONDS
                        await self._steer()
                if last:
                    return
                await self._sleep(_LOOK_SECONDS)
        finally:
            self._stop.set()
            # What is in flight need not take its time any more.
            self.backends.pace.set(None)

    async def _steer(self) -> None:
        if self._throttle is not None and not self._stop.is_set():
            async with self.backends.database.owner() as connection:
                await self._throttle.look(connection)

    async def _let_go(self) -> None:
        if self._throttle is not None:
            with contextlib.suppress(DatabaseUnavailable):
                async with self.backends.database.owner() as connection:
                    await self._throttle.end(connection)

    async def _look(self) -> None:
        async with self.backends.database.service() as connection:
            migration = await records.get(connection, self.migration_id)
            self.on_progress(await progress(connection, self.index.id))
        if migration.state is not State.BACKFILLING:
            self._stop.set()

    async def _sleep(self, seconds: float) -> None:
        """Or until the run is to end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    async def _work(self, limit: RateLimit) -> None:
        failures = 0
        while not self._stop.is_set():
            allowance = self._allowance()
            if allowance is not None and allowance <= 0:
                return
            try:
                rows = await self._fill_one(allowance)
            except LeaseLost:
                continue
            except ReshelveError as error:
                failures += 1
                if isinstance(error, BudgetReached) or failures > (_PATIENCE if error.retryable else _SECOND_CHANCES):
                    self._trouble = error
                    self._stop.set()
                    return
                _log.warning("a range failed, and is tried again", error=error.message, times=failures)
                await self._note(f"tried again: {error.message}")
                await self._sleep(min(0.2 * 2**failures, _LONGEST_WAIT_SECONDS))
                continue
            if failures:
                await self._note(None)
            failures = 0
            if rows is not None:
                self.rows_done += rows
                await self._sleep(limit.spend(rows))
            elif await self._nothing_left():
                return
            else:
                # The rest is leased by somebody who is at work, or died: then the lease runs out.
                await self._sleep(0.1)

    async def _fill_one(self, allowance: int | None) -> int | None:
        few = self._few_rows if self.backends.pace.careful else None
        most = min(few or sys.maxsize, allowance or sys.maxsize)
        reserved = min(self.backends.settings.migration.range_rows, most)
        self._in_flight += reserved
        began = time.monotonic()
        try:
            rows = await fill_one_range(
                self.backends, self.index, cut_documents=self._cut, most=None if most == sys.maxsize else most
            )
        finally:
            self._in_flight -= reserved
        if few is not None and rows == few:
            more = few * 2 if time.monotonic() - began < 0.5 else few // 2
            self._few_rows = min(max(more, _FEWEST_ROWS), _MANY_ROWS)
        return rows

    async def _nothing_left(self) -> bool:
        async with self.backends.database.service() as connection:
            return (await progress(connection, self.index.id)).left == 0

    async def _note(self, trouble: str | None) -> None:
        with contextlib.suppress(DatabaseUnavailable):
            async with self.backends.database.owner() as connection:
                await records.note_trouble(connection, self.migration_id, State.BACKFILLING, trouble)

    async def _cut(self, connection: Connection, lease: RangeLease) -> int:
        chunkings = await catalog.live_chunkings(connection, self.index.collection_id)
        ours = next(chunking for chunking in chunkings if chunking.id == self.index.chunking_id)
        chunker = await chunker_of(self.backends, ours)
        return await rechunk(connection, chunking_id=ours.id, chunker=chunker, lo=lease.lo, hi=lease.hi)
