"""`serve` and `worker`: the processes that go on until they are told to stop."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reshelve.cli.options import JsonOption
from reshelve.cli.session import Session, conclude, print_json

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from reshelve.settings import Settings


def register(app: typer.Typer) -> None:
    app.command()(serve)
    app.command()(worker)


def serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option("--host", help="The address to listen on.")] = None,
    port: Annotated[int | None, typer.Option("--port", min=0, max=65_535, help="0: any that is free.")] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, max=64, help="How many server processes.")] = 1,
    no_worker: Annotated[
        bool, typer.Option("--no-worker", help="Answer only: feeding and migrations are for `reshelve worker`.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Serve the HTTP API, until Ctrl-C or SIGTERM. Requests in flight are finished; a second Ctrl-C ends it at once."""

    def run(session: Session) -> None:
        from reshelve.api.server import address_of, listening_socket

        settings = _over(session.settings, host=host, port=port)
        arguments = (settings, session.options.config, not no_worker, session.options.log_level)
        with listening_socket(settings.server.host, settings.server.port) as listening:
            address = address_of(listening)

            def on_ready() -> None:
                _say({"listening": address}, f"listening on {address}", as_json=as_json)

            if workers == 1:
                serve_process(listening, on_ready, *arguments)
            else:
                from reshelve.api.processes import Processes

                Processes(serve_process, arguments, listening=listening, count=workers).run(on_ready=on_ready)

    conclude(context, run, as_json=as_json)


def serve_process(
    listening: socket.socket,
    on_ready: Callable[[], None],
    settings: Settings,
    config: Path | None,
    worker: bool,
    log_level: int,
) -> None:
    """One server, in this process, until it is told to stop."""
    from reshelve.api.app import create_app
    from reshelve.api.server import Server
    from reshelve.cli.logs import configure_logs
    from reshelve.settings import load_settings

    configure_logs(level=log_level)
    app = create_app(settings, worker=worker, declared=lambda: load_settings(config))
    Server(app, on_ready=on_ready).run(sockets=[listening])


def worker(context: typer.Context, as_json: JsonOption = False) -> None:
    """Feed the indexes and carry migrations out, without serving, until Ctrl-C or SIGTERM."""

    def run(session: Session) -> None:
        from reshelve.worker import run_worker

        def on_ready() -> None:
            _say({"working": True}, "at work", as_json=as_json)

        asyncio.run(run_worker(session.settings, on_ready=on_ready))

    conclude(context, run, as_json=as_json)


def _over(settings: Settings, *, host: str | None, port: int | None) -> Settings:
    given: dict[str, Any] = {"host": host, "port": port}
    server = settings.server.model_copy(update={name: value for name, value in given.items() if value is not None})
    return settings.model_copy(update={"server": server})


def _say(document: dict[str, Any], line: str, *, as_json: bool) -> None:
    if as_json:
        print_json(document)
    else:
        print(line, flush=True)
