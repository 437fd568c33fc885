"""The backfill makes room for live searches, by figures that any process may have written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

import pytest

import reshelve
from reshelve.domain.figures import bin_of
from reshelve.domain.throttle import LEAST_DUTY
from reshelve.migrations import records
from reshelve.migrations.engine import Happening
from reshelve.migrations.throttle import BEFORE, Throttle
from reshelve.settings import Settings
from tests.support.oracle import assert_indexes_equal_source
from tests.support.writers import documents

SettingsOf = Callable[[str], Settings]
TARGET = '[rag.embedding]\nmodel = "hashing-128"\n[rag.migration]\nrange_rows = 40\n'


@pytest.fixture
async def library(settings_of: SettingsOf) -> AsyncGenerator[reshelve.Library]:
    """Two hundred documents on `hashing-64`, and settings that ask for `hashing-128`."""
    async with reshelve.connect(settings_of('[rag.embedding]\nmodel = "hashing-64"')) as first:
        await first.ingest(documents(200))
    async with reshelve.connect(settings_of(TARGET), worker=False) as opened:
        yield opened


async def searched(library: reshelve.Library, *, milliseconds: float, age_seconds: float = 0, count: int = 100) -> None:
    """As if so many searches had taken so long, and only they."""
    async with library.backends.database.owner() as owner:
        await owner.execute("DELETE FROM figures")
        await owner.execute(
            "INSERT INTO figures (collection_id, tenant, index_id, arm, name, at, seconds, bin, count, total) "
            "SELECT collection_id, '', serving_index_id, 'serving', 'request', "
            "clock_timestamp() - make_interval(secs => %s), 10, %s, %s, %s FROM routes",
            (age_seconds, bin_of(milliseconds), count, count * milliseconds),
        )


async def begun(library: reshelve.Library) -> Throttle:
    async with library.backends.database.owner() as owner:
        row = await (await owner.execute("SELECT max(id) FROM migrations")).fetchone()
        assert row is not None
        return await Throttle.begin(owner, library.backends, await records.get(owner, row[0]))


async def look(library: reshelve.Library, throttle: Throttle, *, times: int = 1) -> float:
    async with library.backends.database.owner() as owner:
        for _ in range(times):
            await throttle.look(owner)
    return library.backends.pace.duty


async def half_way(library: reshelve.Library) -> None:
    await library.apply(limit=40)


async def test_slow_searches_slow_it_down_and_fast_ones_let_it_recover(library: reshelve.Library) -> None:
    await half_way(library)
    await searched(library, milliseconds=10, age_seconds=300)
    throttle = await begun(library)
    pace = library.backends.pace
    assert (pace.duty, pace.careful) == (1.0, False)
    await searched(library, milliseconds=40)
    first = await look(library, throttle)
    least = await look(library, throttle, times=8)
    assert first < 0.5
    assert least == LEAST_DUTY
    status = await library.status()
    assert status.migration is not None
    assert status.migration.throttled == LEAST_DUTY
    await searched(library, milliseconds=10.5)
    assert await look(library, throttle) > least
    assert await look(library, throttle, times=30) == 1.0
    assert pace.careful
    await searched(library, milliseconds=40, age_seconds=60)
    await look(library, throttle)
    assert (pace.duty, pace.careful) == (1.0, False)


async def test_a_run_that_goes_on_remembers_how_fast_searches_were(library: reshelve.Library) -> None:
    await searched(library, milliseconds=10, age_seconds=300)
    await half_way(library)
    await searched(library, milliseconds=40, age_seconds=300)
    throttle = await begun(library)
    assert throttle.before_ms == pytest.approx(10, rel=0.06)


async def test_searches_that_begin_with_it_are_measured_while_it_all_but_stands(library: reshelve.Library) -> None:
    await half_way(library)
    throttle = await begun(library)
    await searched(library, milliseconds=10)
    assert await look(library, throttle, times=2) == LEAST_DUTY
    assert throttle.before_ms is None
    assert await look(library, throttle, times=8) > LEAST_DUTY
    assert throttle.before_ms == pytest.approx(10, rel=0.06)
    async with library.backends.database.owner() as owner:
        assert BEFORE in (await records.get(owner, throttle.migration.id)).evidence


async def test_with_slow_live_searches_the_backfill_still_ends(library: reshelve.Library) -> None:
    """Slowed down from its first row on; every row comes, in small pieces; and afterwards nothing is held back."""
    await half_way(library)
    await searched(library, milliseconds=10, age_seconds=300)
    await begun(library)
    await searched(library, milliseconds=40)
    duties: set[float] = set()

    def seen(event: Happening) -> None:
        if event.rows is not None:
            duties.add(library.backends.pace.duty)

    async with asyncio.timeout(60):
        await library.apply(on_event=seen)
    assert min(duties) <= 0.1
    assert (library.backends.pace.duty, library.backends.pace.careful) == (1.0, False)
    status = await library.status()
    assert status.migration is not None
    assert status.migration.throttled is None
    assert await assert_indexes_equal_source(library) == 400


async def test_it_can_be_switched_off(library: reshelve.Library, settings_of: SettingsOf) -> None:
    await searched(library, milliseconds=40)
    async with reshelve.connect(settings_of(f"{TARGET}[rag.migration.throttle]\nenabled = false")) as unhindered:
        await unhindered.apply()
        status = await unhindered.status()
        assert status.migration is not None
        assert status.migration.rows_done == 200
