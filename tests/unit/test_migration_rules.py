"""The transition table and `next_action`, as plain values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reshelve.domain.migration import (
    ROAD,
    TERMINAL,
    TRANSITIONS,
    Advance,
    AwaitCutover,
    Facts,
    FillRanges,
    Halt,
    RegisterTarget,
    Soak,
    State,
    SwitchBack,
    Verify,
    allowed,
    foresee,
    next_action,
)

facts = st.builds(
    Facts,
    target_registered=st.booleans(),
    older_transactions_ended=st.booleans(),
    ranges_enumerated=st.booleans(),
    rows_left=st.integers(0, 10),
    target_built=st.booleans(),
    repaired=st.none() | st.integers(0, 3),
    verified=st.none() | st.booleans(),
    cutover_wanted=st.booleans(),
    soak_over=st.booleans(),
    budget_reached=st.booleans(),
    limit_reached=st.booleans(),
)
states = st.sampled_from(State)


@given(states, facts)
def test_every_state_has_an_answer_and_only_allowed_transitions(state: State, seen: Facts) -> None:
    action = next_action(state, seen)
    assert action.describe()
    if isinstance(action, Advance):
        assert allowed(state, action.to)


@given(states, facts)
def test_the_searches_are_switched_only_on_a_clean_proof_that_was_asked_for(state: State, seen: Facts) -> None:
    action = next_action(state, seen)
    if isinstance(action, Advance) and action.to is State.SOAKING:
        assert seen.verified is True
        assert not seen.repaired
        assert seen.cutover_wanted


@given(states)
def test_the_way_back_is_open_before_completed_and_closed_after(state: State) -> None:
    if state in TERMINAL:
        assert TRANSITIONS[state] == frozenset()
    elif state is not State.ROLLING_BACK:
        assert allowed(state, State.ROLLING_BACK)


def test_no_state_is_a_dead_end() -> None:
    """From everywhere there is a way to an end."""
    for start in State:
        reached = {start}
        while True:
            further = {after for state in reached for after in TRANSITIONS[state]} - reached
            if not further:
                break
            reached |= further
        assert reached & TERMINAL


def test_the_road_as_it_is_foreseen() -> None:
    ahead = list(foresee(State.PLANNED, Facts(rows_left=7)))
    assert ahead[0] == RegisterTarget()
    assert FillRanges(7) in ahead
    assert [action.to for action in ahead if isinstance(action, Advance)] == list(ROAD[1:5])
    assert ahead[-2:] == [Verify(), AwaitCutover()]


@pytest.mark.parametrize(
    ("state", "seen", "expected"),
    [
        (State.BACKFILLING, Facts(rows_left=1, budget_reached=True), Halt("the spend cap is reached")),
        (State.VERIFYING, Facts(verified=True, repaired=2), Verify()),
        (State.VERIFYING, Facts(verified=False, repaired=0, cutover_wanted=True), Halt("the verification failed")),
        (State.SOAKING, Facts(), Soak()),
        (State.SOAKING, Facts(soak_over=True), Advance(State.COMPLETED)),
        (State.ROLLING_BACK, Facts(), SwitchBack()),
    ],
)
def test_single_decisions(state: State, seen: Facts, expected: object) -> None:
    assert next_action(state, seen) == expected
