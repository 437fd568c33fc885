"""Tenant by tenant: each has a route and a migration of its own, and they share the indexes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest

import reshelve
from reshelve.database.routes import all_routes
from reshelve.domain.migration import State
from reshelve.domain.routes import bucket, share_of
from reshelve.errors import NothingToDo, TransitionRefused
from reshelve.migrations import records
from reshelve.migrations.conductor import Conductor
from reshelve.migrations.control import Control
from reshelve.migrations.emergency import react
from reshelve.settings import Settings
from tests.support.oracle import assert_indexes_equal_source
from tests.support.waiting import until
from tests.support.writers import documents

SettingsOf = Callable[[str], Settings]
OLD, NEW = "hashing-64", "hashing-128"
TENANTS = ("", "a", "b")
ROWS = 12
USERS = [f"user-{number}" for number in range(30)]


@asynccontextmanager
async def moving(settings_of: SettingsOf, more: str = "") -> AsyncGenerator[reshelve.Library]:
    """Documents of nobody, of `a` and of `b` on hashing-64, and settings that ask for hashing-128."""
    async with reshelve.connect(settings_of(f'[rag.embedding]\nmodel = "{OLD}"')) as library:
        for seed, tenant in enumerate(TENANTS):
            await library.ingest(documents(ROWS, seed=seed), tenant=tenant)
    async with reshelve.connect(settings_of(f'[rag.embedding]\nmodel = "{NEW}"\n{more}')) as library:
        yield library


@pytest.fixture
async def library(settings_of: SettingsOf) -> AsyncGenerator[reshelve.Library]:
    async with moving(settings_of) as opened:
        yield opened


async def models(library: reshelve.Library) -> dict[str, str]:
    """Whose searches are answered by which model."""
    return {tenant: (await library.search("shelf", tenant=tenant)).model for tenant in TENANTS}


async def arms(library: reshelve.Library, tenant: str) -> dict[str, str]:
    return {user: (await library.search("shelf", tenant=tenant, user=user)).arm for user in USERS}


async def routed(library: reshelve.Library) -> dict[str, tuple[int, int | None, int | None]]:
    """The routes there are: serving, candidate, previous."""
    async with library.backends.database.service() as connection:
        return {
            route.tenant: (route.serving.id, *(each.id if each else None for each in (route.candidate, route.previous)))
            for route in await all_routes(connection, 1)
        }


async def test_one_tenant_moves_and_the_others_stay(library: reshelve.Library) -> None:
    epoch = (await library.status()).epoch
    migration = await library.apply(tenant="a")
    assert (migration.tenant, migration.state) == ("a", State.VERIFYING)
    await library.rollout(50, tenant="a")
    chosen = {user for user in USERS if bucket(str(migration.id), user) < share_of(50)}
    assert {user for user, arm in (await arms(library, "a")).items() if arm == "candidate"} == chosen
    for other in ("", "b"):
        assert set((await arms(library, other)).values()) == {"serving"}
    assert await models(library) == {"": OLD, "a": OLD, "b": OLD}
    await library.cutover(tenant="a")
    assert await models(library) == {"": OLD, "a": NEW, "b": OLD}
    await library.rollback(tenant="a")
    assert await models(library) == {"": OLD, "a": OLD, "b": OLD}
    assert await routed(library) == {"": (1, None, None)}
    again = await library.apply(cutover=True, tenant="a")
    assert (again.state, again.embedded_rows) == (State.SOAKING, 0)
    # Its soak may end; but what it leaves behind still answers everybody else.
    with pytest.raises(TransitionRefused, match="index 1 is serving"):
        await library.cleanup(skip_soak=True, tenant="a")
    assert await models(library) == {"": OLD, "a": NEW, "b": OLD}
    assert await routed(library) == {"": (1, None, None), "a": (2, None, None)}
    status = await library.status()
    assert (status.epoch, status.migration) == (epoch, None)
    assert [each.tenant for each in await library.migrations()] == ["a", "a"]
    with pytest.raises(NothingToDo):
        await library.apply(tenant="a")
    assert await assert_indexes_equal_source(library) == 2 * 3 * ROWS


async def test_a_second_tenant_uses_the_index_of_the_first(library: reshelve.Library) -> None:
    first = await library.apply(cutover=True, tenant="a")
    assert first.embedded_rows == 3 * ROWS
    plan = await library.plan(tenant="b")
    assert (plan.rows, plan.reused_rows, plan.tokens) == (3 * ROWS, 3 * ROWS, 0)
    second = await library.apply(cutover=True, tenant="b")
    assert (second.state, second.embedded_rows, second.target_index_id) == (State.SOAKING, 0, first.target_index_id)
    assert await models(library) == {"": OLD, "a": NEW, "b": NEW}
    await library.rollback(tenant="a")
    assert await models(library) == {"": OLD, "a": OLD, "b": NEW}


async def test_two_tenants_and_everybody_at_once(library: reshelve.Library) -> None:
    """Three migrations fill one index together; from then on each goes its own way."""
    conductor = Conductor(library.backends)
    conductor.start()
    try:
        await asyncio.gather(*(library.start(tenant=tenant) for tenant in TENANTS))

        async def all_proven() -> bool:
            return all((each.verification or {}).get("passed") for each in await library.migrations())

        await until(all_proven, seconds=60)
    finally:
        await conductor.stop()
    found = {each.tenant: each for each in await library.migrations()}
    assert found.keys() == set(TENANTS)
    assert {each.to_index for each in found.values()} == {2}
    await library.cutover(tenant="a")
    await library.rollout(40)
    await library.rollout(60, tenant="b")
    assert await routed(library) == {"": (1, 2, None), "a": (2, None, 1), "b": (1, 2, None)}
    for tenant, percent in (("", 40), ("b", 60)):
        chosen = {user for user in USERS if bucket(str(found[tenant].id), user) < share_of(percent)}
        assert {user for user, arm in (await arms(library, tenant)).items() if arm == "candidate"} == chosen
    # Whoever was taken back is not given to the new index again by everybody's rollout.
    await library.rollback(tenant="b")
    assert set((await arms(library, "b")).values()) == {"serving"}
    await library.cutover()
    assert await models(library) == {"": NEW, "a": NEW, "b": OLD}
    assert await assert_indexes_equal_source(library) == 2 * 3 * ROWS


async def test_nothing_is_dropped_that_another_tenant_needs(library: reshelve.Library) -> None:
    await library.apply(tenant="a")
    await library.rollback(tenant="a")
    await library.apply(tenant="b")
    with pytest.raises(TransitionRefused, match="index 2 is part of migration 2"):
        await library.cleanup(tenant="a")
    await library.apply(cutover=True)
    with pytest.raises(TransitionRefused, match="index 1 is serving"):
        await library.cleanup(skip_soak=True)
    await library.cutover(tenant="b")
    # It is b's way back.
    with pytest.raises(TransitionRefused, match="index 1 is serving"):
        await library.cleanup()
    with pytest.raises(TransitionRefused, match="index 2 is serving"):
        await library.cleanup(tenant="a")
    await library.cleanup(skip_soak=True, tenant="b")
    assert [index.id for index in (await library.status()).indexes] == [2]
    assert (await library.cleanup()).dropped is None
    assert await models(library) == {"": NEW, "a": NEW, "b": NEW}


async def test_a_route_that_says_what_everybodys_says_goes(library: reshelve.Library) -> None:
    for tenant in ("a", "b"):
        await library.apply(cutover=True, tenant=tenant)
    with pytest.raises(TransitionRefused):
        await library.cleanup(skip_soak=True, tenant="a")
    await library.apply(cutover=True)
    assert await routed(library) == {"": (2, None, 1), "a": (2, None, None), "b": (2, None, 1)}
    with pytest.raises(TransitionRefused, match="index 1 is serving"):
        await library.cleanup(skip_soak=True)
    # b's way back is still open.
    assert await routed(library) == {"": (2, None, None), "b": (2, None, 1)}
    assert (await library.cleanup(skip_soak=True, tenant="b")).dropped == 1
    assert await routed(library) == {"": (2, None, None)}
    assert await models(library) == dict.fromkeys(TENANTS, NEW)
    assert await assert_indexes_equal_source(library) == 3 * ROWS


async def test_everybodys_way_back_does_not_take_a_finished_tenant_along(library: reshelve.Library) -> None:
    await library.apply(cutover=True)
    await library.rollback()
    await library.apply(cutover=True, tenant="a")
    await library.apply(cutover=True)
    with pytest.raises(TransitionRefused):
        await library.cleanup(skip_soak=True, tenant="a")
    await library.rollback()
    assert await models(library) == {"": OLD, "a": NEW, "b": OLD}


@pytest.mark.parametrize("sticky_by", ["session", "tenant"])
async def test_who_stays_on_one_side(settings_of: SettingsOf, sticky_by: str) -> None:
    async with moving(settings_of, f'[rag.rollout]\nsticky_by = "{sticky_by}"\n') as library:
        migration = await library.apply()
        await library.rollout(50)
        units = [f"unit-{number}" for number in range(24)]
        chosen = {unit for unit in units if bucket(str(migration.id), unit) < share_of(50)}
        assert 0 < len(chosen) < len(units)
        for unit in units:
            for user in ("ada", "ben"):
                session, tenant = (unit, "") if sticky_by == "session" else (None, unit)
                found = await library.search("shelf", user=user, session=session, tenant=tenant)
                assert found.arm == ("candidate" if unit in chosen else "serving")
        # Whoever does not say which unit they are of is no guinea pig.
        assert (await library.search("shelf", user="ada")).arm == "serving"


async def test_a_critical_alert_takes_every_tenant_back_before_it_waits_for_one(library: reshelve.Library) -> None:
    for tenant in ("a", "b"):
        await library.apply(tenant=tenant)
        await library.rollout(90, tenant=tenant)
    assert set((await arms(library, "b")).values()) == {"serving", "candidate"}
    async with library.backends.database.service() as connection:
        first = await records.require_latest(connection, 1, "a")
    busy = Control(library.backends, first.id)
    await busy.hold()
    alert = asyncio.create_task(
        react(library.backends, type="error_rate", severity="critical", value=0.5, threshold=0.1)
    )
    try:

        async def nobody_is_with_the_new_index() -> bool:
            return {arm for tenant in ("a", "b") for arm in (await arms(library, tenant)).values()} == {"serving"}

        await until(nobody_is_with_the_new_index, seconds=15)
        assert not alert.done()
    finally:
        await busy.close()
    assert (await alert).action == "rolled_back"
