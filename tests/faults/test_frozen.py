"""A process that is stopped (SIGSTOP) beyond its leases, and continued when others have done its work, and more."""

from __future__ import annotations

import asyncio
import signal

import pytest

import reshelve
from reshelve.domain.migration import State
from tests.faults.conftest import ROWS, Outsider, Scene
from tests.support.oracle import assert_indexes_equal_source
from tests.support.program import program, stopped
from tests.support.rollouts import conducted, is_in, migration_of, reading, states
from tests.support.waiting import until
from tests.support.writers import documents


@pytest.mark.parametrize("place", ["apply.after_read", "prepare.after_embedding"])
async def test_a_feeder_that_was_frozen_changes_nothing(scene: Scene, owner: Outsider, place: str) -> None:
    async with program(scene.declare(), "work", stop_at=place) as frozen:
        await scene.library.ingest(documents(20, seed=6), wait=False)
        await stopped(frozen)
        lease = await _leases(owner)
        assert lease
        async with reshelve.connect(scene.declare()) as other, reading(other):
            # Waits until the lease has run out: then somebody else takes these changes in.
            await other.ingest(documents(20, seed=7))
            await other.delete([f"d{number}" for number in range(10)])
        assert not await _leases(owner) & lease
        frozen.send_signal(signal.SIGCONT)
        # It feeds one batch after the other: once it has taken this in, the late one is behind it.
        await scene.library.ingest(documents(30, seed=8))
        assert frozen.returncode is None
    assert await assert_indexes_equal_source(scene.library) == ROWS


async def _leases(owner: Outsider) -> set[object]:
    cursor = await owner.execute("SELECT DISTINCT lease FROM index_queue WHERE lease IS NOT NULL")
    return {row[0] for row in await cursor.fetchall()}


@pytest.mark.parametrize("place", ["prepare.after_embedding:3", "apply.before_commit:2"])
async def test_a_controller_that_was_frozen_changes_nothing(scene: Scene, place: str) -> None:
    """Its ranges, its open transaction and its right to work on the migration are taken from it meanwhile."""
    target = scene.declare("hashing-128", database="idle_in_transaction_seconds = 2")
    async with program(target, "apply", stop_at=place) as frozen:
        await stopped(frozen)
        async with reshelve.connect(target) as library, reading(library):
            await library.start()
            async with conducted(library):
                await until(lambda: is_in(library, State.VERIFYING))
                await until(lambda: _is_proven(library))
            await library.delete([f"d{number}" for number in range(50)])
            before = await migration_of(library)
            frozen.send_signal(signal.SIGCONT)
            # It ends by itself: it finds that there is nothing left to do, or that somebody else is at work.
            assert await asyncio.wait_for(frozen.wait(), 60) in (0, 1)
            after = await migration_of(library)
            assert states(after) == states(before) == ["preparing", "backfilling", "building", "verifying"]
            assert after.embedded_rows + after.reused_rows == before.embedded_rows + before.reused_rows
    assert await assert_indexes_equal_source(scene.library) == 2 * (ROWS - 50)


async def _is_proven(library: reshelve.Library) -> bool:
    return bool(((await migration_of(library)).verification or {}).get("passed"))
