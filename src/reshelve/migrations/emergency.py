"""A critical alert from outside: whatever is being rolled out goes back to the index that served before."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from reshelve.backends import Backends
from reshelve.database import catalog
from reshelve.database.pools import Connection
from reshelve.domain.migration import LIVE, State
from reshelve.errors import NotFoundError, ReshelveError
from reshelve.migrations import records, steering
from reshelve.migrations.withdrawal import withdraw
from reshelve.operations.alerts import Severity, raise_alert, set_outcome

_TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenBack:
    """What became of one migration. `percent` of its units are still with the new index: 0 once it is rolled back."""

    migration: int
    collection: str
    tenant: str
    before: str
    state: str
    percent: float
    trouble: str | None = None


Action = Literal["stored", "rolled_back", "already_rolled_back", "nothing_to_roll_back", "rollback_failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reaction:
    """`said` is the same in words."""

    alert: int
    action: Action
    migrations: list[TakenBack]
    said: str


async def react(
    backends: Backends,
    *,
    type: str,
    severity: Severity,
    value: float,
    threshold: float,
    message: str = "",
    collection: str | None = None,
) -> Reaction:
    """Keep the alert; a critical one takes back the live migrations of the collection, or of all without one.

    Raises NotFoundError for a collection that is not there.
    """
    async with backends.database.service() as connection:
        collection_id = None
        if collection is not None:
            collection_id = await catalog.find_collection(connection, collection)
            if collection_id is None:
                raise NotFoundError(f"no collection {collection!r}")
        alert = await raise_alert(
            connection,
            source="webhook",
            type=type,
            severity=severity,
            collection_id=collection_id,
            value=value,
            threshold=threshold,
            message=message,
        )
    if severity != "critical":
        return Reaction(alert=alert, action="stored", migrations=[], said="stored; only critical alerts roll back")
    reaction = await _take_back(backends, alert, collection_id)
    async with backends.database.service() as connection:
        await set_outcome(connection, alert, reaction.said)
    return reaction


async def _take_back(backends: Backends, alert: int, collection_id: int | None) -> Reaction:
    async with backends.database.service() as connection:
        live = await _migrations(connection, collection_id, live=True)
        last = await _migrations(connection, collection_id, live=False)
    for each in live:
        await _withdraw(backends, each)
    taken = [await _roll_back(backends, each) for each in live]
    if any(each.trouble for each in taken):
        action: Action = "rollback_failed"
    elif taken:
        action = "rolled_back"
    else:
        taken = [each for each in last if each.state == State.ROLLED_BACK]
        action = "already_rolled_back" if taken else "nothing_to_roll_back"
    return Reaction(alert=alert, action=action, migrations=taken, said=_words(action, taken))


async def _migrations(connection: Connection, collection_id: int | None, *, live: bool) -> list[TakenBack]:
    """Those that live searches meet; or else the last one of each collection and tenant."""
    cursor = await connection.execute(
        """
        SELECT DISTINCT ON (m.collection_id, m.tenant) m.id, c.name, m.tenant, m.state,
               coalesce(m.resume_state, m.state), coalesce(v.percent, 0)::float
        FROM migrations m JOIN collections c ON c.id = m.collection_id
        JOIN embedding_migration_status v ON v.id = m.id
        WHERE %(c)s::integer IS NULL OR m.collection_id = %(c)s
        ORDER BY m.collection_id, m.tenant, m.id DESC
        """,
        {"c": collection_id},
    )
    return [
        TakenBack(migration=row[0], collection=row[1], tenant=row[2], before=row[3], state=row[3], percent=row[5])
        for row in await cursor.fetchall()
        if not live or row[4] in (*LIVE, State.ROLLING_BACK)
    ]


async def _withdraw(backends: Backends, found: TakenBack) -> None:
    """Before any of them is rolled back: that may have to wait for whoever is at work on it."""
    with contextlib.suppress(ReshelveError):
        async with backends.database.owner() as connection:
            migration = await records.get(connection, found.migration)
        await withdraw(backends, migration)


async def _roll_back(backends: Backends, found: TakenBack) -> TakenBack:
    """Whatever goes wrong with one must not keep the others from going back."""
    own = replace(backends, settings=backends.settings.model_copy(update={"collection": found.collection}))
    now = found
    for _ in range(_TRIES):
        trouble: str | None = "it has not ended yet"
        try:
            await steering.rollback(own, tenant=found.tenant, on_event=None)
        except ReshelveError as error:
            trouble = error.message
        now = replace(await _now(backends, found), trouble=trouble)
        if now.state == State.ROLLED_BACK:
            return replace(now, percent=0.0, trouble=None)
        if now.state != State.ROLLING_BACK:
            break
        # Somebody else takes it back at the same time: wait for them, or go on with it.
    return now


async def _now(backends: Backends, found: TakenBack) -> TakenBack:
    async with backends.database.service() as connection:
        cursor = await connection.execute(
            "SELECT state, coalesce(percent, 0)::float FROM embedding_migration_status WHERE id = %s",
            (found.migration,),
        )
        row = await cursor.fetchone()
    assert row is not None
    return replace(found, state=row[0], percent=row[1])


def _words(action: Action, taken: Sequence[TakenBack]) -> str:
    named = ", ".join(
        f"migration {each.migration} ({each.before} → {each.state}, {each.percent:g} %)"
        + (f": {each.trouble}" if each.trouble else "")
        for each in taken
    )
    match action:
        case "rolled_back":
            return f"rolled back: {named}"
        case "already_rolled_back":
            return f"already rolled back: {', '.join(f'migration {each.migration}' for each in taken)}"
        case "rollback_failed":
            return f"the rollback did not end: {named}"
        case _:
            return "nothing is being rolled out"
