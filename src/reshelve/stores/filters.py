"""A filter as SQL. All that came from the caller is in the parameters: values, and the names of fields too.

A condition is a jsonpath, written as a parameter: names and texts stand in it as JSON writes them, in ASCII and in
quotes. With `@?` the server can tell by its statistics how many documents are left, and so whether to go through the
graph or to compare with what is left of them.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import LiteralString

from psycopg import sql

from reshelve.domain.filters import (
    INSTANT_PATTERN,
    All,
    AnyOf,
    Compare,
    Exists,
    Filter,
    Not,
    OneOf,
    Order,
    Path,
    Scalar,
)

_ORDER: dict[str, LiteralString] = {"eq": "=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_EQUAL = {**_ORDER, "eq": "=="}
"""In jsonpath."""
# What follows the pattern but is no date, like the 30th of February, is asked about and never cast.
_DATED = sql.SQL(
    r"""
    d.metadata @? %s::jsonpath AND EXISTS (
        SELECT FROM jsonb_path_query(d.metadata, %s::jsonpath) AS q (value),
            LATERAL (SELECT q.value #>> '{{}}') AS t (text),
            LATERAL (SELECT CASE WHEN t.text ~ {pattern} THEN
                regexp_replace(t.text, '([.][0-9]{{6}})[0-9]+', '\1')
                || CASE WHEN substr(t.text, 11) ~ '[Z+-]' THEN '' ELSE 'Z' END
            END) AS z (text)
        WHERE CASE WHEN pg_input_is_valid(z.text, 'timestamptz') THEN z.text::timestamptz {order} %s END
    )
    """
)


# jsonpath tries one value after the other; this looks them up. But no index helps here, and no statistics.
_AMONG = sql.SQL(
    "EXISTS (SELECT FROM jsonb_path_query(d.metadata, %s::jsonpath) AS q (value) WHERE q.value = ANY (%s::jsonb[]))"
)
_MANY = 100


def filter_condition(wanted: Filter) -> tuple[sql.Composable, list[object]]:
    """A condition over `d.metadata`, and its parameters. It is true, or it is false or null."""
    match wanted:
        case All(parts):
            return _joined(parts, " AND ")
        case AnyOf(parts):
            return _joined(parts, " OR ")
        case Not(part):
            inner, values = filter_condition(part)
            return sql.SQL("({}) IS NOT TRUE").format(inner), values
        case Compare(path, order, datetime() as instant):
            found = f'{_steps(path)} ? (@.type() == "string"{_around(order, instant)})'
            pattern = sql.Literal(f"^({INSTANT_PATTERN})$")
            return _DATED.format(pattern=pattern, order=sql.SQL(_ORDER[order])), [found, found, instant]
        case Compare(path, order, value):
            return _exists(path, f"@ {_EQUAL[order]} {_constant(value)}")
        case OneOf(_, ()):
            return sql.SQL("false"), []
        case OneOf(path, values) if len(values) > _MANY:
            found = f'{_steps(path)} ? (@.type() != "array")'
            return _AMONG, [found, [json.dumps(value) for value in values]]
        case OneOf(path, values):
            return _exists(path, " || ".join(f"@ == {_constant(value)}" for value in values))
        case Exists(path):
            return sql.SQL("d.metadata @? %s::jsonpath"), [_steps(path)]


def _joined(parts: tuple[Filter, ...], word: LiteralString) -> tuple[sql.Composable, list[object]]:
    found = [filter_condition(part) for part in parts]
    clauses = sql.SQL(word).join(clause for clause, _ in found)
    return sql.SQL("({})").format(clauses), [value for _, values in found for value in values]


def _exists(path: Path, condition: str) -> tuple[sql.Composable, list[object]]:
    # A filter goes through a list by itself; what is a list even then is an item of one, and is not gone through.
    return sql.SQL("d.metadata @? %s::jsonpath"), [f'{_steps(path)} ? (@.type() != "array" && ({condition}))']


def _around(order: Order, instant: datetime) -> str:
    """What the texts of such instants have in common: an offset moves their day by less than one.

    The server's statistics know texts and no instants: so it knows how many will be left.
    """
    try:
        day = instant.astimezone(UTC).date()
        first, beyond = day - timedelta(days=1), day + timedelta(days=2)
    except OverflowError:
        return ""
    least = "" if order in ("lt", "lte") else f' && @ >= "{first}"'
    most = "" if order in ("gt", "gte") else f' && @ < "{beyond}"'
    return least + most


def _steps(path: Path) -> str:
    return "$" + "".join(f".{json.dumps(step)}" for step in path)


def _constant(value: Scalar | datetime) -> str:
    return json.dumps(value)
