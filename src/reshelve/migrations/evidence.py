"""What a rollout's gates look at: live figures, freshness, the proof, judged queries, cost; and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from typing import Any

from reshelve.backends import Backends
from reshelve.database.pools import Connection
from reshelve.domain.breaker import BreakerState
from reshelve.domain.figures import ArmFigures
from reshelve.domain.gates import Evidence, JudgedEvidence, Limits, Outcome, Verdict, quality, safety
from reshelve.domain.migration import State
from reshelve.domain.routes import Arm
from reshelve.errors import GateHeld
from reshelve.indexing.outbox import lag, require_triggers
from reshelve.migrations import records
from reshelve.migrations.records import Migration
from reshelve.operations.breakers import read_breakers
from reshelve.operations.figures import read_figures
from reshelve.settings import Settings

_RECENT_SECONDS = 60
_EARLIER = timedelta(hours=1)
_LATE_SINCE = "late_since"
SPENT_AT_PROOF = "spent_at_proof_usd"
"""Later writes are embedded too, and are no part of what was planned."""
_ENOUGH_SERVING = 50
_NONE = ArmFigures.from_counts([])


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the gates. `breach`: a safety gate failed; `held`: what keeps the next step from being taken."""

    verdicts: Sequence[Verdict]

    @property
    def breach(self) -> str | None:
        failed = [one.reason for one in self.verdicts if one.safety and one.outcome is Outcome.FAIL]
        return "; ".join(failed) or None

    @property
    def held(self) -> str | None:
        open_ = [f"{one.gate}: {one.reason}" for one in self.verdicts if one.outcome is not Outcome.PASS]
        return "; ".join(open_) or None

    def as_dicts(self) -> list[dict[str, Any]]:
        return [verdict.as_dict() for verdict in self.verdicts]

    @property
    def outcomes(self) -> list[tuple[str, str]]:
        return [(verdict.gate, verdict.outcome.value) for verdict in self.verdicts]


async def look(backends: Backends, connection: Connection, migration: Migration) -> Look:
    """Ask every gate about a migration whose new index meets live searches. Writes nothing."""
    settings = backends.settings.rollout
    known = settings.model_dump()
    limits = Limits(**{field.name: known[field.name] for field in fields(Limits)})
    if migration.live_state is State.SHADOWING:
        limits = replace(limits, min_requests=max(1, limits.min_shadowed))
    evidence = await _gather(backends, connection, migration)
    return Look([*safety(evidence, limits), *quality(evidence, limits), *_overruled(backends.settings)])


def _overruled(settings: Settings) -> list[Verdict]:
    """A share that is fixed from outside leaves the schedule nothing to do."""
    if settings.rollout.enabled and settings.rollout.percentage is None:
        return []
    name = "rollout.percentage" if settings.rollout.enabled else "rollout.enabled"
    reason = f"{name} is set by {settings.source(name)}, and decides"
    return [Verdict(gate="settings", outcome=Outcome.HOLD, reason=reason)]


async def _gather(backends: Backends, connection: Connection, migration: Migration) -> Evidence:
    assert migration.target_index_id is not None
    judged = migration.evidence.get("judged")
    kept = {field.name for field in fields(JudgedEvidence)}
    breakers = await read_breakers(connection, index_id=migration.target_index_id)
    return Evidence(
        candidate=await _candidate(connection, migration, recent=False),
        recent=await _candidate(connection, migration, recent=True),
        serving=await _serving(connection, migration),
        serving_recent=await _serving_recent(connection, migration),
        lag_seconds=(await lag(connection, migration.target_index_id)).seconds,
        late_seconds=await _late_seconds(connection, migration),
        verified=None if migration.verification is None else bool(migration.verification["passed"]),
        triggers_present=await _triggers_present(connection),
        breaker_open=any(row.state is BreakerState.OPEN for row in breakers),
        judged=JudgedEvidence(**{key: value for key, value in judged.items() if key in kept}) if judged else None,
        spent_usd=migration.evidence.get(SPENT_AT_PROOF, migration.spent_usd),
        planned_usd=migration.plan.get("cost_usd"),
    )


async def _late_seconds(connection: Connection, migration: Migration) -> float | None:
    since = migration.evidence.get(_LATE_SINCE)
    if since is None:
        return None
    cursor = await connection.execute("SELECT extract(epoch FROM clock_timestamp() - %s::timestamptz)::float", (since,))
    row = await cursor.fetchone()
    return row[0] if row else None


async def remember(connection: Connection, migration: Migration, seen: Look) -> bool:
    """For whoever watches, and for the next look; in the journal where a gate says something else than before.

    Returns whether one does.
    """
    kept, verdicts = migration.evidence.get("verdicts", []), seen.as_dicts()
    async with connection.transaction():
        if kept != verdicts:
            await records.add_evidence(connection, migration.id, {"verdicts": verdicts})
        await _remember_lateness(connection, migration, seen)
        changed = [(one["gate"], one["outcome"]) for one in kept] != seen.outcomes
        if changed:
            await records.journal(connection, migration.id, "gates", facts={"verdicts": verdicts})
    return changed


async def _remember_lateness(connection: Connection, migration: Migration, seen: Look) -> None:
    late = any(one.gate == "freshness" and one.outcome is not Outcome.PASS for one in seen.verdicts)
    if late == (migration.evidence.get(_LATE_SINCE) is not None):
        return
    row = await (await connection.execute("SELECT clock_timestamp()::text")).fetchone()
    await records.add_evidence(connection, migration.id, {_LATE_SINCE: row[0] if late and row else None})


async def _candidate(connection: Connection, migration: Migration, *, recent: bool) -> ArmFigures:
    """Since the step began, or over the last minute. While it is only shadowed, its shadow searches count."""
    assert migration.target_index_id is not None
    if migration.step_since is None:
        return _NONE
    found = await read_figures(
        connection,
        collection_id=migration.collection_id,
        tenant=migration.tenant,
        seconds=_RECENT_SECONDS if recent else None,
        since=migration.step_since,
    )
    figures = found.get((migration.target_index_id, Arm.CANDIDATE), _NONE)
    return figures.shadowed_as_live() if migration.live_state is State.SHADOWING else figures


async def _serving(connection: Connection, migration: Migration) -> ArmFigures:
    """Beside the candidate; where too few searches are left there, also over the hour before the step."""
    if migration.step_since is None:
        return _NONE
    figures = _NONE
    for since in (migration.step_since, migration.step_since - _EARLIER):
        found = await read_figures(
            connection, collection_id=migration.collection_id, tenant=migration.tenant, since=since
        )
        figures = found.get((migration.source_index_id, Arm.SERVING), _NONE)
        if figures.requests >= _ENOUGH_SERVING:
            break
    return figures


async def _serving_recent(connection: Connection, migration: Migration) -> ArmFigures:
    found = await read_figures(
        connection, collection_id=migration.collection_id, tenant=migration.tenant, seconds=_RECENT_SECONDS
    )
    return found.get((migration.source_index_id, Arm.SERVING), _NONE)


async def _triggers_present(connection: Connection) -> bool:
    try:
        await require_triggers(connection)
    except GateHeld:
        return False
    return True
