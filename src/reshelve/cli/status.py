"""`status`, once or again every second."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from reshelve.cli.options import JsonOption, OnlyTenantOption
from reshelve.cli.session import Answer, Session, perform
from reshelve.cli.status_view import check_lines, progress_words, status_lines
from reshelve.domain.migration import State

if TYPE_CHECKING:
    from reshelve.library import Library
    from reshelve.migrations.status import MigrationStatus, Status

_LOOK_SECONDS = 1.0
_RESTING = frozenset({State.SOAKING, State.COMPLETED, State.PAUSED, State.ROLLED_BACK, State.FAILED})


def register(app: typer.Typer) -> None:
    app.command()(status)


def status(
    context: typer.Context,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Look again every second, until the migration rests.")
    ] = False,
    checklist: Annotated[
        bool, typer.Option("--checklist", help="What is proven of the migration, and what is not.")
    ] = False,
    tenant: OnlyTenantOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show the indexes, and how far the migration is. With lag, rate, ETA, spend and the next step."""

    async def work(session: Session) -> Answer:
        async with session.library() as library:
            if checklist:
                checks = await library.checklist(tenant=tenant)
                document = {"checklist": [check.as_dict() for check in checks]}
                return Answer(document=document, lines=list(check_lines(checks)))
            if not watch:
                found = await library.status(tenant=tenant)
                return Answer(document=found.as_dict(), lines=list(status_lines(found)))
            if sys.stdout.isatty() and not as_json:
                return await _watch_live(library, tenant)
            return await _watch_plainly(session, library, tenant)

    perform(context, work, as_json=as_json)


def _rests(migration: MigrationStatus | None) -> bool:
    """Nothing will happen until a person decides."""
    if migration is None or State(migration.state) in _RESTING:
        return True
    return State(migration.state) is State.VERIFYING and migration.verification is not None


async def _watch_live(library: Library, tenant: str) -> Answer:
    from rich.console import Console, Group
    from rich.live import Live

    found = await library.status(tenant=tenant)
    console = Console(highlight=False, markup=False, emoji=False)
    with Live(Group(*status_lines(found)), console=console, auto_refresh=False) as live:
        while not _rests(found.migration):
            await asyncio.sleep(_LOOK_SECONDS)
            found = await library.status(tenant=tenant)
            live.update(Group(*status_lines(found)), refresh=True)
    return Answer(document=found.as_dict())


async def _watch_plainly(session: Session, library: Library, tenant: str) -> Answer:
    """A line on stderr for each look that saw something new; the whole status at the end."""
    said = ""
    while True:
        found = await library.status(tenant=tenant)
        if _rests(found.migration):
            return Answer(document=found.as_dict(), lines=list(status_lines(found)))
        words = _words(found)
        if words != said and not session.options.quiet:
            print(words, file=sys.stderr, flush=True)
            said = words
        await asyncio.sleep(_LOOK_SECONDS)


def _words(status: Status) -> str:
    assert status.migration is not None
    return f"{status.migration.state}: {progress_words(status.migration)}"
