"""Taking a rollout back at once: from here on nobody is sent to the new index. What is left to do comes after it."""

from __future__ import annotations

from dataclasses import replace

import structlog

from reshelve.backends import Backends
from reshelve.domain.migration import LIVE, State
from reshelve.migrations import records
from reshelve.migrations.cutover import change_route, own_route
from reshelve.migrations.evidence import Look, look, remember
from reshelve.migrations.records import Migration
from reshelve.operations.alerts import raise_alert

_log = structlog.get_logger(__name__)


async def withdraw(
    backends: Backends, migration: Migration, *, reason: str | None = None, seen: Look | None = None
) -> None:
    """Move to `rolling_back` and take the candidate out of the route, in one transaction, whoever is at work on it.

    With what was `seen` it goes back by itself, and the operator hears of it. Raises TransitionRefused where it has
    left its state. After the switch there is no candidate: the rollback, which nothing keeps waiting there, switches.
    """
    async with backends.database.owner() as connection, connection.transaction():
        facts = None if seen is None else {"verdicts": seen.as_dicts()}
        await records.transition(connection, migration, State.ROLLING_BACK, reason=reason, facts=facts)
        if (await own_route(connection, migration)).candidate is not None:
            await change_route(connection, migration, lambda route: replace(route, candidate=None, share=0))
        if seen is not None:
            await raise_alert(
                connection,
                collection_id=migration.collection_id,
                source="gate",
                type="rollback",
                severity="critical",
                message=f"migration {migration.id} is rolled back: {reason}",
            )


async def withdraw_by_itself(backends: Backends, migration: Migration, seen: Look) -> None:
    """Because a safety gate failed."""
    await withdraw(backends, migration, reason=seen.breach, seen=seen)
    _log.error("the migration is rolled back", migration=migration.id, reason=seen.breach)


async def guard(backends: Backends, migration_id: int) -> None:
    """Watch the safety gates of a migration that somebody else is busy with: a proof may take long."""
    async with backends.database.owner() as connection:
        migration = await records.get(connection, migration_id)
        if migration.live_state not in LIVE:
            return
        seen = await look(backends, connection, migration)
        await remember(connection, migration, seen)
    if seen.breach is not None:
        await withdraw_by_itself(backends, migration, seen)
