"""Writers who come at the wrong moment. Each uses plain SQL where the corpus's own code would be too polite."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import psycopg
import pytest

import reshelve
from reshelve.domain.migration import State
from reshelve.errors import GateHeld, IndexInUse, InputError, TransitionRefused
from reshelve.migrations.engine import Happening
from tests.faults.conftest import ROWS, Outsider, Scene
from tests.support.oracle import assert_indexes_equal_source
from tests.support.waiting import until
from tests.support.writers import documents


@pytest.fixture
async def moving(scene: Scene) -> AsyncGenerator[reshelve.Library]:
    """The library with the new model declared, and its worker on."""
    async with reshelve.connect(scene.target) as library:
        yield library


INSERT = """
    INSERT INTO chunks (document_id, chunking_id, content, content_hash, token_count, ordinal, start_char, end_char)
    SELECT id, (SELECT max(id) FROM chunkings), 'late ' || id, gen_random_uuid(), 2, 9, 0, 1
    FROM documents WHERE external_id = %s RETURNING id
"""


@pytest.mark.parametrize("isolation", list(psycopg.IsolationLevel)[1:])
async def test_a_transaction_older_than_the_index_commits_late(
    moving: reshelve.Library, outsider: Outsider, isolation: psycopg.IsolationLevel
) -> None:
    """Its snapshot may be older than the registration; what it writes afterwards must be in the index all the same."""
    await outsider.set_isolation_level(isolation)
    await outsider.execute("SELECT count(*) FROM chunks")
    await outsider.execute(INSERT, ("d1",))
    states: list[State] = []
    apply = asyncio.create_task(moving.apply(on_event=lambda event: states.append(event.state)))
    await asyncio.sleep(0.5)
    assert State.BACKFILLING not in states, "the ranges may not be enumerated while an older writer is at work"
    await outsider.execute(INSERT, ("d2",))
    await outsider.commit()
    migration = await apply
    assert migration.verification is not None
    assert migration.verification["passed"]
    assert await assert_indexes_equal_source(moving) == 2 * (ROWS + 2)


async def test_a_repeatable_read_writer_that_never_saw_the_index(moving: reshelve.Library, outsider: Outsider) -> None:
    """It has no transaction id when the index is registered, so nobody waits for it, and its snapshot is older."""
    await outsider.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
    await outsider.execute("SELECT count(*) FROM chunks")
    states: list[State] = []
    apply = asyncio.create_task(moving.apply(on_event=lambda event: states.append(event.state)))
    await until(lambda: State.BUILDING in states)
    await outsider.execute(INSERT, ("d3",))
    await outsider.commit()
    await apply
    assert await assert_indexes_equal_source(moving) == 2 * (ROWS + 1)


async def test_a_low_number_commits_after_a_high_one(moving: reshelve.Library, outsider: Outsider) -> None:
    await outsider.execute(INSERT, ("d4",))
    await moving.ingest(documents(3, seed=9))
    await outsider.commit()
    assert await assert_indexes_equal_source(moving) == ROWS + 1


async def test_changes_under_way_while_their_range_is_filled(moving: reshelve.Library, outsider: Outsider) -> None:
    """An uncommitted delete, and a delete and re-insert of one key, during the backfill of those very rows."""
    await moving.apply(limit=40)
    await outsider.execute(
        "DELETE FROM chunks WHERE document_id IN (SELECT id FROM documents WHERE external_id < 'd2')"
    )
    apply = asyncio.create_task(moving.apply())
    await moving.delete(["d50"], wait=False)
    await moving.ingest(reshelve.Document(external_id="d50", content="back again"), wait=False)
    await asyncio.sleep(0.3)
    await outsider.commit()
    await apply
    await assert_indexes_equal_source(moving)
    assert (await moving.search("back again", exact=True)).results[0].document_id == "d50"


async def test_chunks_are_immutable_and_a_truncate_is_heard(
    moving: reshelve.Library, outsider: Outsider, database_urls: tuple[str, str]
) -> None:
    with pytest.raises(psycopg.errors.RaiseException, match="immutable"):
        await outsider.execute("UPDATE chunks SET content = 'other' WHERE id = (SELECT min(id) FROM chunks)")
    await outsider.rollback()
    with pytest.raises(psycopg.errors.Error):
        await outsider.execute("UPDATE chunks SET id = DEFAULT WHERE id = (SELECT min(id) FROM chunks)")
    await outsider.rollback()
    await moving.apply()
    async with await psycopg.AsyncConnection.connect(database_urls[0], autocommit=True) as owner:
        await owner.execute("TRUNCATE reshelve.chunks")
    await moving.ingest(documents(5, seed=3))
    assert await assert_indexes_equal_source(moving) == 2 * 5


async def test_updates_to_almost_nothing_and_to_far_too_much(moving: reshelve.Library) -> None:
    apply = asyncio.create_task(moving.apply())
    report = await moving.ingest(
        [
            reshelve.Document(external_id="d1", content=""),
            reshelve.Document(external_id="d2", content="."),
            reshelve.Document(external_id="d3", content="word " * 60_000),
        ]
    )
    await apply
    assert [refusal.external_id for refusal in report.refused] == ["d1"]
    await assert_indexes_equal_source(moving)


async def test_a_write_between_the_proof_and_the_switch(moving: reshelve.Library) -> None:
    await moving.apply()
    await moving.ingest(reshelve.Document(external_id="new", content="written after the proof"), wait=False)
    await moving.cutover()
    found = await moving.search("written after the proof", exact=True)
    assert (found.model, found.results[0].document_id) == ("hashing-128", "new")


@pytest.mark.parametrize("statement", ["DISABLE TRIGGER chunks_added", "ENABLE TRIGGER chunks_removed"])
async def test_without_its_triggers_no_gate_passes(
    moving: reshelve.Library, database_urls: tuple[str, str], statement: str
) -> None:
    """Writes made meanwhile were not recorded: the verification finds them once the triggers are back."""
    await moving.apply()
    async with await psycopg.AsyncConnection.connect(database_urls[0], autocommit=True) as owner:
        await owner.execute(f"ALTER TABLE reshelve.chunks {statement}")
        with pytest.raises(GateHeld, match="triggers"):
            await moving.cutover()
        assert (await moving.search("shelf")).model == "hashing-64"
        await moving.ingest(reshelve.Document(external_id="unheard", content="nobody was told"), wait=False)
        await moving.delete(["d7"], wait=False)
        for name in ("chunks_added", "chunks_removed"):
            await owner.execute(f"ALTER TABLE reshelve.chunks ENABLE ALWAYS TRIGGER {name}")
    await moving.resume()
    migration = await moving.cutover()
    assert migration.state is State.SOAKING
    status = await moving.status()
    for index in status.indexes:
        await moving.verify(index=index.id)
    await assert_indexes_equal_source(moving)


async def test_rollback_after_many_writes_loses_and_embeds_nothing(moving: reshelve.Library) -> None:
    migration = await moving.apply(cutover=True)
    await moving.ingest(documents(200, seed=5))
    await moving.delete([f"d{number}" for number in range(50)])
    back = await moving.rollback()
    assert back.embedded_rows == migration.embedded_rows
    found = await moving.search(documents(200, seed=5)[120].content, exact=True)
    assert (found.model, found.results[0].document_id) == ("hashing-64", "d120")
    again = await moving.apply(cutover=True)
    assert (again.embedded_rows, again.reused_rows) == (0, 0)
    assert (await moving.search("shelf")).model == "hashing-128"
    await assert_indexes_equal_source(moving)


async def test_cleanup_is_refused_while_somebody_reads(moving: reshelve.Library, scene: Scene) -> None:
    await moving.apply(cutover=True)
    with pytest.raises(TransitionRefused, match="way back is still open"):
        await moving.cleanup()
    old = (await moving.status()).migration
    assert old is not None
    async with scene.library.backends.pins.reading(old.from_index):
        with pytest.raises(IndexInUse, match="being read"):
            await moving.cleanup(skip_soak=True)
        assert (await scene.library.search("shelf", index=old.from_index)).results
    await asyncio.sleep(2.5)
    cleaned = await moving.cleanup()
    assert cleaned.dropped == old.from_index
    assert (await scene.library.search("shelf")).model == "hashing-128"
    assert await assert_indexes_equal_source(moving) == ROWS


async def test_a_paused_migration_stays_fed_and_goes_on(moving: reshelve.Library) -> None:
    seen: list[Happening] = []
    apply = asyncio.create_task(moving.apply(max_rate=200, on_event=seen.append))
    await until(lambda: any(event.rows for event in seen))
    await moving.pause()
    paused = await apply
    assert paused.state is State.PAUSED
    await moving.ingest(documents(20, seed=8))
    with pytest.raises(InputError, match="max_rate"):
        await moving.apply(max_rate=-1)
    assert (await moving.resume()).state is State.VERIFYING
    await assert_indexes_equal_source(moving)


async def test_taken_back_while_another_program_fills_it(moving: reshelve.Library, scene: Scene) -> None:
    """Whoever is at work notices, and either of the two finishes the rollback."""
    seen: list[Happening] = []
    apply = asyncio.create_task(moving.apply(max_rate=100, on_event=seen.append))
    await until(lambda: any(event.rows for event in seen))
    assert (await scene.library.rollback()).state is State.ROLLED_BACK
    assert (await apply).state is State.ROLLED_BACK
    assert (await scene.library.cleanup()).dropped == 2
    assert (await moving.search("shelf")).model == "hashing-64"
    assert await assert_indexes_equal_source(moving) == ROWS
