"""The rule of the backfill's pace."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reshelve.domain.throttle import ENOUGH_SEARCHES, FIRST_DUTY, LEAST_DUTY, Decision, Reading, next_duty

MANY = 10 * ENOUGH_SEARCHES
duties = st.none() | st.floats(LEAST_DUTY, 1.0)
readings = st.builds(
    Reading,
    searches=st.integers(0, 1000),
    p95_ms=st.none() | st.floats(0.1, 1000),
    before_ms=st.none() | st.floats(0.1, 1000),
    load=st.none() | st.floats(0, 10),
)


def step(duty: float | None, seen: Reading) -> Decision:
    return next_duty(duty, seen, max_p95_ratio=1.3, max_load=2.0)


def test_nobody_searches() -> None:
    for duty in (None, LEAST_DUTY, 0.5):
        assert step(duty, Reading(searches=0, load=1.9)) == Decision(duty=None)


def test_slow_searches_halve_it_down_to_the_least() -> None:
    slow = Reading(searches=MANY, p95_ms=14.0, before_ms=10.0)
    first = step(None, slow)
    assert first.duty == FIRST_DUTY
    assert first.reason == "the searches' p95 is 14.0 ms, and was 10.0 ms"
    assert step(0.4, slow).duty == 0.2
    assert step(0.03, slow).duty == LEAST_DUTY


def test_searches_as_before_let_it_recover() -> None:
    calm = Reading(searches=MANY, p95_ms=12.0, before_ms=10.0)
    duty = step(LEAST_DUTY, calm).duty
    assert duty is not None
    assert LEAST_DUTY < duty < 0.2
    assert step(0.99, calm) == Decision(duty=1.0)


def test_a_busy_database_slows_it_down_without_any_search() -> None:
    decided = step(None, Reading(searches=0, load=2.5))
    assert decided == Decision(duty=FIRST_DUTY, reason="the database runs 2.5 queries a core")


def test_while_nobody_knows_how_fast_searches_are_without_it() -> None:
    assert step(0.5, Reading(searches=MANY, p95_ms=10.0)).duty == LEAST_DUTY


@given(duties, readings)
def test_it_stays_within_its_bounds(duty: float | None, seen: Reading) -> None:
    decided = step(duty, seen)
    if decided.duty is None:
        assert seen.searches == 0
    else:
        assert LEAST_DUTY <= decided.duty <= 1.0


@given(duties, readings)
def test_whoever_is_slowed_down_is_told_why(duty: float | None, seen: Reading) -> None:
    decided = step(duty, seen)
    if decided.duty is not None and duty is not None and decided.duty < duty:
        assert decided.reason
