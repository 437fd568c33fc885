"""MaxSim against a plain loop, and what a rerank leaves as it was."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reshelve.domain.fusion import Fused, Standing, rerank
from reshelve.domain.late_interaction import STORED_DIMENSIONS, maxsim, pack, reduce, unit_rows, unpack


@given(st.integers(0, 6), st.lists(st.integers(0, 9), max_size=6), st.integers(0, 999))
def test_maxsim_is_the_sum_of_each_tokens_best(of_query: int, of_passages: list[int], seed: int) -> None:
    draw = np.random.default_rng(seed)
    query = unit_rows(draw.normal(size=(of_query, 8)))
    passages = [unit_rows(draw.normal(size=(tokens, 8))) for tokens in of_passages]
    expected = [
        sum(max(float(one @ other) for other in passage) for one in query) if len(passage) else 0.0
        for passage in passages
    ]
    assert maxsim(query, passages) == pytest.approx(expected, abs=1e-5)


def test_a_row_of_zeros_stays_one() -> None:
    assert unit_rows(np.array([[0, 0], [3, 4]], np.int8)) == pytest.approx(np.array([[0, 0], [0.6, 0.8]]))


@st.composite
def rankings(draw: st.DrawFn) -> tuple[list[Fused[int]], dict[int, float]]:
    scores = sorted(draw(st.lists(st.floats(0, 10), max_size=12)), reverse=True)
    ranked = [Fused(key, score, {"dense": Standing(key + 1, score, score)}) for key, score in enumerate(scores)]
    head = draw(st.integers(0, len(ranked)))
    gone = draw(st.sets(st.integers(0, 12), max_size=2))
    return ranked, {key: draw(st.floats(-5, 5)) for key in range(head) if key not in gone}


@given(rankings(), st.floats(0.01, 1))
def test_only_those_with_a_score_move_and_only_among_themselves(
    given_ranking: tuple[list[Fused[int]], dict[int, float]], weight: float
) -> None:
    ranked, scores = given_ranking
    found = rerank(ranked, scores, leg="closer", weight=weight)
    head, tail = found[: len(scores)], found[len(scores) :]
    assert {one.key for one in head} == scores.keys()
    assert tail == [one for one in ranked if one.key not in scores]
    before = [one.score for one in ranked if one.key in scores]
    assert [one.score for one in head] == sorted((one.score for one in head), reverse=True)
    for one in head:
        assert min(before) - 1e-6 <= one.score <= max(before) + 1e-6
        assert one.score == pytest.approx(sum(place.share for place in one.legs.values()))
        assert one.legs["closer"].score == scores[one.key]
        assert one.legs["closer"].rank == 1 + sum(other > scores[one.key] for other in scores.values()) or (
            list(scores.values()).count(scores[one.key]) > 1
        )


@given(rankings())
def test_all_the_weight_is_the_order_of_the_closer_look(
    given_ranking: tuple[list[Fused[int]], dict[int, float]],
) -> None:
    ranked, scores = given_ranking
    found = rerank(ranked, scores, leg="closer", weight=1.0)[: len(scores)]
    assert len({one.score for one in found}) == 1 or [scores[one.key] for one in found] == pytest.approx(
        sorted(scores.values(), reverse=True), abs=1e-6
    )


@settings(deadline=None)
@given(st.integers(0, 40), st.sampled_from([5, 48, 96, 384]), st.integers(0, 99))
def test_what_is_packed_has_about_the_angles_it_had(count: int, dimension: int, seed: int) -> None:
    vectors = unit_rows(np.random.default_rng(seed).normal(size=(count, dimension)))
    kept = min(dimension, STORED_DIMENSIONS)
    packed = pack(vectors)
    assert len(packed) == count * kept
    found = unpack(packed, dimension=kept)
    reduced = reduce(vectors)
    assert (found * reduced).sum(axis=1) == pytest.approx(np.ones(count), abs=2e-3)
    # Six deviations of a cosine after a projection onto so many directions.
    room = 6 / np.sqrt(STORED_DIMENSIONS) if dimension > STORED_DIMENSIONS else 1e-5
    assert np.abs(reduced @ reduced.T - vectors @ vectors.T).max(initial=0) < room + 1e-5


def test_the_projection_is_the_same_one_for_ever() -> None:
    first = reduce(np.eye(384, dtype=np.float32)[:1])[0, :3]
    assert first == pytest.approx(FIRST, abs=1e-5)


FIRST = [0.020658, -0.194108, 0.062474]
