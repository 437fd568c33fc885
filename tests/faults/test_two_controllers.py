"""Two controllers of one migration. Each step is taken by one of them, whatever becomes of their connections."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

import reshelve
from reshelve.domain.migration import State
from reshelve.errors import TransitionRefused
from reshelve.migrations import records
from reshelve.migrations.rollout import set_share
from reshelve.migrations.withdrawal import withdraw
from reshelve.settings import load_settings
from tests.faults.conftest import Scene
from tests.support.oracle import assert_indexes_equal_source
from tests.support.program import program
from tests.support.proxy import Proxy, parameter, wired
from tests.support.rollouts import (
    conducted,
    is_in,
    migration_of,
    moving,
    reading,
    rollout_lines,
    shares,
    states,
)
from tests.support.waiting import until
from tests.support.writers import writing

ROAD = ["preparing", "backfilling", "building", "verifying", "shadowing", "rolling_out", "soaking"]
SCHEDULE = rollout_lines(schedule='"10%:0s, 50%:0s, 100%:1h"') + "\n[rag.migration.throttle]\nenabled = false\n"


@dataclass(frozen=True)
class Pair:
    """Two libraries that the service's migration is for; `cut` talks to the server through `proxy`."""

    cut: reshelve.Library
    other: reshelve.Library
    proxy: Proxy


@pytest.fixture
async def pair(scene: Scene) -> AsyncGenerator[Pair]:
    settings = load_settings(scene.declare("hashing-128", extra=SCHEDULE))
    async with (
        wired(settings) as (proxy, through),
        reshelve.connect(through) as cut,
        reshelve.connect(settings) as other,
    ):
        await other.start()
        yield Pair(cut, other, proxy)


@asynccontextmanager
async def under_fire(scene: Scene, library: reshelve.Library) -> AsyncGenerator[None]:
    """With readers and writers; at the end every step was taken, and each of them once."""
    async with writing(scene.library), reading(library) as readers:
        yield
        await until(lambda: is_in(library, State.SOAKING), seconds=60)
        migration = await migration_of(library)
        assert states(migration) == ROAD
        assert shares(migration) == [0, 10, 50]
        assert [entry["event"] for entry in migration.journal].count("switched") <= 1
    assert readers.arms == {"serving", "candidate"}
    assert (await library.search("shelf")).model == "hashing-128"
    await assert_indexes_equal_source(library)


async def test_started_at_once_while_one_loses_its_connections(scene: Scene, pair: Pair) -> None:
    """Again and again: whenever the journal has grown."""
    async with under_fire(scene, pair.other), conducted(pair.cut, pair.other):
        seen = 0
        while not await is_in(pair.other, State.SOAKING):
            entries = len((await migration_of(pair.other)).journal)
            if entries > seen:
                seen = entries
                pair.proxy.cut_all()


@pytest.mark.parametrize("forwards", [True, False], ids=["committed", "not-committed"])
@pytest.mark.parametrize("markers", [('"to": 50.0',), ("transition", parameter("soaking"))], ids=["share", "switch"])
async def test_one_loses_its_connections_in_a_step(
    scene: Scene, pair: Pair, markers: tuple[str, ...], *, forwards: bool
) -> None:
    """The other begins at that very moment, and both look at what became of it."""
    pair.proxy.arm(*markers, forwards=forwards, everything=True)
    async with under_fire(scene, pair.other), conducted(pair.cut):
        await until(lambda: pair.proxy.losses == 1, seconds=60)
        async with conducted(pair.other):
            await until(lambda: is_in(pair.other, State.SOAKING), seconds=60)


async def test_two_processes(scene: Scene, pair: Pair) -> None:
    file = scene.declare("hashing-128", extra=SCHEDULE)
    async with under_fire(scene, pair.other), program(file, "work"), program(file, "work"):
        await until(lambda: is_in(pair.other, State.SOAKING), seconds=60)


async def test_who_looked_before_the_other_acted_changes_nothing(scene: Scene) -> None:
    """A controller that has lost its lock without noticing, in the middle of a step."""
    async with moving(scene.declare("hashing-128", extra=rollout_lines())) as library:
        await library.rollout(10)
        async with library.backends.database.owner() as connection:
            looked = await records.get(connection, 1)
        await set_share(library.backends, looked, 50)
        with pytest.raises(TransitionRefused, match="somebody else"):
            await set_share(library.backends, looked, 50)
        async with library.backends.database.owner() as connection:
            looked = await records.get(connection, 1)
        await withdraw(library.backends, looked)
        with pytest.raises(TransitionRefused, match="somebody else"):
            await set_share(library.backends, looked, 75)
        migration = await migration_of(library)
        assert (migration.state, migration.percent, shares(migration)) == ("rolling_back", 0, [10, 50])
        assert (await library.rollback()).state is State.ROLLED_BACK
