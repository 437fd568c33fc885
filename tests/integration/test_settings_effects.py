"""Every setting has an effect. (Those of an HTTP embedding endpoint are shown in test_openai_embedder.)"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

import reshelve
from reshelve.domain.migration import State
from reshelve.errors import DatabaseUnavailable, GateHeld, ModelError
from reshelve.indexing.ranges import fill_one_range
from reshelve.migrations import backfill
from reshelve.settings import Settings
from tests.support.writers import documents

SettingsOf = Callable[[str], Settings]
HASHING = '[rag.embedding]\nmodel = "hashing-64"\n'


async def test_collections_are_apart(settings_of: SettingsOf) -> None:
    for name in ("one", "two"):
        async with reshelve.connect(settings_of(f'[rag]\ncollection = "{name}"\n{HASHING}')) as library:
            await library.ingest({"_id": "same", "text": f"the text of {name}"})
    async with reshelve.connect(settings_of(f'[rag]\ncollection = "one"\n{HASHING}')) as library:
        results = (await library.search("text")).results
    assert [result.content for result in results] == ["the text of one"]


async def test_the_pool_has_its_size(settings_of: SettingsOf) -> None:
    async with reshelve.connect(settings_of(f"[rag.database]\npool_size = 3\n{HASHING}")) as library:
        assert library.backends.database.service_pool_size == 3


async def test_who_stands_still_in_a_transaction_is_cut_off(settings_of: SettingsOf) -> None:
    text = f"[rag.database]\nidle_in_transaction_seconds = 1\n{HASHING}"
    async with reshelve.connect(settings_of(text)) as library:
        database = library.backends.database

        async def stand_still() -> None:
            async with database.service() as connection, connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock(1)")
                async with database.owner() as other, asyncio.timeout(30):
                    await other.execute("SELECT pg_advisory_xact_lock(1)")
                await connection.execute("SELECT 1")

        with pytest.raises(DatabaseUnavailable, match="idle-in-transaction"):
            await stand_still()
        assert await library.ingest(documents(1))


async def test_the_index_is_made_as_declared(settings_of: SettingsOf) -> None:
    text = f"""
        [rag.vector_storage]
        dimensions = 64
        metric = "l2"
        [rag.vector_storage.hnsw]
        m = 5
        ef_construction = 33
        ef_search = 77
        {HASHING}
    """
    async with reshelve.connect(settings_of(HASHING)) as library:
        await library.ingest(documents(30))
    async with reshelve.connect(settings_of(text)) as library:
        plan = await library.plan()
        assert {change.what for change in plan.changes} == {"metric", "hnsw.m", "hnsw.ef_construction"}
        assert plan.reused_rows == plan.rows == 30
        migration = await library.apply()
        assert (migration.embedded_rows, migration.reused_rows) == (0, 30)
        async with library.backends.database.service() as connection:
            cursor = await connection.execute("SELECT indexdef FROM pg_indexes WHERE indexdef LIKE '%hnsw%'")
            made = [row[0] for row in await cursor.fetchall()]
            ef_search = await (await connection.execute("SHOW hnsw.ef_search")).fetchone()
    assert len(made) == 1
    assert "vector_l2_ops" in made[0]
    assert "m='5'" in made[0]
    assert "ef_construction='33'" in made[0]
    assert ef_search == ("77",)


async def test_an_index_that_has_grown_large_gets_its_graph(settings_of: SettingsOf) -> None:
    async with reshelve.connect(settings_of(f"[rag.vector_storage.hnsw]\nmin_rows = 30\n{HASHING}")) as library:
        await library.ingest(documents(29))
        assert [index.built for index in (await library.status()).indexes] == [False]
        await library.ingest(documents(40))
        assert [index.built for index in (await library.status()).indexes] == [True]


async def test_a_dimension_that_the_model_does_not_have_is_refused(settings_of: SettingsOf) -> None:
    async with reshelve.connect(settings_of(f"[rag.vector_storage]\ndimensions = 65\n{HASHING}")) as library:
        with pytest.raises(ModelError, match="65"):
            await library.ingest(documents(1))


async def test_chunks_have_the_declared_sizes(settings_of: SettingsOf) -> None:
    async with reshelve.connect(
        settings_of(f"[rag.chunking]\nchunk_size = 20\nmax_chunk_size = 30\noverlap = 8\n{HASHING}")
    ) as library:
        await library.ingest({"_id": "long", "text": " ".join(f"word{number}." for number in range(200))})
        async with library.backends.database.service() as connection:
            cursor = await connection.execute("SELECT token_count, start_char, end_char FROM chunks ORDER BY ordinal")
            rows = await cursor.fetchall()
    assert max(row[0] for row in rows) <= 30
    assert any(later[1] < earlier[2] for earlier, later in itertools.pairwise(rows)), "no overlap"


async def test_prefixes_and_prices_are_the_models(settings_of: SettingsOf) -> None:
    extra = 'query_prefix = "query: "\ndocument_prefix = "passage: "\nprice_per_million_tokens = 2.5\n'
    async with reshelve.connect(settings_of(HASHING)) as library:
        await library.ingest(documents(20))
    async with reshelve.connect(settings_of(HASHING + extra)) as library:
        plan = await library.plan()
        assert "prefixes" in {change.what for change in plan.changes}
        assert plan.cost_usd == pytest.approx(plan.tokens * 2.5 / 1_000_000)
        assert plan.cost_usd > 0
        migration = await library.apply()
        assert migration.spent_usd > 0


async def test_the_soak_ends_by_itself(settings_of: SettingsOf) -> None:
    async with reshelve.connect(settings_of(HASHING)) as library:
        await library.ingest(documents(20))
    target = HASHING.replace("64", "128")
    async with reshelve.connect(settings_of(target + "[rag.migration]\nsoak_hours = 0.0\n")) as library:
        assert (await library.apply(cutover=True)).state is State.COMPLETED


async def test_ranges_have_the_declared_rows(settings_of: SettingsOf) -> None:
    async with reshelve.connect(settings_of(HASHING)) as library:
        await library.ingest(documents(50))
    target = HASHING.replace("64", "128")
    async with reshelve.connect(settings_of(target + "[rag.migration]\nrange_rows = 10\n")) as library:
        await library.apply(limit=20)
        async with library.backends.database.service() as connection:
            cursor = await connection.execute("SELECT rows, done_at IS NOT NULL FROM backfill_ranges ORDER BY id")
            rows = await cursor.fetchall()
    assert [row[0] for row in rows] == [10] * 5
    assert sum(row[1] for row in rows) == 2


@pytest.mark.parametrize("workers", [1, 3])
async def test_so_many_ranges_are_filled_at_a_time(
    settings_of: SettingsOf, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    at_once: list[int] = []
    under_way = 0

    async def counted(*arguments: Any, **options: Any) -> int | None:
        nonlocal under_way
        under_way += 1
        at_once.append(under_way)
        try:
            await asyncio.sleep(0.02)
            return await fill_one_range(*arguments, **options)
        finally:
            under_way -= 1

    monkeypatch.setattr(backfill, "fill_one_range", counted)
    async with reshelve.connect(settings_of(HASHING)) as library:
        await library.ingest(documents(60))
    target = HASHING.replace("64", "128") + f"[rag.migration]\nrange_rows = 10\nworkers = {workers}\n"
    async with reshelve.connect(settings_of(target)) as library:
        await library.apply()
    assert max(at_once) == workers


@pytest.mark.parametrize(
    ("gate", "problem"), [("min_ann_recall = 1.0\nsample_rows = 5", ""), ("min_sample_cosine = 1.0", "cosine")]
)
async def test_the_gates_hold(settings_of: SettingsOf, gate: str, problem: str) -> None:
    """A text embedded again differs from its stored vector in the last bits: 1.0 is more than can be asked."""
    async with reshelve.connect(settings_of(HASHING)) as library:
        await library.ingest(documents(40))
    text = HASHING.replace("64", "128").replace("hashing-128", "hashing-2500") + f"[rag.migration]\n{gate}\n"
    async with reshelve.connect(settings_of(text)) as library:
        migration = await library.apply()
        assert migration.verification is not None
        if not problem:
            assert migration.verification["sample_rows"] == 5
            return
        assert not migration.verification["passed"]
        assert problem in migration.verification["problems"][0]
        with pytest.raises(GateHeld, match=problem):
            await library.cutover()
