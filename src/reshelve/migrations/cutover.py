"""The switch, there and back: one short transaction, before which everything written so far is in both indexes."""

from __future__ import annotations

import time

from reshelve.backends import Backends
from reshelve.crash_points import crash_point
from reshelve.database import catalog
from reshelve.domain.migration import State
from reshelve.errors import DatabaseUnavailable, TransitionRefused
from reshelve.indexing.draining import drain
from reshelve.indexing.outbox import require_triggers
from reshelve.migrations import records
from reshelve.migrations.records import Migration

_ROLLBACK_PATIENCE_SECONDS = 5.0
"""A way back must not wait for long: what is not in by then is fed after the switch."""


async def cut_over(backends: Backends, migration: Migration) -> None:
    """Searches go to the target from the commit on. Both indexes stay fed."""
    assert migration.target_index_id is not None
    async with backends.database.service() as connection:
        await require_triggers(connection)
        target = await catalog.get_index(connection, migration.target_index_id)
    drained = await drain(backends, [target])
    await _switch(backends, migration, to=target.id, after=State.SOAKING, drained=drained.changes)


async def switch_back(backends: Backends, migration: Migration) -> None:
    """Searches go to the source again, if they ever left it."""
    crash_point("rollback.before_switch")
    async with backends.database.service() as connection:
        source = await catalog.get_index(connection, migration.source_index_id)
        serving = await catalog.serving_index_id(connection, migration.collection_id)
    if serving == source.id:
        async with backends.database.owner() as connection:
            await records.transition(connection, migration, State.ROLLED_BACK, facts={"switched": False})
        return
    changes = 0
    try:
        changes = (await drain(backends, [source], timeout_seconds=_ROLLBACK_PATIENCE_SECONDS)).changes
    except DatabaseUnavailable as error:
        async with backends.database.owner() as connection:
            await records.journal(connection, migration.id, "rolling back behind", facts={"reason": error.message})
    await _switch(backends, migration, to=source.id, after=State.ROLLED_BACK, drained=changes)


async def _switch(backends: Backends, migration: Migration, *, to: int, after: State, drained: int) -> None:
    async with backends.database.owner() as connection:
        before = await catalog.serving_index_id(connection, migration.collection_id)
        started = time.perf_counter()
        async with connection.transaction():
            await records.transition(connection, migration, after)
            epoch = await catalog.switch_route(
                connection, collection_id=migration.collection_id, before=before, after=to
            )
            if epoch is None:
                raise TransitionRefused(f"index {before} no longer serves", advice="See reshelve status.")
            crash_point("switch.before_commit")
        milliseconds = (time.perf_counter() - started) * 1000
        crash_point("switch.after_commit")
        await records.journal(
            connection,
            migration.id,
            "switched",
            facts={"from": before, "to": to, "epoch": epoch, "switch_ms": milliseconds, "drained_changes": drained},
        )
