"""Searches one after the other, each beside the plain SQL of the same vector; and ingest from end to end."""

from __future__ import annotations

import statistics
import time
from collections.abc import AsyncGenerator

import numpy as np
import psycopg
from psycopg import sql

from bench.figures import Figure
from bench.shelf import Server, opened, put_in, queries, settings_for, texts
from reshelve.database.routes import get_route
from reshelve.domain.documents import Document
from reshelve.domain.indexes import Index
from reshelve.evaluation.runs import recall_against_exact
from reshelve.library import Library

ROWS = 30_000
SEARCHES = 300
RECALL_QUERIES = 50
DOCUMENTS = 5_000


async def run(server: Server) -> AsyncGenerator[list[Figure]]:
    yield await search(server)
    yield await ingest(server)


async def search(server: Server) -> list[Figure]:
    database = server.database("search")
    async with opened(settings_for(database, '[rag.embedding]\nmodel = "hashing-64"\n')) as library:
        await put_in(library, ROWS, fed=False)
    async with opened(settings_for(database, '[rag.embedding]\nmodel = "hashing-384"\n')) as library:
        await library.apply(cutover=True)
        whole, own, store, raw = await _times(library, database[1])
        recall = await _recall(library)
    p50, plain = statistics.median(whole), statistics.median(raw)
    name = f"search, {ROWS:,} x 384, HNSW, ef 200"
    return [
        Figure(name=f"{name}: p50", value=p50, unit="ms", beside="plain SQL", raw=plain),
        Figure(name="  of it the store and the results", value=statistics.median(store), unit="ms"),
        Figure(name="  of it neither embedding nor searching", value=statistics.median(own), unit="ms"),
        Figure(
            name="  recall@10 against the exact search", value=recall, unit="", target=">= 0.95", met=recall >= 0.95
        ),
    ]


async def _times(library: Library, service: str) -> tuple[list[float], list[float], list[float], list[float]]:
    """Milliseconds of each search: all of it, what is neither embedding nor store, the store, and the plain SQL."""
    async with library.backends.database.service() as connection:
        index = (await get_route(connection, library.settings.collection)).serving
    embedder = await library.backends.embedders.of(index.model_id)
    whole: list[float] = []
    own: list[float] = []
    store: list[float] = []
    raw: list[float] = []
    options = "-c search_path=reshelve,public -c hnsw.ef_search=200 -c hnsw.iterative_scan=strict_order"
    async with await psycopg.AsyncConnection.connect(service, autocommit=True, options=options) as connection:
        for number, query in enumerate(queries(SEARCHES + 20, seed=1)):
            vector = (await embedder.embed_queries([query])).vectors[0]
            began = time.perf_counter()
            found = await library.search(query)
            middle = time.perf_counter()
            await plain_search(connection, index, vector)
            ended = time.perf_counter()
            if number < 20:
                continue
            whole.append((middle - began) * 1000)
            own.append(whole[-1] - found.embed_ms - found.search_ms)
            store.append(found.search_ms)
            raw.append((ended - middle) * 1000)
    return whole, own, store, raw


async def plain_search(
    connection: psycopg.AsyncConnection[tuple[object, ...]], index: Index, vector: np.ndarray
) -> None:
    """The nearest ids, without documents, tenants or texts."""
    statement = sql.SQL("SELECT chunk_id FROM {} ORDER BY embedding <=> %s::vector LIMIT 10")
    cursor = await connection.execute(statement.format(sql.Identifier(index.table)), (str(vector.tolist()),))
    await cursor.fetchall()


async def _recall(library: Library) -> float:
    approximate: list[list[int]] = []
    exact: list[list[int]] = []
    for query in queries(RECALL_QUERIES, seed=2):
        for found, exactly in ((approximate, False), (exact, True)):
            response = await library.search(query, exact=exactly)
            found.append([result.chunk_id for result in response.results])
    return recall_against_exact(approximate, exact)


async def ingest(server: Server) -> list[Figure]:
    """Small documents: chunked, written, fed to the index, found."""
    database = server.database("ingest")
    async with opened(settings_for(database, '[rag.embedding]\nmodel = "hashing-384"\n')) as library:
        await library.ingest(_documents(500, seed=1))
        documents = _documents(DOCUMENTS, seed=2)
        began = time.perf_counter()
        report = await library.ingest(documents)
        seconds = time.perf_counter() - began
        raw = await _copy_documents(library, documents)
    return [
        Figure(
            name=f"ingest, {report.added:,} documents of 400 characters, until they are found",
            value=report.added / seconds,
            unit="rows/s",
            beside="COPY of the texts by 256",
            raw=report.added / raw,
        )
    ]


def _documents(count: int, *, seed: int) -> list[Document]:
    drawn = texts(count, characters=400, seed=seed)
    return [Document(external_id=f"{seed}-{number}", content=text) for number, text in enumerate(drawn)]


async def _copy_documents(library: Library, documents: list[Document]) -> float:
    """Only the texts, into a table without an index."""
    async with library.backends.database.owner() as connection:
        await connection.execute("CREATE TABLE side (external_id text, content text)")
        began = time.perf_counter()
        for start in range(0, len(documents), 256):
            async with connection.cursor().copy("COPY side FROM STDIN") as copy:
                for document in documents[start : start + 256]:
                    await copy.write_row((document.external_id, document.content))
        return time.perf_counter() - began
