"""Filters in PostgreSQL: the SQL finds what the filter means, and nothing that a caller writes becomes SQL."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg import sql

import reshelve
from reshelve.domain.filters import parse_filter
from reshelve.errors import InputError
from reshelve.settings import Settings
from reshelve.stores.filters import filter_condition
from tests.conftest import Server
from tests.support.filtering import holds

HOSTILE = [
    "'; DROP TABLE reshelve.documents; --",
    '" ? (1 == 1)) || (@',
    '"',
    "\\",
    '\\"',
    "$",
    "$.**",
    "*",
    "%s",
    "%(a)s",
    "{}",
    "@",
    "\u2028",
    "\U0001f5dd",
    "\n",
    "\x01",
    "a' OR 'a'='a",
    '") || true || ("',
]
DATES = [
    *("2024-01-01", "2024-01-01T00:00:00Z", "2024-01-01T01:00+01:00", "2024-01-01 00:00:00.000001", "2023-12-31T23:59"),
    *("2024-01-01T00:00:00.123456789", "2024-01-01T10:00-05", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00+14:00"),
]
NO_DATES = [
    "2023-02-29",
    "0000-01-01",
    "2024-01-01T24:00",
    "2024-1-1",
    "today",
    "infinity",
    "2024-01-01T",
    "2024-01-01Z",
]
NUMBERS = [0, 1, -1, 2, 1.0, -0.0, 0.1, 1e22, 10**22, 1e23, 10**23, 1e-300, 1.7976931348623157e308, 10**299, -(10**40)]
MANY = [f"value {number}" for number in range(100)]
NAMES = st.sampled_from(["a", "b", "c", "a.b", "$gt", *HOSTILE])
TEXTS = st.sampled_from(["", "1", "x", "X", "true", "null", *HOSTILE, *DATES, *NO_DATES]) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=3
)
SCALARS = st.none() | st.booleans() | st.sampled_from(NUMBERS) | st.integers(-3, 3) | st.floats(-2, 2) | TEXTS
ORDERED = st.sampled_from(NUMBERS) | st.integers(-3, 3) | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=6
)
DOCUMENTS = st.lists(st.dictionaries(NAMES, VALUES, max_size=4), min_size=1, max_size=12)


def escaped(name: str) -> str:
    return name.replace("\\", "\\\\").replace(".", "\\.").replace("$", "\\$")


PATHS = st.lists(NAMES.map(escaped), min_size=1, max_size=3).map(".".join)
DATED = st.sampled_from(DATES)
COMPARED = SCALARS | DATED.map(lambda date: {"$date": date})
OPERATORS = st.one_of(
    st.tuples(st.sampled_from(["$eq", "$ne"]), COMPARED),
    st.tuples(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), ORDERED | DATED.map(lambda date: {"$date": date})),
    st.tuples(st.sampled_from(["$before", "$after"]), DATED),
    st.tuples(st.sampled_from(["$in", "$nin"]), st.lists(SCALARS, max_size=4)),
    # So many are looked up in another way.
    st.tuples(st.sampled_from(["$in", "$nin"]), st.lists(SCALARS, max_size=4).map(lambda few: few + MANY)),
    st.tuples(st.just("$all"), st.lists(SCALARS, min_size=1, max_size=2)),
    st.tuples(st.just("$exists"), st.booleans()),
).map(lambda pair: dict([pair]))
ASKED = st.recursive(OPERATORS, lambda inner: inner.map(lambda asked: {"$not": asked}), max_leaves=2) | SCALARS
FILTERS = st.recursive(
    st.dictionaries(PATHS, ASKED, min_size=1, max_size=2),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"$and": parts}),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"$or": parts}),
        inner.map(lambda part: {"$not": part}),
    ),
    max_leaves=4,
)


def found_by_sql(connection: psycopg.Connection[Any], wanted: dict[str, Any], documents: list[Any]) -> list[int]:
    parsed = parse_filter(wanted)
    assert parsed is not None
    clause, values = filter_condition(parsed)
    statement = sql.SQL(
        "SELECT d.position - 1 FROM jsonb_array_elements(%s::jsonb) WITH ORDINALITY d (metadata, position) "
        "WHERE {} ORDER BY d.position"
    ).format(clause)
    return [row[0] for row in connection.execute(statement, [json.dumps(documents), *values]).fetchall()]


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_the_sql_finds_what_the_filter_means(server: Server, zone: str) -> None:
    """Whatever the session's time zone and style of dates are."""

    @settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(wanted=FILTERS, documents=DOCUMENTS)
    @example(wanted={"a": {"$ne": 1}}, documents=[{}, {"a": None}, {"a": 1}, {"a": [1, 2]}, {"a": [[1]]}, {"a": {}}])
    @example(wanted={"a.b": 1}, documents=[{"a": [{"b": 1}]}, {"a": [[{"b": 1}]]}, {"a.b": 1}, {"a": {"b": [1]}}])
    @example(wanted={"a": {"$exists": True}}, documents=[{"a": None}, {"a": []}, {}, {"a": {}}])
    @example(wanted={"a": {"$eq": 10**23}}, documents=[{"a": 1e23}, {"a": 10**23}, {"a": str(10**23)}])
    @example(wanted={"a": {"$not": {"$before": "2024-01-01"}}}, documents=[{"a": date} for date in DATES + NO_DATES])
    def check(wanted: dict[str, Any], documents: list[dict[str, Any]]) -> None:
        parsed = parse_filter(wanted)
        assert parsed is not None
        expected = [at for at, document in enumerate(documents) if holds(parsed, document)]
        assert found_by_sql(connection, wanted, documents) == expected

    options = f"-c TimeZone={zone} -c DateStyle=SQL,DMY"
    with psycopg.connect(server.owner, autocommit=True, options=options) as connection:
        check()


async def ids(library: reshelve.Library, filters: dict[str, Any], **more: Any) -> set[str]:
    found = await library.search("shelf", top_k=100, filters=filters, **more)
    return {result.document_id for result in found.results}


async def test_by_words_too_only_what_the_filter_leaves_is_found(library: reshelve.Library) -> None:
    """Even where hundreds of others score higher."""
    rare = {"_id": "rare", "text": "a shelf among " + " ".join(f"word{n}" for n in range(60)), "metadata": {"rare": 1}}
    await library.ingest([rare, *({"_id": str(n), "text": f"shelf {n}", "metadata": {"n": n}} for n in range(300))])
    assert await ids(library, {"rare": {"$exists": True}}, mode="lexical") == {"rare"}
    assert await ids(library, {"n": {"$lt": 3}}, mode="lexical") == {"0", "1", "2"}
    assert await ids(library, {"n": {"$lt": 0}}, mode="lexical") == set()


async def test_names_and_values_stay_what_they_are(library: reshelve.Library) -> None:
    rows = [{"_id": str(n), "text": f"shelf {n}", "metadata": {name: name}} for n, name in enumerate(HOSTILE)]
    await library.ingest([*rows, {"_id": "other", "text": "shelf", "tenant_of": "x"}])
    for number, name in enumerate(HOSTILE):
        for asked in (name, {"$in": [name]}, {"$gte": name, "$lte": name}, {"$all": [name]}, {"$exists": True}):
            assert await ids(library, {escaped(name): asked}) == {str(number)}
        with pytest.raises(InputError):
            await library.search("shelf", filters={"a": {name: 1, "$gt": 1}})
    assert (await library.status()).documents == len(HOSTILE) + 1


async def test_a_filter_reaches_no_other_tenant(library: reshelve.Library) -> None:
    for tenant in ("", "a", "b"):
        await library.ingest({"_id": f"of {tenant}", "text": "a shelf", "metadata": {"n": 1}}, tenant=tenant)
    for wanted in ({"n": 1}, {"$or": [{"n": 1}, {"n": {"$exists": False}}]}, {"$not": {"n": 2}}):
        for tenant in ("", "a", "b"):
            assert await ids(library, wanted, tenant=tenant) == {f"of {tenant}"}


@pytest.mark.parametrize("rows", [1, 40])
async def test_few_are_found_among_many(settings_of: Callable[[str], Settings], rows: int) -> None:
    """Whatever the graph comes across on its way: what the filter leaves is found, whole."""
    text = '[rag.embedding]\nmodel = "hashing-64"\n[rag.vector_storage.hnsw]\nmin_rows = 20'
    async with reshelve.connect(settings_of(text)) as library:
        await search_for_few(library, rows)


async def search_for_few(library: reshelve.Library, rows: int) -> None:
    marked = {"_id": "far", "text": "nothing alike", "metadata": {"rare": True, "at": "2024-03-01"}}
    await library.ingest(
        [marked, *({"_id": str(n), "text": f"shelf {n}", "metadata": {"at": "x"}} for n in range(rows))]
    )
    for wanted in ({"rare": True}, {"at": {"$after": "2024-01-01"}}, {"rare": {"$exists": True}, "at": {"$ne": "x"}}):
        assert await ids(library, wanted) == {"far"}
    assert [index.built for index in (await library.status()).indexes] == [rows > 20]
