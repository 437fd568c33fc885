"""What a filter means, said once more and in Python: the SQL is held against it."""

from __future__ import annotations

import json
import operator
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

from reshelve.domain.filters import All, AnyOf, Compare, Exists, Filter, Not, OneOf, instant_of

_ORDER = {"eq": operator.eq, "gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}


def holds(wanted: Filter, metadata: dict[str, Any]) -> bool:
    match wanted:
        case All(parts):
            return all(holds(part, metadata) for part in parts)
        case AnyOf(parts):
            return any(holds(part, metadata) for part in parts)
        case Not(part):
            return not holds(part, metadata)
        case Exists(path):
            return bool(reached(metadata, path))
        case OneOf(path, values):
            return any(compared("eq", found, value) for found in values_of(metadata, path) for value in values)
        case Compare(path, order, value):
            return any(compared(order, found, value) for found in values_of(metadata, path))


def reached(metadata: dict[str, Any], path: tuple[str, ...]) -> list[Any]:
    """The values at the end of a path; a list on the way stands for its items."""
    found: list[Any] = [metadata]
    for step in path:
        inside = [item for value in found for item in (value if isinstance(value, list) else [value])]
        found = [item[step] for item in inside if isinstance(item, dict) and step in item]
    return found


def values_of(metadata: dict[str, Any], path: tuple[str, ...]) -> Iterator[Any]:
    for value in reached(metadata, path):
        yield from value if isinstance(value, list) else [value]


def compared(order: str, found: Any, value: Any) -> bool:
    if isinstance(value, datetime):
        instant = instant_of(found) if isinstance(found, str) else None
        return instant is not None and _ORDER[order](instant, value)
    if kind_of(found) != kind_of(value) or kind_of(found) is None:
        return False
    if kind_of(found) == "number":
        # As JSON writes it: a float means its shortest digits, not its bits.
        return _ORDER[order](Decimal(json.dumps(found)), Decimal(json.dumps(value)))
    return _ORDER[order](found, value)


def kind_of(value: Any) -> str | None:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "text"
        case _:
            return None
