"""An answer that was kept is given again, and never one that a change has made wrong."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

import reshelve
from reshelve.database.catalog import live_indexes
from reshelve.indexing.feeding import feed_once
from reshelve.settings import Settings
from tests.support.waiting import until
from tests.support.writers import documents

SettingsOf = Callable[[str], Settings]
Change = Callable[[reshelve.Library, str, Path], Awaitable[object]]
KEPT = "[rag.cache]\nsearch_cache_enabled = true\n"
MODEL = '[rag.embedding]\nmodel = "hashing-64"\n'
QUERY = "the way to the shelf"


@asynccontextmanager
async def caching(
    settings_of: SettingsOf, more: str = KEPT, *, rows: int = 8, worker: bool = True
) -> AsyncGenerator[reshelve.Library]:
    async with reshelve.connect(settings_of(MODEL + more), worker=worker) as library:
        if rows:
            await library.ingest(documents(rows))
            await library.ingest({"_id": "shelf", "text": QUERY, "metadata": {"n": 1}})
        yield library


async def shown(library: reshelve.Library, **more: Any) -> list[tuple[str, str, dict[str, Any], int]]:
    found = await library.search(QUERY, **more)
    return [(each.document_id, each.content, each.metadata, each.index) for each in found.results]


async def figures(library: reshelve.Library) -> dict[str, Any]:
    await library.backends.recorder.flush()
    return (await library.dashboard()).arms[0].figures


@pytest.mark.parametrize(
    ("more", "kept"),
    [
        ("", [False, False, False, False]),
        (KEPT, [False, True, False, True]),
        (KEPT + "search_cache_size = 1", [False, True, False, False]),
        (KEPT + "search_cache_ttl_seconds = 1e-9", [False, False, False, False]),
    ],
)
async def test_an_answer_is_kept(settings_of: SettingsOf, more: str, kept: list[bool]) -> None:
    async with caching(settings_of, more) as library:
        found = [
            await library.search(query, user=user)
            for query, user in ((QUERY, "a"), (QUERY, "b"), ("x", None), (QUERY, "a"))
        ]
        assert [each.cached for each in found] == kept
        assert found[0].results == found[1].results == found[3].results
        assert len({each.search_id for each in found}) == 4
        seen = await figures(library)
        # What was kept took no time of the index, and is no search of it.
        assert seen["requests"] == kept.count(False)
        assert seen["search_cache_hits"] == kept.count(True)
        assert seen["search_cache_hit_rate"] == (kept.count(True) / 4 if more else None)


async def by_another_process(library: reshelve.Library, owner: str, folder: Path) -> None:
    file = folder / "rag.toml"
    file.write_text(f'[rag.database]\nurl = "{owner}"\n{MODEL}')
    row = json.dumps({"_id": "theirs", "text": f"{QUERY}, by another process"})
    (folder / "theirs.jsonl").write_text(row)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "reshelve.cli", "--config", str(file), "ingest", str(folder / "theirs.jsonl")
    )
    assert await asyncio.wait_for(process.wait(), 60) == 0


def by_sql(statement: str) -> Change:
    async def change(library: reshelve.Library, owner: str, folder: Path) -> None:
        async with await psycopg.AsyncConnection.connect(owner, autocommit=True) as connection:
            await connection.execute(statement.encode())

    return change


CHANGES: dict[str, Change] = {
    "a write": lambda library, *_: library.ingest({"_id": "new", "text": QUERY + " again"}),
    "another text": lambda library, *_: library.ingest({"_id": "shelf", "text": "nothing of the kind"}),
    "a delete": lambda library, *_: library.delete(["shelf"]),
    "other metadata": lambda library, *_: library.ingest({"_id": "shelf", "text": QUERY, "metadata": {"n": 2}}),
    "embedding again": lambda library, *_: library.update_embeddings("shelf", model="hashing-64"),
    "a delete by SQL": by_sql("DELETE FROM documents WHERE external_id = 'shelf'"),
    "an update by SQL": by_sql("UPDATE documents SET metadata = '{}' WHERE external_id = 'shelf'"),
    "a tenant by SQL": by_sql("UPDATE documents SET tenant = 'other' WHERE external_id = 'shelf'"),
    "a delete of chunks": by_sql("DELETE FROM chunks"),
    "a move of chunks": by_sql("UPDATE chunks SET start_char = start_char + 1"),
    "a truncation": by_sql("TRUNCATE chunks"),
    "a truncation of all": by_sql("TRUNCATE documents CASCADE"),
    "a replica's delete": by_sql("SET session_replication_role = replica; DELETE FROM documents"),
    "another process": by_another_process,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
async def test_no_change_leaves_a_stale_answer(
    settings_of: SettingsOf, database_urls: tuple[str, str], tmp_path: Path, change: Change
) -> None:
    async with caching(settings_of) as library, reshelve.connect(settings_of(MODEL), worker=False) as fresh:
        before = await shown(library)
        assert await shown(library) == before
        assert (await library.search(QUERY)).cached
        await change(library, database_urls[0], tmp_path)
        assert not (await library.search(QUERY)).cached
        assert await shown(library) == await shown(fresh)


async def test_nothing_is_kept_past_a_switch(settings_of: SettingsOf) -> None:
    async with caching(settings_of):
        pass
    async with reshelve.connect(settings_of(MODEL.replace("64", "128") + KEPT)) as library:
        await library.search(QUERY)
        await library.apply()
        asked = [await library.search(QUERY) for _ in range(2)]
        await library.cutover()
        asked += [await library.search(QUERY) for _ in range(2)]
        await library.rollback()
        asked += [await library.search(QUERY) for _ in range(2)]
    assert [each.model for each in asked] == ["hashing-64"] * 2 + ["hashing-128"] * 2 + ["hashing-64"] * 2
    assert [each.cached for each in asked] == [False, True] * 3
    assert len({each.epoch for each in asked}) == 3
    assert {result.model for each in asked[2:4] for result in each.results} == {"hashing-128"}


async def test_what_was_kept_is_no_evidence(settings_of: SettingsOf) -> None:
    """Neither a search of its side, nor a reason for a shadow search."""
    async with caching(settings_of):
        pass
    everything = MODEL.replace("64", "128") + KEPT + "[rag.rollout]\nparallel = true\n"
    async with reshelve.connect(settings_of(everything)) as library:
        await library.apply()
        await library.rollout(0)
        for query in (QUERY, "another"):
            assert [(await library.search(query)).cached for _ in range(4)] == [False, True, True, True]

        async def both_are_compared() -> bool:
            await library.backends.recorder.flush()
            return (await library.dashboard()).arms[1].figures["compared"] == 2

        await until(both_are_compared)
        serving, candidate = (arm.figures for arm in (await library.dashboard()).arms)
    assert (serving["requests"], serving["search_cache_hits"], serving["search_cache_misses"]) == (2, 6, 2)
    assert (candidate["requests"], candidate["shadowed"], candidate["search_cache_hits"]) == (0, 2, 0)


async def test_two_tenants_and_two_requests_share_nothing(settings_of: SettingsOf) -> None:
    async with caching(settings_of) as library:
        for tenant in ("a", "b"):
            metadata = {"flag": True, "one": 1, "of": tenant}
            await library.ingest({"_id": f"of {tenant}", "text": QUERY, "metadata": metadata}, tenant=tenant)
        for _ in range(2):
            for tenant in ("a", "b"):
                assert [each[0] for each in await shown(library, tenant=tenant)] == [f"of {tenant}"]
            assert [each[0] for each in await shown(library, tenant="a", filters={"flag": True})] == ["of a"]
            # Three keys of a dictionary that Python takes for one.
            assert await shown(library, tenant="a", filters={"flag": 1}) == []
            assert await shown(library, tenant="a", filters={"one": True}) == []
            assert len(await shown(library, top_k=2)) == 2
            assert len(await shown(library, top_k=3)) == 3


async def test_what_a_caller_does_to_an_answer_stays_with_the_caller(settings_of: SettingsOf) -> None:
    async with caching(settings_of) as library:
        for _ in range(3):
            found = await library.search(QUERY, filters={"n": 1})
            assert [each.metadata for each in found.results] == [{"n": 1}]
            found.results[0].metadata["n"] = 2
            found.results.clear()


async def test_what_the_feeder_takes_in_is_seen(settings_of: SettingsOf) -> None:
    async with caching(settings_of, rows=0, worker=False) as library:
        await library.ingest({"_id": "shelf", "text": QUERY}, wait=False)
        assert await shown(library) == []
        assert (await library.search(QUERY)).cached
        async with library.backends.database.service() as connection:
            (index,) = await live_indexes(connection)
        assert await feed_once(library.backends, index) == 1
        assert [each[0] for each in await shown(library)] == ["shelf"]


async def test_every_write_is_seen_at_once_while_others_write_and_read(settings_of: SettingsOf) -> None:
    over = asyncio.Event()

    async def write_more(library: reshelve.Library, seed: int) -> None:
        number = 0
        while not over.is_set():
            number += 1
            await library.ingest({"_id": f"other {seed}", "text": f"{number} words of no interest"}, wait=False)

    async def read(library: reshelve.Library) -> None:
        while not over.is_set():
            await library.search(QUERY, filters={"counted": True})
            await asyncio.sleep(0)

    async with caching(settings_of) as library, reshelve.connect(settings_of(MODEL + KEPT), worker=False) as other:
        async with asyncio.TaskGroup() as group:
            for seed in range(2):
                group.create_task(write_more(other, seed))
            for one in (library, other):
                group.create_task(read(one))
            try:
                for number in range(40):
                    metadata = {"counted": True, "n": number}
                    await library.ingest({"_id": "counter", "text": QUERY, "metadata": metadata})
                    for one in (library, other):
                        assert [each[2]["n"] for each in await shown(one, filters={"counted": True})] == [number]
            finally:
                over.set()
        assert (await figures(library))["search_cache_hits"] > 0


INSERT = (
    "INSERT INTO documents (collection_id, external_id, content, content_hash) "
    "SELECT id, gen_random_uuid()::text, 'x', gen_random_uuid() FROM collections"
)


async def versions(connection: psycopg.AsyncConnection[Any]) -> tuple[int, int]:
    """The corpus's version, and its slots."""
    row = await (await connection.execute("SELECT sum(version)::int, count(*) FROM corpus_versions")).fetchone()
    assert row is not None
    return row[0], row[1]


@pytest.fixture
async def writers(
    settings_of: SettingsOf, database_urls: tuple[str, str]
) -> AsyncGenerator[list[psycopg.AsyncConnection[Any]]]:
    """Four connections of the service to a collection that one transaction has written; none of them waits."""
    async with caching(settings_of, rows=0, worker=False) as library:
        await library.ingest({"_id": "first", "text": "one"}, wait=False)
    options = "-c lock_timeout=1s -c search_path=reshelve,public"
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                await psycopg.AsyncConnection.connect(database_urls[1], autocommit=True, options=options)
            )
            for _ in range(4)
        ]


async def test_no_writer_waits_for_another(writers: list[psycopg.AsyncConnection[Any]]) -> None:
    one, two, three, seen = writers
    start, _ = await versions(seen)
    async with one.transaction():
        await one.execute(INSERT)
        async with two.transaction():
            await two.execute(INSERT)
            await three.execute(INSERT)
            assert await versions(seen) == (start + 1, 2)
        await three.execute(INSERT)
        assert await versions(seen) == (start + 3, 3)
    assert await versions(seen) == (start + 4, 3)
    for _ in range(3):
        await one.execute(INSERT)
    assert await versions(seen) == (start + 7, 3)


async def test_a_transaction_counts_once_and_what_is_taken_back_does_not(
    writers: list[psycopg.AsyncConnection[Any]],
) -> None:
    one, two, seen, _ = writers
    start, _ = await versions(seen)
    async with one.transaction():
        for _ in range(3):
            await one.execute(INSERT)
        await one.execute("UPDATE documents SET title = 'y'")
        await one.execute("DELETE FROM documents WHERE content = 'x'")
    await one.execute("DELETE FROM documents WHERE content = 'x'")
    assert await versions(seen) == (start + 1, 1)
    async with one.transaction():
        await one.execute(INSERT)
        raise psycopg.Rollback
    assert await versions(seen) == (start + 1, 1)
    async with one.transaction():
        async with one.transaction() as inner:
            await one.execute(INSERT)
            raise psycopg.Rollback(inner)
        await one.execute(INSERT)
    assert await versions(seen) == (start + 2, 1)
    # What must not change a row that others have changed since its snapshot takes a slot of its own.
    await two.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE)
    async with two.transaction():
        await versions(two)
        await one.execute(INSERT)
        await two.execute(INSERT)
    assert await versions(seen) == (start + 4, 2)
