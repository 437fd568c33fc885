"""A plan, as people read it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from reshelve.cli.words import duration, one_line, size
from reshelve.display.numbers import dollars
from reshelve.domain.migration import Action

if TYPE_CHECKING:
    from rich.console import RenderableType

    from reshelve.migrations.plan import Plan


def plan_lines(plan: Plan) -> Iterator[RenderableType]:
    from rich.text import Text

    if not plan.needed:
        yield f"Nothing to change: collection {plan.collection} is what the settings ask for."
        return
    yield Text(f"Collection {plan.collection} would change:", "bold")
    yield _changes(plan)
    yield Text("Actions", "bold")
    yield from action_lines(plan.actions)
    yield ""
    yield Text("Cost", "bold")
    yield from _costs(plan)
    if plan.sql:
        yield ""
        yield Text("SQL", "bold")
        yield from (
            Text(f"  {statement};" if not statement.endswith(";") else f"  {statement}") for statement in plan.sql
        )
    if plan.risks:
        yield ""
        yield Text("Mind", "bold")
        yield from (Text(f"  · {risk}", "yellow") for risk in plan.risks)
    yield ""
    yield "Carry it out: reshelve apply"


def action_lines(actions: Iterable[Action]) -> Iterator[RenderableType]:
    for number, action in enumerate(actions, 1):
        yield f"{number:>3}. {action.describe()}"


def actions_document(actions: Iterable[Action]) -> list[Mapping[str, Any]]:
    """As `Plan.as_dict` writes them."""
    return [{**action.as_dict(), "description": action.describe()} for action in actions]


def _changes(plan: Plan) -> RenderableType:
    from rich import box
    from rich.table import Table

    table = Table("", "now", "then", box=box.SIMPLE_HEAD)
    for change in plan.changes:
        table.add_row(change.what, one_line(change.before), one_line(change.after))
    return table


def _costs(plan: Plan) -> Iterator[RenderableType]:
    reused = f", {plan.reused_rows:,} of them with vectors that are there already" if plan.reused_rows else ""
    yield f"  rows    {plan.rows:,}{reused}"
    yield f"  tokens  {plan.tokens:,}"
    yield f"  price   {dollars(plan.cost_usd)}"
    probe = f", at the {plan.probe_rows_per_second:,.0f} rows/s of a probe" if plan.probe_rows_per_second else ""
    yield f"  time    about {duration(plan.seconds)}: {duration(plan.embed_seconds)} to embed{probe}; " + (
        f"{duration(plan.build_seconds)} to build"
    )
    part = f", {size(plan.token_vector_bytes)} of it token vectors" if plan.token_vector_bytes else ""
    yield f"  disk    {size(plan.disk_bytes)} beside the index that serves{part}"
