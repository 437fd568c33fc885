"""The demonstration's proof on one terminal screen."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from reshelve.demo.facts import DemoFacts, promises
from reshelve.display.numbers import count, difference, dollars, milliseconds, percent, probability, score, seconds


def print_table(facts: DemoFacts, console: Console) -> None:
    """Print the steps, promises and figures: 45 lines at most for 14 steps, 100 columns."""
    width = min(console.width, 100)
    title = f"{facts.from_model} → {facts.to_model}: {count(facts.documents)} documents, {count(facts.chunks)} chunks"
    console.print(Rule(Text(title, "bold")), width=width)
    for part in (_steps(facts), _promises(facts), _figures(facts)):
        console.print(part, width=width)
        console.print()
    console.print(_machine(facts), width=width)


def _frame(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False, header_style="dim", show_edge=False)
    for heading in headings:
        table.add_column(heading, no_wrap=True, overflow="ellipsis")
    table.columns[-1].ratio = 1
    return table


def _steps(facts: DemoFacts) -> Table:
    table = _frame("step", "at", "took", "")
    table.columns[1].justify = table.columns[2].justify = "right"
    for step in facts.steps:
        table.add_row(Text(step.name), f"{step.started_at:.1f} s", seconds(step.seconds), Text(step.note, "dim"))
    return table


def _promises(facts: DemoFacts) -> Table:
    table = _frame("", "promise", "seen")
    table.columns[-1].no_wrap = False  # a figure is folded, never cut
    for promise in promises(facts):
        sign = Text("✓", "bold green") if promise.kept else Text("✗", "bold red")
        table.add_row(sign, promise.text, Text(promise.seen))
    return table


def _figures(facts: DemoFacts) -> Table:
    """Rows of a label and a line of figures."""
    table = _frame("measured", "")
    table.columns[-1].no_wrap = False
    latency, verified, plan = facts.latency, facts.verification, facts.plan
    for label, part in (("before", latency.before), ("during", latency.during), ("after", latency.after)):
        table.add_row(f"search {label}", f"p50 {milliseconds(part.p50_ms)}, p95 {milliseconds(part.p95_ms)}")
    for switch in facts.switches:
        rows = f"{count(switch.re_embedded_rows)} rows re-embedded, {count(switch.drained_rows)} drained before"
        table.add_row(Text(switch.name), f"switch {milliseconds(switch.switch_ms)}, {rows}")
    for paired in facts.quality.differences:
        interval = f"{difference(paired.difference)} [{difference(paired.low)}, {difference(paired.high)}]"
        sides = f"+{count(paired.better)} −{count(paired.worse)} ={count(paired.equal)} of {count(paired.queries)}"
        table.add_row(
            f"{paired.metric}, {percent(paired.confidence)}",
            Text(f"{score(paired.before)} → {score(paired.after)}, {interval}, {probability(paired.p_value)}, {sides}"),
        )
    compared = {paired.metric for paired in facts.quality.differences}
    others = [
        f"{metric} {score(before)} → {score(facts.quality.after[metric])}"
        for metric, before in facts.quality.before.items()
        if metric not in compared
    ]
    if others:
        table.add_row("other metrics", ", ".join(others))
    table.add_row(
        "verification",
        f"checksum {verified.checksum}, sample cosine {score(verified.sample_cosine)}, "
        f"ANN recall {score(verified.ann_recall)}",
    )
    table.add_row(
        "plan",
        f"{count(plan.tokens)} tokens, {dollars(plan.dollars)}, "
        f"{seconds(plan.estimated_seconds)} foretold, {seconds(plan.actual_seconds)} taken",
    )
    return table


def _machine(facts: DemoFacts) -> Text:
    machine = facts.machine
    return Text(f"{machine.cpus} CPUs, Python {machine.python}, PostgreSQL {machine.postgres}", "dim")
