"""The gradual road: candidate into the route, share by share, and what is left of a schedule."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from reshelve.backends import Backends
from reshelve.crash_points import crash_point
from reshelve.database import catalog
from reshelve.database.pools import Connection
from reshelve.domain.migration import LIVE, State
from reshelve.domain.routes import BUCKETS, Route, share_of
from reshelve.errors import InputError
from reshelve.migrations import records
from reshelve.migrations.cutover import change_route, own_route
from reshelve.migrations.evidence import Look, look
from reshelve.migrations.records import Migration
from reshelve.retrieval.search import share_in_force
from reshelve.settings import Settings


async def set_share(
    backends: Backends, migration: Migration, percent: float, *, facts: dict[str, Any] | None = None
) -> None:
    """From the commit on the candidate answers `percent` of the units; at 0 it is only shadowed.

    100 is not a share but the switch (`cut_over`). Raises InputError outside 0..100, TransitionRefused where the
    migration has no proof yet, or somebody else moved it or its share since it was read.
    """
    if not 0 <= percent < 100:
        raise InputError(f"the share is {percent:g} %; it must be from 0 to 100")
    assert migration.target_index_id is not None
    after = State.ROLLING_OUT if percent else State.SHADOWING
    async with backends.database.owner() as connection, connection.transaction():
        target = await catalog.get_index(connection, migration.target_index_id)
        before = await own_route(connection, migration)
        if migration.state is not after:
            await records.transition(connection, migration, after)
        await records.begin_step(connection, migration, after)
        await change_route(
            connection,
            migration,
            lambda route: replace(
                route,
                candidate=target,
                share=share_of(percent),
                salt=str(migration.id),
                sticky_by=backends.settings.rollout.sticky_by,
            ),
        )
        was = before.percent_now
        await records.journal(connection, migration.id, "share", facts={"from": was, "to": percent, **(facts or {})})
        crash_point("share.before_commit")
    crash_point("share.after_commit")


def percent_now(migration: Migration, route: Route | None) -> float:
    """How many of the units this migration's new index answers. `route` is the migration's own; None: gone."""
    if migration.state is State.COMPLETED:
        return 100.0
    # A route keeps the salt of the migration that last shared it out.
    if route is None or route.new is None or route.salt != str(migration.id):
        return 0.0
    return route.percent_now


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutFacts:
    """The part of the engine's facts that is about the rollout (see `Facts`), and the look at the gates behind it."""

    steps_left: tuple[float, ...] = ()
    step_over: bool = False
    soak_over: bool = False
    judging: bool = False
    judged: bool = True
    held: str | None = None
    look: Look | None = None

    @property
    def breach(self) -> str | None:
        return self.look.breach if self.look is not None else None

    @property
    def ready_to_switch(self) -> bool:
        """The next step is the last one, and only its proof is missing."""
        return self.steps_left[:1] == (100.0,) and self.step_over and self.judged and self.held is None


async def rollout_facts(backends: Backends, connection: Connection, migration: Migration) -> RolloutFacts:
    """What the live searches say, where the new index meets them; and what the schedule wants next."""
    settings = backends.settings.rollout
    judging = settings.judged_queries is not None
    if migration.live_state not in LIVE:
        return RolloutFacts(steps_left=_steps_left(migration, 0.0), judging=judging)
    route = await own_route(connection, migration)
    percent = route.percent_now
    seen = await look(backends, connection, migration)
    hold = _hold_seconds(migration, percent) if percent else settings.shadow_seconds
    judged = migration.evidence.get("judged", {}).get("step") == str(migration.step_since)
    return RolloutFacts(
        steps_left=_steps_left(migration, percent),
        step_over=await _passed(connection, migration.step_since, hold),
        soak_over=await _passed(connection, migration.soaking_since, soak_seconds(backends.settings, migration))
        # Where the settings keep searches from the new index, the end of the soak would give it all of them.
        and share_in_force(settings) in (None, BUCKETS),
        judging=judging,
        judged=judged or not judging,
        held=seen.held,
        look=seen,
    )


def soak_seconds(settings: Settings, migration: Migration) -> float:
    """How long the way back stays open after the switch: as long as the schedule holds 100 %, if there is one."""
    return _hold_seconds(migration, 100.0) if migration.steps else settings.migration.soak_hours * 3600


def _steps_left(migration: Migration, percent_now: float) -> tuple[float, ...]:
    return tuple(step["percent"] for step in migration.steps or () if step["percent"] > percent_now)


def _hold_seconds(migration: Migration, percent_now: float) -> float:
    """A share that was set by hand is held as long as the schedule's own below it."""
    steps = migration.steps or []
    below = [step["hold_seconds"] for step in steps if step["percent"] <= percent_now]
    return below[-1] if below else steps[0]["hold_seconds"] if steps else 0.0


async def _passed(connection: Connection, since: datetime | None, seconds: float) -> bool:
    """So much time has passed, by the database's clock."""
    if since is None:
        return False
    cursor = await connection.execute("SELECT extract(epoch FROM clock_timestamp() - %s)::float", (since,))
    row = await cursor.fetchone()
    return row is not None and row[0] >= seconds
