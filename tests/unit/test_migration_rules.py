"""The transition table and `next_action`, as plain values."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reshelve.domain.migration import (
    LIVE,
    ROAD,
    TERMINAL,
    TRANSITIONS,
    Advance,
    AwaitCutover,
    Facts,
    FillRanges,
    Halt,
    Hold,
    Judge,
    RegisterTarget,
    RollBack,
    SetShare,
    Soak,
    State,
    SwitchBack,
    Verify,
    allowed,
    foresee,
    next_action,
)

steps = st.lists(st.integers(1, 99), max_size=5, unique=True).map(lambda shares: (*map(float, sorted(shares)), 100.0))
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
    steps_left=st.just(()) | steps,
    step_over=st.booleans(),
    judging=st.booleans(),
    judged=st.booleans(),
    held=st.none() | st.just("overlap: too little"),
    breach=st.none() | st.just("too many errors"),
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
        if not seen.cutover_wanted:
            # Or the last step of a schedule asks for it.
            assert seen.steps_left == (100.0,)
            assert passing(seen)


def passing(seen: Facts) -> bool:
    """A look at the gates that lets the next step of the schedule be taken."""
    return seen.step_over and seen.judged and seen.held is None and seen.breach is None


@given(states, facts)
def test_nothing_but_a_passing_look_sets_the_share_and_only_to_the_next_step(state: State, seen: Facts) -> None:
    action = next_action(state, seen)
    if isinstance(action, SetShare):
        assert state in (State.SHADOWING, State.ROLLING_OUT)
        assert passing(seen)
        assert action.percent == seen.steps_left[0] < 100


@given(states, facts)
def test_a_breach_goes_back_from_everywhere_that_live_searches_may_be(state: State, seen: Facts) -> None:
    action = next_action(state, seen)
    if seen.breach is not None and state in {*LIVE, State.PAUSED, State.FAILED}:
        assert action == RollBack(seen.breach)
        assert allowed(state, State.ROLLING_BACK)
    else:
        assert not isinstance(action, RollBack)


@given(facts)
def test_the_gradual_road_is_taken_only_with_a_proof_and_a_schedule(seen: Facts) -> None:
    if next_action(State.VERIFYING, seen) == Advance(State.SHADOWING):
        assert (seen.verified, bool(seen.repaired)) == (True, False)
        assert seen.steps_left
        assert not seen.cutover_wanted


@given(states, facts)
def test_what_is_foreseen_ends_and_climbs_by_the_schedule(state: State, seen: Facts) -> None:
    ahead = list(itertools.islice(foresee(state, seen), 100))
    assert len(ahead) < 100
    shares = tuple(action.percent for action in ahead if isinstance(action, SetShare))
    assert shares == seen.steps_left[: len(shares)]
    if Judge() in ahead:
        assert seen.judging or not seen.judged


@given(steps, st.booleans())
def test_a_scheduled_migration_is_foreseen_up_to_the_soak(shares: tuple[float, ...], judging: bool) -> None:
    ahead = list(foresee(State.PLANNED, Facts(rows_left=7, steps_left=shares, judging=judging)))
    assert [action.percent for action in ahead if isinstance(action, SetShare)] == list(shares[:-1])
    assert [action.to for action in ahead if isinstance(action, Advance)] == [*ROAD[1:6], State.SOAKING]
    # The proof of the start is an old one at the switch.
    assert ahead[-3:] == [Verify(), Advance(State.SOAKING), Soak()]
    assert ahead.count(Verify()) == 2
    assert ahead.count(Judge()) == (len(shares) if judging else 0)


def test_a_rollout_under_way_is_foreseen_past_what_holds_it() -> None:
    seen = Facts(verified=True, repaired=0, steps_left=(50.0, 100.0), held="overlap: too little", step_over=True)
    assert list(foresee(State.ROLLING_OUT, seen)) == [
        Hold("overlap: too little"),
        SetShare(50.0),
        Verify(),
        Advance(State.SOAKING),
        Soak(),
    ]
    assert list(foresee(State.SOAKING, Facts(breach="slow")))[:2] == [RollBack("slow"), SwitchBack()]


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
        (State.SOAKING, Facts(soak_over=True, breach="slow"), RollBack("slow")),
        (State.SHADOWING, Facts(steps_left=(10.0, 100.0)), Hold("this step is not over yet")),
        (State.SHADOWING, Facts(steps_left=(10.0, 100.0), step_over=True, judged=False), Judge()),
        (State.SHADOWING, Facts(steps_left=(10.0, 100.0), step_over=True), SetShare(10.0)),
        (State.ROLLING_OUT, Facts(steps_left=(100.0,), step_over=True), Verify()),
        (
            State.ROLLING_OUT,
            Facts(steps_left=(100.0,), step_over=True, verified=False),
            Halt("the verification failed"),
        ),
        (State.ROLLING_OUT, Facts(), AwaitCutover()),
        (State.ROLLING_BACK, Facts(), SwitchBack()),
    ],
)
def test_single_decisions(state: State, seen: Facts, expected: object) -> None:
    assert next_action(state, seen) == expected
