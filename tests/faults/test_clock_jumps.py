"""The database's clock jumps an hour: nothing is skipped without its evidence, and nothing waits for the clock in vain.

A jump is made by moving every time that is kept the other way.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import LiteralString

import psycopg
import pytest

import reshelve
from reshelve.database.catalog import get_index
from reshelve.domain.migration import State
from reshelve.indexing.leases import claim_queue, claim_range
from reshelve.indexing.outbox import dispatch
from reshelve.migrations.engine import Run
from tests.faults.conftest import ROWS, Outsider, Scene
from tests.support.oracle import assert_indexes_equal_source
from tests.support.rollouts import (
    Readers,
    conducted,
    gates,
    is_in,
    migration_of,
    moving,
    reading,
    rollout_lines,
    shares,
)
from tests.support.waiting import until
from tests.support.writers import documents, writing

KEPT: dict[LiteralString, tuple[LiteralString, ...]] = {
    "migrations": ("created_at", "changed_at", "step_since", "soaking_since"),
    "migration_journal": ("at",),
    "routes": ("changed_at",),
    "circuit_breakers": ("changed_at", "seen_at"),
    "outbox": ("at",),
    "index_queue": ("at", "leased_until"),
    "backfill_ranges": ("leased_until", "done_at"),
}


# Their times are part of their key: moved one by one they would meet each other.
JUMP_OF_THE_FIGURES = (
    b"CREATE TEMPORARY TABLE moved ON COMMIT DROP AS TABLE figures",
    b"DELETE FROM figures",
    b"""
    INSERT INTO figures AS f SELECT collection_id, tenant, index_id, arm, name, at - make_interval(hours => %(hours)s),
        seconds, bin, count, total FROM moved
    ON CONFLICT (collection_id, at, tenant, index_id, arm, name, bin)
    DO UPDATE SET count = f.count + EXCLUDED.count, total = f.total + EXCLUDED.total
    """,
)
LATE_FOR_LONG = b"""
    UPDATE migrations
    SET evidence = evidence || jsonb_build_object('late_since', (clock_timestamp() - interval '10 seconds')::text)
"""


async def jump(owner: Outsider, hours: int) -> None:
    """The clock is put forward (or back, for less than 0)."""
    while True:
        # Others write to the same tables, in an order of their own.
        with contextlib.suppress(psycopg.errors.DeadlockDetected):
            async with owner.transaction():
                for table, columns in KEPT.items():
                    moved = ", ".join(f"{column} = {column} - make_interval(hours => %(hours)s)" for column in columns)
                    await owner.execute(f"UPDATE {table} SET {moved}".encode(), {"hours": hours})
                for statement in JUMP_OF_THE_FIGURES:
                    await owner.execute(statement, {"hours": hours})
            return


async def looked_at(library: reshelve.Library) -> None:
    """The engine goes as far as it may."""
    await Run(backends=library.backends, migration_id=1).go()


async def searched(library: reshelve.Library, readers: Readers, *, times: int = 200) -> None:
    """And their figures written."""
    before = len(readers.answers)
    await until(lambda: len(readers.answers) > before + times)
    await library.backends.recorder.flush()


@pytest.fixture
async def half_way(scene: Scene) -> AsyncGenerator[reshelve.Library]:
    """At 50 %, which is held for half an hour."""
    lines = rollout_lines(schedule='"50%:30m, 75%:30m, 100%:2h"', min_requests="50")
    async with moving(scene.declare("hashing-128", extra=lines)) as library:
        await library.rollout(50)
        yield library


async def test_forward_skips_no_step_without_its_evidence(half_way: reshelve.Library, owner: Outsider) -> None:
    """What was counted before the jump is of this step still; where there is too little of it, it holds."""
    async with reading(half_way) as readers:
        await searched(half_way, readers, times=20)
    await jump(owner, 1)
    await looked_at(half_way)
    migration = await migration_of(half_way)
    assert (migration.percent, gates(migration)["error_rate"]["outcome"]) == (50, "hold")
    async with reading(half_way) as readers:
        await searched(half_way, readers)
        await looked_at(half_way)
        # The next one begins with nothing, and is not skipped too.
        assert shares(await migration_of(half_way))[-2:] == [50, 75]
        await looked_at(half_way)
        migration = await migration_of(half_way)
    assert (migration.state, migration.percent) == ("rolling_out", 75)
    assert await assert_indexes_equal_source(half_way) == 2 * ROWS


async def test_back_waits_and_the_share_stays(half_way: reshelve.Library, owner: Outsider) -> None:
    async with reading(half_way) as readers:
        await searched(half_way, readers)
        await jump(owner, -1)
        await looked_at(half_way)
        await searched(half_way, readers)
        await looked_at(half_way)
        migration = await migration_of(half_way)
        assert (migration.state, migration.percent) == ("rolling_out", 50)
        assert gates(migration)["error_rate"]["outcome"] == "hold"
        # And forward again, where it was: now the searches from before are there once more.
        await jump(owner, 1)
        await looked_at(half_way)
        migration = await migration_of(half_way)
        assert (migration.percent, gates(migration)["error_rate"]["outcome"]) == (50, "pass")


@pytest.mark.parametrize("hours", [1, -1])
async def test_a_candidate_that_fails_goes_back_all_the_same(
    half_way: reshelve.Library, owner: Outsider, hours: int
) -> None:
    await jump(owner, hours)
    target = (await migration_of(half_way)).to_index
    async with reading(half_way) as readers, conducted(half_way):
        await until(lambda: readers.arms == {"serving", "candidate"})
        await owner.execute(f"ALTER TABLE embeddings_{target} RENAME COLUMN embedding TO broken".encode())
        await until(lambda: is_in(half_way, State.ROLLED_BACK))


async def test_what_waits_has_not_grown_old(scene: Scene, half_way: reshelve.Library, owner: Outsider) -> None:
    """A change under way at the jump seems an hour late at once. Only a lag that stays takes a rollout back."""
    await half_way.close()
    async with reshelve.connect(scene.declare("hashing-128", extra=rollout_lines()), worker=False) as library:
        await library.ingest(documents(5, seed=2), wait=False)
        await jump(owner, 1)
        await looked_at(library)
        assert gates(await migration_of(library))["freshness"]["outcome"] == "hold"
        assert await assert_indexes_equal_source(library) == 2 * ROWS
        await looked_at(library)
        migration = await migration_of(library)
        assert (migration.percent, gates(migration)["freshness"]["outcome"]) == (50, "pass")
        await library.ingest(documents(5, seed=3), wait=False)
        await jump(owner, 1)
        await looked_at(library)
        assert await is_in(library, State.ROLLING_OUT)
        await owner.execute(LATE_FOR_LONG)
        await looked_at(library)
        assert await is_in(library, State.ROLLED_BACK)


@pytest.mark.parametrize("hours", [1, -1])
async def test_the_leases_of_the_dead_run_out(scene: Scene, owner: Outsider, hours: int) -> None:
    """They are taken over at once, and not an hour later."""
    async with reshelve.connect(scene.target) as library:
        await library.apply(limit=40)
    async with scene.library.backends.database.service() as connection:
        index = await get_index(connection, 2)
        assert await claim_range(connection, index, seconds=0.5) is not None
        await scene.library.ingest(documents(10, seed=4), wait=False)
        await dispatch(connection)
        assert await claim_queue(connection, index, limit=100, seconds=0.5) is not None
    await jump(owner, hours)
    async with reshelve.connect(scene.target) as library:
        await library.ingest(documents(10, seed=5))
        assert (await library.apply()).state is State.VERIFYING
        assert await assert_indexes_equal_source(library) == 2 * ROWS


async def test_workers_whose_leases_jump_lose_nothing(scene: Scene, owner: Outsider) -> None:
    async with reshelve.connect(scene.target) as library, reshelve.connect(scene.target) as other:
        await library.start(max_rate=200)
        async with reading(library), writing(scene.library), conducted(library, other):
            await until(lambda: is_in(library, State.BACKFILLING))
            for hours in (1, -1, -1, 1):
                await jump(owner, hours)
                await other.ingest(documents(1, seed=hours))
            await until(lambda: is_in(library, State.VERIFYING))
        await assert_indexes_equal_source(library)


@pytest.mark.parametrize("hours", [1, -1])
async def test_the_way_back_stays_open(scene: Scene, owner: Outsider, hours: int) -> None:
    lines = rollout_lines(schedule='"100%:2h"')
    async with moving(scene.declare("hashing-128", extra=lines)) as library:
        assert (await library.cutover()).state is State.SOAKING
        await jump(owner, hours)
        await looked_at(library)
        assert await is_in(library, State.SOAKING)
        assert (await library.rollback()).state is State.ROLLED_BACK
        assert (await library.search("shelf")).model == "hashing-64"
        assert await assert_indexes_equal_source(library) == 2 * ROWS
