"""The schema and its revisions. They are applied under a lock, and a newer schema is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg

from reshelve.database.pools import SCHEMA
from reshelve.errors import DatabaseUnsuitable, SchemaError

_REVISIONS = Path(__file__).parent / "revisions"
_LOCK = 0x7265_7368


def head() -> str:
    names = sorted(path.stem.partition("_")[0] for path in (_REVISIONS / "versions").glob("[0-9]*.py"))
    return names[-1]


def current_revision(address: str) -> str | None:
    """The revision that the database is at; None before the first."""
    with psycopg.connect(address, autocommit=True) as connection:
        return _revision_of(connection)


def _revision_of(connection: psycopg.Connection[Any]) -> str | None:
    row = connection.execute("SELECT to_regclass(%s)", (f"{SCHEMA}.alembic_version",)).fetchone()
    if row is None or row[0] is None:
        return None
    version = connection.execute(f"SELECT version_num FROM {SCHEMA}.alembic_version").fetchone()
    return version[0] if version else None


def upgrade(address: str, *, target: str = "head") -> str:
    """Bring the database at `address` (a conninfo of the schema's owner) to `target`; returns its revision.

    Blocking, and safe to call from several processes at once: one applies, the others wait and find it done.
    Raises SchemaError when the database is newer than this program.
    """
    with psycopg.connect(address, autocommit=True) as connection:
        found = _revision_of(connection)
        if found is not None and found > head():
            raise SchemaError(
                f"the database's schema is at revision {found}, and this program knows only {head()}",
                advice="Use the newer program that wrote it, or restore a backup made before the upgrade.",
            )
        wanted = head() if target == "head" else target
        if found == wanted:
            return wanted
        connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        try:
            if _revision_of(connection) is None:
                connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
            _run_alembic(address, target)
        except psycopg.errors.InsufficientPrivilege as error:
            raise DatabaseUnsuitable(
                f"the schema cannot be created: {error}",
                advice="Grant it: GRANT CREATE ON DATABASE <database> TO <role>;",
            ) from error
        return wanted


def _run_alembic(address: str, target: str) -> None:
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    def connect() -> psycopg.Connection[Any]:
        return psycopg.connect(address, options=f"-c search_path={SCHEMA},public")

    engine = create_engine("postgresql+psycopg://", creator=connect, poolclass=NullPool)
    config = Config()
    config.set_main_option("script_location", str(_REVISIONS))
    config.attributes["engine"] = engine
    try:
        command.upgrade(config, target)
    finally:
        engine.dispose()
