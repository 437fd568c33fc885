"""A rollout by hand and by its schedule: who is answered by which index, what passes a gate, and what goes back."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest
from psycopg import sql

import reshelve
from reshelve.domain.migration import State
from reshelve.domain.routes import bucket, share_of
from reshelve.errors import GateHeld, InputError, TransitionRefused
from reshelve.settings import Settings
from tests.support.oracle import assert_indexes_equal_source
from tests.support.rollouts import USERS, conducted, is_in, migration_of, rollout_lines
from tests.support.waiting import until
from tests.support.writers import documents

MakeSettings = Callable[[str], Settings]


@asynccontextmanager
async def moving(settings_of: MakeSettings, more: str = "") -> AsyncGenerator[reshelve.Library]:
    """A library on hashing-64 whose migration to hashing-128 is verified."""
    async with reshelve.connect(settings_of('[rag.embedding]\nmodel = "hashing-64"')) as library:
        await library.ingest(documents(40))
    async with reshelve.connect(
        settings_of('[rag.embedding]\nmodel = "hashing-128"\n' + (more or rollout_lines()))
    ) as library:
        assert (await library.apply()).state in (State.VERIFYING, State.SHADOWING)
        yield library


async def arms(library: reshelve.Library) -> dict[str, str]:
    return {user: (await library.search("a shelf", user=user)).arm for user in USERS}


async def test_shares_by_hand_are_sticky_and_grow(settings_of: MakeSettings) -> None:
    async with moving(settings_of) as library:
        migration = await library.rollout(30)
        assert migration.state is State.ROLLING_OUT
        first = await arms(library)
        chosen = {user for user in USERS if bucket(str(migration.id), user) < share_of(30)}
        assert {user for user, arm in first.items() if arm == "candidate"} == chosen
        assert await arms(library) == first
        # Without a user nobody is guinea pig.
        assert (await library.search("a shelf")).arm == "serving"
        await library.rollout(70)
        assert chosen < {user for user, arm in (await arms(library)).items() if arm == "candidate"}
        await library.rollout(30)
        assert await arms(library) == first
        assert (await library.rollout(0)).state is State.SHADOWING
        assert set((await arms(library)).values()) == {"serving"}
        assert (await library.rollout(100)).state is State.SOAKING
        found = await library.search("a shelf")
        assert (found.arm, found.model, found.query_model) == ("candidate", "hashing-128", "hashing-128")
        await library.rollback()
        assert set((await arms(library)).values()) == {"serving"}
        assert await assert_indexes_equal_source(library) == 80


async def test_a_step_needs_the_proof_and_a_sensible_share(settings_of: MakeSettings) -> None:
    async with reshelve.connect(settings_of('[rag.embedding]\nmodel = "hashing-64"')) as library:
        await library.ingest(documents(5))
    async with reshelve.connect(settings_of('[rag.embedding]\nmodel = "hashing-128"')) as library:
        await library.start()
        with pytest.raises(TransitionRefused, match="comes after the proof"):
            await library.rollout(10)
        await library.apply()
        for wrong in (-1, 101, float("nan")):
            with pytest.raises(InputError):
                await library.rollout(wrong)
        with pytest.raises(InputError, match="schedule"):
            await library.rollout(schedule="50%:1h")


async def test_the_schedule_climbs_by_itself(settings_of: MakeSettings) -> None:
    more = rollout_lines(schedule='"10%:0s, 50%:0s, 100%:1h"')
    async with moving(settings_of, more) as library:
        seen: Counter[str] = Counter()
        async with conducted(library):
            while not await is_in(library, State.SOAKING):
                seen.update((await arms(library)).values())
        status = await library.status()
        assert status.migration is not None
        shares = [entry["facts"]["to"] for entry in status.migration.journal if entry["event"] == "share"]
        assert shares == [0, 10, 50]
        assert {entry["event"] for entry in status.migration.journal} >= {"gates", "share", "switched", "verified"}
        assert seen["serving"] > 20
        assert seen["candidate"] > 20
        assert status.migration.percent == 100


async def test_what_is_not_proven_holds(settings_of: MakeSettings) -> None:
    more = rollout_lines(require_judged="true", schedule='"10%:0s, 100%:1h"')
    async with moving(settings_of, more) as library:
        async with conducted(library):
            for _ in range(3):
                await arms(library)

            async def only_quality_is_open() -> bool:
                migration = await migration_of(library)
                return {gate["gate"] for gate in migration.gates if gate["outcome"] != "pass"} == {"judged_queries"}

            await until(only_quality_is_open)
            assert await is_in(library, State.SHADOWING)
        # A person may take the step all the same.
        assert (await library.rollout(10)).state is State.ROLLING_OUT


async def test_a_failing_candidate_is_answered_for_and_taken_back(settings_of: MakeSettings) -> None:
    async with moving(settings_of) as library:
        await library.rollout(50)
        before = await arms(library)
        await _break(library)
        answers = [await library.search("a shelf", user=user) for user in USERS]
        assert {answer.model for answer in answers} == {"hashing-64"}
        fell_back = [answer for answer in answers if answer.fell_back]
        assert len(fell_back) == list(before.values()).count("candidate")
        assert any("circuit breaker" in (answer.fell_back or "") for answer in fell_back)
        with pytest.raises(GateHeld, match="no rollout"):
            await until(lambda: _refused(library), seconds=20)
        async with conducted(library):
            await until(lambda: is_in(library, State.ROLLED_BACK))
        assert set((await arms(library)).values()) == {"serving"}


async def _refused(library: reshelve.Library) -> bool:
    await library.rollout(60)
    return False


async def _break(library: reshelve.Library) -> None:
    """The candidate's table loses its vectors' column: every search of it fails, and every one of the other works."""
    table = sql.Identifier("reshelve", f"embeddings_{(await migration_of(library)).to_index}")
    async with library.backends.database.owner() as connection:
        await connection.execute(sql.SQL("ALTER TABLE {} RENAME COLUMN embedding TO broken").format(table))


async def test_a_backfill_category_by_category(settings_of: MakeSettings) -> None:
    shelves = [
        {"_id": f"{category}-{number}", "text": f"{category} text {number} " * 20, "category": category}
        for category in ("pricing", "events")
        for number in range(30)
    ]
    async with reshelve.connect(settings_of('[rag.embedding]\nmodel = "hashing-64"')) as library:
        await library.ingest(shelves)
    smaller = "[rag.chunking]\nchunk_size = 16\nmax_chunk_size = 24\n"
    async with reshelve.connect(settings_of('[rag.embedding]\nmodel = "hashing-128"\n' + smaller)) as library:
        with pytest.raises(InputError, match="no document has the category 'price'") as refused:
            await library.apply(category="price")
        assert "events, pricing" in refused.value.advice
        assert (await library.apply(category="pricing")).state is State.BACKFILLING
        embedded = {each.model: each.embedded for each in await library.embeddings("pricing-1")}
        assert min(embedded.values()) > 0
        assert {each.model: each.embedded for each in await library.embeddings("events-1")}["hashing-128"] == 0
        assert (await library.apply()).state is State.VERIFYING
        assert await assert_indexes_equal_source(library) > 120
