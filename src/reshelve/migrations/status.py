"""How things stand: the route, every index with its lag, and the migration with its progress and spend."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from psycopg import sql

from reshelve.backends import Backends
from reshelve.database import catalog
from reshelve.database.pools import Connection
from reshelve.domain.indexes import Index
from reshelve.indexing.outbox import lag
from reshelve.indexing.ranges import progress
from reshelve.migrations import records

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
    """`rate` is rows a second over the last half minute, `eta_seconds` what is left at that rate."""

    id: int
    state: str
    from_index: int
    to_index: int | None
    from_model: str
    to_model: str
    rows: int
    rows_done: int
    rate: float
    eta_seconds: float | None
    embedded_rows: int
    reused_rows: int
    embedded_tokens: int
    spent_usd: float
    budget_usd: float | None
    reason: str | None
    verification: dict[str, Any] | None
    soaking_since: str | None
    cleaned: bool
    next_step: str
    journal: list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    collection: str
    documents: int
    chunks: int
    epoch: int
    indexes: list[IndexStatus]
    migration: MigrationStatus | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


_NEXT_STEP = {
    "planned": "reshelve apply",
    "preparing": "reshelve apply goes on with it",
    "backfilling": "reshelve apply goes on with it",
    "building": "reshelve apply goes on with it",
    "verifying": "reshelve cutover, or reshelve rollback",
    "shadowing": "reshelve cutover, or reshelve rollback",
    "rolling_out": "reshelve cutover, or reshelve rollback",
    "soaking": "reshelve rollback takes it back; after the soak, reshelve cleanup",
    "completed": "reshelve cleanup drops the old index",
    "paused": "reshelve resume",
    "failed": "mend what the reason names, then reshelve resume, or reshelve rollback",
    "rolling_back": "reshelve rollback goes on with it",
    "rolled_back": "reshelve apply tries again; reshelve cleanup drops the new index",
}


async def read_status(backends: Backends, *, collection: str) -> Status:
    """Raises NotFoundError for a collection that is not there."""
    async with backends.database.service() as connection:
        route = await catalog.get_route(connection, collection)
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
        migration = await records.latest(connection, route.collection_id)
        return Status(
            collection=collection,
            documents=counts[0],
            chunks=counts[1],
            epoch=route.epoch,
            indexes=indexes,
            migration=await _migration_status(connection, migration) if migration else None,
        )


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


async def _migration_status(connection: Connection, migration: records.Migration) -> MigrationStatus:
    source = await catalog.get_index(connection, migration.source_index_id)
    done, rate = None, 0.0
    if migration.target_index_id is not None:
        done = await progress(connection, migration.target_index_id)
        rate = await _rate(connection, migration.target_index_id)
    left = done.left if done else 0
    return MigrationStatus(
        id=migration.id,
        state=migration.state,
        from_index=source.id,
        to_index=migration.target_index_id,
        from_model=source.model.name,
        to_model=migration.target["model"]["name"],
        rows=done.rows if done else migration.plan.get("rows", 0),
        rows_done=done.done if done else 0,
        rate=rate,
        eta_seconds=left / rate if rate and left else (0.0 if done and not left else None),
        embedded_rows=migration.embedded_rows,
        reused_rows=migration.reused_rows,
        embedded_tokens=migration.embedded_tokens,
        spent_usd=migration.spent_usd,
        budget_usd=migration.budget_usd,
        reason=migration.reason,
        verification=migration.verification,
        soaking_since=migration.soaking_since.isoformat() if migration.soaking_since else None,
        cleaned=migration.cleaned_at is not None,
        next_step=_NEXT_STEP[migration.state] if migration.cleaned_at is None else "nothing: it is cleaned up",
        journal=[
            {**entry, "at": entry["at"].isoformat()} for entry in await records.read_journal(connection, migration.id)
        ],
    )


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
