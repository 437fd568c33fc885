"""A row, with `_id`, `title` and `text`, as a document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reshelve.corpus.checks import check_document
from reshelve.domain.documents import Document
from reshelve.errors import DocumentRefused


def from_mapping(row: Mapping[str, Any], *, line: int | None = None) -> Document:
    """`_id` (or `id`), `title`, `text`; the fields of an object `metadata`, and every other field, become metadata.

    Raises DocumentRefused, with `line`.
    """
    try:
        document = _document_of(row)
        check_document(document)
    except DocumentRefused as refusal:
        raise DocumentRefused(refusal.message, line=line, advice=refusal.advice) from None
    return document


def _document_of(row: Mapping[str, Any]) -> Document:
    key = "_id" if "_id" in row else "id"
    external_id = row.get(key)
    if isinstance(external_id, int) and not isinstance(external_id, bool):
        external_id = str(external_id)
    if not isinstance(external_id, str) or not external_id.strip():
        said = "is missing" if external_id is None else f"is {external_id!r:.60}: it must be a string that is not empty"
        raise DocumentRefused(f"the document's `_id` {said}")
    title, text = row.get("title"), row.get("text", "")
    title = "" if title is None else title
    for name, value in (("title", title), ("text", text)):
        if not isinstance(value, str):
            kind = json_name(value)
            raise DocumentRefused(f"the {name} of document {external_id!r:.60} is of type {kind}, not a string")
    metadata = {name: value for name, value in row.items() if name not in {key, "title", "text"}}
    inner: Any = metadata.get("metadata")
    if isinstance(inner, dict):
        del metadata["metadata"]
        twice = sorted(str(name) for name in metadata.keys() & inner.keys())  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        if twice:
            field = f"{twice[0]!r:.60}"
            raise DocumentRefused(f"document {external_id!r:.60} has {field} both inside `metadata` and beside it")
        metadata.update(inner)  # pyright: ignore[reportUnknownArgumentType]
    return Document(external_id=external_id, title=title, content=text, metadata=metadata)


def json_name(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case str():
            return "string"
        case list():
            return "array"
        case int() | float():
            return "number"
        case _:
            return "object"
