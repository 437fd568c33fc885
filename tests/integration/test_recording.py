"""Live figures in PostgreSQL: several processes add up, nothing counts twice, and old ones are added up and deleted."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from reshelve.database.pools import Connection, Database
from reshelve.domain.breaker import BreakerState
from reshelve.domain.figures import ArmFigures, bin_of
from reshelve.domain.routes import Arm
from reshelve.errors import DatabaseUnavailable
from reshelve.operations.breakers import Breakers, read_breakers
from reshelve.operations.figures import read_figures, read_series
from reshelve.operations.recording import Place, Recorder
from reshelve.operations.retention import tidy
from reshelve.settings import CircuitBreakerSettings
from tests.support.proxy import Proxy, proxied
from tests.support.waiting import until

SERVING = Place(1, "", 1, Arm.SERVING)
CANDIDATE = Place(1, "", 2, Arm.CANDIDATE)


@asynccontextmanager
async def opened(urls: tuple[str, str]) -> AsyncGenerator[Database]:
    database = Database(owner=urls[0], service=urls[1], pool_size=2, ef_search=100, idle_in_transaction_seconds=60)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
async def database(database_urls: tuple[str, str]) -> AsyncGenerator[Database]:
    """Two indexes of one collection."""
    async with opened(database_urls) as database, database.owner() as owner:
        await owner.execute("INSERT INTO collections (name) VALUES ('default')")
        await owner.execute(
            "INSERT INTO chunkings "
            "(collection_id, fingerprint, strategy, chunk_size, max_chunk_size, overlap, tokenizer) "
            "VALUES (1, 'f', 'semantic', 200, 250, 0, 't')"
        )
        await owner.execute(
            "INSERT INTO embedding_models (model_name, provider, dimension, fingerprint, definition, canary) "
            "SELECT 'm' || n, 'hashing', 8, 'f' || n, '{}', '' FROM generate_series(1, 2) n"
        )
        await owner.execute(
            "INSERT INTO indexes (collection_id, chunking_id, model_id, backend, metric, m, ef_construction) "
            "SELECT 1, 1, n, 'pgvector', 'cosine', 16, 64 FROM generate_series(1, 2) n"
        )
        await owner.execute(
            "INSERT INTO routes (collection_id, serving_index_id, changed_at) VALUES (1, 1, now() - interval '1 day')"
        )
        yield database


async def figures_of(
    database: Database, place: Place, *, seconds: float | None = 60, since: datetime | None = None
) -> ArmFigures:
    async with database.service() as connection:
        found = await read_figures(connection, collection_id=1, tenant=place.tenant, seconds=seconds, since=since)
    return found.get((place.index_id, place.arm), ArmFigures())


async def test_two_processes_add_up(database: Database, database_urls: tuple[str, str]) -> None:
    """Both write to the same buckets at the same time, in opposite orders."""
    async with opened(database_urls) as other:
        recorders = [Recorder(each, retention_days=8) for each in (database, other)]
        for _ in range(20):
            for recorder, places in zip(recorders, [(SERVING, CANDIDATE), (CANDIDATE, SERVING)], strict=True):
                for place in places:
                    recorder.search(place, milliseconds=10, similarity=0.5)
                    recorder.search(place, milliseconds=100, error=place is CANDIDATE)
                    recorder.count(place, "overlap", value=0.25)
                    recorder.shadow(place, milliseconds=5)
            await asyncio.gather(*(recorder.flush() for recorder in recorders))
    serving, candidate = await figures_of(database, SERVING), await figures_of(database, CANDIDATE)
    assert (serving.requests, serving.errors, candidate.requests, candidate.errors) == (80, 0, 80, 40)
    assert serving.mean_ms == pytest.approx(55)
    assert serving.p50_ms == pytest.approx(10, rel=0.05)
    assert serving.p95_ms == pytest.approx(100, rel=0.05)
    assert (candidate.similarity, candidate.similarity_count) == (0.5, 40)
    assert (candidate.compared, candidate.overlap, candidate.shadowed) == (40, 0.25, 40)


async def test_tenants_are_told_apart_and_added_up(database: Database) -> None:
    recorder = Recorder(database, retention_days=8)
    recorder.search(SERVING, milliseconds=10)
    recorder.search(SERVING._replace(tenant="ann"), milliseconds=10)
    # Of an index that is not there: it must not keep the others from being written.
    recorder.search(SERVING._replace(index_id=99), milliseconds=10)
    await recorder.flush()
    async with database.service() as connection:
        counts = [
            {key: found.requests for key, found in figures.items()}
            for figures in [
                await read_figures(connection, collection_id=1, tenant=tenant, seconds=60)
                for tenant in ("ann", "", None)
            ]
        ]
    assert counts == [{(1, Arm.SERVING): 1}, {(1, Arm.SERVING): 1}, {(1, Arm.SERVING): 2}]


async def test_a_change_of_the_route_begins_a_new_bucket(database: Database) -> None:
    """What a step is judged by happened since it began."""
    recorder = Recorder(database, retention_days=8)
    recorder.search(CANDIDATE, milliseconds=10, error=True)
    await recorder.flush()
    async with database.owner() as owner:
        # A step is minutes after what came before it.
        await owner.execute("UPDATE figures SET at = at - interval '5 seconds'")
        row = await (await owner.execute("UPDATE routes SET changed_at = now() RETURNING changed_at")).fetchone()
    assert row is not None
    recorder.search(CANDIDATE, milliseconds=10)
    await recorder.flush()
    since = await figures_of(database, CANDIDATE, seconds=None, since=row[0])
    assert (since.requests, since.errors) == (1, 0)
    assert (await figures_of(database, CANDIDATE)).requests == 2


async def test_a_clock_that_was_put_back_leaves_no_figures_of_the_future(database: Database) -> None:
    recorder = Recorder(database, retention_days=8)
    recorder.search(CANDIDATE, milliseconds=10, error=True)
    await recorder.flush()
    async with database.owner() as owner:
        await owner.execute("UPDATE figures SET at = at + interval '1 hour'")
        await owner.execute("UPDATE routes SET changed_at = now() + interval '1 hour'")
    recorder.search(CANDIDATE, milliseconds=10)
    await recorder.flush()
    found = await figures_of(database, CANDIDATE)
    assert (found.requests, found.errors) == (1, 0)


# Lost connections -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def on_a_wire(urls: tuple[str, str]) -> AsyncGenerator[tuple[Proxy, Database]]:
    # Short, because the address of a Unix socket has room for 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="proxy"))
    server = Path(str(conninfo_to_dict(urls[0])["host"]))
    owner, service = (make_conninfo(url, host=str(folder)) for url in urls)
    async with proxied(server, folder) as proxy, opened((owner, service)) as database:
        yield proxy, database
    shutil.rmtree(folder)


@pytest.mark.parametrize("forwards", [True, False], ids=["committed", "not-committed"])
async def test_a_commit_without_an_answer_counts_once(
    database: Database, database_urls: tuple[str, str], *, forwards: bool
) -> None:
    async with on_a_wire(database_urls) as (proxy, wire):
        recorder = Recorder(wire, retention_days=8)
        recorder.search(SERVING, milliseconds=10)
        recorder.remember_query(1, "", "shelf")
        proxy.arm("INTO figures", forwards=forwards)
        with pytest.raises(DatabaseUnavailable):
            await recorder.flush()
        recorder.search(SERVING, milliseconds=10)

        async def written() -> bool:
            try:
                await recorder.flush()
            except DatabaseUnavailable:  # the server has not yet ended the lost one
                return False
            return True

        await until(written)
    assert proxy.losses == 1
    assert (await figures_of(database, SERVING)).requests == 2
    async with database.service() as connection:
        row = await (await connection.execute("SELECT array_agg(query) FROM recent_queries")).fetchone()
    assert row == (["shelf"],)


async def test_it_goes_on_counting_while_the_database_is_away(
    database: Database, database_urls: tuple[str, str]
) -> None:
    async with on_a_wire(database_urls) as (proxy, wire):
        recorder = Recorder(wire, retention_days=8)
        recorder.start()
        for _ in range(3):
            proxy.cut_all()
            for _ in range(10):
                recorder.search(SERVING, milliseconds=10)

            async def arrived(expected: int) -> bool:
                return (await figures_of(database, SERVING)).requests == expected

        await until(lambda: arrived(30))
        recorder.search(SERVING, milliseconds=10)
        await recorder.stop()
    assert (await figures_of(database, SERVING)).requests == 31


# Retention ------------------------------------------------------------------------------------------------------


async def _buckets(connection: Connection) -> list[tuple[int, int]]:
    cursor = await connection.execute("SELECT seconds, count(DISTINCT at) FROM figures GROUP BY 1 ORDER BY 1")
    return [(row[0], row[1]) for row in await cursor.fetchall()]


async def test_old_buckets_are_added_up_without_changing_what_they_say(database: Database) -> None:
    async with database.owner() as owner:
        # Twenty minutes of buckets, around the hour, one of them at the very start of a window of five minutes.
        await owner.execute(
            """
            INSERT INTO figures (collection_id, tenant, index_id, arm, name, at, seconds, bin, count, total)
            SELECT 1, '', 1, 'serving', 'request',
                   date_bin('300 s', now(), 'epoch') - interval '70 minutes' + n * interval '10 s',
                   10, %s + n %% 20, n, n * 10.0
            FROM generate_series(0, 119) n
            """,
            (bin_of(10),),
        )
        before = await figures_of(database, SERVING, seconds=7200)
        async with database.service() as service:
            for _ in range(2):
                await tidy(service, retention_days=8)
                assert await figures_of(database, SERVING, seconds=7200) == before
        [fine, wide] = await _buckets(owner)
        # Windows that ended an hour ago are wide; how many those are depends on the minute.
        assert (fine[0], wide[0]) == (10, 300)
        assert wide[1] in (2, 3)
        assert fine[1] + 30 * wide[1] == 120
        await owner.execute("UPDATE figures SET at = at - interval '1 day'")
        async with database.service() as service:
            await tidy(service, retention_days=8)
        assert await _buckets(owner) == [(300, 4)]
    assert await figures_of(database, SERVING, seconds=2 * 86_400) == before
    assert before.requests == sum(range(120))


async def test_what_is_too_old_goes(database: Database) -> None:
    recorder = Recorder(database, retention_days=1)
    recorder.search(SERVING, milliseconds=10)
    recorder.remember_query(1, "", "an old query")
    await recorder.flush()
    async with database.owner() as owner:
        await owner.execute("UPDATE figures SET at = at - interval '25 hours'")
        await owner.execute("UPDATE recent_queries SET at = at - interval '25 hours'")
    recorder.search(SERVING, milliseconds=10)
    recorder.remember_query(1, "", "what \0PostgreSQL \ud800 cannot store")
    await recorder.flush()
    async with database.service() as service:
        await tidy(service, retention_days=1)
        rows = await (await service.execute("SELECT query FROM recent_queries")).fetchall()
        assert rows == [("what PostgreSQL ? cannot store",)]
    assert (await figures_of(database, SERVING, seconds=7 * 86_400)).requests == 1


async def test_a_chart_has_a_bounded_number_of_points_that_add_up(database: Database) -> None:
    async with database.owner() as owner:
        await owner.execute(
            """
            INSERT INTO figures (collection_id, tenant, index_id, arm, name, at, seconds, bin, count)
            SELECT 1, '', i, CASE i WHEN 1 THEN 'serving' ELSE 'candidate' END, name,
                   now() - n * interval '300 s', 300, CASE name WHEN 'request' THEN %s ELSE 0 END, i
            FROM generate_series(0, 2015) n, generate_series(1, 2) i, unnest(ARRAY['request', 'error']) name
            """,
            (bin_of(20),),
        )
    for hours, requests in ((1, 12), (24, 288), (7 * 24, 2016)):
        async with database.service() as service:
            points = await read_series(service, collection_id=1, tenant=None, seconds=hours * 3600)
        serving = [each for each in points if each.arm is Arm.SERVING]
        candidate = [each for each in points if each.arm is Arm.CANDIDATE]
        assert 12 <= len(serving) <= 122
        assert len(serving) == len(candidate)
        assert sum(each.requests for each in serving) == pytest.approx(requests, abs=1)
        assert sum(each.errors for each in candidate) == pytest.approx(2 * requests, abs=2)
        assert {each.p95_ms for each in points} == {serving[0].p50_ms}
        assert [each.at for each in serving] == sorted(each.at for each in serving)


# Circuit breakers -----------------------------------------------------------------------------------------------


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_every_process_knows_the_breakers_of_all(database: Database) -> None:
    clock = Clock()
    breakers = Breakers(database, CircuitBreakerSettings(failures=2, open_seconds=60, trials=1), clock=clock)
    assert breakers.closed(2)
    for _ in range(2):
        assert breakers.allows(2)
        breakers.failed(2, "no answer")
    assert not breakers.allows(2)
    assert not breakers.closed(2)
    await breakers.flush()
    async with database.service() as service:
        [row] = await read_breakers(service, index_id=2)
        assert (row.state, row.failures, row.reason) == (BreakerState.OPEN, 2, "no answer")
        clock.now += 60
        assert breakers.allows(2)
        assert not breakers.allows(2)
        breakers.released(2)
        assert breakers.allows(2)
        breakers.succeeded(2)
        assert {index: each.state for index, each in breakers.states().items()} == {2: BreakerState.CLOSED}
        await breakers.flush()
        assert [each.state for each in await read_breakers(service)] == [BreakerState.CLOSED]
        await service.execute("UPDATE circuit_breakers SET seen_at = seen_at - interval '1 minute'")
        assert await read_breakers(service) == []
        # Nothing changed, but it is still there, and says so now and then.
        clock.now += 5
        await breakers.flush()
        assert len(await read_breakers(service)) == 1


async def test_a_breaker_needs_no_database(database_urls: tuple[str, str]) -> None:
    async with opened(database_urls) as database:
        breakers = Breakers(database, CircuitBreakerSettings(failures=1))
        breakers.failed(12345, "of an index that is not there")
        await breakers.flush()
    breakers.start()
    breakers.failed(1, "broken")
    assert not breakers.allows(1)
    with pytest.raises(DatabaseUnavailable):
        await breakers.flush()
    await breakers.stop()
