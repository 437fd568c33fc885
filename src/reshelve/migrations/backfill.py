"""The backfill: several ranges at a time, throttled, within the budget, until none is left."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from reshelve.backends import Backends
from reshelve.corpus.ingest import rechunk
from reshelve.database import catalog
from reshelve.database.pools import Connection
from reshelve.domain.indexes import Index
from reshelve.domain.migration import State
from reshelve.errors import LeaseLost, ReshelveError
from reshelve.indexing.leases import RangeLease
from reshelve.indexing.ranges import Progress, fill_one_range, progress
from reshelve.migrations import records
from reshelve.migrations.declaration import chunker_of

_log = structlog.get_logger(__name__)
_LOOK_SECONDS = 0.3


@dataclass(slots=True)
class RateLimit:
    """At most `rows_per_second` on average, over all tasks of this process."""

    rows_per_second: float | None
    _free_at: float = 0.0

    async def spend(self, rows: int) -> None:
        if self.rows_per_second is None:
            return
        now = time.monotonic()
        self._free_at = max(self._free_at, now) + rows / self.rows_per_second
        await asyncio.sleep(max(0.0, self._free_at - now))


@dataclass(slots=True)
class Backfill:
    """One run of the backfill of one index. `rows_allowed` is what `--limit` leaves."""

    backends: Backends
    migration_id: int
    index: Index
    rows_allowed: int | None
    on_progress: Callable[[Progress], None]
    rows_done: int = 0
    _stop: bool = False
    _in_flight: int = 0

    def _allowance(self) -> int | None:
        """Rows that may still be started; None without a limit."""
        return None if self.rows_allowed is None else self.rows_allowed - self.rows_done - self._in_flight

    async def run(self) -> None:
        """Until nothing is left, the migration leaves `backfilling`, or a limit is reached."""
        async with self.backends.database.service() as connection:
            migration = await records.get(connection, self.migration_id)
        limit = RateLimit(migration.max_rate)
        async with asyncio.TaskGroup() as tasks:
            watch = tasks.create_task(self._watch())
            workers = [tasks.create_task(self._work(limit)) for _ in range(self.backends.settings.migration.workers)]
            await asyncio.wait(workers)
            self._stop = True
            await watch

    async def _watch(self) -> None:
        while not self._stop:
            async with self.backends.database.service() as connection:
                migration = await records.get(connection, self.migration_id)
                self.on_progress(await progress(connection, self.index.id))
            if migration.state is not State.BACKFILLING or over_budget(migration, self._rows_ahead()):
                self._stop = True
            await asyncio.sleep(_LOOK_SECONDS)

    def _rows_ahead(self) -> int:
        gates = self.backends.settings.migration
        return gates.range_rows * gates.workers

    async def _work(self, limit: RateLimit) -> None:
        failures = 0
        while not self._stop:
            allowance = self._allowance()
            if allowance is not None and allowance <= 0:
                return
            reserved = min(self.backends.settings.migration.range_rows, allowance or sys.maxsize)
            self._in_flight += reserved
            try:
                rows = await fill_one_range(self.backends, self.index, cut_documents=self._cut, most=allowance)
                failures = 0
            except LeaseLost:
                continue
            except ReshelveError as error:
                if not error.retryable and failures >= 3:
                    raise
                failures += 1
                _log.warning("a range failed, and is tried again", error=error.message, times=failures)
                await asyncio.sleep(min(0.2 * 2**failures, 30))
                continue
            finally:
                self._in_flight -= reserved
            if rows is None:
                async with self.backends.database.service() as connection:
                    if (await progress(connection, self.index.id)).left == 0:
                        return
                # The rest is leased by somebody who is at work, or died: then the lease runs out.
                await asyncio.sleep(0.1)
                continue
            self.rows_done += rows
            await limit.spend(rows)
            if await self._budget_spent():
                return

    async def _budget_spent(self) -> bool:
        if self.index.model.price_per_million_tokens == 0:
            return False
        async with self.backends.database.service() as connection:
            return over_budget(await records.get(connection, self.migration_id), self._rows_ahead())

    async def _cut(self, connection: Connection, lease: RangeLease) -> int:
        chunkings = await catalog.live_chunkings(connection, self.index.collection_id)
        ours = next(chunking for chunking in chunkings if chunking.id == self.index.chunking_id)
        chunker = await chunker_of(self.backends, ours)
        return await rechunk(connection, chunking_id=ours.id, chunker=chunker, lo=lease.lo, hi=lease.hi)


def over_budget(migration: records.Migration, rows_ahead: int) -> bool:
    """The next ranges could spend more than is left: what a row costs is what it has cost so far, else the plan's."""
    if migration.budget_usd is None:
        return False
    rows = migration.embedded_rows
    planned = migration.plan.get("cost_usd", 0.0) / max(migration.plan.get("rows", 0), 1)
    a_row = migration.spent_usd / rows if rows else planned
    left = max(migration.plan.get("rows", 0) - rows - migration.reused_rows, 0)
    return a_row > 0 and migration.spent_usd + a_row * min(rows_ahead, max(left, 1)) > migration.budget_usd
