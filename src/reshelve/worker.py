"""The background work of a process: it feeds the indexes, carries migrations on, and sends alerts out."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import psycopg
import structlog

from reshelve.errors import ReshelveError
from reshelve.library import connect
from reshelve.settings import Settings
from reshelve.tasks import cancel_and_wait

if TYPE_CHECKING:
    from reshelve.library import Library

_LOOK_SECONDS = 20.0
_EXPIRY_SECONDS = 60.0
"""Until then nobody is shown them."""
_log = structlog.get_logger(__name__)


@asynccontextmanager
async def at_work(settings: Settings, *, worker: bool = True) -> AsyncGenerator[Library]:
    """An open library. With `worker` this process does the background work for as long as it is open.

    Any number of processes may: they share the work by leases, which are given back at the end.
    """
    from reshelve.answering.messages import expire
    from reshelve.migrations.conductor import Conductor
    from reshelve.operations.alerts import Courier
    from reshelve.operations.repeating import Repeating

    async with connect(settings, worker=worker) as library:
        tasks = [asyncio.create_task(_build_graphs(library))] if worker else []
        expiry = Repeating("deleting old chat messages", lambda: expire(library.backends), seconds=_EXPIRY_SECONDS)
        courier = Courier(library.backends.database, settings.alerts)
        conductor = Conductor(library.backends)
        if worker:
            courier.start()
            conductor.start()
            expiry.start()
        try:
            yield library
        finally:
            await expiry.stop()
            await conductor.stop()
            await courier.stop()
            await cancel_and_wait(*tasks)


async def run_worker(settings: Settings, *, on_ready: Callable[[], None]) -> None:
    """Work until SIGTERM or Ctrl-C. The second Ctrl-C ends the process at once."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        if told.is_set():
            os._exit(128 + signal.SIGINT)
        told.set()

    loop.add_signal_handler(signal.SIGTERM, told.set)
    loop.add_signal_handler(signal.SIGINT, interrupted)
    async with at_work(settings):
        on_ready()
        await told.wait()


async def _build_graphs(library: Library) -> None:
    """What comes in by many small writes grows an index just as an ingest does."""
    from reshelve.database.catalog import live_indexes
    from reshelve.indexing.building import build_large

    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        try:
            async with library.backends.database.service() as connection:
                collections = {index.collection_id for index in await live_indexes(connection)}
            for collection_id in collections:
                await build_large(library.backends, collection_id)
        except (ReshelveError, psycopg.Error) as error:
            _log.warning("the indexes' graphs cannot be seen to", error=str(error))
