"""The switch, there and back: one short transaction, before which everything written so far is in both indexes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from reshelve.backends import Backends
from reshelve.crash_points import crash_point
from reshelve.database import catalog, routes
from reshelve.database.pools import Connection
from reshelve.domain.migration import State
from reshelve.domain.routes import Route
from reshelve.errors import NotFoundError, ReshelveError, TransitionRefused
from reshelve.indexing.draining import drain
from reshelve.indexing.outbox import require_triggers
from reshelve.migrations import records
from reshelve.migrations.records import Migration

_ROLLBACK_PATIENCE_SECONDS = 5.0
"""A way back must not wait for long: what is not in by then is fed after the switch."""


async def cut_over(backends: Backends, migration: Migration) -> None:
    """Searches go to the target from the commit on. Both indexes stay fed, and the source answers where it fails."""
    assert migration.target_index_id is not None
    async with backends.database.service() as connection:
        await require_triggers(connection)
        target = await catalog.get_index(connection, migration.target_index_id)
    drained = await drain(backends, [target])

    def switched(route: Route) -> Route:
        return replace(route, serving=target, candidate=None, previous=route.serving, share=0, salt=str(migration.id))

    await _switch(backends, migration, switched, after=State.SOAKING, facts={"drained_changes": drained.changes})


async def complete(backends: Backends, migration: Migration) -> None:
    """The soak is over: what served before leaves the route."""
    async with backends.database.owner() as connection, connection.transaction():
        await records.transition(connection, migration, State.COMPLETED)
        await change_route(connection, migration, lambda route: replace(route, previous=None))
        await routes.forget_superfluous(connection, migration.collection_id)


async def switch_back(backends: Backends, migration: Migration) -> None:
    """Searches go to the source again, if they ever left it."""
    crash_point("rollback.before_switch")
    async with backends.database.service() as connection:
        source = await catalog.get_index(connection, migration.source_index_id)
        route = await own_route(connection, migration)
    if route.serving.id == source.id and route.candidate is None:
        async with backends.database.owner() as connection, connection.transaction():
            await records.transition(
                connection, migration, State.ROLLED_BACK, reason=migration.reason, facts={"switched": False}
            )
            await routes.forget_superfluous(connection, migration.collection_id)
        return
    changes = 0
    try:
        # Its own patience ends between two batches: one that hangs, or a model that fails, must not end the way back.
        async with asyncio.timeout(_ROLLBACK_PATIENCE_SECONDS + 1):
            changes = (await drain(backends, [source], timeout_seconds=_ROLLBACK_PATIENCE_SECONDS)).changes
    except (ReshelveError, TimeoutError) as error:
        reason = error.message if isinstance(error, ReshelveError) else "the old index does not take its changes in"
        async with backends.database.owner() as connection:
            await records.journal(connection, migration.id, "rolling back behind", facts={"reason": reason})

    def switched(route: Route) -> Route:
        return replace(route, serving=source, candidate=None, previous=None, share=0)

    await _switch(backends, migration, switched, after=State.ROLLED_BACK, facts={"drained_changes": changes})


async def _switch(
    backends: Backends, migration: Migration, change: Callable[[Route], Route], *, after: State, facts: dict[str, Any]
) -> None:
    async with backends.database.owner() as connection:
        before = await own_route(connection, migration)
        started = time.perf_counter()
        async with connection.transaction():
            # Why it went back is still worth knowing afterwards.
            reason = migration.reason if after is State.ROLLED_BACK else None
            await records.transition(connection, migration, after, reason=reason)
            await records.begin_step(connection, migration, after)
            switched = await change_route(connection, migration, change)
            if after is State.ROLLED_BACK:
                await routes.forget_superfluous(connection, migration.collection_id)
            crash_point("switch.before_commit")
        milliseconds = (time.perf_counter() - started) * 1000
        crash_point("switch.after_commit")
        told = {"from": before.serving.id, "to": switched.serving.id, "epoch": switched.epoch}
        await records.journal(connection, migration.id, "switched", facts={**told, "switch_ms": milliseconds, **facts})


async def own_route(connection: Connection, migration: Migration) -> Route:
    route = await routes.own_route(connection, migration.collection_id, migration.tenant)
    if route is None:
        raise NotFoundError(f"collection {migration.collection_id} has no route")
    return route


async def change_route(connection: Connection, migration: Migration, change: Callable[[Route], Route]) -> Route:
    """Change the route that the migration is about. Raises TransitionRefused when somebody else just did."""
    before = await own_route(connection, migration)
    after = change(before)
    epoch = await routes.change_route(connection, before, after)
    if epoch is None:
        raise TransitionRefused("somebody else changed the route", advice="See reshelve status.")
    return replace(after, epoch=epoch)
