"""A filter is read as it is meant, and what is wrong with one is said with its place and what to write instead."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from reshelve.domain.filters import (
    MAX_CHARACTERS,
    MAX_CONDITIONS,
    MAX_DEPTH,
    MAX_VALUES,
    All,
    AnyOf,
    Compare,
    Exists,
    Not,
    OneOf,
    instant_of,
    parse_filter,
    path_of,
)
from reshelve.errors import InputError

HALL = Compare(("room",), "eq", "hall")
MAY = datetime(2024, 5, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("document", "meant"),
    [
        (None, None),
        ({}, None),
        ({"room": "hall"}, HALL),
        ({"room": {"$eq": "hall"}}, HALL),
        ({"room": "hall", "floor": None}, All((HALL, Compare(("floor",), "eq", None)))),
        ({"room": {"$ne": "hall"}}, Not(HALL)),
        ({"year": {"$gte": 2, "$lt": 4.5}}, All((Compare(("year",), "gte", 2), Compare(("year",), "lt", 4.5)))),
        ({"tags": {"$in": ["a", 1, True, None]}}, OneOf(("tags",), ("a", 1, True, None))),
        ({"tags": {"$nin": []}}, Not(OneOf(("tags",), ()))),
        ({"tags": {"$all": ["a", "b"]}}, All((Compare(("tags",), "eq", "a"), Compare(("tags",), "eq", "b")))),
        ({"tags": {"$exists": True}}, Exists(("tags",))),
        ({"tags": {"$exists": False}}, Not(Exists(("tags",)))),
        ({"at": {"$before": "2024-05-01"}}, Compare(("at",), "lt", MAY)),
        ({"at": {"$gte": {"$date": "2024-05-01T00:00:00+00:00"}}}, Compare(("at",), "gte", MAY)),
        ({"year": {"$not": {"$gt": 5}}}, Not(Compare(("year",), "gt", 5))),
        ({"$or": [{"room": "hall"}, {"a.b": 1}]}, AnyOf((HALL, Compare(("a", "b"), "eq", 1)))),
        ({"$not": {"$and": [{"room": "hall"}]}}, Not(All((HALL,)))),
        ({"a": {"b": 1, "c": {"$gt": 2}}}, All((Compare(("a", "b"), "eq", 1), Compare(("a", "c"), "gt", 2)))),
        ({"and": 1, "or": "x"}, All((Compare(("and",), "eq", 1), Compare(("or",), "eq", "x")))),
        ({r"No\. of items": 3}, Compare(("No. of items",), "eq", 3)),
    ],
)  # fmt: skip
def test_what_a_filter_means(document: Any, meant: Any) -> None:
    assert repr(parse_filter(document)) == repr(meant)


def nested(levels: int) -> dict[str, Any]:
    found: dict[str, Any] = {"room": "hall"}
    for _ in range(levels):
        found = {"$not": found}
    return found


@pytest.mark.parametrize(
    ("document", "said", "advised"),
    [
        ({"year": {"$gtt": 1}}, "at year.[$]gtt: unknown operator '[$]gtt'", 'Did you mean "$gt"?'),
        ({"year": {"gte": 2020}}, "at year.gte: an operator begins with [$]", 'Write "$gte"'),
        ({"$nor": [{"a": 1}]}, "at [$]nor: unknown operator", 'Did you mean "$or"?'),
        ({"and": [{"a": 1}]}, "at and: an operator begins with [$]", 'Write "$and"'),
        ({"not": {"a": 1}}, "at not: an operator begins with [$]", 'Write "$not"'),
        ({"$and": [{"a": 1}, {"b": {"$in": "x"}}]}, r"at \$and\[1\].b.\$in: it takes a list", "Like"),
        ({"$or": []}, "at [$]or: it takes a list of at least one", "Like"),
        ({"$and": [{}]}, r"at \$and\[0\]: it asks for nothing", "leave it out"),
        ({"tags": ["a"]}, "at tags: a list can mean any of its values, or all", "$in"),
        ({"tags": {"$all": []}}, "at least one value", "Leave it out"),
        ({"a": {}}, "at a: an empty object", "$exists"),
        ({"a": {"$gt": 1, "b": 2}}, "do not go together", "$and"),
        ({"a": {"$gt": True}}, "true is in no order", "a number, a text or a date"),
        ({"a": {"$eq": {"b": 1}}}, "it takes one value", "$date"),
        ({"a": {"$exists": 1}}, "true or false", ""),
        ({"a": {"$in": [[1]]}}, r"at a.\$in\[0\]: a list is no value", "A value is"),
        ({"a": {"$before": "yesterday"}}, "'yesterday' is no date", "ISO 8601"),
        ({"a": {"$before": "2023-02-29"}}, "is no date", "ISO 8601"),
        ({"a": {"$after": 5}}, "5 is no date", "ISO 8601"),
        ({"a..b": 1}, "a field has no name", r"\."),
        ({"a": float("nan")}, "finite", ""),
        ({"a": 10**300}, "300 digits", ""),
        ({"a": "x\0"}, "NUL", ""),
        ({"\ud800": 1}, "lone surrogate", ""),
        ({1: 2}, "is not a text", ""),
        ([], "it is a list, not an object", "Like"),
        ({f"f{number}": 1 for number in range(MAX_CONDITIONS + 1)}, "more than 100 conditions", "$in"),
        ({"a": {"$in": list(range(MAX_VALUES + 1))}}, "1,001 values", ""),
        ({"a": "x" * MAX_CHARACTERS}, "more than 65,536 characters", ""),
        (nested(MAX_DEPTH), "deeper than 20 levels", ""),
        ({".".join("a" * 21): 1}, "more than 20 steps", ""),
    ],
)
def test_what_is_wrong_is_said_with_its_place(document: Any, said: str, advised: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        parse_filter(document)
    assert advised in caught.value.advice


def test_the_limits_themselves_are_allowed() -> None:
    assert parse_filter(nested(MAX_DEPTH - 1)) is not None
    assert parse_filter({f"f{number}": 1 for number in range(MAX_CONDITIONS)}) is not None
    assert parse_filter({"a": {"$in": list(range(MAX_VALUES))}}) is not None
    with pytest.raises(InputError, match="deeper than 20"):
        parse_filter(nested(100_000))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a", ("a",)),
        ("a.b.c", ("a", "b", "c")),
        (r"a\.b", ("a.b",)),
        (r"a\\.b", ("a\\", "b")),
        (r"a\b", (r"a\b",)),
        ("a\\", ("a\\",)),
    ],
)
def test_paths(name: str, path: tuple[str, ...]) -> None:
    assert path_of(name) == path


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2024-05-01", MAY),
        ("2024-05-01T00:00Z", MAY),
        ("2024-05-01 02:00:00+02", MAY),
        ("2024-05-01T00:00:00.1234567", MAY + timedelta(microseconds=123456)),
        ("2024-05-01T05:30:00-0530", datetime(2024, 5, 1, 5, 30, tzinfo=timezone(timedelta(hours=-5, minutes=-30)))),
        ("2024-13-01", None),
        ("2024-05-01T24:00", None),
        ("2024-05-01\n", None),
        ("0000-05-01", None),
        ("1 May 2024", None),
        ("٢٠٢٤-05-01", None),
    ],
)
def test_instants(text: str, instant: datetime | None) -> None:
    assert instant_of(text) == instant
