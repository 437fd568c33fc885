"""PostgreSQL restarts while a service migrates: what was acknowledged is there, and the migration goes on by itself.

A search waits for the server, for twenty seconds. One that meets the restart may end in the retryable
DatabaseUnavailable; none does afterwards. Nobody blames the new index for what the database did.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import reshelve
from reshelve.database import embedded
from reshelve.domain.migration import State
from reshelve.domain.routes import Arm
from reshelve.errors import DatabaseUnavailable
from reshelve.operations.figures import read_figures
from tests.support.oracle import assert_indexes_equal_source
from tests.support.rollouts import Readers, conducted, is_in, migration_of, reading, rollout_lines, shares, states
from tests.support.waiting import until
from tests.support.writers import documents

DEADLINE_SECONDS = 1.0
ROAD = ["preparing", "backfilling", "building", "verifying", "shadowing", "rolling_out", "soaking"]


def settings_file(folder: Path, model: str) -> Path:
    """On a server of its own under the folder."""
    lines = rollout_lines(
        schedule='"10%:0s, 50%:0s, 100%:1h"', candidate_timeout_seconds=str(DEADLINE_SECONDS), max_lag_seconds="5.0"
    )
    file = folder / "rag.toml"
    file.write_text(
        f"[rag.database]\ndirectory = {json.dumps(str(folder / 'server'))}\n[rag.embedding]\nmodel = '{model}'\n"
        f"[rag.migration]\nlease_seconds = 0.5\n{lines}\n",
        encoding="utf-8",
    )
    return file


@pytest.fixture
async def library(tmp_path: Path) -> AsyncGenerator[reshelve.Library]:
    """Serves `hashing-64`, and asks for another model."""
    async with reshelve.connect(settings_file(tmp_path, "hashing-64")) as opened:
        await opened.ingest(documents(100))
    async with reshelve.connect(settings_file(tmp_path, "hashing-128")) as opened:
        yield opened
    embedded.stop(tmp_path / "server")


@asynccontextmanager
async def writing(library: reshelve.Library) -> AsyncGenerator[list[str]]:
    """One new document after the other; the ids of those that were acknowledged."""
    over = asyncio.Event()
    acknowledged: list[str] = []

    async def write() -> None:
        number = 0
        while not over.is_set():
            name = f"w{number}"
            try:
                await library.ingest(reshelve.Document(external_id=name, content=f"shelf {number}"), wait=False)
            except DatabaseUnavailable:
                # Nobody knows whether it is stored. Written again, it is, and once.
                continue
            acknowledged.append(name)
            number += 1
            await asyncio.sleep(0.02)

    task = asyncio.create_task(write())
    try:
        yield acknowledged
    finally:
        over.set()
        await task


async def restart(server: Path, readers: Readers, acknowledged: list[str], *, away_seconds: float = 0.0) -> None:
    """And wait until searches and writes get on again."""
    readers.database_may_be_away = True
    await asyncio.to_thread(embedded.stop, server)
    await asyncio.sleep(away_seconds)
    await asyncio.to_thread(embedded.start, server)
    answered, written = len(readers.answers), len(acknowledged)
    await until(lambda: len(readers.answers) > answered + 20 and len(acknowledged) > written)
    readers.database_may_be_away = False


async def test_in_every_state_that_lasts(library: reshelve.Library, tmp_path: Path) -> None:
    server = tmp_path / "server"
    await library.start(max_rate=50)
    async with writing(library) as acknowledged, reading(library, readers=8) as readers, conducted(library):
        await until(lambda: is_in(library, State.BACKFILLING))
        await restart(server, readers, acknowledged)
        for share in (0, 10):
            await until(lambda share=share: _has_been_at(library, share))
            await restart(server, readers, acknowledged)
        await until(lambda: _has_been_at(library, 50))
        # Whoever asked the new index just now waits for longer than it may take to answer.
        await restart(server, readers, acknowledged, away_seconds=1.5 * DEADLINE_SECONDS)
        await until(lambda: is_in(library, State.SOAKING))
        await restart(server, readers, acknowledged, away_seconds=1.5 * DEADLINE_SECONDS)
        migration = await migration_of(library)
        assert (states(migration), shares(migration)) == (ROAD, [0, 10, 50])
        assert migration.to_index is not None
        await _assert_nobody_blames(library, migration.to_index)
    for name in acknowledged:
        assert (await library.document(name)).id == name
    assert await assert_indexes_equal_source(library) >= 2 * (100 + len(acknowledged))


async def _has_been_at(library: reshelve.Library, share: float) -> bool:
    return share in shares(await migration_of(library))


async def _assert_nobody_blames(library: reshelve.Library, index: int) -> None:
    assert library.backends.breakers.closed(index)
    await library.backends.recorder.flush()
    async with library.backends.database.service() as connection:
        figures = (await read_figures(connection, collection_id=1, tenant=""))[index, Arm.CANDIDATE]
    assert figures.requests > 0
    assert (figures.errors, figures.fallbacks, figures.shadow_errors) == (0, 0, 0)
