"""How numbers are written for people: the same on the terminal and in the report."""

from __future__ import annotations

from datetime import UTC, datetime


def count(value: int) -> str:
    return f"{value:,}"


def score(value: float) -> str:
    """A metric or a cosine between 0 and 1."""
    return f"{value:.4f}"


def difference(value: float) -> str:
    """With its sign, and a minus that is as wide as the plus; nothing is +0.0000, never −0.0000."""
    text = f"{value:+.4f}"
    return "+0.0000" if text == "-0.0000" else text.replace("-", "−")


def seconds(value: float) -> str:
    """Seconds as 0.4 ms, 40 ms, 4.20 s, 42.0 s or 2 min 05 s, whichever a person reads most easily."""
    if value < 0.0995:
        return milliseconds(value * 1000)
    if value < 9.995:
        return f"{value:.2f} s"
    if value < 119.95:
        return f"{value:.1f} s"
    return f"{round(value) // 60} min {round(value) % 60:02d} s"


def milliseconds(value: float) -> str:
    return f"{value:.1f} ms" if value < 99.95 else f"{value:,.0f} ms"


def dollars(value: float) -> str:
    """Cents, or four places below a dollar: a demonstration costs fractions of a cent."""
    return "$0.00" if value == 0 else f"${value:,.4f}" if value < 1 else f"${value:,.2f}"


def probability(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def percent(value: float) -> str:
    return f"{100 * value:g} %"


def figure(name: str, value: float | None) -> str:
    """A live figure by its name: `…_ms`, `…_rate`, a score in 0..1, or a count."""
    if value is None:
        return "–"
    if name.endswith("_ms"):
        return milliseconds(value)
    if name.endswith("_rate"):
        return f"{100 * value:.3g} %"
    return f"{value:.3f}" if name in ("similarity", "overlap", "rbo") else count(int(value))


def limit(name: str, value: float, *, at_most: bool) -> str:
    return f"{'≤' if at_most else '≥'} {figure(name, value)}"


def moment(value: datetime) -> str:
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
