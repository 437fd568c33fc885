"""`mcp`: the tools for an assistant that starts this program, and talks to it by standard input and output."""

from __future__ import annotations

import asyncio
import signal
from typing import Annotated

import typer

from reshelve.cli.options import TenantOption
from reshelve.cli.session import Session, conclude


def register(app: typer.Typer) -> None:
    app.command()(mcp)


def mcp(
    context: typer.Context,
    tenant: TenantOption = "",
    user: Annotated[
        str | None, typer.Option("--user", metavar="NAME", help="Who asks: a rollout keeps each user on one side.")
    ] = None,
) -> None:
    """Offer search and answers as MCP tools on standard input and output, until the input ends."""

    async def serve(session: Session) -> None:
        from reshelve.mcp.tools import Caller, make_server

        caller = Caller(tenant=tenant, user=user)
        async with session.library() as library:
            server = make_server(lambda name: library if name is None else library.of(name), caller_of=lambda _: caller)
            await server.run_stdio_async()

    # A thread waits for the input, and cannot be told to stop; nothing is written here that could be lost.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    conclude(context, lambda session: asyncio.run(serve(session)))
