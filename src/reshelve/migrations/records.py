"""The migration's row and its journal. Every change of state is compare-and-set, and journalled in its transaction."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

import psycopg
from psycopg.rows import class_row

from reshelve.crash_points import crash_point
from reshelve.database.pools import Connection, Database
from reshelve.domain.migration import ENGINE_VERSION, TERMINAL, State, allowed
from reshelve.errors import DatabaseUnavailable, MigrationError, NotFoundError, SchemaError, TransitionRefused

_TRIES = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One row of `migrations`."""

    id: int
    collection_id: int
    state: State
    resume_state: str | None
    source_index_id: int
    target_index_id: int | None
    target: dict[str, Any]
    plan: dict[str, Any]
    engine_version: int
    budget_usd: float | None
    max_rate: float | None
    embedded_rows: int
    reused_rows: int
    embedded_tokens: int
    spent_usd: float
    verification: dict[str, Any] | None
    reason: str | None
    created_at: datetime
    changed_at: datetime
    soaking_since: datetime | None
    cleaned_at: datetime | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", State(self.state))

    @property
    def over(self) -> bool:
        return self.state in TERMINAL


_COLUMNS: LiteralString = (
    "id, collection_id, state, resume_state, source_index_id, target_index_id, target, plan, engine_version, "
    "budget_usd, max_rate, embedded_rows, reused_rows, embedded_tokens, spent_usd, verification, reason, created_at, "
    "changed_at, soaking_since, cleaned_at"
)


async def _one(connection: Connection, clause: LiteralString, values: tuple[object, ...]) -> Migration | None:
    cursor = connection.cursor(row_factory=class_row(Migration))
    await cursor.execute(f"SELECT {_COLUMNS} FROM migrations {clause}", values)
    found = await cursor.fetchone()
    if found is not None and found.engine_version > ENGINE_VERSION:
        raise SchemaError(
            f"migration {found.id} was written by engine {found.engine_version}; this is engine {ENGINE_VERSION}",
            advice="Use the newer program to go on with it.",
        )
    return found


async def get(connection: Connection, migration_id: int) -> Migration:
    found = await _one(connection, "WHERE id = %s", (migration_id,))
    if found is None:
        raise NotFoundError(f"no migration {migration_id}")
    return found


async def latest(connection: Connection, collection_id: int) -> Migration | None:
    return await _one(connection, "WHERE collection_id = %s ORDER BY id DESC LIMIT 1", (collection_id,))


async def require_latest(connection: Connection, collection_id: int) -> Migration:
    found = await latest(connection, collection_id)
    if found is None:
        raise NotFoundError(
            "there is no migration yet", advice="Change rag.toml, look at reshelve plan, then reshelve apply."
        )
    return found


async def create(
    connection: Connection, *, collection_id: int, source_index_id: int, target: dict[str, Any], plan: dict[str, Any]
) -> Migration:
    """Raises TransitionRefused when the collection has an active migration already."""
    try:
        async with connection.transaction():
            row = await (
                await connection.execute(
                    "INSERT INTO migrations (collection_id, source_index_id, target, plan, engine_version) "
                    "VALUES (%s, %s, %s, %s, %s) RETURNING id",
                    (collection_id, source_index_id, json.dumps(target), json.dumps(plan), ENGINE_VERSION),
                )
            ).fetchone()
            assert row is not None
            await journal(connection, row[0], "planned", after=State.PLANNED)
    except psycopg.errors.UniqueViolation as error:
        raise TransitionRefused(
            "another migration of this collection is active", advice="See reshelve status."
        ) from error
    return await get(connection, row[0])


async def set_target(connection: Connection, migration: Migration, index_id: int) -> None:
    """Raises TransitionRefused when the migration is not waiting for its target any more."""
    cursor = await connection.execute(
        "UPDATE migrations SET target_index_id = %s WHERE id = %s AND state = %s AND target_index_id IS NULL",
        (index_id, migration.id, State.PLANNED),
    )
    if cursor.rowcount != 1:
        raise TransitionRefused(f"migration {migration.id} is no longer planned", advice="See reshelve status.")


async def set_limits(
    connection: Connection, migration: Migration, *, budget_usd: float | None, max_rate: float | None
) -> None:
    await connection.execute(
        "UPDATE migrations SET budget_usd = coalesce(%s, budget_usd), max_rate = coalesce(%s, max_rate) WHERE id = %s",
        (budget_usd, max_rate, migration.id),
    )


async def transition(
    connection: Connection,
    migration: Migration,
    after: State,
    *,
    reason: str | None = None,
    facts: dict[str, Any] | None = None,
) -> None:
    """From the state that `migration` was read in, or not at all. Opens a transaction unless it stands in one.

    Raises TransitionRefused where the table forbids it, or somebody else was faster.
    """
    before = migration.state
    if not allowed(before, after):
        raise TransitionRefused(f"a migration that is {before} cannot become {after}", advice="See reshelve status.")
    remembered = before if after in (State.PAUSED, State.FAILED) else None
    async with connection.transaction():
        cursor = await connection.execute(
            """
            UPDATE migrations SET state = %s, resume_state = %s, reason = %s, changed_at = clock_timestamp(),
                soaking_since = CASE WHEN %s THEN clock_timestamp() ELSE soaking_since END
            WHERE id = %s AND state = %s
            """,
            (after, remembered, reason, after is State.SOAKING, migration.id, before),
        )
        if cursor.rowcount != 1:
            raise TransitionRefused(
                f"migration {migration.id} is no longer {before}", advice="Somebody else moved it: see reshelve status."
            )
        await journal(connection, migration.id, "transition", before=before, after=after, facts=facts)
        crash_point(f"transition.{after}")


async def move(database: Database, migration: Migration, after: State, *, reason: str | None = None) -> Migration:
    """A transition by itself. Where the connection is lost meanwhile, its outcome is looked up, and never assumed."""
    for attempt in range(_TRIES):
        try:
            async with database.owner() as connection:
                await transition(connection, migration, after, reason=reason)
                return await get(connection, migration.id)
        except DatabaseUnavailable:
            if attempt == _TRIES - 1:
                raise
            await asyncio.sleep(0.1 * 2**attempt)
        async with database.owner() as connection:
            now = await get(connection, migration.id)
        if now.state is after:
            return now
    raise AssertionError("the last try returns or raises")


async def note_trouble(connection: Connection, migration_id: int, state: State, reason: str | None) -> None:
    """For people who look at a migration that does not get on; None when it does again."""
    await connection.execute(
        "UPDATE migrations SET reason = %s WHERE id = %s AND state = %s", (reason, migration_id, state)
    )


async def set_verification(connection: Connection, migration: Migration, facts: dict[str, Any]) -> None:
    """Keep the latest proof, with the moment it was made (`at`, seconds since the epoch by the database's clock)."""
    async with connection.transaction():
        await connection.execute(
            "UPDATE migrations SET verification = %s::jsonb || jsonb_build_object('at', "
            "extract(epoch FROM clock_timestamp())::float), reason = %s WHERE id = %s",
            (json.dumps(facts), "; ".join(facts["problems"]) or None, migration.id),
        )
        await journal(connection, migration.id, "verified", facts=facts)


async def journal(
    connection: Connection,
    migration_id: int,
    event: str,
    *,
    before: State | None = None,
    after: State | None = None,
    facts: dict[str, Any] | None = None,
) -> None:
    await connection.execute(
        "INSERT INTO migration_journal (migration_id, event, before, after, facts) VALUES (%s, %s, %s, %s, %s)",
        (migration_id, event, before, after, json.dumps(facts or {}, default=str)),
    )


async def read_journal(connection: Connection, migration_id: int) -> list[dict[str, Any]]:
    cursor = await connection.execute(
        "SELECT at, event, before, after, facts FROM migration_journal WHERE migration_id = %s ORDER BY id",
        (migration_id,),
    )
    names = ("at", "event", "before", "after", "facts")
    return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]


def resume_state(migration: Migration) -> State:
    if migration.state not in (State.PAUSED, State.FAILED) or migration.resume_state is None:
        raise MigrationError(f"the migration is {migration.state}; there is nothing to resume")
    return State(migration.resume_state)
