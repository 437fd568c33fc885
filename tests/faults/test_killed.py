"""SIGKILL at every named place, under random writes: the next program goes on, and every index equals the source."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

import reshelve
from reshelve.database.catalog import get_index
from reshelve.domain.migration import State
from reshelve.errors import LeaseLost, TransitionRefused
from reshelve.indexing.feeding import read_chunks
from reshelve.indexing.leases import acknowledge_range, claim_range
from reshelve.indexing.vectors import prepare
from reshelve.indexing.writing import write_entries
from tests.faults.conftest import ROWS, Declare, Outsider, Scene
from tests.support.oracle import assert_indexes_equal_source
from tests.support.program import run_program
from tests.support.waiting import until
from tests.support.writers import documents, writing

ON_THE_WAY_TO_THE_PROOF = [
    "register.before_record",
    "register.after_commit",
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
    "transition.verifying",
]


@pytest.mark.parametrize("place", ON_THE_WAY_TO_THE_PROOF)
async def test_killed_before_the_proof(scene: Scene, place: str) -> None:
    async with writing(scene.library):
        assert await run_program(scene.target, "apply", crash_at=place) == -9
        assert await run_program(scene.target, "apply") == 0
    await assert_proven(scene.library)
    assert await assert_indexes_equal_source(scene.library) > ROWS


async def assert_proven(library: reshelve.Library) -> None:
    status = await library.status()
    assert status.migration is not None
    assert status.migration.state == State.VERIFYING
    assert status.migration.verification is not None
    assert status.migration.verification["passed"]


@pytest.mark.parametrize("place", ["register.before_record", "register.after_commit", "apply.before_commit:3"])
async def test_killed_and_taken_back(scene: Scene, place: str) -> None:
    """A rollback instead of a second try: no index is left that nobody knows of, and cleanup drops what there is."""
    assert await run_program(scene.target, "apply", crash_at=place) == -9
    assert await run_program(scene.target, "rollback", "cleanup") == 0
    assert [index.model for index in (await scene.library.status()).indexes] == ["hashing-64"]
    assert await assert_indexes_equal_source(scene.library) == ROWS


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


async def test_killed_in_the_build(scene: Scene, outsider: Outsider, owner: Outsider) -> None:
    """A reader's old snapshot holds the build up, so that it is hit for certain. What it leaves is built anew."""
    await outsider.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
    await outsider.execute("SELECT count(*) FROM chunks")
    assert await run_program(scene.target, "apply", crash_at="build.running") == -9
    [(left, valid)] = await _graphs(owner)
    assert not valid
    assert (await scene.library.status()).indexes[1].built is False
    await until(lambda: _nobody_builds(owner))
    await outsider.commit()
    async with writing(scene.library):
        assert await run_program(scene.target, "apply") == 0
    [(built, valid)] = await _graphs(owner)
    assert valid
    assert built != left
    await assert_proven(scene.library)
    await assert_indexes_equal_source(scene.library)


async def _nobody_builds(owner: Outsider) -> bool:
    return await (await owner.execute("SELECT FROM pg_stat_progress_create_index")).fetchone() is None


async def _graphs(owner: Outsider) -> list[tuple[object, ...]]:
    cursor = await owner.execute(
        "SELECT i.indexrelid, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
        "JOIN pg_am m ON m.oid = c.relam WHERE m.amname = 'hnsw'"
    )
    return await cursor.fetchall()


@pytest.mark.parametrize(
    ("source", "target", "place"),
    [
        ("pgvector", "mock", "apply.after_target_write:2"),
        ("pgvector", "mock", "apply.before_commit:2"),
        ("pgvector", "mock", "switch.after_commit"),
        ("mock", "pgvector", "apply.half_written:2"),
        ("mock", "pgvector", "switch.before_commit"),
    ],
)
async def test_killed_with_a_store_outside_postgresql(declare: Declare, source: str, target: str, place: str) -> None:
    """It dies with its program, and is filled again from the ledger: the rest of the story is the same."""
    async with reshelve.connect(declare(backend=source)) as library:
        await library.ingest(documents(ROWS))
    async with reshelve.connect(declare(backend=source), worker=False) as writer:
        wanted = declare("hashing-128", backend=target)
        async with writing(writer):
            assert await run_program(wanted, "apply", "cutover", crash_at=place) == -9
            again = ("apply",) if place == "switch.after_commit" else ("apply", "cutover")
            assert await run_program(wanted, *again) == 0
    async with reshelve.connect(wanted, worker=False) as library:
        assert await assert_indexes_equal_source(library) > ROWS
        assert (await library.search("shelf")).model == "hashing-128"
        for index in (await library.status()).indexes:
            assert (await library.verify(index=index.id)).passed


async def test_a_write_that_comes_after_its_lease_changes_nothing(scene: Scene) -> None:
    """A worker that was stopped for longer than its lease: others have done its work, and more, by now."""
    async with reshelve.connect(scene.target) as library:
        await library.apply(limit=40)
        status = await library.status()
        target = status.indexes[1].id
        backends = library.backends
        async with backends.database.service() as connection:
            index = await get_index(connection, target)
            lease = await claim_range(connection, index, seconds=0.05)
            assert lease is not None
            cursor = await connection.execute(
                "SELECT id FROM chunks WHERE chunking_id = %s AND id BETWEEN %s AND %s",
                (index.chunking_id, lease.lo, lease.hi),
            )
            chunks = await read_chunks(connection, [row[0] for row in await cursor.fetchall()])
        prepared = await prepare(backends, index, chunks)
        await library.apply()
        await library.delete([f"d{number}" for number in range(ROWS)])
        with pytest.raises(LeaseLost):
            await write_entries(backends, index, prepared, lambda connection: acknowledge_range(connection, lease))
        assert await assert_indexes_equal_source(library) == 0


async def test_two_controllers_at_once(scene: Scene) -> None:
    async with reshelve.connect(scene.target) as one, reshelve.connect(scene.target) as other, writing(scene.library):
        ends = await asyncio.gather(one.apply(), other.apply(), return_exceptions=True)
        refused = [end for end in ends if isinstance(end, TransitionRefused)]
        assert len(refused) == 1, ends
        await one.apply()
    await assert_proven(scene.library)
    await assert_indexes_equal_source(scene.library)
