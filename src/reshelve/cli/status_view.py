"""How things stand, as people read it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from reshelve.cli.words import counted, duration, one_line
from reshelve.display.numbers import dollars
from reshelve.domain.migration import LIVE, State

if TYPE_CHECKING:
    from rich.console import RenderableType

    from reshelve.migrations.checklist import Check
    from reshelve.migrations.status import MigrationStatus, Status

_BAR_CELLS = 30
_COLOURS = {State.FAILED: "bold red", State.PAUSED: "bold yellow", State.COMPLETED: "bold green"}
_UNDER_WAY = (State.PREPARING, State.BACKFILLING, State.BUILDING)


def status_lines(status: Status) -> Iterator[RenderableType]:
    from rich.text import Text

    yield Text.assemble(
        ("Collection ", "bold"),
        (status.collection, "bold"),
        f": {counted(status.documents, 'document')}, {counted(status.chunks, 'chunk')}; route epoch {status.epoch}",
    )
    yield _indexes(status)
    for flag in status.flags:
        if flag.source != "default":
            yield f"rag.{flag.setting} = {json.dumps(flag.value)} (from {flag.source})"
    if status.migration is None:
        yield "No migration yet. Change rag.toml, then: reshelve plan"
    else:
        yield from migration_lines(status.migration)


def _indexes(status: Status) -> RenderableType:
    from rich import box
    from rich.table import Table

    table = Table("index", "model", "dim", "state", "entries", "graph", "behind", "refused", box=box.SIMPLE_HEAD)
    for column in (2, 4, 7):
        table.columns[column].justify = "right"
    for index in status.indexes:
        behind = f"{index.lag_changes:,} ({duration(index.lag_seconds)})" if index.lag_changes else "0"
        table.add_row(
            str(index.id),
            one_line(index.model),
            f"{index.dimension:,}",
            f"{index.state}, serving" if index.serving else index.state,
            f"{index.entries:,}",
            "built" if index.built else "not yet",
            behind,
            f"{index.refused:,}",
            style="bold" if index.serving else None,
        )
    return table


def migration_lines(migration: MigrationStatus) -> Iterator[RenderableType]:
    from rich.text import Text

    state = State(migration.state)
    yield Text.assemble(
        (f"Migration {migration.id}: {one_line(migration.from_model)} → {one_line(migration.to_model)}: ", "bold"),
        (state.value, _COLOURS.get(state, "bold")),
    )
    if migration.rows:
        yield Text("  " + progress_words(migration))
    yield "  " + _spend(migration)
    if migration.reason:
        yield Text("  reason: " + one_line(migration.reason), "red" if state is State.FAILED else "yellow")
    if migration.verification is not None:
        yield from proof_lines(migration.verification)
    yield from _rollout_lines(migration)
    if migration.soaking_since is not None and state is State.SOAKING:
        since = datetime.fromisoformat(migration.soaking_since).astimezone()
        yield f"  soaking since {since:%Y-%m-%d %H:%M:%S}"
    yield Text(f"  next: {migration.next_step}", "bold")


_SIGNS = {"pass": ("✓", "green"), "hold": ("…", "yellow"), "fail": ("✗", "bold red")}


def _rollout_lines(migration: MigrationStatus) -> Iterator[RenderableType]:
    from rich.text import Text

    if State(migration.live_state) not in LIVE:
        return
    steps = ", ".join(f"{step['percent']:g}% for {duration(step['hold_seconds'])}" for step in migration.schedule)
    whose = f" of tenant {one_line(migration.tenant)}'s users" if migration.tenant else " of the users"
    yield Text(f"  {migration.percent:g} %{whose} on the new index; " + (f"schedule: {steps}" if steps else "by hand"))
    for gate in migration.gates:
        sign, colour = _SIGNS[gate["outcome"]]
        yield Text(f"    {sign} {gate['gate']}: {one_line(gate['reason'])}", colour)


def check_lines(checks: Sequence[Check]) -> Iterator[RenderableType]:
    from rich.text import Text

    signs = {"proven": ("✓", "green"), "not proven": ("…", "yellow"), "wrong": ("✗", "bold red")}
    for check in checks:
        sign, colour = signs[check.answer]
        yield Text.assemble((f"{sign} {check.what}", colour), f": {one_line(check.shown_by)}")


def progress_words(migration: MigrationStatus) -> str:
    """The backfill on one line, with a bar: this goes into a log as well as onto a screen."""
    share = migration.rows_done / migration.rows if migration.rows else 1.0
    filled = round(share * _BAR_CELLS)
    words = (
        f"{'█' * filled}{'░' * (_BAR_CELLS - filled)} {share:.0%}  {migration.rows_done:,} of {migration.rows:,} rows"
    )
    if State(migration.state) in _UNDER_WAY:
        if migration.rate:
            words += f" · {migration.rate:,.0f} rows/s"
        if migration.eta_seconds:
            words += f" · {duration(migration.eta_seconds)} left"
        if migration.throttled is not None:
            words += f" · throttled: {migration.throttled:.2f}"
    return words


def _spend(migration: MigrationStatus) -> str:
    cap = f" of at most {dollars(migration.budget_usd)}" if migration.budget_usd is not None else ""
    return (
        f"embedded {migration.embedded_rows:,}, reused {migration.reused_rows:,}; "
        f"{migration.embedded_tokens:,} tokens, {dollars(migration.spent_usd)}{cap}"
    )


def proof_lines(proof: Mapping[str, Any]) -> Iterator[RenderableType]:
    """`proof` is a `Verification` as a dictionary."""
    from rich.text import Text

    equal = proof["source_checksum"] == proof["index_checksum"]
    parts = [
        f"{counted(proof['chunks'], 'chunk')}, {proof['entries']:,} in the index",
        f"{proof['missing']:,} missing, {proof['extra']:,} extra, {proof['flawed']:,} flawed",
        f"checksums {'equal' if equal else 'differ'} ({proof['index_checksum']})",
        f"{proof['repaired']:,} repaired in {proof['passes']} passes" if proof["repaired"] else "nothing to repair",
    ]
    if proof["sample_cosine"] is not None:
        parts.append(f"{proof['sample_rows']:,} embedded again: cosine ≥ {proof['sample_cosine']:.4f}")
    if proof["ann_recall"] is not None:
        parts.append(f"recall@10 against exact search {proof['ann_recall']:.3f}")
    sign = ("✓ proven: ", "bold green") if proof["passed"] else ("✗ not proven: ", "bold red")
    yield Text.assemble("  ", sign, "; ".join(parts))
    for problem in proof["problems"]:
        yield Text(f"    {one_line(problem)}", "red")
    for name in proof["named"]:
        yield Text(f"    {one_line(name)}", "dim")
