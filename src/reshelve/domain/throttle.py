"""When the backfill makes room for searches: additive increase, multiplicative decrease of its share of the time."""

from __future__ import annotations

from dataclasses import dataclass

LEAST_DUTY = 0.02
FIRST_DUTY = 0.1
"""Where searches are met: what they bear is found out from below."""
ENOUGH_SEARCHES = 20
"""With fewer there is no p95 to go by, and few to be hurt."""
_MORE = 0.05
_LESS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What was seen of late. `load` is other people's running queries a core; None where it cannot be told.

    `before_ms` is the searches' p95 from before the backfill.
    """

    searches: int
    p95_ms: float | None = None
    before_ms: float | None = None
    load: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`duty` is None where nobody is in the way; `reason` says what is, where that made it slower."""

    duty: float | None
    reason: str | None = None


def next_duty(duty: float | None, seen: Reading, *, max_p95_ratio: float, max_load: float) -> Decision:
    """`duty` is the last one. Without searches and without load it is full speed, at once."""
    slower = FIRST_DUTY if duty is None else max(LEAST_DUTY, duty * _LESS)
    faster = FIRST_DUTY if duty is None else min(1.0, duty + _MORE)
    if seen.load is not None and seen.load > max_load:
        return Decision(duty=slower, reason=f"the database runs {seen.load:.1f} queries a core")
    if not seen.searches:
        return Decision(duty=None)
    if seen.searches < ENOUGH_SEARCHES:
        return Decision(duty=faster)
    if seen.before_ms is None or seen.p95_ms is None:
        return Decision(duty=LEAST_DUTY, reason="the searches' p95 without a backfill is not known yet")
    if seen.p95_ms > max_p95_ratio * seen.before_ms:
        reason = f"the searches' p95 is {seen.p95_ms:.1f} ms, and was {seen.before_ms:.1f} ms"
        return Decision(duty=slower, reason=reason)
    return Decision(duty=faster)
