"""Processes of a server on this host step back for searches; nobody else's process is touched."""

from __future__ import annotations

import os

import psutil

from reshelve.database.pools import Database
from reshelve.database.priority import step_back


async def test_only_the_servers_own_processes_step_back(database_urls: tuple[str, str]) -> None:
    database = Database(
        owner=database_urls[0], service=database_urls[1], pool_size=2, ef_search=100, idle_in_transaction_seconds=60
    )
    await database.open()
    before = psutil.Process().nice()
    try:
        async with database.alone() as connection:
            pid = connection.info.backend_pid
            step_back(connection, [pid, os.getpid(), 2**22 - 1])
            assert psutil.Process(pid).nice() == 10
    finally:
        await database.close()
    assert psutil.Process().nice() == before
