"""What figures are held against: a threshold is kept, breached, or without data; nothing else."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from reshelve.domain.figures import ArmFigures
from reshelve.domain.thresholds import TARGETS, Threshold, check, measured

ANY = st.floats(allow_nan=True, allow_infinity=True)


@given(value=st.none() | ANY, limit=st.floats(allow_nan=False), at_most=st.booleans())
def test_a_threshold_is_kept_on_its_own_side_and_never_without_data(
    value: float | None, limit: float, at_most: bool
) -> None:
    (found,) = check({"x": value}, [Threshold(figure="x", limit=limit, at_most=at_most, kind="gate")])
    if value is None or math.isnan(value):
        assert found.outcome == "no data"
    elif value == limit:
        assert found.outcome == "ok"
    else:
        assert found.outcome == ("ok" if (value < limit) == at_most else "breach")


def test_nothing_searched_is_no_data() -> None:
    values = measured(ArmFigures())
    assert {one.outcome for one in check(values, TARGETS)} == {"no data"}
    assert (values["requests"], values["error_rate"], values["cache_hit_rate"]) == (0, None, None)


def test_rates_are_of_the_requests() -> None:
    figures = ArmFigures.from_counts([("request", 40, 8, 80.0), ("error", 0, 2, 0.0), ("cache_hit", 0, 6, 0.0)])
    values = measured(figures)
    assert values["search_cache_hit_rate"] is None
    assert measured(ArmFigures(search_cache_hits=1, search_cache_misses=3))["search_cache_hit_rate"] == 0.25
    assert (values["error_rate"], values["cache_hit_rate"], values["mean_ms"]) == (0.25, 0.75, 10.0)
    outcomes = {one.figure: one.outcome for one in check(values, TARGETS)}
    assert outcomes == {
        "mean_ms": "ok",
        "p95_ms": "ok",
        "error_rate": "breach",
        "cache_hit_rate": "ok",
        "similarity": "no data",
    }
