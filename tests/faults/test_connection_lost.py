"""The connection is lost during a COMMIT: nobody can know what became of it, so everybody looks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import pytest

import reshelve
from reshelve.domain.migration import State
from reshelve.errors import IndexInUse
from reshelve.settings import load_settings
from tests.faults.conftest import Outsider, Scene
from tests.support.oracle import assert_indexes_equal_source
from tests.support.proxy import Proxy, parameter, wired
from tests.support.writers import writing


@dataclass(frozen=True)
class Wire:
    """`library` talks to the server through `proxy`, and asks for another model than serves."""

    library: reshelve.Library
    proxy: Proxy


@pytest.fixture
async def wire(scene: Scene) -> AsyncGenerator[Wire]:
    async with wired(load_settings(scene.target)) as (proxy, settings), reshelve.connect(settings) as library:
        yield Wire(library, proxy)


async def _roads(owner: Outsider) -> list[str]:
    cursor = await owner.execute("SELECT after FROM migration_journal WHERE event = 'transition' ORDER BY id")
    return [str(row[0]) for row in await cursor.fetchall()]


FORWARD = [State.PREPARING, State.BACKFILLING, State.BUILDING, State.VERIFYING, State.SOAKING]


@pytest.mark.parametrize("forwards", [True, False], ids=["committed", "not-committed"])
@pytest.mark.parametrize("state", FORWARD)
async def test_lost_in_a_transition(scene: Scene, wire: Wire, owner: Outsider, state: State, *, forwards: bool) -> None:
    """Every connection goes with it, that of the controller's lock too. Each transition is made once all the same."""
    wire.proxy.arm("transition", parameter(state), forwards=forwards, everything=True)
    async with writing(scene.library):
        migration = await wire.library.apply(cutover=True)
    assert wire.proxy.losses == 1
    assert migration.state is State.SOAKING
    assert await _roads(owner) == [str(each) for each in FORWARD]
    assert (await scene.library.search("shelf")).model == "hashing-128"
    await assert_indexes_equal_source(scene.library)


@pytest.mark.parametrize("forwards", [True, False], ids=["committed", "not-committed"])
@pytest.mark.parametrize("state", [State.ROLLING_BACK, State.ROLLED_BACK])
async def test_lost_in_the_rollback(scene: Scene, wire: Wire, owner: Outsider, state: State, *, forwards: bool) -> None:
    await wire.library.apply(cutover=True)
    wire.proxy.arm("transition", parameter(state), forwards=forwards, everything=True)
    assert (await wire.library.rollback()).state is State.ROLLED_BACK
    assert wire.proxy.losses == 1
    assert (await _roads(owner))[-2:] == ["rolling_back", "rolled_back"]
    assert (await scene.library.search("shelf")).model == "hashing-64"
    await assert_indexes_equal_source(scene.library)


@pytest.mark.parametrize("forwards", [True, False], ids=["committed", "not-committed"])
async def test_lost_in_the_registration_and_in_a_batch(scene: Scene, wire: Wire, *, forwards: bool) -> None:
    wire.proxy.arm("SET target_index_id", forwards=forwards)
    await wire.library.apply(limit=40)
    assert wire.proxy.losses == 1
    wire.proxy.arm("done_at = now()", forwards=forwards)
    async with writing(scene.library):
        migration = await wire.library.apply()
    assert wire.proxy.losses == 2
    assert migration.state is State.VERIFYING
    assert len((await scene.library.status()).indexes) == 2
    await assert_indexes_equal_source(scene.library)


async def test_lost_again_and_again(scene: Scene, wire: Wire) -> None:
    """The pools and the controller's lock recover; no search of a reader on another connection notices."""
    async with writing(scene.library):
        begun = asyncio.Event()
        apply = asyncio.create_task(wire.library.apply(max_rate=200, cutover=True, on_event=lambda event: begun.set()))
        # Before the first step it is only a plan: that is asked for again by whoever asked.
        await begun.wait()
        for _ in range(4):
            await asyncio.wait([apply], timeout=0.4)
            wire.proxy.cut_all()
            await scene.library.search("shelf")
    assert (await apply).state is State.SOAKING
    await assert_indexes_equal_source(scene.library)


async def test_what_is_read_is_held_again(scene: Scene, owner: Outsider) -> None:
    """The lock that keeps an index from being dropped goes with its connection, and the next search takes it anew."""
    async with reshelve.connect(scene.target) as library:
        old = (await library.apply(cutover=True)).source_index_id
        async with scene.library.backends.pins.reading(old):
            await owner.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await scene.library.search("shelf", index=old)
            with pytest.raises(IndexInUse):
                await library.cleanup(skip_soak=True)
            assert (await scene.library.search("shelf", index=old)).results
