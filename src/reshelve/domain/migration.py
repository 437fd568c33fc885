"""The road from one index to another: states, transitions, and what to do next.

`next_action` is the whole decision: the engine gathers facts, asks it, carries the answer out, and asks again.
A dry run asks the same function about facts that it imagines (`foresee`), so it prints the very actions that run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from enum import StrEnum

ENGINE_VERSION = 2
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
LIVE = frozenset({State.SHADOWING, State.ROLLING_OUT, State.SOAKING})
"""Live searches meet the new index: its gates are watched."""
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
class Judge(Action):
    def describe(self) -> str:
        return "ask both indexes the judged queries"


@dataclass(frozen=True, slots=True)
class SetShare(Action):
    percent: float

    def describe(self) -> str:
        return f"give {self.percent:g} % of the users to the new index"


@dataclass(frozen=True, slots=True)
class Hold(Action):
    """The rollout stays where it is, and is looked at again."""

    reason: str

    def describe(self) -> str:
        return f"hold: {self.reason}"


@dataclass(frozen=True, slots=True)
class RollBack(Action):
    reason: str

    def describe(self) -> str:
        return f"take it back: {self.reason}"


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
    """What the engine saw before it asked. `verified` is None before the first pass, False after a failed one.

    `steps_left` are the percentages that a schedule has still to give, if there is one; `step_over`: the present one
    was held for long enough; `judging`: each step asks the judged queries; `judged`: nothing is left to ask of them for
    this step; `held` is why the gates do not let the next step pass, `breach` which safety gate failed.
    """

    target_registered: bool = False
    older_transactions_ended: bool = False
    ranges_enumerated: bool = False
    rows_left: int = 0
    target_built: bool = False
    repaired: int | None = None
    verified: bool | None = None
    cutover_wanted: bool = False
    soak_over: bool = False
    steps_left: tuple[float, ...] = ()
    step_over: bool = False
    judging: bool = False
    judged: bool = True
    held: str | None = None
    breach: str | None = None
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
        case State.VERIFYING:
            if facts.verified and not facts.repaired and facts.steps_left and not facts.cutover_wanted:
                return Advance(State.SHADOWING)
            return _proven(facts) or AwaitCutover()
        case State.SHADOWING | State.ROLLING_OUT:
            return _next_of_rollout(facts)
        case State.SOAKING:
            if facts.breach is not None:
                return RollBack(facts.breach)
            return Advance(State.COMPLETED) if facts.soak_over else Soak()
        case State.PAUSED | State.FAILED if facts.breach is not None:
            return RollBack(facts.breach)
        case State.ROLLING_BACK:
            return SwitchBack()
        case State.COMPLETED | State.ROLLED_BACK | State.PAUSED | State.FAILED:
            return Halt(f"the migration is {state}")


def _proven(facts: Facts) -> Action | None:
    """What the proof asks for; None where there is one and nobody wants the switch."""
    if facts.verified is None or facts.repaired:
        return Verify()
    if not facts.verified:
        return Halt("the verification failed")
    return Advance(State.SOAKING) if facts.cutover_wanted else None


def _next_of_rollout(facts: Facts) -> Action:
    if facts.breach is not None:
        return RollBack(facts.breach)
    if facts.cutover_wanted:
        return _proven(facts) or AwaitCutover()
    if facts.step_over and not facts.judged:
        return Judge()
    if not facts.steps_left:
        return AwaitCutover()
    if not facts.step_over:
        return Hold("this step is not over yet")
    if facts.held is not None:
        return Hold(facts.held)
    percent = facts.steps_left[0]
    if percent < 100:
        return SetShare(percent)
    # The last step is the switch, and asks for the same proof as one that a person wants.
    return _proven(facts) or Advance(State.SOAKING)


def stops(action: Action) -> bool:
    """The engine has nothing more to do by itself after this action."""
    return isinstance(action, AwaitCutover | Soak | Halt | Hold)


def foresee(state: State, facts: Facts) -> Iterator[Action]:
    """The actions that lie ahead if each of them succeeds, up to the first place where a person decides."""
    while True:
        action = next_action(state, facts)
        yield action
        if stops(action) and not isinstance(action, Hold):
            return
        match action:
            case Advance(to):
                state = to
                if to is State.SHADOWING:
                    facts = _after_a_while(facts, judged=not facts.judging)
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
            case Hold():
                facts = _after_a_while(facts, judged=facts.judged)
            case Judge():
                facts = replace(facts, judged=True)
            case SetShare():
                facts = _after_a_while(replace(facts, steps_left=facts.steps_left[1:]), judged=not facts.judging)
                state = State.ROLLING_OUT
            case RollBack():
                state = State.ROLLING_BACK
            case _:
                state = State.ROLLED_BACK


def _after_a_while(facts: Facts, *, judged: bool) -> Facts:
    """The step was held, and its gates passed. The proof is an old one by then."""
    return replace(facts, step_over=True, held=None, judged=judged, verified=None)
