"""A circuit breaker: who fails several times in a row is left alone for a while, and then tried with care.

Closed, every search is let through. `failures` in a row open it: none is. `open_seconds` later it is half open: at most
`trials` searches are under way at a time, as many successes close it, and one failure opens it again. Nygard, Release
It!, 2nd edition, 2018, "Circuit Breaker". Times are seconds of a clock that never goes back, and come from outside.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerLimits:
    failures: int = 5
    open_seconds: float = 60.0
    trials: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """`failures` in a row since the last success; `under_way` and `successes` count the trials of the half-open state.

    `reason` is that of the last failure. Every method answers the breaker that comes after.
    """

    limits: BreakerLimits = BreakerLimits()
    state: BreakerState = BreakerState.CLOSED
    changed_at: float = 0.0
    failures: int = 0
    under_way: int = 0
    successes: int = 0
    reason: str | None = None

    def at(self, now: float) -> Breaker:
        """What time alone has made of it."""
        if self.state is BreakerState.OPEN and now >= self.changed_at + self.limits.open_seconds:
            return self._entered(BreakerState.HALF_OPEN, now)
        return self

    def allowed(self, now: float) -> Breaker | None:
        """One more search is let through; None when it is not. Each ends in `succeeded`, `failed` or `released`."""
        current = self.at(now)
        match current.state:
            case BreakerState.CLOSED:
                return current
            case BreakerState.OPEN:
                return None
            case BreakerState.HALF_OPEN:
                if current.under_way >= self.limits.trials:
                    return None
                return replace(current, under_way=current.under_way + 1)

    def succeeded(self, now: float) -> Breaker:
        current = self.at(now)
        match current.state:
            case BreakerState.CLOSED:
                return replace(current, failures=0)
            case BreakerState.OPEN:
                # It began before the breaker opened: too late to say anything about now.
                return current
            case BreakerState.HALF_OPEN:
                successes = current.successes + 1
                if successes >= self.limits.trials:
                    return replace(current._entered(BreakerState.CLOSED, now), failures=0)
                return replace(current.released(now), successes=successes)

    def failed(self, now: float, reason: str) -> Breaker:
        current = replace(self.at(now), reason=reason)
        if current.state is BreakerState.OPEN:
            return current
        current = replace(current, failures=current.failures + 1)
        if current.state is BreakerState.HALF_OPEN or current.failures >= self.limits.failures:
            return current._entered(BreakerState.OPEN, now)
        return current

    def released(self, now: float) -> Breaker:
        """A search ended without saying anything about the candidate: it was cancelled, or its input was wrong."""
        current = self.at(now)
        return replace(current, under_way=max(0, current.under_way - 1))

    def _entered(self, state: BreakerState, now: float) -> Breaker:
        return replace(self, state=state, changed_at=now, under_way=0, successes=0)
