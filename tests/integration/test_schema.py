"""The revisions together are the declared schema, and a newer schema is refused."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

import reshelve
from reshelve.database import schema
from reshelve.database.postgres_cluster import installation
from reshelve.errors import DatabaseUnsuitable, SchemaError
from reshelve.settings import Settings
from tests.conftest import Server

DECLARED = Path(schema.__file__).with_name("schema.sql")


def _dump(address: str) -> list[str]:
    """The schema's statements, without what tells one database from another, in a fixed order."""
    program = installation(Path("/nonexistent")).program("pg_dump")
    text = subprocess.run(
        [program, "--schema-only", "--no-privileges", "--no-owner", "--schema=reshelve", f"--dbname={address}"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    statements = re.split(r";\n", re.sub(r"^(--|\\|SET |SELECT pg_catalog).*$", "", text, flags=re.MULTILINE))
    return sorted(one.strip() for one in statements if one.strip() and "alembic_version" not in one)


@pytest.fixture
def empty_database(server: Server):
    with psycopg.connect(server.owner, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS empty WITH (FORCE)")
        connection.execute("CREATE DATABASE empty")
    yield make_conninfo(server.owner, dbname="empty")
    with psycopg.connect(server.owner, autocommit=True) as connection:
        connection.execute("DROP DATABASE empty WITH (FORCE)")


def test_all_revisions_together_equal_the_declared_schema(empty_database: str, database_urls: tuple[str, str]) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA reshelve")
        connection.execute("SET search_path = reshelve, public")
        connection.execute(DECLARED.read_bytes())
    declared, revised = _dump(empty_database), _dump(database_urls[0])
    assert len(declared) > 30
    assert declared == revised


def test_several_programs_upgrade_at_once(empty_database: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: schema.upgrade(empty_database), range(4))) == {schema.head()}


async def test_an_older_program_refuses_a_newer_schema(
    settings_of: Callable[[str], Settings], database_urls: tuple[str, str]
) -> None:
    def age() -> None:
        with psycopg.connect(database_urls[0], autocommit=True) as connection:
            connection.execute("UPDATE reshelve.alembic_version SET version_num = '9999'")

    await asyncio.to_thread(age)
    with pytest.raises(SchemaError, match="9999"):
        await reshelve.connect(settings_of(""))


async def test_an_older_engine_refuses_a_newer_migration(
    library: reshelve.Library, database_urls: tuple[str, str]
) -> None:
    await library.ingest({"_id": "a", "text": "one"})
    async with library.backends.database.owner() as connection:
        await connection.execute(
            "INSERT INTO migrations (collection_id, source_index_id, target, plan, engine_version) "
            "SELECT collection_id, id, '{}', '{}', 99 FROM indexes"
        )
    with pytest.raises(SchemaError, match="engine 99"):
        await library.cutover()


async def test_the_service_role_changes_no_table_and_owns_nothing(database_urls: tuple[str, str]) -> None:
    async with await psycopg.AsyncConnection.connect(database_urls[1], autocommit=True) as connection:
        for forbidden in (
            "CREATE TABLE reshelve.mine ()",
            "ALTER TABLE reshelve.chunks DISABLE TRIGGER ALL",
            "TRUNCATE reshelve.chunks",
            "UPDATE reshelve.routes SET epoch = 0",
            "UPDATE reshelve.migrations SET state = 'completed'",
            "DELETE FROM reshelve.embedding_models",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await connection.execute(forbidden.encode())
        row = await (
            await connection.execute("SELECT rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user")
        ).fetchone()
    assert row == (False, False)


async def test_a_service_login_without_its_rights_is_told_which(
    settings_of: Callable[[str], Settings], server: Server, database_urls: tuple[str, str]
) -> None:
    settings = settings_of("")
    bare = make_conninfo(database_urls[0], options="-c role=bare")
    database = settings.database.model_copy(update={"service_url": SecretStr(bare)})

    def prepare(statement: str) -> None:
        with psycopg.connect(database_urls[0], autocommit=True) as connection:
            connection.execute(statement.encode())

    await asyncio.to_thread(prepare, "CREATE ROLE bare")
    try:
        with pytest.raises(DatabaseUnsuitable, match="GRANT reshelve_service TO"):
            await reshelve.connect(settings.model_copy(update={"database": database}))
    finally:
        await asyncio.to_thread(prepare, "DROP ROLE bare")
