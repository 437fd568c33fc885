"""How things stand: the route, every index with its lag, and the migration with its progress and spend."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from psycopg import sql

from reshelve.backends import Backends
from reshelve.database import catalog, routes
from reshelve.database.pools import Connection
from reshelve.domain.indexes import Index
from reshelve.domain.migration import State
from reshelve.errors import NotFoundError
from reshelve.indexing.outbox import lag
from reshelve.indexing.ranges import progress
from reshelve.migrations import records
from reshelve.migrations.rollout import percent_now
from reshelve.settings import FLAGS, Settings

_RATE_WINDOW_SECONDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexStatus:
    """`lag_changes` changes are not taken in, the oldest for `lag_seconds`; the model refused `refused` chunks."""

    id: int
    model: str
    dimension: int
    state: str
    serving: bool
    entries: int
    built: bool
    lag_changes: int
    lag_seconds: float
    refused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationStatus:
    """`rate` is rows a second over the last half minute, `eta_seconds` what is left at that rate.

    `throttled` is the share of its time that the backfill works while searches are live. `percent` of the users are
    answered by the new index; `schedule` says how that goes on, and `gates` what the last look at the evidence said.
    `tenant` is whose searches it is about ("": everybody's without a route of their own).
    """

    id: int
    tenant: str
    state: str
    live_state: str
    from_index: int
    to_index: int | None
    from_model: str
    to_model: str
    rows: int
    rows_done: int
    rate: float
    eta_seconds: float | None
    throttled: float | None
    embedded_rows: int
    reused_rows: int
    embedded_tokens: int
    spent_usd: float
    budget_usd: float | None
    reason: str | None
    verification: dict[str, Any] | None
    percent: float
    schedule: list[dict[str, float]]
    step_since: str | None
    driven_by: str
    gates: list[dict[str, Any]]
    soaking_since: str | None
    cleaned: bool
    next_step: str
    journal: list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A setting that an environment variable may go over, its value, and where that came from."""

    variable: str
    setting: str
    value: bool | float | None
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    collection: str
    documents: int
    chunks: int
    epoch: int
    indexes: list[IndexStatus]
    flags: list[Flag]
    migration: MigrationStatus | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


_NEXT_STEP = {
    "planned": "reshelve apply",
    "preparing": "reshelve apply goes on with it",
    "backfilling": "reshelve apply goes on with it",
    "building": "reshelve apply goes on with it",
    "verifying": "reshelve cutover, reshelve rollout PERCENT, or reshelve rollback",
    "shadowing": "reshelve cutover, reshelve rollout PERCENT, or reshelve rollback",
    "rolling_out": "reshelve cutover, reshelve rollout PERCENT, or reshelve rollback",
    "soaking": "reshelve rollback takes it back; after the soak, reshelve cleanup",
    "completed": "reshelve cleanup drops the old index",
    "paused": "reshelve resume",
    "failed": "mend what the reason names, then reshelve resume, or reshelve rollback",
    "rolling_back": "reshelve rollback goes on with it",
    "rolled_back": "reshelve apply tries again; reshelve cleanup drops the new index",
}


async def read_status(backends: Backends, *, collection: str, tenant: str = "") -> Status:
    """Raises NotFoundError for a collection that is not there."""
    async with backends.database.service() as connection:
        route = await routes.get_route(connection, collection, tenant)
        cursor = await connection.execute(
            "SELECT (SELECT count(*) FROM documents WHERE collection_id = %s), "
            "(SELECT count(*) FROM chunks WHERE chunking_id = %s)",
            (route.collection_id, route.serving.chunking_id),
        )
        counts = await cursor.fetchone()
        assert counts is not None
        indexes = [
            await _index_status(backends, connection, index, serving=index.id == route.serving.id)
            for index in await catalog.live_indexes(connection, route.collection_id)
        ]
        migration = await records.latest(connection, route.collection_id, tenant)
        return Status(
            collection=collection,
            documents=counts[0],
            chunks=counts[1],
            epoch=route.epoch,
            indexes=indexes,
            flags=_flags(backends.settings),
            migration=await _migration_status(connection, migration) if migration else None,
        )


def _flags(settings: Settings) -> list[Flag]:
    return [
        Flag(
            variable=variable,
            setting=f"{table}.{key}",
            value=getattr(getattr(settings, table), key),
            source=settings.source(f"{table}.{key}"),
        )
        for variable, (table, key) in FLAGS.items()
    ]


async def list_migrations(backends: Backends, *, collection: str) -> list[MigrationStatus]:
    async with backends.database.service() as connection:
        route = await routes.get_route(connection, collection)
        found = [await records.get(connection, each) for each in await records.listed(connection, route.collection_id)]
        return [await _migration_status(connection, migration, with_journal=False) for migration in found]


async def read_migration(backends: Backends, migration_id: int, *, collection: str) -> MigrationStatus:
    async with backends.database.service() as connection:
        route = await routes.get_route(connection, collection)
        migration = await records.get(connection, migration_id)
        if migration.collection_id != route.collection_id:
            raise NotFoundError(f"no migration {migration_id} of collection {collection!r}")
        return await _migration_status(connection, migration)


async def _index_status(backends: Backends, connection: Connection, index: Index, *, serving: bool) -> IndexStatus:
    store = backends.stores.of(index)
    behind = await lag(connection, index.id)
    cursor = await connection.execute(sql.SQL("SELECT count(*) FROM {} h").format(store.holdings(index)))
    row = await cursor.fetchone()
    return IndexStatus(
        id=index.id,
        model=index.model.name,
        dimension=index.dimension,
        state=index.state,
        serving=serving,
        entries=row[0] if row else 0,
        built=await store.built(connection, index),
        lag_changes=behind.changes,
        lag_seconds=behind.seconds,
        refused=behind.refused,
    )


async def _migration_status(
    connection: Connection, migration: records.Migration, *, with_journal: bool = True
) -> MigrationStatus:
    source = await catalog.get_index(connection, migration.source_index_id)
    journal = await records.read_journal(connection, migration.id) if with_journal else []
    done, rate = None, 0.0
    if migration.target_index_id is not None:
        done = await progress(connection, migration.target_index_id)
        rate = await _rate(connection, migration.target_index_id)
    left = done.left if done else 0
    return MigrationStatus(
        id=migration.id,
        tenant=migration.tenant,
        state=migration.state,
        live_state=migration.live_state,
        from_index=source.id,
        to_index=migration.target_index_id,
        from_model=source.model.name,
        to_model=migration.target["model"]["name"],
        rows=done.rows if done else migration.plan.get("rows", 0),
        rows_done=done.done if done else 0,
        rate=rate,
        eta_seconds=left / rate if rate and left else (0.0 if done and not left else None),
        throttled=migration.evidence.get("throttle", {}).get("duty"),
        embedded_rows=migration.embedded_rows,
        reused_rows=migration.reused_rows,
        embedded_tokens=migration.embedded_tokens,
        spent_usd=migration.spent_usd,
        budget_usd=migration.budget_usd,
        reason=migration.reason,
        verification=migration.verification,
        percent=await _percent(connection, migration),
        schedule=migration.steps or [],
        step_since=migration.step_since.isoformat() if migration.step_since else None,
        driven_by=migration.driven_by,
        gates=migration.evidence.get("verdicts", []),
        soaking_since=migration.soaking_since.isoformat() if migration.soaking_since else None,
        cleaned=migration.cleaned_at is not None,
        next_step=_next_step(migration),
        journal=[{**entry, "at": entry["at"].isoformat()} for entry in journal],
    )


def _next_step(migration: records.Migration) -> str:
    if migration.cleaned_at is not None:
        return "nothing: it is cleaned up"
    if migration.state is State.VERIFYING and migration.verification and not migration.verification["passed"]:
        return "mend what the reason names, then reshelve apply, or reshelve rollback"
    return _NEXT_STEP[migration.state]


async def _percent(connection: Connection, migration: records.Migration) -> float:
    route = await routes.own_route(connection, migration.collection_id, migration.tenant)
    return percent_now(migration, route)


async def _rate(connection: Connection, index_id: int) -> float:
    cursor = await connection.execute(
        """
        SELECT coalesce(sum(rows), 0)::float,
               coalesce(extract(epoch FROM clock_timestamp() - min(done_at)), 0)::float, count(*)
        FROM backfill_ranges WHERE index_id = %s AND done_at > clock_timestamp() - make_interval(secs => %s)
        """,
        (index_id, _RATE_WINDOW_SECONDS),
    )
    row = await cursor.fetchone()
    # Up to now, because ranges that are filled side by side end together. The first one began before the window.
    if row is None or row[2] < 2 or not row[1]:
        return 0.0
    return row[0] * (row[2] - 1) / row[2] / row[1]
