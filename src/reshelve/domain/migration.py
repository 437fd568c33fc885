"""The road from one index to another: states, transitions, and what to do next.

`next_action` is the whole decision: the engine gathers facts, asks it, carries the answer out, and asks again.
A dry run asks the same function about facts that it imagines (`foresee`), so it prints the very actions that run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from enum import StrEnum

ENGINE_VERSION = 1
"""Written to every migration row. An engine refuses a row that a newer engine wrote."""


class State(StrEnum):
    PLANNED = "planned"
    PREPARING = "preparing"
    BACKFILLING = "backfilling"
    BUILDING = "building"
    VERIFYING = "verifying"
    SHADOWING = "shadowing"
    ROLLING_OUT = "rolling_out"
    SOAKING = "soaking"
    COMPLETED = "completed"
    PAUSED = "paused"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"


ROAD = (
    State.PLANNED,
    State.PREPARING,
    State.BACKFILLING,
    State.BUILDING,
    State.VERIFYING,
    State.SHADOWING,
    State.ROLLING_OUT,
    State.SOAKING,
    State.COMPLETED,
)
TERMINAL = frozenset({State.COMPLETED, State.ROLLED_BACK})
_WORKING = frozenset(ROAD) - TERMINAL

TRANSITIONS: dict[State, frozenset[State]] = {
    State.PLANNED: frozenset({State.PREPARING}),
    State.PREPARING: frozenset({State.BACKFILLING}),
    State.BACKFILLING: frozenset({State.BUILDING}),
    State.BUILDING: frozenset({State.VERIFYING}),
    # A cutover may skip the gradual road, or come in the middle of it.
    State.VERIFYING: frozenset({State.SHADOWING, State.ROLLING_OUT, State.SOAKING}),
    State.SHADOWING: frozenset({State.ROLLING_OUT, State.SOAKING}),
    State.ROLLING_OUT: frozenset({State.SHADOWING, State.SOAKING}),
    State.SOAKING: frozenset({State.COMPLETED}),
    State.PAUSED: _WORKING,
    State.FAILED: _WORKING,
    State.ROLLING_BACK: frozenset({State.ROLLED_BACK}),
    State.COMPLETED: frozenset(),
    State.ROLLED_BACK: frozenset(),
}
for _state in _WORKING:
    TRANSITIONS[_state] |= {State.PAUSED, State.FAILED, State.ROLLING_BACK}
for _state in (State.PAUSED, State.FAILED):
    TRANSITIONS[_state] |= {State.ROLLING_BACK}


def allowed(before: State, after: State) -> bool:
    return after in TRANSITIONS[before]


# Actions -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Action(ABC):
    """One step. `describe` is what plans and dry runs print."""

    @abstractmethod
    def describe(self) -> str: ...

    @property
    def kind(self) -> str:
        return type(self).__name__

    def as_dict(self) -> dict[str, object]:
        return {"action": self.kind, **{field.name: getattr(self, field.name) for field in fields(self)}}


@dataclass(frozen=True, slots=True)
class Advance(Action):
    to: State

    def describe(self) -> str:
        if self.to is State.SOAKING:
            return "drain, then switch the searches to the new index"
        return f"enter {self.to}"


@dataclass(frozen=True, slots=True)
class RegisterTarget(Action):
    def describe(self) -> str:
        return "register the new index and feed it from the outbox"


@dataclass(frozen=True, slots=True)
class AwaitOldTransactions(Action):
    def describe(self) -> str:
        return "wait until every transaction older than the registration has ended"


@dataclass(frozen=True, slots=True)
class EnumerateRanges(Action):
    def describe(self) -> str:
        return "divide what is already there into ranges"


@dataclass(frozen=True, slots=True)
class FillRanges(Action):
    rows: int

    def describe(self) -> str:
        return f"backfill {self.rows:,} rows"


@dataclass(frozen=True, slots=True)
class BuildIndex(Action):
    def describe(self) -> str:
        return "build the HNSW graph, without blocking writes"


@dataclass(frozen=True, slots=True)
class Verify(Action):
    """Drain to the barrier, sweep orphans, compare everything, repair; one pass without a repair is the proof."""

    def describe(self) -> str:
        return "drain, then verify counts, checksums, vectors, a re-embedded sample, and recall against exact search"


@dataclass(frozen=True, slots=True)
class AwaitCutover(Action):
    def describe(self) -> str:
        return "stop here with the proof, until `reshelve cutover`"


@dataclass(frozen=True, slots=True)
class Soak(Action):
    def describe(self) -> str:
        return "soak: the new index answers, both stay fed, and `reshelve rollback` is free"


@dataclass(frozen=True, slots=True)
class SwitchBack(Action):
    def describe(self) -> str:
        return "give the searches back to the index that served before"


@dataclass(frozen=True, slots=True)
class Halt(Action):
    reason: str

    def describe(self) -> str:
        return f"stop: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the engine saw before it asked. `verified` is None before the first pass, False after a failed one."""

    target_registered: bool = False
    older_transactions_ended: bool = False
    ranges_enumerated: bool = False
    rows_left: int = 0
    target_built: bool = False
    repaired: int | None = None
    verified: bool | None = None
    cutover_wanted: bool = False
    soak_over: bool = False
    budget_reached: bool = False
    limit_reached: bool = False


def next_action(state: State, facts: Facts) -> Action:
    """The one step to take from `state`. Total: every state has an answer for every combination of facts."""
    match state:
        case State.PLANNED:
            return Advance(State.PREPARING) if facts.target_registered else RegisterTarget()
        case State.PREPARING:
            if not facts.older_transactions_ended:
                return AwaitOldTransactions()
            return Advance(State.BACKFILLING) if facts.ranges_enumerated else EnumerateRanges()
        case State.BACKFILLING:
            if facts.rows_left == 0:
                return Advance(State.BUILDING)
            if facts.budget_reached:
                return Halt("the spend cap is reached")
            if facts.limit_reached:
                return Halt("the row limit of this run is reached")
            return FillRanges(facts.rows_left)
        case State.BUILDING:
            return Advance(State.VERIFYING) if facts.target_built else BuildIndex()
        case State.VERIFYING | State.SHADOWING | State.ROLLING_OUT:
            if facts.verified is None or facts.repaired:
                return Verify()
            if not facts.verified:
                return Halt("the verification failed")
            return Advance(State.SOAKING) if facts.cutover_wanted else AwaitCutover()
        case State.SOAKING:
            return Advance(State.COMPLETED) if facts.soak_over else Soak()
        case State.ROLLING_BACK:
            return SwitchBack()
        case State.COMPLETED | State.ROLLED_BACK | State.PAUSED | State.FAILED:
            return Halt(f"the migration is {state}")


def stops(action: Action) -> bool:
    """The engine has nothing more to do by itself after this action."""
    return isinstance(action, AwaitCutover | Soak | Halt)


def foresee(state: State, facts: Facts) -> Iterator[Action]:
    """The actions that lie ahead if each of them succeeds, up to the first place where a person decides."""
    while True:
        action = next_action(state, facts)
        yield action
        if stops(action):
            return
        match action:
            case Advance(to):
                state = to
            case RegisterTarget():
                facts = replace(facts, target_registered=True)
            case AwaitOldTransactions():
                facts = replace(facts, older_transactions_ended=True)
            case EnumerateRanges():
                facts = replace(facts, ranges_enumerated=True)
            case FillRanges():
                facts = replace(facts, rows_left=0)
            case BuildIndex():
                facts = replace(facts, target_built=True)
            case Verify():
                facts = replace(facts, verified=True, repaired=0)
            case _:
                state = State.ROLLED_BACK
