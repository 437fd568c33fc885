"""From settings to open backends: the server, its checks, the schema, the pools."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import psycopg

from reshelve.backends import Backends
from reshelve.database import catalog, embedded, schema
from reshelve.database.pins import IndexPins
from reshelve.database.pools import Database
from reshelve.database.server_checks import check_server, check_service, vector_schema
from reshelve.domain.models import RegisteredModel
from reshelve.embedders.pace import Pace
from reshelve.embedders.query_batches import QueryBatches
from reshelve.embedders.query_cache import QueryCache
from reshelve.embedders.registry import OpenEmbedders
from reshelve.embedders.rerankers import Rerankers
from reshelve.errors import DatabaseUnavailable
from reshelve.indexing.restoring import restore_volatile
from reshelve.llms.opening import open_llm
from reshelve.operations.breakers import Breakers
from reshelve.operations.recording import Recorder
from reshelve.operations.search_cache import SearchCache
from reshelve.operations.spare_time import SpareTime
from reshelve.settings import Settings
from reshelve.stores.opening import Stores


async def open_backends(settings: Settings) -> Backends:
    """Raises DatabaseUnavailable, DatabaseUnsuitable or SchemaError, each with what to do."""
    llm = open_llm(settings.answering)
    owner, service = await asyncio.to_thread(_addresses, settings)
    extension_schema = await _checked(owner)
    await asyncio.to_thread(schema.upgrade, owner)
    if service != owner:
        async with await _connected(service) as connection:
            await check_service(connection, vector_schema=extension_schema)
    database = Database(
        owner=owner,
        service=service,
        pool_size=settings.database.pool_size,
        ef_search=settings.vector_storage.hnsw.ef_search,
        idle_in_transaction_seconds=settings.database.idle_in_transaction_seconds,
        vector_schema=extension_schema,
    )
    await database.open()

    async def load(model_id: int) -> RegisteredModel:
        async with database.service() as connection:
            return await catalog.get_model(connection, model_id)

    pace = Pace()
    backends = Backends(
        database=database,
        stores=Stores(),
        embedders=OpenEmbedders(load, settings.embedding),
        queries=QueryBatches(settings.server.query_window_ms / 1000, pace=pace),
        query_cache=QueryCache(settings.embedding),
        rerankers=Rerankers(settings.search),
        search_cache=SearchCache(settings.cache),
        pace=pace,
        pins=IndexPins(database),
        settings=settings,
        recorder=Recorder(database, retention_days=settings.monitoring.retention_days),
        breakers=Breakers(database, settings.circuit_breaker),
        spare_time=SpareTime(places=settings.rollout.shadow_queue),
        llm=llm,
    )
    await restore_volatile(backends)
    backends.recorder.start()
    backends.breakers.start()
    return backends


async def close_backends(backends: Backends) -> None:
    await backends.spare_time.close()
    await backends.breakers.stop()
    await backends.recorder.stop()
    if backends.llm is not None:
        await backends.llm.aclose()
    await backends.rerankers.close()
    await backends.embedders.close()
    await backends.pins.close()
    await backends.database.close()


def _addresses(settings: Settings) -> tuple[str, str]:
    """Conninfo of the owner and of the service: without a `service_url`, one role plays both parts."""
    if settings.database.url is not None:
        owner = settings.database.url.get_secret_value()
        service = settings.database.service_url
        return owner, service.get_secret_value() if service is not None else owner
    server = embedded.start(Path(settings.database.directory))
    return server.owner, server.service


async def _checked(address: str) -> str:
    """The schema that pgvector is in, on a server that will do."""
    async with await _connected(address) as connection:
        await check_server(connection)
        return await vector_schema(connection)


async def _connected(address: str) -> psycopg.AsyncConnection[tuple[Any, ...]]:
    try:
        return await psycopg.AsyncConnection.connect(address, autocommit=True, connect_timeout=10)
    except psycopg.Error as error:
        raise DatabaseUnavailable(
            f"the database does not answer: {str(error).strip()}",
            advice="Check RESHELVE_DATABASE_URL or rag.database.url: host, port, database, user and password.",
        ) from error
