"""The circuit breaker, as a rule without a clock of its own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reshelve.domain.breaker import Breaker, BreakerLimits, BreakerState

LIMITS = BreakerLimits(failures=5, open_seconds=60, trials=3)


def _opened(now: float = 0.0) -> Breaker:
    breaker = Breaker(limits=LIMITS)
    for _ in range(5):
        breaker = breaker.failed(now, "broken")
    return breaker


def test_failures_in_a_row_open_it_and_a_success_between_them_does_not() -> None:
    breaker = Breaker(limits=LIMITS)
    for _ in range(4):
        breaker = breaker.failed(0, "broken")
    breaker = breaker.succeeded(1).failed(2, "broken")
    assert breaker.state is BreakerState.CLOSED
    assert breaker.failures == 1
    opened = _opened(7)
    assert (opened.state, opened.changed_at, opened.reason) == (BreakerState.OPEN, 7, "broken")


def test_open_lets_nothing_through_until_it_is_time() -> None:
    opened = _opened()
    assert opened.allowed(59.9) is None
    assert opened.at(59.9).state is BreakerState.OPEN
    assert opened.at(60).state is BreakerState.HALF_OPEN


def test_half_open_lets_three_through_at_a_time_and_three_successes_close_it() -> None:
    breaker = _opened()
    for _ in range(3):
        allowed = breaker.allowed(60)
        assert allowed is not None
        breaker = allowed
    assert breaker.allowed(60) is None
    released = breaker.released(60)
    assert released.allowed(60) is not None
    assert released.state is BreakerState.HALF_OPEN
    for _ in range(2):
        breaker = breaker.succeeded(61)
        assert breaker.state is BreakerState.HALF_OPEN
    breaker = breaker.succeeded(62)
    assert (breaker.state, breaker.failures, breaker.changed_at) == (BreakerState.CLOSED, 0, 62)


def test_a_failed_trial_opens_it_for_as_long_again() -> None:
    trial = _opened().allowed(60)
    assert trial is not None
    again = trial.failed(61, "still broken")
    assert (again.state, again.reason) == (BreakerState.OPEN, "still broken")
    assert again.allowed(120.9) is None
    assert again.allowed(121) is not None


def test_an_answer_that_comes_late_does_not_touch_the_open_breaker() -> None:
    opened = _opened()
    assert opened.succeeded(1) == opened
    assert opened.failed(50, "broken").changed_at == 0


@given(
    st.lists(st.tuples(st.sampled_from(["ask", "ok", "no", "drop"]), st.floats(0, 40)), max_size=60),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_whatever_happens_it_lets_no_more_through_than_it_may(
    events: list[tuple[str, float]], failures: int, trials: int
) -> None:
    breaker = Breaker(limits=BreakerLimits(failures=failures, open_seconds=60, trials=trials))
    now = 0.0
    for event, later in events:
        now += later
        before = breaker.at(now)
        match event:
            case "ask":
                allowed = breaker.allowed(now)
                full = before.state is BreakerState.HALF_OPEN and before.under_way == trials
                assert (allowed is None) == (before.state is BreakerState.OPEN or full)
                breaker = allowed or before
            case "ok":
                breaker = breaker.succeeded(now)
                assert before.state is not BreakerState.OPEN or breaker == before
            case "no":
                breaker = breaker.failed(now, "broken")
                assert before.state is not BreakerState.HALF_OPEN or breaker.state is BreakerState.OPEN
            case _:
                breaker = breaker.released(now)
                assert breaker.state is before.state
        assert 0 <= breaker.under_way <= trials
        assert breaker.successes < trials
        assert breaker.state is not BreakerState.CLOSED or breaker.failures < failures
