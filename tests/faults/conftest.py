"""A collection on one model, and settings files for the programs that move it to another."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

import reshelve
from reshelve.settings import DatabaseSettings, EmbeddingSettings, Settings
from tests.conftest import Server
from tests.support.writers import documents

ROWS = 200
_numbers = itertools.count(1)

Declare = Callable[..., Path]
Outsider = psycopg.AsyncConnection[tuple[object, ...]]


@dataclass(frozen=True)
class Scene:
    """`library` serves `hashing-64` and feeds nothing by itself; `target` is a settings file that asks for another."""

    library: reshelve.Library
    target: Path
    declare: Declare


@pytest.fixture(scope="session")
def corpus_template(server: Server) -> str:
    """A database with a served corpus, to copy from: that is faster than to ingest it for every test."""
    urls = server.database("template_corpus")
    with psycopg.connect(server.owner, autocommit=True) as connection:
        connection.execute("CREATE DATABASE template_corpus TEMPLATE template_reshelve")
        connection.execute("ALTER DATABASE template_corpus SET search_path = reshelve, public")
    table = DatabaseSettings(url=SecretStr(urls[0]), service_url=SecretStr(urls[1]))

    async def ingest() -> None:
        settings = Settings(database=table, embedding=EmbeddingSettings(model="hashing-64"))
        async with reshelve.connect(settings) as library:
            await library.ingest(documents(ROWS))

    asyncio.run(ingest())
    return "template_corpus"


@pytest.fixture
def database_urls(server: Server, request: pytest.FixtureRequest) -> Generator[tuple[str, str]]:
    """A database of the test's own: with the corpus for a test that asks for a scene, else empty."""
    template = request.getfixturevalue("corpus_template") if "scene" in request.fixturenames else "template_reshelve"
    name = f"fault_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(server.owner, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
        connection.execute(f"ALTER DATABASE {name} SET search_path = reshelve, public".encode())
    yield server.database(name)
    with psycopg.connect(server.owner, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def declare(database_urls: tuple[str, str], tmp_path: Path) -> Declare:
    """Writes the settings file of this test: a call overwrites what the last one wrote."""

    def write(
        model: str = "hashing-64",
        *,
        backend: str = "pgvector",
        database: str = "",
        embedding: str = "",
        storage: str = "",
        migration: str = "",
        extra: str = "",
    ) -> Path:
        """The named lines go under their tables, `extra` at the end."""
        file = tmp_path / "rag.toml"
        file.write_text(
            f'[rag.database]\nurl = "{database_urls[0]}"\nservice_url = "{database_urls[1]}"\n{database}\n'
            f'[rag.embedding]\nmodel = "{model}"\n{embedding}\n'
            f'[rag.vector_storage]\nbackend = "{backend}"\n{storage}\n'
            f"[rag.migration]\nlease_seconds = 0.5\nrange_rows = 40\n{migration}\n{extra}",
            encoding="utf-8",
        )
        return file

    return write


@pytest.fixture
async def scene(declare: Declare) -> AsyncGenerator[Scene]:
    async with reshelve.connect(declare(), worker=False) as library:
        yield Scene(library, declare("hashing-128"), declare)


@pytest.fixture
async def outsider(database_urls: tuple[str, str]) -> AsyncGenerator[Outsider]:
    """A connection of the service's role, for a transaction that is left open."""
    connection = await psycopg.AsyncConnection.connect(database_urls[1], options="-c search_path=reshelve,public")
    yield connection
    await connection.close()


@pytest.fixture
async def owner(database_urls: tuple[str, str]) -> AsyncGenerator[Outsider]:
    """A connection of the schema's owner, in autocommit, for what no program of ours would do."""
    connection = await psycopg.AsyncConnection.connect(
        database_urls[0], autocommit=True, options="-c search_path=reshelve,public"
    )
    yield connection
    await connection.close()
