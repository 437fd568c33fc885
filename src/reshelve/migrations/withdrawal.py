"""Taking a rollout back at once: from here on nobody is sent to the new index. What is left to do comes after it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import structlog

from reshelve.backends import Backends
from reshelve.domain.migration import LIVE, State
from reshelve.migrations import records
from reshelve.migrations.cutover import change_route, own_route
from reshelve.migrations.evidence import Look, look
from reshelve.migrations.records import Migration
from reshelve.operations.alerts import raise_alert

_log = structlog.get_logger(__name__)


async def withdraw(
    backends: Backends, migration: Migration, *, reason: str | None = None, facts: dict[str, Any] | None = None
) -> None:
    """Move to `rolling_back` and take the share away, in one transaction, whoever is at work on the migration.

    Raises TransitionRefused where it has left its state. After the switch there is no share: the rollback, which
    nothing keeps waiting there, switches back.
    """
    async with backends.database.owner() as connection, connection.transaction():
        await records.transition(connection, migration, State.ROLLING_BACK, reason=reason, facts=facts)
        if (await own_route(connection, migration)).share:
            await change_route(connection, migration, lambda route: replace(route, share=0))


async def withdraw_by_itself(backends: Backends, migration: Migration, seen: Look) -> None:
    """Because a safety gate failed; the operator hears of it."""
    assert seen.breach is not None
    await withdraw(backends, migration, reason=seen.breach, facts={"verdicts": seen.as_dicts()})
    async with backends.database.owner() as connection:
        await raise_alert(
            connection,
            collection_id=migration.collection_id,
            source="gate",
            type="rollback",
            severity="critical",
            message=f"migration {migration.id} is rolled back: {seen.breach}",
        )
    _log.error("the migration is rolled back", migration=migration.id, reason=seen.breach)


async def guard(backends: Backends, migration_id: int) -> None:
    """Watch the safety gates of a migration that somebody else is busy with: a proof may take long."""
    async with backends.database.owner() as connection:
        migration = await records.get(connection, migration_id)
        if migration.live_state not in LIVE:
            return
        seen = await look(backends, connection, migration)
    if seen.breach is not None:
        await withdraw_by_itself(backends, migration, seen)
