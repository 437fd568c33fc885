"""One embedded server for the whole run, and a fresh migrated database for every test that asks for one."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

import reshelve
from reshelve.database import embedded, schema
from reshelve.settings import Settings, parse_settings

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Server:
    owner: str
    service: str

    def database(self, name: str) -> tuple[str, str]:
        return make_conninfo(self.owner, dbname=name), make_conninfo(self.service, dbname=name)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    """A server of this test process, with a migrated database `template_reshelve` to copy from."""
    directory = tmp_path_factory.mktemp("server")
    address = embedded.start(directory)
    with psycopg.connect(address.owner, autocommit=True) as connection:
        # The tests kill programs, never this server: it does not have to survive a power cut.
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            connection.execute(f"ALTER SYSTEM SET {setting} = off")
        connection.execute("SELECT pg_reload_conf()")
        connection.execute("CREATE DATABASE template_reshelve")
        connection.execute("ALTER DATABASE template_reshelve SET search_path = reshelve, public")
    template = make_conninfo(address.owner, dbname="template_reshelve")
    with psycopg.connect(template, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector SCHEMA public")
    schema.upgrade(template)
    yield Server(address.owner, address.service)
    embedded.stop(directory)


@pytest.fixture
def database_urls(server: Server) -> Generator[tuple[str, str]]:
    """Conninfo of the owner and of the service for a database of the test's own."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(server.owner, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template_reshelve")
        connection.execute(f"ALTER DATABASE {name} SET search_path = reshelve, public")
    yield server.database(name)
    with psycopg.connect(server.owner, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def settings_of(database_urls: tuple[str, str], tmp_path: Path) -> Callable[[str], Settings]:
    """Settings from the lines of a rag.toml, on the test's own database."""

    def make(text: str) -> Settings:
        settings = parse_settings(text, source=tmp_path / "rag.toml")
        owner, service = (SecretStr(url) for url in database_urls)
        table = settings.database.model_copy(update={"url": owner, "service_url": service})
        return settings.model_copy(update={"database": table})

    return make


@pytest.fixture
async def library(settings_of: Callable[[str], Settings]) -> AsyncGenerator[reshelve.Library]:
    """A library on `hashing-64`."""
    async with reshelve.connect(settings_of('[rag.embedding]\nmodel = "hashing-64"')) as opened:
        yield opened
