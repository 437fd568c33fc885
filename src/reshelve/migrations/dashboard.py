"""What operators watch, in one document: both sides' figures against thresholds, the rollout, gates, lag, alerts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, cast

from reshelve.backends import Backends
from reshelve.database import catalog, routes
from reshelve.database.pools import Connection
from reshelve.domain.figures import ArmFigures
from reshelve.domain.gates import Outcome
from reshelve.domain.indexes import Index
from reshelve.domain.migration import LIVE, ROAD
from reshelve.domain.routes import Arm, Route
from reshelve.domain.thresholds import TARGETS, Check, Threshold, check, measured
from reshelve.errors import InputError
from reshelve.indexing.outbox import lag
from reshelve.migrations import records
from reshelve.migrations.rollout import percent_now
from reshelve.operations.alerts import Alert, list_alerts
from reshelve.operations.breakers import read_breakers
from reshelve.operations.figures import read_figures, read_series
from reshelve.settings import RolloutSettings

Range = Literal["1h", "24h", "7d"]
RANGES: dict[str, int] = {"1h": 3600, "24h": 86_400, "7d": 604_800}
"""Seconds."""
_ALERTS = 10
_NONE = ArmFigures()


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmReport:
    """One index in one role over the range. `now`: it has that role in the route as it is; rates are 0..1."""

    arm: Arm
    index: int
    model: str
    now: bool
    figures: dict[str, float | int | None]
    checks: list[Check]


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerReport:
    """One process's circuit breaker of an index; `since` by the database's clock."""

    process: str
    index: int
    arm: Arm
    state: str
    failures: int
    reason: str | None
    since: datetime
    seen_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LagReport:
    index: int
    changes: int
    seconds: float
    refused: int
    checks: list[Check]


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationReport:
    """`percent` of the units are answered by the new index; `road` is the states that lie on the way, in order."""

    id: int
    tenant: str
    state: str
    percent: float
    from_index: int
    to_index: int | None
    from_model: str
    to_model: str
    reason: str | None
    step_since: datetime | None
    steps: list[dict[str, float]]
    road: list[str]
    reached: str
    verdicts: list[dict[str, Any]]
    spent_usd: float
    planned_usd: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """The searches of the `seconds` from `at` (seconds since the epoch) on."""

    at: float
    seconds: int
    requests: int
    errors: int
    p50_ms: float | None
    p95_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    arm: Arm
    index: int
    points: list[Point]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """`tenant` None: all of them together. `breaches` are in words: thresholds that decide, and gates that failed."""

    collection: str
    tenant: str | None
    range: str
    at: datetime
    arms: list[ArmReport]
    migration: MigrationReport | None
    lag: list[LagReport]
    breakers: list[BreakerReport]
    alerts: list[Alert]
    series: list[Series]
    breaches: list[str]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: dates as ISO 8601."""
        return cast("dict[str, Any]", _plain(asdict(self)))


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in cast("Mapping[object, object]", value).items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in cast("list[object]", value)]
    return value


def gate_limits(settings: RolloutSettings, *, serving_p95_ms: float | None = None) -> list[Threshold]:
    """The limits of `[rag.rollout]` that a side's figures can be held against."""
    limits = [
        Threshold(figure="p95_ms", limit=settings.max_p95_ms, at_most=True, kind="gate"),
        Threshold(figure="error_rate", limit=settings.max_error_rate, at_most=True, kind="gate"),
        Threshold(figure="overlap", limit=settings.min_overlap, at_most=False, kind="gate"),
    ]
    if serving_p95_ms is not None:
        # Of few searches a ratio says little: the gate itself decides, by what is certain.
        limit = max(settings.max_p95_ratio * serving_p95_ms, settings.p95_floor_ms)
        limits.append(Threshold(figure="p95_ms", limit=limit, at_most=True, kind="gate", decides=False))
    if settings.min_similarity is not None:
        limits.append(Threshold(figure="similarity", limit=settings.min_similarity, at_most=False, kind="gate"))
    return limits


def seconds_of(range: str) -> int:
    """Raises InputError for another range than those of `RANGES`."""
    if range not in RANGES:
        raise InputError(f"the range is {range!r}", advice=f"It is one of: {', '.join(RANGES)}.")
    return RANGES[range]


async def read_dashboard(
    backends: Backends, *, collection: str, tenant: str | None = None, range: str = "24h"
) -> Dashboard:
    """Raises NotFoundError for a collection that is not there, InputError for another range."""
    seconds = seconds_of(range)
    settings = backends.settings.rollout
    async with backends.database.service() as connection:
        route = await routes.get_route(connection, collection, tenant)
        indexes = {index.id: index for index in await catalog.live_indexes(connection, route.collection_id)}
        # Figures are kept by the route that they were made on: everybody's, or a tenant's own.
        whose = None if tenant is None else route.tenant
        figures = await read_figures(connection, collection_id=route.collection_id, tenant=whose, seconds=seconds)
        arms = _arms(route, indexes, figures, settings)
        behind = [await _lag(connection, index, settings) for index in indexes.values()]
        cursor = await connection.execute("SELECT clock_timestamp()")
        now = await cursor.fetchone()
        assert now is not None
        migration = await _migration(connection, route)
        return Dashboard(
            collection=collection,
            tenant=tenant,
            range=range,
            at=now[0],
            arms=arms,
            migration=migration,
            lag=behind,
            breakers=await breaker_reports(connection, route),
            alerts=await list_alerts(connection, collection_id=route.collection_id, limit=_ALERTS),
            series=await _series(connection, route, whose, seconds),
            breaches=_breaches(arms, behind, migration),
        )


def _arms(
    route: Route,
    indexes: Mapping[int, Index],
    figures: Mapping[tuple[int, Arm], ArmFigures],
    settings: RolloutSettings,
) -> list[ArmReport]:
    """The sides of the route as it is, then indexes that had another role within the range."""
    current = [(index.id, arm) for arm, index in route.sides]
    serving = figures.get(current[0], _NONE)
    reports: list[ArmReport] = []
    for place in [*current, *sorted(key for key in figures if key not in current)]:
        index_id, arm = place
        values = measured(figures.get(place, _NONE))
        limits = [*TARGETS]
        if arm is Arm.CANDIDATE:
            limits += gate_limits(settings, serving_p95_ms=serving.p95_ms)
        reports.append(
            ArmReport(
                arm=arm,
                index=index_id,
                model=indexes[index_id].model.name if index_id in indexes else "dropped",
                now=place in current,
                figures=values,
                checks=check(values, limits),
            )
        )
    return reports


async def _lag(connection: Connection, index: Index, settings: RolloutSettings) -> LagReport:
    behind = await lag(connection, index.id)
    limit = Threshold(figure="lag_seconds", limit=settings.max_lag_seconds, at_most=True, kind="gate")
    return LagReport(
        index=index.id,
        changes=behind.changes,
        seconds=behind.seconds,
        refused=behind.refused,
        checks=check({"lag_seconds": behind.seconds}, [limit]),
    )


async def breaker_reports(connection: Connection, route: Route) -> list[BreakerReport]:
    """By index and process, of the processes that are there. One that no process has used yet has no report."""
    ours = {index.id for index in await catalog.live_indexes(connection, route.collection_id)}
    return [
        BreakerReport(
            process=row.process,
            index=row.index_id,
            arm=route.arm_of(row.index_id),
            state=row.state.value,
            failures=row.failures,
            reason=row.reason,
            since=row.changed_at,
            seen_at=row.seen_at,
        )
        for row in await read_breakers(connection)
        if row.index_id in ours
    ]


async def _series(connection: Connection, route: Route, tenant: str | None, seconds: int) -> list[Series]:
    """One for each index and role that was searched."""
    points = await read_series(connection, collection_id=route.collection_id, tenant=tenant, seconds=seconds)
    return [
        Series(
            arm=arm,
            index=index_id,
            points=[
                Point(
                    at=each.at.timestamp(),
                    seconds=each.seconds,
                    requests=each.requests,
                    errors=each.errors,
                    p50_ms=each.p50_ms,
                    p95_ms=each.p95_ms,
                )
                for each in points
                if (each.index_id, each.arm) == (index_id, arm)
            ],
        )
        for index_id, arm in sorted({(each.index_id, each.arm) for each in points})
    ]


async def _migration(connection: Connection, route: Route) -> MigrationReport | None:
    found = await records.latest(connection, route.collection_id, route.tenant)
    if found is None:
        return None
    source = await catalog.get_index(connection, found.source_index_id)
    return MigrationReport(
        id=found.id,
        tenant=found.tenant,
        state=found.state.value,
        percent=percent_now(found, route),
        from_index=source.id,
        to_index=found.target_index_id,
        from_model=source.model.name,
        to_model=found.target["model"]["name"],
        reason=found.reason,
        step_since=found.step_since,
        steps=found.steps or [],
        road=[state.value for state in ROAD],
        reached=found.live_state.value,
        verdicts=found.evidence.get("verdicts", []),
        spent_usd=found.spent_usd,
        planned_usd=found.plan.get("cost_usd"),
    )


def _breaches(arms: Sequence[ArmReport], behind: Sequence[LagReport], migration: MigrationReport | None) -> list[str]:
    failed = [
        f"{report.arm} (index {report.index}): {one.figure} is {one.value:.4g}, "
        f"at {'most' if one.at_most else 'least'} {one.limit:.4g}"
        for report in arms
        if report.now
        for one in report.checks
        if one.outcome == "breach" and one.decides
    ]
    late = [
        f"index {report.index} is {report.seconds:,.0f} s behind, at most {one.limit:g} s"
        for report in behind
        for one in report.checks
        if one.outcome == "breach"
    ]
    gates = [
        f"gate {verdict['gate']}: {verdict['reason']}"
        for verdict in (migration.verdicts if migration is not None and migration.state in LIVE else ())
        if verdict["outcome"] == Outcome.FAIL
    ]
    return [*failed, *late, *gates]
