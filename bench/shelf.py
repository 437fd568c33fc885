"""A server of the benchmark's own, and collections that are made up: the same ones at every run."""

from __future__ import annotations

import functools
import random
import tempfile
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from bench.free_embedder import FreeEmbedder, WithFreeOne
from reshelve.database import embedded, schema
from reshelve.database.routes import get_route
from reshelve.domain.documents import content_hash
from reshelve.domain.indexes import Index
from reshelve.library import Library
from reshelve.opening import open_backends
from reshelve.settings import Settings, parse_settings

TEXTS_A_DOCUMENT = 10
_WORDS_A_TOPIC = 60
_TOPICS = 500


@dataclass(frozen=True, slots=True)
class Server:
    owner: str
    service: str

    def database(self, name: str) -> tuple[str, str]:
        """An empty database with the schema: conninfo of the owner and of the service."""
        with psycopg.connect(self.owner, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
            connection.execute(
                sql.SQL("ALTER DATABASE {} SET search_path = reshelve, public").format(sql.Identifier(name))
            )
        owner = make_conninfo(self.owner, dbname=name)
        with psycopg.connect(owner, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION vector SCHEMA public")
        schema.upgrade(owner)
        return owner, make_conninfo(self.service, dbname=name)


@contextmanager
def server() -> Generator[Server]:
    """An embedded server in a temporary folder, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="reshelve-bench-") as folder:
        address = embedded.start(Path(folder))
        try:
            yield Server(address.owner, address.service)
        finally:
            embedded.stop(Path(folder))


def settings_for(database: tuple[str, str], text: str) -> Settings:
    """Settings from the lines of a rag.toml, on this database."""
    settings = parse_settings(text, source=Path("rag.toml"))
    owner, service = (SecretStr(url) for url in database)
    table = settings.database.model_copy(update={"url": owner, "service_url": service})
    return settings.model_copy(update={"database": table})


@asynccontextmanager
async def opened(
    settings: Settings, *, free: FreeEmbedder | None = None, worker: bool = True
) -> AsyncGenerator[Library]:
    """A library as `reshelve.connect` opens it; `free` takes the place of the model that it is named after."""
    backends = await open_backends(settings)
    if free is not None:
        backends = replace(backends, embedders=WithFreeOne(backends, free))
    async with Library(backends, worker=worker) as library:
        yield library


async def serving(library: Library) -> Index:
    async with library.backends.database.service() as connection:
        return (await get_route(connection, library.settings.collection)).serving


async def octets(library: Library, *tables: str) -> int:
    """What tables of the schema take on the disk, their indexes and what is free in them included."""
    async with library.backends.database.owner() as connection:
        cursor = await connection.execute(
            "SELECT sum(pg_total_relation_size(to_regclass('reshelve.' || name)))::bigint FROM unnest(%s::text[]) name",
            (list(tables),),
        )
        row = await cursor.fetchone()
    assert row is not None
    return row[0]


def texts(count: int, *, characters: int = 1000, seed: int = 7) -> Iterator[str]:
    """Made-up English of about so many characters, on one of 500 topics each, so that some texts are alike."""
    draw = random.Random(seed)
    vocabulary, topics = _language()
    words = characters // 7
    for number in range(count):
        topic = topics[number % _TOPICS]
        drawn = draw.choices(topic, k=words * 7 // 10) + draw.choices(vocabulary, k=words - words * 7 // 10)
        yield " ".join(drawn)


def queries(count: int, *, seed: int) -> list[str]:
    """Eight words of one topic each."""
    draw = random.Random(f"queries {seed}")
    _, topics = _language()
    return [" ".join(draw.choices(draw.choice(topics), k=8)) for _ in range(count)]


@functools.cache
def _language() -> tuple[list[str], list[list[str]]]:
    draw = random.Random(7)
    vocabulary = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(3, 9))) for _ in range(6000)]
    return vocabulary, [draw.sample(vocabulary, _WORDS_A_TOPIC) for _ in range(_TOPICS)]


async def put_in(
    library: Library, count: int, *, fed: bool, characters: int = 1000, source: Iterator[str] | None = None
) -> None:
    """Documents and chunks by COPY, ten chunks a document; the texts are those of `source`, or made up.

    With `fed` the outbox keeps what its triggers wrote, and the serving index gets it; without, it is emptied, as if
    the serving index had everything already.
    """
    await library.ingest([])
    async with library.backends.database.owner() as connection:
        row = await (await connection.execute("SELECT id, collection_id FROM chunkings")).fetchone()
        assert row is not None
        chunking_id, collection_id = row
    source = source or texts(count, characters=characters)
    for start in range(0, count, 1000):
        await _put_in(library, [next(source) for _ in range(min(1000, count - start))], collection_id, chunking_id)
    async with library.backends.database.owner() as connection:
        if not fed:
            await connection.execute("TRUNCATE outbox")
        for table in ("documents", "chunks"):
            await connection.execute(f"VACUUM (ANALYZE) {table}")


async def _put_in(library: Library, batch: list[str], collection_id: int, chunking_id: int) -> None:
    groups = [batch[at : at + TEXTS_A_DOCUMENT] for at in range(0, len(batch), TEXTS_A_DOCUMENT)]
    async with library.backends.database.owner() as connection, connection.transaction():
        cursor = await connection.execute("SELECT coalesce(max(id), 0) FROM documents")
        row = await cursor.fetchone()
        assert row is not None
        first = row[0] + 1
        async with cursor.copy(
            "COPY documents (id, collection_id, external_id, title, content, content_hash) FROM STDIN"
        ) as copy:
            for number, group in enumerate(groups, first):
                content = "\n\n".join(group)
                await copy.write_row((number, collection_id, f"d{number}", f"title {number}", content, _hash(content)))
        async with cursor.copy(
            "COPY chunks (document_id, chunking_id, content, content_hash, token_count, ordinal, start_char, end_char) "
            "FROM STDIN"
        ) as copy:
            for number, group in enumerate(groups, first):
                place = 0
                for ordinal, text in enumerate(group):
                    end = place + len(text)
                    await copy.write_row((number, chunking_id, text, _hash(text), len(text) // 4, ordinal, place, end))
                    place = end + 2
        await connection.execute("SELECT setval(pg_get_serial_sequence('documents', 'id'), max(id)) FROM documents")


def _hash(text: str) -> UUID:
    return content_hash(text)
