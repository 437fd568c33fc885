"""What a person may ask of a migration. Each verb finds the collection's migration, and moves it or runs it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

from reshelve.backends import Backends
from reshelve.database import catalog, routes
from reshelve.domain.migration import Action, Advance, AwaitCutover, Soak, State
from reshelve.errors import DatabaseUnavailable, GateHeld, InputError, NothingToDo, TransitionRefused
from reshelve.migrations import records
from reshelve.migrations.category import fill_category
from reshelve.migrations.cleanup import Cleaned, clean_up
from reshelve.migrations.control import Control
from reshelve.migrations.cutover import complete
from reshelve.migrations.declaration import Declaration, declared
from reshelve.migrations.engine import Happening, Listener, Run
from reshelve.migrations.evidence import look
from reshelve.migrations.plan import Plan, make_plan
from reshelve.migrations.records import Migration
from reshelve.migrations.rollout import set_share
from reshelve.migrations.verify import Verification, verify_index
from reshelve.migrations.withdrawal import withdraw
from reshelve.settings import Step, parse_schedule

_PATIENCE_SECONDS = 30.0
"""For so long a controller that is at work may end its step."""
_TRIES = 6
_BEFORE_SWITCH = (State.VERIFYING, State.SHADOWING, State.ROLLING_OUT)


async def plan(backends: Backends, *, tenant: str = "") -> Plan:
    async with declared(backends.settings) as (declaration, embedder):
        return await make_plan(backends, declaration, embedder, collection=backends.settings.collection, tenant=tenant)


async def apply(
    backends: Backends,
    *,
    limit: int | None,
    max_rate: float | None,
    budget_usd: float | None,
    cutover: bool,
    category: str | None = None,
    tenant: str = "",
    on_event: Listener | None,
) -> Migration:
    _refuse_impossible(limit=limit, max_rate=max_rate, budget_usd=budget_usd)
    migration = await _active_or_new(backends, tenant)
    await _set_limits(backends, migration, budget_usd=budget_usd, max_rate=max_rate)
    if migration.state in (State.PAUSED, State.FAILED):
        await _resume(backends, migration)
    if category is not None:
        return await _apply_category(backends, migration, category, on_event=on_event)
    return await _run(backends, migration, limit=limit, cutover=cutover, on_event=on_event)


async def _apply_category(
    backends: Backends, migration: Migration, category: str, *, on_event: Listener | None
) -> Migration:
    """Up to the backfill, and of that the documents of one category."""
    now = await _run(backends, migration, limit=0, on_event=on_event)
    if now.state is not State.BACKFILLING or now.target_index_id is None:
        return now
    async with backends.database.owner() as connection:
        target = await catalog.get_index(connection, now.target_index_id)

    def tell(done: int, total: int) -> None:
        if on_event is not None:
            on_event(Happening(state=State.BACKFILLING, doing="backfill", rows=done, of_rows=total))

    documents = await fill_category(backends, target, category, on_progress=tell)
    async with backends.database.owner() as connection:
        facts = {"category": category, "documents": documents}
        await records.journal(connection, now.id, "category filled", facts=facts)
        return await records.get(connection, now.id)


async def start(
    backends: Backends,
    *,
    tenant: str,
    steps: Sequence[Step] | None,
    max_rate: float | None,
    budget_usd: float | None,
) -> Migration:
    """Write down that the service is to carry the migration out, and return."""
    _refuse_impossible(max_rate=max_rate, budget_usd=budget_usd)
    migration = await _active_or_new(backends, tenant)
    async with backends.database.owner() as connection:
        if steps is not None:
            await records.set_steps(connection, migration, steps)
        await records.set_driver(connection, migration, "service")
        if migration.state is State.VERIFYING:
            await records.forget_verification(connection, migration)
    await _set_limits(backends, migration, budget_usd=budget_usd, max_rate=max_rate)
    if migration.state in (State.PAUSED, State.FAILED):
        await _resume(backends, migration)
    return await _latest(backends, tenant)


async def rollout(
    backends: Backends, *, percent: float | None, steps: Sequence[Step] | None, tenant: str, on_event: Listener | None
) -> Migration:
    """Give a share of the units to the new index by hand, or hand the migration to a schedule.

    Raises GateHeld where a safety gate has failed; what is merely unproven does not keep a person from it.
    """
    migration = await _latest(backends, tenant)
    if steps is not None:
        async with backends.database.owner() as connection:
            await records.set_steps(connection, migration, steps)
        if percent is None and migration.state is State.VERIFYING:
            return await _run(backends, migration, on_event=on_event, patience_seconds=_PATIENCE_SECONDS)
    if percent is None:
        return await _latest(backends, tenant)
    if percent == 100:
        return await cutover(backends, tenant=tenant, on_event=on_event)
    if migration.state not in _BEFORE_SWITCH or not (migration.verification or {}).get("passed"):
        raise TransitionRefused(
            f"the migration is {migration.state}; a rollout comes after the proof and before the switch",
            advice="Run reshelve apply until it is verified; see reshelve status.",
        )
    control = Control(backends, migration.id, patience_seconds=_PATIENCE_SECONDS)
    try:
        await control.hold()
        migration = await _latest(backends, tenant)
        async with backends.database.owner() as connection:
            seen = await look(backends, connection, migration)
        if percent and seen.breach is not None:
            raise GateHeld(f"no rollout: {seen.breach}", advice="Mend it, or take it back: reshelve rollback.")
        await set_share(backends, migration, percent, facts={"by": "a person", "verdicts": seen.as_dicts()})
    finally:
        await control.close()
    return await _latest(backends, tenant)


async def foresee(backends: Backends, *, cutover: bool, tenant: str = "") -> list[Action]:
    async with backends.database.owner() as connection:
        route = await routes.get_route(connection, backends.settings.collection, tenant)
        active = await records.latest(connection, route.collection_id, tenant)
    if active is not None and not active.over:
        return await Run(backends=backends, migration_id=active.id, cutover_wanted=cutover).foresee()
    actions = (await plan(backends, tenant=tenant)).actions
    if not (cutover and actions):
        return actions
    # The switch follows the proof, whatever the schedule says.
    proven = itertools.takewhile(lambda action: action not in (AwaitCutover(), Advance(State.SHADOWING)), actions)
    return [*proven, Advance(State.SOAKING), Soak()]


async def resume(
    backends: Backends, *, budget_usd: float | None, tenant: str = "", wait: bool = True, on_event: Listener | None
) -> Migration:
    """Without `wait` it is the service that goes on with it."""
    _refuse_impossible(budget_usd=budget_usd)
    migration = await _latest(backends, tenant)
    await _set_limits(backends, migration, budget_usd=budget_usd, max_rate=None)
    if not wait:
        async with backends.database.owner() as connection:
            await records.set_driver(connection, migration, "service")
        if migration.state is State.VERIFYING:
            await records.forget_verification(connection, migration)
    await _resume(backends, migration)
    if not wait:
        return await _latest(backends, tenant)
    return await _run(backends, migration, on_event=on_event)


async def pause(backends: Backends, *, reason: str, tenant: str = "") -> Migration:
    return await _move(backends, State.PAUSED, tenant=tenant, reason=reason)


async def verify(backends: Backends, *, index: int | None, tenant: str = "") -> Verification:
    async with backends.database.owner() as connection:
        route = await routes.get_route(connection, backends.settings.collection, tenant)
        migration = await records.latest(connection, route.collection_id, tenant)
        active = migration if migration is not None and not migration.over else None
        wanted = index if index is not None else active.target_index_id if active is not None else None
        chosen = route.serving if wanted is None else await catalog.get_index(connection, wanted)
    proof = await verify_index(backends, chosen)
    if active is not None and chosen.id == active.target_index_id:
        async with backends.database.owner() as connection:
            await records.set_verification(connection, active, proof.as_dict())
    return proof


async def cutover(backends: Backends, *, tenant: str = "", on_event: Listener | None) -> Migration:
    migration = await _latest(backends, tenant)
    if migration.state not in _BEFORE_SWITCH:
        raise TransitionRefused(
            f"the migration is {migration.state}; a cutover comes after the proof",
            advice="Run reshelve apply until it is verified; see reshelve status.",
        )
    after = await _run(backends, migration, cutover=True, on_event=on_event, patience_seconds=_PATIENCE_SECONDS)
    if after.state in _BEFORE_SWITCH:
        raise GateHeld(
            f"no cutover: {after.reason or 'the verification failed'}",
            advice="The serving index is untouched. Mend what is named, then reshelve cutover again.",
        )
    return after


async def rollback(backends: Backends, *, tenant: str = "", on_event: Listener | None) -> Migration:
    migration = await _latest(backends, tenant)
    if migration.state is State.COMPLETED:
        raise TransitionRefused(
            "the migration is completed",
            advice="Put the old settings back and run reshelve apply: until cleanup its index is still fed.",
        )
    migration = await _withdrawn(backends, migration)
    # A controller that is at work ends its step, and then finishes the rollback itself, or lets us.
    return await _run(backends, migration, on_event=on_event, patience_seconds=_PATIENCE_SECONDS)


async def _withdrawn(backends: Backends, migration: Migration) -> Migration:
    """Rolling back, whatever a controller does at the same time. A lost commit's outcome is looked up, not assumed."""
    failures = 0
    while migration.state is not State.ROLLING_BACK:
        before, refused = migration.state, None
        try:
            await withdraw(backends, migration)
        except TransitionRefused as error:
            refused = error
        except DatabaseUnavailable:
            failures += 1
            if failures > _TRIES:
                raise
            await asyncio.sleep(0.1 * 2**failures)
        async with backends.database.owner() as connection:
            migration = await records.get(connection, migration.id)
        if refused is not None and migration.state is before:
            raise refused
    return migration


async def cleanup(backends: Backends, *, skip_soak: bool, tenant: str = "") -> Cleaned:
    migration = await _latest(backends, tenant)
    if migration.state is State.SOAKING:
        if skip_soak:
            await complete(backends, migration)
            migration = await _latest(backends, tenant)
        else:
            migration = await _run(backends, migration)
    return await clean_up(backends, migration)


def read_schedule(text: str) -> Sequence[Step]:
    try:
        return parse_schedule(text)
    except ValueError as error:
        raise InputError(f"the schedule does not do: {error}") from error


def _refuse_impossible(**limits: float | None) -> None:
    for name, value in limits.items():
        if value is not None and not value > 0:
            raise InputError(f"{name} must be above 0, not {value}")


async def _latest(backends: Backends, tenant: str) -> Migration:
    async with backends.database.owner() as connection:
        route = await routes.get_route(connection, backends.settings.collection, tenant)
        return await records.require_latest(connection, route.collection_id, tenant)


async def _active_or_new(backends: Backends, tenant: str) -> Migration:
    collection = backends.settings.collection
    async with backends.database.owner() as connection:
        route = await routes.get_route(connection, collection, tenant)
        active = await records.latest(connection, route.collection_id, tenant)
    async with declared(backends.settings) as (declaration, embedder):
        if active is not None and not active.over:
            if Declaration.from_dict(active.target).identity != declaration.identity:
                raise TransitionRefused(
                    f"migration {active.id} to {active.target['model']['name']} is {active.state}, "
                    "and the settings ask for something else by now",
                    advice="Put the settings back, or take it back first: reshelve rollback.",
                )
            return active
        made = await make_plan(backends, declaration, embedder, collection=collection, tenant=tenant)
    if not made.needed:
        raise NothingToDo("nothing to do: the serving index is what the settings ask for")
    figures: dict[str, Any] = {key: value for key, value in made.as_dict().items() if key != "target"}
    async with backends.database.owner() as connection:
        return await records.create(
            connection,
            collection_id=route.collection_id,
            source_index_id=(await routes.get_route(connection, collection, tenant)).serving.id,
            target=made.target,
            plan=figures,
            tenant=tenant,
            steps=backends.settings.rollout.steps,
        )


async def _set_limits(
    backends: Backends, migration: Migration, *, budget_usd: float | None, max_rate: float | None
) -> None:
    async with backends.database.owner() as connection:
        await records.set_limits(connection, migration, budget_usd=budget_usd, max_rate=max_rate)


async def _resume(backends: Backends, migration: Migration) -> None:
    await records.move(backends.database, migration, records.resume_state(migration))


async def _move(backends: Backends, to: State, *, tenant: str, reason: str | None = None) -> Migration:
    """A controller may move it on at the same time: then from where it is by now."""
    while True:
        migration = await _latest(backends, tenant)
        try:
            return await records.move(backends.database, migration, to, reason=reason)
        except TransitionRefused:
            if (await _latest(backends, tenant)).state is migration.state:
                raise


async def _run(
    backends: Backends,
    migration: Migration,
    *,
    limit: int | None = None,
    cutover: bool = False,
    on_event: Listener | None = None,
    patience_seconds: float = 0.0,
) -> Migration:
    run = Run(
        backends=backends,
        migration_id=migration.id,
        cutover_wanted=cutover,
        row_limit=limit,
        patience_seconds=patience_seconds,
    )
    if on_event is not None:
        run.listener = on_event
    return await run.go()
