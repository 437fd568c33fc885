"""The program: its commands, the options that stand before them, and how a wrong command line is answered."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from reshelve.cli import (
    answers,
    demo,
    documents,
    evaluation,
    mcp,
    migration,
    search,
    serve,
    server,
    status,
    steering,
    watching,
)
from reshelve.cli.session import FAILED, USAGE, Global, print_error

app = typer.Typer(
    name="reshelve",
    help="Change a live RAG collection's embedding model while it serves.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for room in (server, serve, documents, search, answers, migration, status, steering, evaluation, watching, mcp, demo):
    room.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        from reshelve import __version__

        typer.echo(f"reshelve {__version__}")
        raise typer.Exit


@app.callback()
def before_every_command(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="PATH", help="The settings file. Default: $RESHELVE_CONFIG, or ./rag.toml."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done, on stderr.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Log everything, and show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    context.obj = Global(config=config, quiet=quiet, verbose=verbose, debug=debug)


def run() -> None:
    """The entry point. A wrong command line is an error document too where --json was asked for."""
    if "--json" not in sys.argv:
        app()
        return
    try:
        code: Any = app(standalone_mode=False)
    except Exception as error:
        # Typer's usage errors have no public root: they are known by what they can say.
        if not hasattr(error, "format_message"):
            raise
        said: str = error.format_message()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
        print_error("usage", said, advice="See reshelve --help.", as_json=True)  # pyright: ignore[reportUnknownArgumentType]
        code = getattr(error, "exit_code", USAGE)
    sys.exit(code if isinstance(code, int) else FAILED if code is not None else 0)
