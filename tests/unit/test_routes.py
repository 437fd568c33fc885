"""Who is answered by which index."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reshelve.domain.indexes import Hnsw, Index, IndexState, Metric
from reshelve.domain.models import EmbeddingModel
from reshelve.domain.routes import BUCKETS, Arm, Route, bucket, share_of

UNITS = st.lists(st.text(min_size=1, max_size=8), unique=True, min_size=1, max_size=60)
SHARES = st.integers(0, BUCKETS)


def _index(id: int) -> Index:
    return Index(
        id=id,
        collection_id=1,
        chunking_id=1,
        model_id=id,
        model=EmbeddingModel(name=f"model-{id}", provider="hashing", dimension=8),
        backend="pgvector",
        metric=Metric.COSINE,
        hnsw=Hnsw(),
        language="english",
        token_space="none",
        state=IndexState.READY,
    )


OLD, NEW = _index(1), _index(2)


def _route(share: int, salt: str = "7") -> Route:
    return Route(collection_id=1, epoch=1, serving=OLD, candidate=NEW, share=share, salt=salt)


@pytest.mark.parametrize(
    ("salt", "unit", "expected"), [("1", "alice", 715_168), ("42", "user-1", 475_884), ("42", "Zoë", 447_318)]
)
def test_the_published_vectors(salt: str, unit: str, expected: int) -> None:
    by_hand = int(hashlib.sha256(f"{salt}:{unit}".encode()).hexdigest()[:16], 16) % 1_000_000
    assert bucket(salt, unit) == by_hand == expected


@given(UNITS, SHARES, SHARES)
def test_a_growing_share_only_adds_and_a_shrinking_one_takes_the_newest(units: list[str], a: int, b: int) -> None:
    small, large = sorted((a, b))

    def at(share: int) -> set[str]:
        return {unit for unit in units if _route(share).choose(unit).arm is Arm.CANDIDATE}

    assert at(small) <= at(large)
    # Back at the small share, those are left who would have been there first: everybody in a lower bucket.
    newest = at(large) - at(small)
    assert all(bucket("7", old) < bucket("7", new) for old in at(small) for new in newest)


@given(st.text(min_size=1), SHARES)
def test_a_unit_has_one_side_and_the_other_one_to_fall_back_on(unit: str, share: int) -> None:
    choice = _route(share).choose(unit)
    assert choice == _route(share).choose(unit)
    if choice.arm is Arm.CANDIDATE:
        assert (choice.index, choice.otherwise) == (NEW, OLD)
    else:
        assert (choice.index, choice.otherwise) == (OLD, None)


def test_the_ends_of_the_share_and_no_unit() -> None:
    assert _route(0).choose("anybody").arm is Arm.SERVING
    assert _route(BUCKETS).choose(None).index is NEW
    assert _route(BUCKETS - 1).choose(None).index is OLD
    assert _route(0).choose("anybody", share=BUCKETS).index is NEW
    assert _route(BUCKETS).choose("anybody", share=0).index is OLD
    assert [share_of(percent) for percent in (0, 0.0001, 12.5, 100)] == [0, 1, 125_000, BUCKETS]


def test_after_the_switch_the_new_index_answers_and_the_old_one_helps_out() -> None:
    switched = Route(collection_id=1, epoch=2, serving=NEW, previous=OLD, salt="7")
    choice = switched.choose(None)
    assert (choice.index, choice.arm, choice.otherwise) == (NEW, Arm.CANDIDATE, OLD)
    assert (switched.arm_of(NEW.id), switched.arm_of(OLD.id)) == (Arm.CANDIDATE, Arm.SERVING)
    over = Route(collection_id=1, epoch=3, serving=NEW)
    assert over.choose("anybody").arm is over.arm_of(NEW.id) is Arm.SERVING


def test_a_share_is_a_share() -> None:
    units = [f"user-{number}" for number in range(20_000)]
    inside = sum(bucket("7", unit) < share_of(25) for unit in units)
    assert inside / len(units) == pytest.approx(0.25, abs=0.015)
