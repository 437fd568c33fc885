"""`up` and `down`: the database server that the collection lives on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from reshelve.cli.options import JsonOption
from reshelve.cli.session import Answer, Session, perform

if TYPE_CHECKING:
    from reshelve.settings import Settings


def register(app: typer.Typer) -> None:
    app.command()(up)
    app.command()(down)


def up(context: typer.Context, as_json: JsonOption = False) -> None:
    """Start the embedded database server. Or check the one that is named, and bring its schema up to date."""
    perform(context, _up, as_json=as_json)


def down(context: typer.Context, as_json: JsonOption = False) -> None:
    """Stop the embedded database server. Its data stay."""
    perform(context, _down, as_json=as_json)


async def _up(session: Session) -> Answer:
    settings = session.settings
    async with session.library() as library, library.backends.database.owner() as connection:
        row = await (await connection.execute("SHOW server_version")).fetchone()
        version = str(row[0]) if row else "?"
        host = connection.info.host
    if settings.database.url is not None:
        return Answer(
            document={"embedded": False, "postgres": version, "host": host},
            lines=[f"PostgreSQL {version} at {host} is ready: the one that rag.database.url names"],
        )
    psql = await asyncio.to_thread(_psql_line, settings)
    directory = settings.database.directory
    return Answer(
        document={"embedded": True, "postgres": version, "directory": directory, "socket": host, "psql": psql},
        lines=[f"PostgreSQL {version} is up", f"  data    {directory}", f"  socket  {host}", f"  psql    {psql}"],
    )


def _psql_line(settings: Settings) -> str:
    """A command that opens the database as the role that owns the tables, with the psql of the embedded server."""
    import shlex

    from reshelve.database import embedded
    from reshelve.database.postgres_cluster import installation
    from reshelve.errors import DatabaseUnavailable

    directory = Path(settings.database.directory)
    address = embedded.running(directory)
    if address is None:
        raise DatabaseUnavailable("the embedded PostgreSQL ended a moment ago", advice="Start it again: reshelve up.")
    program = installation(directory.expanduser().resolve() / "postgres").program("psql")
    return shlex.join([program, address.owner])


async def _down(session: Session) -> Answer:
    from reshelve.database import embedded

    settings = session.settings
    if settings.database.url is not None:
        return Answer(
            document={"embedded": False, "stopped": False},
            lines=["rag.database.url names a server that is not Reshelve's to stop; nothing was done"],
        )
    directory = settings.database.directory
    stopped = await asyncio.to_thread(embedded.stop, Path(directory))
    said = f"PostgreSQL is down; its data stay in {directory}" if stopped else f"no server was running in {directory}"
    return Answer(document={"embedded": True, "stopped": stopped, "directory": directory}, lines=[said])
