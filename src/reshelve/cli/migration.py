"""`plan` and `apply`: what would change, and the way there up to the proof."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from reshelve.cli.options import BudgetOption, JsonOption, OnlyTenantOption
from reshelve.cli.plan_view import action_lines, actions_document, plan_lines
from reshelve.cli.session import FAILED, HELD, OK, Answer, Session, perform
from reshelve.cli.status_view import migration_lines
from reshelve.domain.migration import AwaitCutover, Soak, State
from reshelve.errors import NothingToDo

if TYPE_CHECKING:
    from rich.console import RenderableType

    from reshelve.cli.progress import Progress
    from reshelve.library import Library
    from reshelve.migrations.engine import Happening, Listener
    from reshelve.migrations.status import MigrationStatus

_PLACES_TO_STOP = {AwaitCutover().describe(), Soak().describe()}
_NICENESS = 5
GO_ON = "Nothing is lost: `reshelve apply` goes on from here."


def register(app: typer.Typer) -> None:
    app.command()(plan)
    app.command()(apply)


def plan(context: typer.Context, tenant: OnlyTenantOption = "", as_json: JsonOption = False) -> None:
    """Show what would change, and what it costs. Changes nothing."""

    async def work(session: Session) -> Answer:
        async with session.library() as library:
            found = await library.plan(tenant=tenant)
        return Answer(document={"needed": found.needed, **found.as_dict()}, lines=list(plan_lines(found)))

    perform(context, work, as_json=as_json)


def apply(
    context: typer.Context,
    detach: Annotated[bool, typer.Option("--detach", help="Do it in a process of its own, and return.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the actions, and take none.")] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="ROWS", help="End this run after so many rows.")
    ] = None,
    max_rate: Annotated[
        float | None, typer.Option("--max-rate", metavar="ROWS", help="At most so many rows a second.")
    ] = None,
    budget_usd: BudgetOption = None,
    cutover: Annotated[bool, typer.Option("--cutover", help="Switch as soon as it is proven.")] = False,
    category: Annotated[
        str | None,
        typer.Option("--category", metavar="NAME", help="End once the documents with this metadata.category are in."),
    ] = None,
    tenant: OnlyTenantOption = "",
    as_json: JsonOption = False,
) -> None:
    """Carry the plan out, or go on with it, up to the proof."""
    if detach and dry_run:
        raise typer.BadParameter("a dry run has nothing to detach", param_hint="--detach")
    if category is not None and (detach or dry_run or cutover or limit is not None):
        raise typer.BadParameter("goes with none of --detach, --dry-run, --limit, --cutover", param_hint="--category")

    async def work(session: Session) -> Answer:
        if detach:
            from reshelve.cli.detaching import detach_apply

            return await detach_apply(
                session, limit=limit, max_rate=max_rate, budget_usd=budget_usd, cutover=cutover, tenant=tenant
            )
        async with session.library(worker=not dry_run) as library:
            if dry_run:
                return await _dry_run(library, cutover=cutover, tenant=tenant)
            let_searches_go_first()
            with session.progress() as progress:
                try:
                    await library.apply(
                        limit=limit,
                        max_rate=max_rate,
                        budget_usd=budget_usd,
                        cutover=cutover,
                        category=category,
                        tenant=tenant,
                        on_event=listener(progress),
                    )
                except NothingToDo:
                    return _nothing_to_do()
            return await migration_answer(library, tenant=tenant)

    perform(context, work, as_json=as_json, after_ctrl_c=GO_ON)


async def _dry_run(library: Library, *, cutover: bool, tenant: str) -> Answer:
    actions = await library.foresee(cutover=cutover, tenant=tenant)
    if not actions:
        return _nothing_to_do()
    return Answer(
        document={"dry_run": True, "actions": actions_document(actions)},
        lines=["Would be done, in this order:", *action_lines(actions)],
    )


def let_searches_go_first() -> None:
    """This process only migrates. Not before the library is open: a server that it starts would step back too."""
    os.nice(_NICENESS)


def _nothing_to_do() -> Answer:
    return Answer(
        document={"changed": False, "migration": None, "actions": []},
        lines=["Nothing to change: the serving index is what the settings ask for."],
    )


def listener(progress: Progress) -> Listener:
    """The engine's happenings, shown: one bar a state."""

    def hear(event: Happening) -> None:
        if event.doing.startswith("enter ") or event.doing in _PLACES_TO_STOP:
            return
        if event.rows is None:
            progress.show(event.state.value, doing=event.doing)
            return
        progress.show(event.state.value, done=event.rows, total=event.of_rows or None)

    return hear


async def migration_answer(library: Library, *, tenant: str = "") -> Answer:
    """What a run came to, and the exit code that says so."""
    migration = (await library.status(tenant=tenant)).migration
    assert migration is not None
    return Answer(
        document={"changed": True, "migration": migration},
        lines=list(_outcome(migration)),
        code=_code(migration),
    )


def _code(migration: MigrationStatus) -> int:
    proof = migration.verification
    match State(migration.state):
        case State.FAILED:
            return FAILED
        case State.PAUSED:
            return HELD
        case State.VERIFYING if proof is not None and not proof["passed"]:
            return HELD
        case _:
            return OK


def _outcome(migration: MigrationStatus) -> Iterator[RenderableType]:
    yield from migration_lines(migration)
    if State(migration.state) is State.BACKFILLING:
        yield f"This run ended at its limit: {migration.rows_done:,} of {migration.rows:,} rows are in."
