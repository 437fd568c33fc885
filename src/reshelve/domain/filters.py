"""Which documents a search may find, by their metadata: a filter as JSON, read into a small frozen tree.

The syntax is that of MongoDB's queries, as other vector stores speak it; `docs/reference.md` has all of it. A path
stands for a set of values: a list on the way, or at its end, stands for its items (one level of them). A condition
holds if one of the values meets it, and `$ne`, `$nin` and `$not` hold wherever the opposite does not: also where the
field is missing. Values of different types are never equal, and never in an order.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NoReturn, cast

from reshelve.errors import InputError

MAX_DEPTH = 20
MAX_CONDITIONS = 100
MAX_VALUES = 1_000
"""In one `$in`, `$nin` or `$all`."""
MAX_CHARACTERS = 64 * 1024
"""Of all names and texts in a filter."""
MAX_DIGITS = 300

Scalar = str | int | float | bool | None
Order = Literal["eq", "gt", "gte", "lt", "lte"]
Path = tuple[str, ...]

INSTANT_PATTERN = (
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"([T ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9]([.][0-9]{1,9})?)?(Z|[+-](0[0-9]|1[0-4])(:?[0-5][0-9])?)?)?"
)
"""ISO 8601: a date, or a date with a time. What says no offset is in UTC, and a date alone is its midnight."""
_FRACTION = re.compile(r"([.][0-9]{6})[0-9]+")


@dataclass(frozen=True, slots=True)
class Compare:
    path: Path
    order: Order
    value: Scalar | datetime


@dataclass(frozen=True, slots=True)
class OneOf:
    path: Path
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Exists:
    """The field is there, whatever its value: null too, and an empty list."""

    path: Path


@dataclass(frozen=True, slots=True)
class All:
    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    part: Filter


Filter = Compare | OneOf | Exists | All | AnyOf | Not

_LOGICAL = ("$and", "$or", "$not")
_FIELD = (*("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$all", "$exists", "$before", "$after", "$not"),)
_ORDERS: dict[str, Order] = {"$eq": "eq", "$gt": "gt", "$gte": "gte", "$lt": "lt", "$lte": "lte"}
_DATED: dict[str, Order] = {"$before": "lt", "$after": "gt"}


def instant_of(text: str) -> datetime | None:
    """The instant that an ISO 8601 text names, to the microsecond; None for any other text."""
    if re.fullmatch(INSTANT_PATTERN, text) is None:
        return None
    try:
        found = datetime.fromisoformat(_FRACTION.sub(r"\1", text))
    except ValueError:  # the 30th of February
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def path_of(name: str) -> Path:
    """The steps of a dotted name. Inside a step `\\.` is a dot, `\\$` a dollar sign, and `\\\\` a backslash."""
    steps = [""]
    rest = iter(name)
    for character in rest:
        if character == ".":
            steps.append("")
        elif character == "\\":
            following = next(rest, "")
            steps[-1] += following if following in {".", "$", "\\"} else character + following
        else:
            steps[-1] += character
    return tuple(steps)


def parse_filter(document: Mapping[str, Any] | None) -> Filter | None:
    """The filter that a JSON object says; None where it asks for nothing.

    Raises InputError, which names the place of what is wrong.
    """
    if document is None:
        return None
    found = _Reader().read(document, "", 1)
    return None if found == All(()) else found


def _refuse(at: str, what: str, advice: str = "") -> NoReturn:
    place = f"the filter, at {at if len(at) <= 120 else at[:117] + '...'}" if at else "the filter"
    raise InputError(f"{place}: {what}", advice=advice)


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name if name.startswith("$") else f"${name}", known, n=1)
    start = f'Did you mean "{close[0]}"? ' if close else ""
    return f"{start}There are: {', '.join(known)}."


def _joined(parts: list[Filter]) -> Filter:
    return parts[0] if len(parts) == 1 else All(tuple(parts))


class _Reader:
    """Reads one filter, and counts what there is in it."""

    def __init__(self) -> None:
        self._conditions = 0
        self._characters = 0

    def read(self, document: Any, at: str, depth: int) -> Filter:
        """An object of fields and of `$and`, `$or`, `$not`: all of them must hold."""
        entries = self._entries(document, at, depth)
        parts: list[Filter] = []
        for name, value in entries.items():
            place = f"{at}.{name}" if at else name
            if name.startswith("$"):
                parts.append(self._logical(name, value, place, depth))
                continue
            if f"${name}" in _LOGICAL and isinstance(value, (dict, list)):
                advice = f'Write "${name}". The field of that name inside is reached by "{name}.<its field>".'
                _refuse(place, "an operator begins with $", advice)
            parts.append(self._field(self._path(name, place), value, place, depth))
        return _joined(parts)

    def _logical(self, name: str, value: Any, at: str, depth: int) -> Filter:
        match name:
            case "$and" | "$or":
                if not isinstance(value, list) or not value:
                    _refuse(at, "it takes a list of at least one filter", f'Like {{"{name}": [{{"room": "hall"}}]}}.')
                listed = cast("list[Any]", value)
                parts = tuple(self._whole(each, f"{at}[{number}]", depth) for number, each in enumerate(listed))
                return All(parts) if name == "$and" else AnyOf(parts)
            case "$not":
                return Not(self._whole(value, at, depth))
            case _:
                _refuse(at, f"unknown operator {name!r:.60}", _nearest(name, _LOGICAL))

    def _whole(self, document: Any, at: str, depth: int) -> Filter:
        found = self.read(document, at, depth + 1)
        if found == All(()):
            _refuse(at, "it asks for nothing", "Give it a field, or leave it out.")
        return found

    def _field(self, path: Path, value: Any, at: str, depth: int) -> Filter:
        """What is asked of one field: a value that it equals, an object of operators, or an object of inner fields."""
        if isinstance(value, list):
            _refuse(at, "a list can mean any of its values, or all", 'Say which: {"$in": [...]} or {"$all": [...]}.')
        if not isinstance(value, dict):
            return self._condition(Compare(path, "eq", self._scalar(value, at)))
        entries = self._entries(value, at, depth + 1)
        if not entries:
            _refuse(at, "an empty object asks for nothing", 'For "it is there" write {"$exists": true}.')
        asked = [name for name in entries if name.startswith("$")]
        if not asked:
            return _joined([self._inner(path, name, each, f"{at}.{name}", depth) for name, each in entries.items()])
        if len(asked) < len(entries):
            _refuse(at, "operators and fields do not go together", "Put them into two objects, under $and.")
        return _joined([self._asked(path, name, each, f"{at}.{name}", depth) for name, each in entries.items()])

    def _inner(self, path: Path, name: str, value: Any, at: str, depth: int) -> Filter:
        if f"${name}" in (*_FIELD, *_LOGICAL):
            _refuse(
                at, "an operator begins with $", f'Write "${name}"; a field of that name is reached by a dotted path.'
            )
        return self._field(path + self._path(name, at), value, at, depth + 1)

    def _asked(self, path: Path, operator: str, value: Any, at: str, depth: int) -> Filter:
        match operator:
            case "$eq" | "$gt" | "$gte" | "$lt" | "$lte":
                return self._compare(path, _ORDERS[operator], value, at)
            case "$ne":
                return Not(self._compare(path, "eq", value, at))
            case "$before" | "$after":
                return self._condition(Compare(path, _DATED[operator], self._instant(value, at)))
            case "$in":
                return self._condition(OneOf(path, self._values(value, at)))
            case "$nin":
                return Not(self._condition(OneOf(path, self._values(value, at))))
            case "$all":
                values = self._values(value, at)
                if not values:
                    _refuse(at, "it takes at least one value", "Leave it out, or give one.")
                return _joined([self._condition(Compare(path, "eq", each)) for each in values])
            case "$exists":
                if not isinstance(value, bool):
                    _refuse(at, "it takes true or false")
                found = self._condition(Exists(path))
                return found if value else Not(found)
            case "$not":
                if not isinstance(value, dict):
                    _refuse(at, "it takes an object of operators", 'Like {"$not": {"$gt": 5}}; or write $ne.')
                return Not(self._field(path, value, at, depth + 1))
            case _:
                _refuse(at, f"unknown operator {operator!r:.60}", _nearest(operator, _FIELD))

    def _compare(self, path: Path, order: Order, value: Any, at: str) -> Filter:
        if isinstance(value, dict):
            entries = cast("dict[Any, Any]", value)
            if list(entries) != ["$date"]:
                _refuse(at, "it takes one value", 'A date is {"$date": "2024-05-01"}.')
            return self._condition(Compare(path, order, self._instant(entries["$date"], f"{at}.$date")))
        scalar = self._scalar(value, at)
        if order != "eq" and (scalar is None or isinstance(scalar, bool)):
            _refuse(at, f"{json.dumps(scalar)} is in no order", "It takes a number, a text or a date.")
        return self._condition(Compare(path, order, scalar))

    def _condition(self, found: Filter) -> Filter:
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            _refuse("", f"it has more than {MAX_CONDITIONS} conditions", "Many values of one field go into one $in.")
        return found

    def _entries(self, document: Any, at: str, depth: int) -> dict[str, Any]:
        if not isinstance(document, Mapping):
            _refuse(at, f"it is a {type(document).__name__}, not an object", 'Like {"room": "hall"}.')
        if depth > MAX_DEPTH:
            _refuse("", f"it is nested deeper than {MAX_DEPTH} levels")
        entries = cast("Mapping[Any, Any]", document)
        for name in entries:
            if not isinstance(name, str):
                _refuse(at, f"the key {name!r:.60} is not a text")
            self._text(name, at)
        return dict(entries)

    def _path(self, name: str, at: str) -> Path:
        path = path_of(name)
        if "" in path:
            _refuse(at, "a field has no name", r"A dot inside a field's name is written \. (in JSON \\.).")
        if len(path) > MAX_DEPTH:
            _refuse(at, f"the path has more than {MAX_DEPTH} steps")
        return path

    def _values(self, value: Any, at: str) -> tuple[Scalar, ...]:
        if not isinstance(value, (list, tuple)):
            _refuse(at, f"it takes a list of values, not a {type(value).__name__}", 'Like {"$in": ["hall", "attic"]}.')
        listed = cast("Sequence[Any]", value)
        if len(listed) > MAX_VALUES:
            _refuse(at, f"it has {len(listed):,} values; {MAX_VALUES:,} are the most")
        return tuple(self._scalar(each, f"{at}[{number}]") for number, each in enumerate(listed))

    def _scalar(self, value: Any, at: str) -> Scalar:
        match value:
            case None | bool():
                return value
            case str():
                return self._text(value, at)
            case int() if abs(value) < 10**MAX_DIGITS:
                return value
            case float() if math.isfinite(value):
                return value
            case int() | float():
                _refuse(at, f"a number must be finite, and have at most {MAX_DIGITS} digits")
            case _:
                kind = {"dict": "an object", "list": "a list"}.get(type(value).__name__, f"a {type(value).__name__}")
                _refuse(at, f"{kind} is no value", "A value is a text, a number, true, false or null.")

    def _text(self, text: str, at: str) -> str:
        self._characters += len(text)
        if self._characters > MAX_CHARACTERS:
            _refuse("", f"its names and texts have more than {MAX_CHARACTERS:,} characters")
        if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
            _refuse(at, "a text has a NUL character or a lone surrogate, which no document can have")
        return text

    def _instant(self, value: Any, at: str) -> datetime:
        found = instant_of(self._text(value, at)) if isinstance(value, str) else None
        if found is None:
            _refuse(at, f"{value!r:.60} is no date", 'Like "2024-05-01" or "2024-05-01T09:30:00+02:00" (ISO 8601).')
        return found
