"""After the switch: what is proven, what is not, and what shows it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from reshelve.backends import Backends
from reshelve.database import catalog, routes
from reshelve.database.pools import Connection
from reshelve.domain.figures import ArmFigures
from reshelve.domain.indexes import IndexState
from reshelve.domain.migration import State
from reshelve.domain.routes import Arm
from reshelve.errors import NotFoundError
from reshelve.indexing.outbox import lag
from reshelve.indexing.ranges import progress
from reshelve.migrations import records
from reshelve.migrations.records import Migration
from reshelve.migrations.rollout import soak_seconds
from reshelve.operations.figures import read_figures

Answer = Literal["proven", "not proven", "wrong"]
_ENOUGH = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the list: `shown_by` is the figure, or what is missing for one."""

    what: str
    answer: Answer
    shown_by: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


async def read_checklist(backends: Backends, *, collection: str, tenant: str) -> list[Check]:
    """Raises NotFoundError where there is no migration."""
    async with backends.database.service() as connection:
        route = await routes.get_route(connection, collection, tenant)
        migration = await records.require_latest(connection, route.collection_id, tenant)
        if migration.target_index_id is None:
            raise NotFoundError(f"migration {migration.id} has no new index yet", advice="Run reshelve apply.")
        return [
            await _all_embedded(connection, migration),
            _verified(migration),
            await _dimension(connection, migration),
            await _kept_up(backends, connection, migration),
            *await _live(backends, connection, migration),
            _quality(migration),
            await _stable(connection, backends, migration),
            _cost(backends, migration),
            await _old_index(connection, migration),
        ]


async def _all_embedded(connection: Connection, migration: Migration) -> Check:
    assert migration.target_index_id is not None
    done = await progress(connection, migration.target_index_id)
    fill = await catalog.fill_state(connection, migration.target_index_id)
    complete = fill.enumerated and done.left == 0
    return Check(
        what="everything that was there is embedded",
        answer="proven" if complete else "not proven",
        shown_by=f"{done.done:,} of {done.rows:,} rows backfilled",
    )


def _verified(migration: Migration) -> Check:
    proof = migration.verification
    if proof is None:
        return Check(what="the new index equals the corpus", answer="not proven", shown_by="not verified yet")
    shown = f"{proof['entries']:,} entries for {proof['chunks']:,} chunks"
    problems = "; ".join(proof["problems"])
    return Check(
        what="the new index equals the corpus",
        answer="proven" if proof["passed"] else "wrong",
        shown_by=f"{shown}: {problems}" if problems else f"{shown}, checksums equal, last pass repaired nothing",
    )


async def _dimension(connection: Connection, migration: Migration) -> Check:
    assert migration.target_index_id is not None
    index = await catalog.get_index(connection, migration.target_index_id)
    return Check(
        what=f"all vectors are {index.model.name}'s, with {index.dimension} dimensions",
        answer="proven" if (migration.verification or {}).get("flawed") == 0 else "not proven",
        shown_by="another dimension cannot be written, and the verification found no damaged vector"
        if migration.verification
        else "not verified yet",
    )


async def _kept_up(backends: Backends, connection: Connection, migration: Migration) -> Check:
    assert migration.target_index_id is not None
    behind = await lag(connection, migration.target_index_id)
    most = backends.settings.rollout.max_lag_seconds
    return Check(
        what="the new index keeps up with the writes",
        answer="wrong" if behind.refused else "proven" if behind.seconds <= most else "not proven",
        shown_by=f"{behind.changes:,} changes behind, the oldest for {behind.seconds:.0f} s; {behind.refused} refused",
    )


async def _live(backends: Backends, connection: Connection, migration: Migration) -> list[Check]:
    assert migration.target_index_id is not None
    found = await read_figures(
        connection,
        collection_id=migration.collection_id,
        tenant=migration.tenant,
        since=migration.created_at,
    )
    none = ArmFigures.from_counts([])
    new = found.get((migration.target_index_id, Arm.CANDIDATE), none)
    old = found.get((migration.source_index_id, Arm.SERVING), none)
    speed, errors = "the new side is as fast as the old one", "the new side makes no more errors than it may"
    if new.requests < _ENOUGH or new.p95_ms is None:
        few = f"{new.requests} live searches so far; {_ENOUGH} are needed"
        return [Check(what=what, answer="not proven", shown_by=few) for what in (speed, errors)]
    rate = new.errors / new.requests
    enough = old.requests >= _ENOUGH and old.p95_ms is not None
    return [
        Check(
            what=speed,
            answer="not proven" if not enough else "proven" if new.p95_ms <= (old.p95_ms or 0) else "wrong",
            shown_by=f"p95 {new.p95_ms:.1f} ms, the old side's {old.p95_ms or 0:.1f} ms ({old.requests:,} searches)",
        ),
        Check(
            what=errors,
            answer="proven" if rate <= backends.settings.rollout.max_error_rate else "wrong",
            shown_by=f"{new.errors:,} errors in {new.requests:,} searches",
        ),
    ]


def _quality(migration: Migration) -> Check:
    what = "the answers are not worse"
    judged = migration.evidence.get("judged")
    if judged is None:
        return Check(what=what, answer="not proven", shown_by="no judged queries: set rag.rollout.judged_queries")
    shown = (
        f"{judged['metric']} {judged['serving_now']:.3f} -> {judged['candidate']:.3f} on {judged['queries']} queries, "
        f"difference {judged['difference']:+.3f} [{judged['low']:+.3f}, {judged['high']:+.3f}]"
    )
    verdict = next((one for one in migration.evidence.get("verdicts", []) if one["gate"] == "judged_queries"), None)
    passed = verdict is not None and verdict["outcome"] == "pass"
    return Check(what=what, answer="proven" if passed else "not proven", shown_by=shown)


async def _stable(connection: Connection, backends: Backends, migration: Migration) -> Check:
    wanted = soak_seconds(backends.settings, migration) / 3600
    what = f"{wanted:g} hours of stable operation at 100 %"
    if migration.soaking_since is None or migration.state not in (State.SOAKING, State.COMPLETED):
        return Check(what=what, answer="not proven", shown_by=f"the migration is {migration.state}")
    cursor = await connection.execute(
        "SELECT extract(epoch FROM clock_timestamp() - %s)::float / 3600", (migration.soaking_since,)
    )
    row = await cursor.fetchone()
    hours = max(0.0, row[0]) if row else 0.0
    return Check(what=what, answer="proven" if hours >= wanted else "not proven", shown_by=f"{hours:.1f} hours so far")


def _cost(backends: Backends, migration: Migration) -> Check:
    planned, ratio = migration.plan.get("cost_usd"), backends.settings.rollout.max_cost_ratio
    shown = f"${migration.spent_usd:.4f} spent, {'no plan' if planned is None else f'${planned:.4f} planned'}"
    within = planned is not None and migration.spent_usd <= planned * ratio + 1e-9
    return Check(what="it cost what was planned", answer="proven" if within else "wrong", shown_by=shown)


async def _old_index(connection: Connection, migration: Migration) -> Check:
    old = await catalog.get_index(connection, migration.source_index_id)
    gone = old.state is IndexState.DROPPED
    return Check(
        what="the old index is gone (a week after the switch, say)",
        answer="proven" if gone else "not proven",
        shown_by="dropped by reshelve cleanup" if gone else f"index {old.id} is kept, and still fed: reshelve cleanup",
    )
