"""Carries migrations on without a person: what the service was told to drive, and every one that meets live searches.

Any number of processes may run one: a migration has one controller at a time, and the others look again a moment later.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import psycopg
import structlog

from reshelve.backends import Backends
from reshelve.database import catalog
from reshelve.domain.migration import LIVE, State
from reshelve.errors import ReshelveError, SchemaError, TransitionRefused
from reshelve.migrations import records
from reshelve.migrations.engine import Run
from reshelve.migrations.records import Migration
from reshelve.migrations.withdrawal import guard
from reshelve.tasks import cancel_and_wait

_log = structlog.get_logger(__name__)


class Conductor:
    """Looks every `rollout.check_seconds`; a backfill or build that is under way does not delay the other looks."""

    def __init__(self, backends: Backends) -> None:
        self._backends = backends
        self._runs: dict[int, asyncio.Task[None]] = {}
        self._not_ours: set[int] = set()
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._loop is None:
            self._loop = asyncio.create_task(self._conduct())

    async def stop(self) -> None:
        """Ends at once. Steps under way give back what they hold, and are gone on with by whoever comes next."""
        if self._loop is not None:
            await cancel_and_wait(self._loop, *self._runs.values())
            self._loop = None

    async def _conduct(self) -> None:
        while True:
            try:
                await self._look()
            except Exception as error:  # whatever it is, nobody else would take a rollout back
                expected = isinstance(error, ReshelveError | psycopg.Error)
                _log.warning("the migrations cannot be seen", error=str(error), exc_info=not expected)
            await asyncio.sleep(self._backends.settings.rollout.check_seconds)

    async def _look(self) -> None:
        for migration_id in [known for known, task in self._runs.items() if task.done()]:
            del self._runs[migration_id]
        for migration in await self._active():
            if not _is_ours(migration):
                continue
            if migration.id not in self._runs:
                self._runs[migration.id] = asyncio.create_task(self._drive(migration))
            else:
                await self._guard(migration)

    async def _active(self) -> list[Migration]:
        """Those that this program can read: one that a newer program wrote is left to that, and the others go on."""
        found: list[Migration] = []
        async with self._backends.database.owner() as connection:
            for migration_id in await records.active_ids(connection):
                try:
                    found.append(await records.get(connection, migration_id))
                except SchemaError as error:
                    if migration_id not in self._not_ours:
                        self._not_ours.add(migration_id)
                        _log.warning("a migration is left alone", migration=migration_id, reason=error.message)
        return found

    async def _drive(self, migration: Migration) -> None:
        try:
            async with self._backends.database.owner() as connection:
                collection = await catalog.collection_name(connection, migration.collection_id)
            settings = self._backends.settings.model_copy(update={"collection": collection})
            backends = replace(self._backends, settings=settings)
            try:
                await Run(backends=backends, migration_id=migration.id).go()
            except TransitionRefused:
                # Somebody else is at work on it. What they do may take long, and the searches go on meanwhile.
                await self._guard(migration)
        except (ReshelveError, psycopg.Error) as error:
            _log.warning("a migration does not get on", migration=migration.id, error=str(error))

    async def _guard(self, migration: Migration) -> None:
        with contextlib.suppress(TransitionRefused):
            await guard(self._backends, migration.id)


def _is_ours(migration: Migration) -> bool:
    if migration.live_state in LIVE or migration.state is State.ROLLING_BACK:
        return True
    # A proof that failed is a person's: tried again and again, it would cost and change nothing.
    unproven = migration.verification is not None and not migration.verification["passed"]
    resting = migration.state in (State.PAUSED, State.FAILED) or (migration.state is State.VERIFYING and unproven)
    return migration.driven_by == "service" and not resting
