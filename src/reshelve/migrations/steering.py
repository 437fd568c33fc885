"""What a person may ask of a migration. Each verb finds the collection's migration, and moves it or runs it."""

from __future__ import annotations

from typing import Any

from reshelve.backends import Backends
from reshelve.database import catalog
from reshelve.domain.migration import Action, Advance, Soak, State
from reshelve.errors import GateHeld, InputError, NothingToDo, TransitionRefused
from reshelve.migrations import records
from reshelve.migrations.cleanup import Cleaned, clean_up
from reshelve.migrations.declaration import Declaration, declared
from reshelve.migrations.engine import Listener, Run
from reshelve.migrations.plan import Plan, make_plan
from reshelve.migrations.records import Migration
from reshelve.migrations.verify import Verification, verify_index

_ROLLBACK_PATIENCE_SECONDS = 30.0


async def plan(backends: Backends) -> Plan:
    async with declared(backends.settings) as (declaration, embedder):
        return await make_plan(backends, declaration, embedder, collection=backends.settings.collection)


async def apply(
    backends: Backends,
    *,
    limit: int | None,
    max_rate: float | None,
    budget_usd: float | None,
    cutover: bool,
    on_event: Listener | None,
) -> Migration:
    _refuse_impossible(limit=limit, max_rate=max_rate, budget_usd=budget_usd)
    migration = await _active_or_new(backends)
    await _set_limits(backends, migration, budget_usd=budget_usd, max_rate=max_rate)
    if migration.state in (State.PAUSED, State.FAILED):
        await _resume(backends, migration)
    return await _run(backends, migration, limit=limit, cutover=cutover, on_event=on_event)


async def foresee(backends: Backends, *, cutover: bool) -> list[Action]:
    async with backends.database.owner() as connection:
        route = await catalog.get_route(connection, backends.settings.collection)
        active = await records.latest(connection, route.collection_id)
    if active is not None and not active.over:
        return await Run(backends=backends, migration_id=active.id, cutover_wanted=cutover).foresee()
    actions = (await plan(backends)).actions
    return [*actions[:-1], Advance(State.SOAKING), Soak()] if cutover and actions else actions


async def resume(backends: Backends, *, budget_usd: float | None, on_event: Listener | None) -> Migration:
    _refuse_impossible(budget_usd=budget_usd)
    migration = await _latest(backends)
    await _set_limits(backends, migration, budget_usd=budget_usd, max_rate=None)
    await _resume(backends, migration)
    return await _run(backends, migration, on_event=on_event)


async def pause(backends: Backends, *, reason: str) -> Migration:
    return await _move(backends, State.PAUSED, reason=reason)


async def verify(backends: Backends, *, index: int | None) -> Verification:
    async with backends.database.owner() as connection:
        route = await catalog.get_route(connection, backends.settings.collection)
        migration = await records.latest(connection, route.collection_id)
        active = migration if migration is not None and not migration.over else None
        wanted = index if index is not None else active.target_index_id if active is not None else None
        chosen = route.serving if wanted is None else await catalog.get_index(connection, wanted)
    proof = await verify_index(backends, chosen)
    if active is not None and chosen.id == active.target_index_id:
        async with backends.database.owner() as connection:
            await records.set_verification(connection, active, proof.as_dict())
    return proof


async def cutover(backends: Backends, *, on_event: Listener | None) -> Migration:
    migration = await _latest(backends)
    if migration.state not in (State.VERIFYING, State.SHADOWING, State.ROLLING_OUT):
        raise TransitionRefused(
            f"the migration is {migration.state}; a cutover comes after the proof",
            advice="Run reshelve apply until it is verified; see reshelve status.",
        )
    after = await _run(backends, migration, cutover=True, on_event=on_event)
    if after.state is State.VERIFYING:
        raise GateHeld(
            f"no cutover: {after.reason or 'the verification failed'}",
            advice="The serving index is untouched. Mend what is named, then reshelve cutover again.",
        )
    return after


async def rollback(backends: Backends, *, on_event: Listener | None) -> Migration:
    migration = await _latest(backends)
    if migration.state is State.COMPLETED:
        raise TransitionRefused(
            "the migration is completed",
            advice="Put the old settings back and run reshelve apply: until cleanup its index is still fed.",
        )
    if migration.state is not State.ROLLING_BACK:
        migration = await _move(backends, State.ROLLING_BACK)
    # A controller that is at work ends its step, and then finishes the rollback itself, or lets us.
    return await _run(backends, migration, on_event=on_event, patience_seconds=_ROLLBACK_PATIENCE_SECONDS)


async def cleanup(backends: Backends, *, skip_soak: bool) -> Cleaned:
    migration = await _latest(backends)
    if migration.state is State.SOAKING:
        migration = await (_move(backends, State.COMPLETED) if skip_soak else _run(backends, migration))
    return await clean_up(backends, migration)


def _refuse_impossible(**limits: float | None) -> None:
    for name, value in limits.items():
        if value is not None and not value > 0:
            raise InputError(f"{name} must be above 0, not {value}")


async def _latest(backends: Backends) -> Migration:
    async with backends.database.owner() as connection:
        route = await catalog.get_route(connection, backends.settings.collection)
        return await records.require_latest(connection, route.collection_id)


async def _active_or_new(backends: Backends) -> Migration:
    collection = backends.settings.collection
    async with backends.database.owner() as connection:
        route = await catalog.get_route(connection, collection)
        active = await records.latest(connection, route.collection_id)
    async with declared(backends.settings) as (declaration, embedder):
        if active is not None and not active.over:
            if Declaration.from_dict(active.target).identity != declaration.identity:
                raise TransitionRefused(
                    f"migration {active.id} to {active.target['model']['name']} is {active.state}, "
                    "and the settings ask for something else by now",
                    advice="Put the settings back, or take it back first: reshelve rollback.",
                )
            return active
        made = await make_plan(backends, declaration, embedder, collection=collection)
    if not made.needed:
        raise NothingToDo("nothing to do: the serving index is what the settings ask for")
    figures: dict[str, Any] = {key: value for key, value in made.as_dict().items() if key != "target"}
    async with backends.database.owner() as connection:
        return await records.create(
            connection,
            collection_id=route.collection_id,
            source_index_id=(await catalog.get_route(connection, collection)).serving.id,
            target=made.target,
            plan=figures,
        )


async def _set_limits(
    backends: Backends, migration: Migration, *, budget_usd: float | None, max_rate: float | None
) -> None:
    async with backends.database.owner() as connection:
        await records.set_limits(connection, migration, budget_usd=budget_usd, max_rate=max_rate)


async def _resume(backends: Backends, migration: Migration) -> None:
    await records.move(backends.database, migration, records.resume_state(migration))


async def _move(backends: Backends, to: State, *, reason: str | None = None) -> Migration:
    """A controller may move it on at the same time: then from where it is by now."""
    while True:
        migration = await _latest(backends)
        try:
            return await records.move(backends.database, migration, to, reason=reason)
        except TransitionRefused:
            if (await _latest(backends)).state is migration.state:
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
