"""Steering the backfill's pace by what searches and the database say: see `domain/throttle.py` for the rule."""

from __future__ import annotations

import os
from dataclasses import dataclass

import structlog
from psycopg.conninfo import conninfo_to_dict

from reshelve.backends import Backends
from reshelve.database.pools import Connection
from reshelve.domain.figures import ArmFigures
from reshelve.domain.routes import Arm
from reshelve.domain.throttle import ENOUGH_SEARCHES, LEAST_DUTY, Decision, Reading, next_duty
from reshelve.migrations import records
from reshelve.migrations.records import Migration
from reshelve.operations.figures import read_figures

BEFORE = "p95_before_ms"
"""What the evidence of a migration calls the searches' p95 without the backfill."""
_BEFORE_SECONDS = 600
_LIVE_SECONDS = 20
_CALM_LOOKS = 6
_CALM_SECONDS = 10
"""After so many looks at the slowest pace nothing of a faster one is left in so many seconds of figures."""
_UNHINDERED = Decision(duty=None)
_HERE = ("localhost", "127.0.0.1", "::1")
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Throttle:
    """One run's. The figures come from the database: it does not matter which process answers the searches."""

    backends: Backends
    migration: Migration
    before_ms: float | None
    _decided: Decision = _UNHINDERED
    _calm_looks: int = 0

    @classmethod
    async def begin(cls, connection: Connection, backends: Backends, migration: Migration) -> Throttle:
        """A run that goes on with an earlier one's work keeps what that one saw before it began."""
        found = cls(backends, migration, migration.evidence.get(BEFORE))
        if found.before_ms is None:
            before = await found._searches(connection, _BEFORE_SECONDS)
            if before.requests >= ENOUGH_SEARCHES:
                await found._keep_before(connection, before.p95_ms)
        await found.look(connection)
        return found

    async def look(self, connection: Connection) -> None:
        """One reading, one step."""
        settings = self.backends.settings.migration.throttle
        now = await self._searches(connection, _LIVE_SECONDS)
        await self._make_calm_reading(connection)
        seen = Reading(
            searches=now.requests,
            p95_ms=now.p95_ms,
            before_ms=self.before_ms,
            load=await self._load(connection),
        )
        decided = next_duty(
            self._decided.duty, seen, max_p95_ratio=settings.max_p95_ratio, max_load=settings.max_database_load
        )
        if decided != self._decided:
            self._decided = decided
            self.backends.pace.set(decided.duty)
            _log.debug("the backfill's pace", duty=decided.duty, reason=decided.reason)
            await self._tell(connection)

    async def _make_calm_reading(self, connection: Connection) -> None:
        """Where nobody searched before the backfill: what the p95 is while the backfill all but stands still."""
        self._calm_looks = self._calm_looks + 1 if self._decided.duty == LEAST_DUTY else 0
        if self.before_ms is None and self._calm_looks >= _CALM_LOOKS:
            calm = await self._searches(connection, _CALM_SECONDS)
            if calm.requests >= ENOUGH_SEARCHES:
                await self._keep_before(connection, calm.p95_ms)

    async def end(self, connection: Connection) -> None:
        """Nobody is steering any more."""
        self._decided = _UNHINDERED
        self.backends.pace.set(None)
        await self._tell(connection)

    async def _tell(self, connection: Connection) -> None:
        unhindered = self._decided.duty is None
        told = {} if unhindered else {"duty": self._decided.duty, "reason": self._decided.reason}
        await records.add_evidence(connection, self.migration.id, {"throttle": told})

    async def _keep_before(self, connection: Connection, p95_ms: float | None) -> None:
        self.before_ms = p95_ms
        await records.add_evidence(connection, self.migration.id, {BEFORE: p95_ms})

    async def _searches(self, connection: Connection, seconds: float) -> ArmFigures:
        """Of the index that serves, by everybody."""
        figures = await read_figures(
            connection, collection_id=self.migration.collection_id, tenant=None, seconds=seconds
        )
        return figures.get((self.migration.source_index_id, Arm.SERVING), ArmFigures())

    async def _load(self, connection: Connection) -> float | None:
        """Running queries a core, without those of the backfill itself."""
        cursor = await connection.execute(
            "SELECT count(*), current_setting('max_parallel_workers')::integer FROM pg_stat_activity "
            "WHERE state = 'active' AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        row = await cursor.fetchone()
        assert row is not None
        host = str(conninfo_to_dict(self.backends.database.owner_address).get("host") or "/")
        # How many cores another host has, nobody says: whoever set the server up gave it workers to match.
        cores = os.cpu_count() if host.startswith("/") or host in _HERE else row[1]
        return max(0, row[0] - self.backends.settings.migration.workers) / cores if cores else None
