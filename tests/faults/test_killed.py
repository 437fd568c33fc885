"""SIGKILL at every named place, under random writes: the next program goes on, and every index equals the source."""

from __future__ import annotations

import pytest

from reshelve.domain.migration import State
from tests.faults.conftest import ROWS, Scene
from tests.support.oracle import assert_indexes_equal_source
from tests.support.program import run_program
from tests.support.writers import writing

ON_THE_WAY_TO_THE_PROOF = [
    "register.before_record",
    "transition.preparing",
    "enumerate.after_cursor:3",
    "claim.before_commit:4",
    "apply.after_read:3",
    "prepare.after_embedding:3",
    "apply.half_written:3",
    "apply.after_target_write:3",
    "apply.before_commit:3",
    "apply.after_commit:3",
    "transition.building",
    "build.running",
    "transition.verifying",
]


@pytest.mark.parametrize("place", ON_THE_WAY_TO_THE_PROOF)
async def test_killed_before_the_proof(scene: Scene, place: str) -> None:
    async with writing(scene.library):
        assert await run_program(scene.target, "apply", crash_at=place) == -9
        assert await run_program(scene.target, "apply") == 0
    status = await scene.library.status()
    assert status.migration is not None
    assert status.migration.state == State.VERIFYING
    assert status.migration.verification is not None
    assert status.migration.verification["passed"]
    assert await assert_indexes_equal_source(scene.library) > ROWS


@pytest.mark.parametrize("place", ["switch.before_commit", "switch.after_commit", "transition.soaking"])
async def test_killed_at_the_switch(scene: Scene, place: str) -> None:
    """The route and the state change together, or not at all."""
    async with writing(scene.library):
        assert await run_program(scene.target, "apply", "cutover", crash_at=place) == -9
        status = await scene.library.status()
        assert status.migration is not None
        switched = status.migration.state == State.SOAKING
        serving = next(index.model for index in status.indexes if index.serving)
        assert serving == ("hashing-128" if switched else "hashing-64")
        assert switched == (place == "switch.after_commit")
        if not switched:
            assert await run_program(scene.target, "cutover") == 0
    assert (await scene.library.search("shelf")).model == "hashing-128"
    await assert_indexes_equal_source(scene.library)


@pytest.mark.parametrize("place", ["rollback.before_switch", "switch.before_commit:2", "switch.after_commit:2"])
async def test_killed_in_the_rollback(scene: Scene, place: str) -> None:
    """Asked for again, it completes."""
    async with writing(scene.library):
        assert await run_program(scene.target, "apply", "cutover", "rollback", crash_at=place) == -9
        status = await scene.library.status()
        assert status.migration is not None
        if status.migration.state != State.ROLLED_BACK:
            assert await run_program(scene.target, "rollback") == 0
    assert (await scene.library.search("shelf")).model == "hashing-64"
    await assert_indexes_equal_source(scene.library)
