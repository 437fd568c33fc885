"""What a benchmark found, and the table that it is printed in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measurement. `beside` is the raw operation of the same run; `target` is None where nothing was promised."""

    name: str
    value: float
    unit: str
    beside: str = ""
    raw: float | None = None
    target: str | None = None
    met: bool | None = None

    @property
    def ratio(self) -> float | None:
        return self.value / self.raw if self.raw else None


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile; `share` from 0 to 1."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def show(figures: Iterable[Figure]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("what")
    table.add_column("measured", justify="right")
    table.add_column("beside it", justify="right")
    table.add_column("which is")
    table.add_column("ratio", justify="right")
    table.add_column("target", justify="right")
    table.add_column("")
    for each in figures:
        table.add_row(
            each.name,
            f"{_number(each.value)} {each.unit}",
            f"{_number(each.raw)} {each.unit}" if each.raw is not None else "",
            each.beside,
            f"{each.ratio:.2f}" if each.ratio is not None else "",
            each.target or "",
            "" if each.met is None else ("[green]met[/]" if each.met else "[red]missed[/]"),
        )
    # Wide enough for every column: a file or a pipe has no width of its own.
    Console(width=150).print(table)


def _number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
