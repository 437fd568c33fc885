"""SIGKILL while a share is given, and while everything is taken back: whoever comes next completes what was begun."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

import reshelve
from reshelve.domain.migration import State
from tests.faults.conftest import Outsider, Scene
from tests.support.oracle import assert_indexes_equal_source
from tests.support.program import run_program
from tests.support.rollouts import conducted, is_in, migration_of, moving, reading, rollout_lines, shares, states
from tests.support.waiting import until
from tests.support.writers import writing


@pytest.fixture
def target(scene: Scene) -> Path:
    return scene.declare("hashing-128", extra=rollout_lines(min_requests="1000000"))


@pytest.fixture
async def library(target: Path) -> AsyncGenerator[reshelve.Library]:
    """Verified, and before its rollout."""
    async with moving(target) as opened:
        yield opened


PLACES = [
    (50, "transition.rolling_back", "rolling_out"),
    (50, "rollback.before_switch", "rolling_back"),
    (50, "transition.rolled_back", "rolling_back"),
    (100, "transition.rolling_back", "soaking"),
    (100, "rollback.before_switch", "rolling_back"),
    (100, "switch.before_commit", "rolling_back"),
    (100, "switch.after_commit", "rolled_back"),
]


@pytest.mark.parametrize(("share", "place", "left"), PLACES)
async def test_killed_in_a_rollback(
    scene: Scene, target: Path, library: reshelve.Library, share: float, place: str, left: str
) -> None:
    await library.rollout(share)
    async with writing(scene.library), reading(library) as readers:
        await until(lambda: "candidate" in readers.arms)
        assert await run_program(target, "rollback", crash_at=place) == -9
        migration = await migration_of(library)
        assert migration.state == left
        if share == 50:
            # Nobody is sent to the new index from the first commit on, whoever completes the rest.
            assert migration.percent == (50 if left == "rolling_out" else 0)
        async with conducted(library):
            if place == "transition.rolling_back":
                # The wish was lost with the program that had it; nothing of it was done.
                await library.rollback()
            await until(lambda: is_in(library, State.ROLLED_BACK))
        readers.answers.clear()
        await until(lambda: len(readers.answers) > 20)
        # Those that had begun before it ended are among the first.
        assert {answer.arm for answer in readers.answers[10:]} == {"serving"}
    assert states(await migration_of(library))[-2:] == ["rolling_back", "rolled_back"]
    assert await _route(library) == (0, None)
    assert (await library.search("shelf")).model == "hashing-64"
    await assert_indexes_equal_source(library)


@pytest.mark.parametrize("place", ["rollback.before_switch", "transition.rolled_back"])
async def test_killed_in_a_rollback_that_nobody_asked_for(
    target: Path, library: reshelve.Library, owner: Outsider, place: str
) -> None:
    """The candidate fails; the process that takes it back dies of it, and the next one goes on."""
    await library.rollout(50)
    target_index = (await migration_of(library)).to_index
    await owner.execute(f"ALTER TABLE embeddings_{target_index} RENAME COLUMN embedding TO broken".encode())
    async with reading(library) as readers:
        assert await run_program(target, "work", crash_at=place) == -9
        async with conducted(library):
            await until(lambda: is_in(library, State.ROLLED_BACK))
    assert any(answer.fell_back for answer in readers.answers)
    migration = await migration_of(library)
    assert states(migration)[-3:] == ["rolling_out", "rolling_back", "rolled_back"]
    assert await _route(library) == (0, None)
    assert (await library.search("shelf", user="user-1")).arm == "serving"


@pytest.mark.parametrize("place", ["transition.rolling_out", "share.before_commit", "share.after_commit"])
async def test_killed_while_the_first_share_is_given(target: Path, library: reshelve.Library, place: str) -> None:
    async with reading(library):
        assert await run_program(target, "rollout=50", crash_at=place) == -9
        await _assert_agreed(library, 50 if place == "share.after_commit" else None)
        assert await run_program(target, "rollout=50") == 0
        await _assert_agreed(library, 50)
    await assert_indexes_equal_source(library)


@pytest.mark.parametrize("place", ["share.before_commit", "share.after_commit"])
async def test_killed_while_another_share_is_given(target: Path, library: reshelve.Library, place: str) -> None:
    await library.rollout(10)
    async with reading(library):
        for percent, before in ((50, 10), (25, 50)):
            assert await run_program(target, f"rollout={percent}", crash_at=place) == -9
            await _assert_agreed(library, percent if place == "share.after_commit" else before)
            await library.rollout(percent)
            await _assert_agreed(library, percent)


async def _assert_agreed(library: reshelve.Library, percent: float | None) -> None:
    """The share, the state and the journal; None: none was given."""
    migration = await migration_of(library)
    assert migration.state == ("verifying" if percent is None else "rolling_out")
    assert shares(migration)[-1:] == ([] if percent is None else [percent])
    assert migration.percent == (percent or 0)
    share, candidate = await _route(library)
    assert share == (percent or 0) * 10_000
    assert candidate == (None if percent is None else migration.to_index)


async def _route(library: reshelve.Library) -> tuple[int, int | None]:
    """The share, in buckets, and the candidate."""
    async with library.backends.database.service() as connection:
        row = await (await connection.execute("SELECT share, candidate_index_id FROM routes")).fetchone()
    assert row is not None
    return row[0], row[1]
