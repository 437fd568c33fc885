"""The migration's row and its journal. Every change of state is compare-and-set, and journalled in its transaction."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, LiteralString

import psycopg
from psycopg.rows import class_row

from reshelve.crash_points import crash_point
from reshelve.database.pools import Connection, Database
from reshelve.database.routes import create_route
from reshelve.domain.migration import ENGINE_VERSION, TERMINAL, State, allowed
from reshelve.errors import DatabaseUnavailable, MigrationError, NotFoundError, SchemaError, TransitionRefused
from reshelve.settings import Step

_TRIES = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One row of `migrations`."""

    id: int
    collection_id: int
    tenant: str
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
    steps: list[dict[str, float]] | None
    driven_by: str
    step_since: datetime | None
    evidence: dict[str, Any]

    def __post_init__(self) -> None:
        # Before anything is read into the row: a newer engine may have states that this one does not know.
        if self.engine_version > ENGINE_VERSION:
            raise SchemaError(
                f"migration {self.id} was written by engine {self.engine_version}; this is engine {ENGINE_VERSION}",
                advice="Use the newer program to go on with it.",
            )
        object.__setattr__(self, "state", State(self.state))

    @property
    def over(self) -> bool:
        return self.state in TERMINAL

    @property
    def live_state(self) -> State:
        """The state, or the one that a paused or failed migration left."""
        return State(self.resume_state) if self.resume_state is not None else self.state


_COLUMNS: LiteralString = (
    "id, collection_id, tenant, state, resume_state, source_index_id, target_index_id, target, plan, engine_version, "
    "budget_usd, max_rate, embedded_rows, reused_rows, embedded_tokens, spent_usd, verification, reason, created_at, "
    "changed_at, soaking_since, cleaned_at, steps, driven_by, step_since, evidence"
)


async def _one(connection: Connection, clause: LiteralString, values: tuple[object, ...]) -> Migration | None:
    cursor = connection.cursor(row_factory=class_row(Migration))
    await cursor.execute(f"SELECT {_COLUMNS} FROM migrations {clause}", values)
    return await cursor.fetchone()


async def get(connection: Connection, migration_id: int) -> Migration:
    found = await _one(connection, "WHERE id = %s", (migration_id,))
    if found is None:
        raise NotFoundError(f"no migration {migration_id}")
    return found


async def latest(connection: Connection, collection_id: int, tenant: str = "") -> Migration | None:
    return await _one(
        connection, "WHERE collection_id = %s AND tenant = %s ORDER BY id DESC LIMIT 1", (collection_id, tenant)
    )


async def listed(connection: Connection, collection_id: int) -> list[int]:
    """The ids of a collection's migrations, the newest first."""
    cursor = await connection.execute(
        "SELECT id FROM migrations WHERE collection_id = %s ORDER BY id DESC", (collection_id,)
    )
    return [row[0] for row in await cursor.fetchall()]


async def active_ids(connection: Connection, *, collection_id: int | None = None) -> list[int]:
    """Migrations that are on their way, of one collection or of all, the oldest first."""
    cursor = await connection.execute(
        "SELECT id FROM migrations WHERE state NOT IN ('completed', 'rolled_back') "
        "AND (%(c)s::integer IS NULL OR collection_id = %(c)s) ORDER BY id",
        {"c": collection_id},
    )
    return [row[0] for row in await cursor.fetchall()]


async def require_latest(connection: Connection, collection_id: int, tenant: str = "") -> Migration:
    found = await latest(connection, collection_id, tenant)
    if found is None:
        raise NotFoundError(
            "there is no migration yet", advice="Change rag.toml, look at reshelve plan, then reshelve apply."
        )
    return found


async def create(
    connection: Connection,
    *,
    collection_id: int,
    source_index_id: int,
    target: dict[str, Any],
    plan: dict[str, Any],
    tenant: str = "",
    steps: Sequence[Step] = (),
    driven_by: str = "person",
) -> Migration:
    """Raises TransitionRefused when the collection, or its tenant, has an active migration already."""
    try:
        async with connection.transaction():
            row = await (
                await connection.execute(
                    "INSERT INTO migrations (collection_id, tenant, source_index_id, target, plan, engine_version, "
                    "steps, driven_by) VALUES (%s, %s, %s, %s, %s, %s, %s, %s) RETURNING id",
                    (
                        collection_id,
                        tenant,
                        source_index_id,
                        json.dumps(target),
                        json.dumps(plan),
                        ENGINE_VERSION,
                        _as_json(steps),
                        driven_by,
                    ),
                )
            ).fetchone()
            assert row is not None
            await create_route(connection, collection_id=collection_id, tenant=tenant, index_id=source_index_id)
            await journal(connection, row[0], "planned", after=State.PLANNED)
    except psycopg.errors.UniqueViolation as error:
        raise TransitionRefused(
            "another migration of this collection is active", advice="See reshelve status."
        ) from error
    return await get(connection, row[0])


def _as_json(steps: Sequence[Step]) -> str | None:
    return json.dumps([asdict(step) for step in steps]) if steps else None


async def set_steps(connection: Connection, migration: Migration, steps: Sequence[Step]) -> None:
    """A schedule of one's own for a migration that is on its way; none of it: a person takes the steps."""
    async with connection.transaction():
        await connection.execute("UPDATE migrations SET steps = %s WHERE id = %s", (_as_json(steps), migration.id))
        await journal(connection, migration.id, "schedule", facts={"steps": [asdict(step) for step in steps]})


async def set_driver(connection: Connection, migration: Migration, driven_by: str) -> None:
    await connection.execute("UPDATE migrations SET driven_by = %s WHERE id = %s", (driven_by, migration.id))


async def begin_step(connection: Connection, migration: Migration, state: State) -> None:
    """From this transaction on the evidence of the next step is counted: `now()`, as the route's own change says.

    Raises TransitionRefused where the migration is not in `state` any more, or its step is not the one that `migration`
    was read in: somebody else took the next one.
    """
    cursor = await connection.execute(
        "UPDATE migrations SET step_since = now() "
        "WHERE id = %s AND state = %s AND step_since IS NOT DISTINCT FROM %s AND engine_version <= %s",
        (migration.id, state, migration.step_since, ENGINE_VERSION),
    )
    if cursor.rowcount != 1:
        raise TransitionRefused(f"somebody else took a step of migration {migration.id}", advice="See reshelve status.")


async def add_evidence(connection: Connection, migration_id: int, evidence: dict[str, Any]) -> None:
    """Put these over what is kept of the same names."""
    await connection.execute(
        "UPDATE migrations SET evidence = evidence || %s::jsonb WHERE id = %s",
        (json.dumps(evidence, default=str), migration_id),
    )


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
                engine_version = %s,
                soaking_since = CASE WHEN %s THEN clock_timestamp() ELSE soaking_since END
            WHERE id = %s AND state = %s AND engine_version <= %s
            """,
            (after, remembered, reason, ENGINE_VERSION, after is State.SOAKING, migration.id, before, ENGINE_VERSION),
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


async def forget_verification(connection: Connection, migration: Migration) -> None:
    """Whoever goes on with it makes the proof anew."""
    await connection.execute(
        "UPDATE migrations SET verification = NULL, reason = NULL WHERE id = %s AND state = %s",
        (migration.id, State.VERIFYING),
    )


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
