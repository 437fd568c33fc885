"""PostgreSQL restarts at random moments: searches wait for it, and none fails; the pools recover by themselves."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest

import reshelve
from reshelve.database import embedded
from reshelve.settings import DatabaseSettings, EmbeddingSettings, Settings
from tests.support.waiting import until
from tests.support.writers import documents

READERS = 4


@pytest.fixture
async def library(tmp_path: Path) -> AsyncGenerator[reshelve.Library]:
    """On a server of its own."""
    settings = Settings(
        database=DatabaseSettings(directory=str(tmp_path)), embedding=EmbeddingSettings(model="hashing-64")
    )
    async with reshelve.connect(settings) as opened:
        await opened.ingest(documents(50))
        yield opened
    embedded.stop(tmp_path)


@asynccontextmanager
async def reading(library: reshelve.Library) -> AsyncGenerator[Counter[int]]:
    """Readers that search without a pause; how often each was answered. A search that fails fails the block."""
    over = asyncio.Event()
    answered: Counter[int] = Counter()

    async def read(reader: int) -> None:
        while not over.is_set():
            assert (await library.search("shelf index")).results
            answered[reader] += 1

    tasks = [asyncio.create_task(read(reader)) for reader in range(READERS)]
    try:
        yield answered
    finally:
        over.set()
        await asyncio.gather(*tasks)


async def all_answered_again(answered: Counter[int]) -> None:
    before = answered.copy()
    await until(lambda: all(answered[reader] > before[reader] + 5 for reader in range(READERS)))


async def test_searches_wait_for_a_server_that_restarts(library: reshelve.Library, tmp_path: Path) -> None:
    chance = random.Random(19)
    async with reading(library) as answered:
        await all_answered_again(answered)
        for _ in range(3):
            await asyncio.sleep(chance.random() / 10)
            await asyncio.to_thread(embedded.stop, tmp_path)
            await asyncio.to_thread(embedded.start, tmp_path)
            await all_answered_again(answered)
    assert (await library.ingest(documents(60))).added == 10


async def test_searches_outlive_their_connections(library: reshelve.Library) -> None:
    async with reading(library) as answered:
        for _ in range(10):
            await all_answered_again(answered)
            async with await psycopg.AsyncConnection.connect(library.backends.database.owner_address) as connection:
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )


async def test_a_search_after_a_restart_that_nobody_noticed(library: reshelve.Library, tmp_path: Path) -> None:
    """Every connection of the pools is dead by then."""
    await asyncio.gather(*(library.search("shelf") for _ in range(8)))
    await asyncio.to_thread(embedded.stop, tmp_path)
    await asyncio.to_thread(embedded.start, tmp_path)
    found = await asyncio.gather(*(library.search("shelf") for _ in range(8)))
    assert all(each.results for each in found)
