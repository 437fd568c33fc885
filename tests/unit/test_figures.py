"""Histograms of latencies that add up, and the figures of an arm."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reshelve.domain.figures import LAST_BIN, ArmFigures, bin_of, least_ms, milliseconds_of, quantile

LATENCIES = st.lists(st.floats(0.05, 1e6), min_size=1, max_size=200)


@given(st.floats(0.05, 1e6))
def test_a_bin_tells_the_latency_to_five_per_cent(milliseconds: float) -> None:
    assert milliseconds_of(bin_of(milliseconds)) == pytest.approx(milliseconds, rel=0.05)


@given(st.integers(0, LAST_BIN - 1))
def test_a_bin_begins_where_it_says(bin: int) -> None:
    assert bin_of(least_ms(bin)) == bin
    assert bin_of(milliseconds_of(bin)) == bin


def test_what_is_no_latency_never_passes_for_a_fast_one() -> None:
    assert bin_of(math.nan) == bin_of(math.inf) == LAST_BIN
    assert bin_of(0) == bin_of(-1) == 0


@given(LATENCIES, st.floats(0.01, 1))
def test_a_quantile_is_that_of_the_sorted_latencies_to_five_per_cent(latencies: list[float], q: float) -> None:
    exact = sorted(latencies)[max(1, math.ceil(q * len(latencies) - 1e-9)) - 1]
    assert quantile(Counter(map(bin_of, latencies)), q) == pytest.approx(exact, rel=0.05)


@given(LATENCIES, LATENCIES)
def test_two_processes_add_up_to_one(here: list[float], there: list[float]) -> None:
    def rows(latencies: list[float]) -> list[tuple[str, int, int, float]]:
        return [("request", bin_of(each), 1, each) for each in latencies]

    both = ArmFigures.from_counts([*rows(here), *rows(there)])
    one = ArmFigures.from_counts(rows(here + there))
    assert (both.requests, both.p50_ms, both.p95_ms, both.p99_ms) == (one.requests, one.p50_ms, one.p95_ms, one.p99_ms)
    assert both.mean_ms == pytest.approx(sum(here + there) / len(here + there))


def test_without_data_there_are_counts_and_nothing_else() -> None:
    nothing = ArmFigures.from_counts([])
    assert nothing == ArmFigures()
    assert (nothing.requests, nothing.errors, nothing.tried, nothing.compared) == (0, 0, 0, 0)
    assert (nothing.mean_ms, nothing.p95_ms, nothing.similarity, nothing.overlap) == (None, None, None, None)
    assert quantile({}, 0.95) is None


def test_every_counter_has_its_place() -> None:
    figures = ArmFigures.from_counts(
        [
            ("request", bin_of(10), 9, 90.0),
            ("request", bin_of(100), 1, 100.0),
            ("error", 0, 2, 0.0),
            ("fallback", 0, 5, 0.0),
            ("cache_hit", 0, 3, 0.0),
            ("search_cache_hit", 0, 8, 0.0),
            ("search_cache_miss", 0, 2, 0.0),
            ("similarity", 0, 4, 3.0),
            ("shadow", bin_of(20), 7, 140.0),
            ("shadow_error", 0, 1, 0.0),
            ("overlap", 0, 6, 3.0),
            ("rbo", 0, 6, 1.5),
            ("something of a later version", 0, 1, 0.0),
        ]
    )
    assert (figures.requests, figures.errors, figures.fallbacks, figures.cache_hits) == (10, 2, 5, 3)
    assert (figures.search_cache_hits, figures.search_cache_misses) == (8, 2)
    assert figures.mean_ms == pytest.approx(19)
    assert figures.p50_ms == pytest.approx(10, rel=0.05)
    assert figures.p95_ms == pytest.approx(100, rel=0.05)
    assert (figures.similarity, figures.similarity_count) == (0.75, 4)
    assert (figures.shadowed, figures.shadow_errors, figures.compared) == (7, 1, 6)
    assert (figures.overlap, figures.rbo) == (0.5, 0.25)
    assert figures.slower_than(50) == 1
    # Three searches were kept from it by the breaker: they were its to answer, and it did not.
    assert (figures.tried, figures.failed) == (13, 5)
    shadowed = figures.shadowed_as_live()
    assert (shadowed.requests, shadowed.errors, shadowed.tried, shadowed.failed) == (8, 1, 8, 1)
    assert shadowed.p95_ms == pytest.approx(20, rel=0.05)
