"""What a document has to be like before it is stored."""

from __future__ import annotations

import json
import math
from typing import Any

from reshelve.domain.documents import Document
from reshelve.errors import DocumentRefused

MIB = 1024**2
MAX_DOCUMENT_BYTES = 10 * MIB
MAX_TITLE_BYTES = 64 * 1024
MAX_METADATA_BYTES = MIB
MAX_METADATA_DEPTH = 100
MAX_ID_BYTES = 1024
"""A B-tree entry holds at most 2,704 bytes."""


def check_document(document: Document) -> None:
    """Raise DocumentRefused unless PostgreSQL can store the document as it is, and there is something to find in it.

    Sizes are of the UTF-8 text: id 1 KiB, title 64 KiB, content 10 MiB (`MAX_DOCUMENT_BYTES`), metadata 1 MiB as JSON.
    """
    if not document.external_id.strip():
        raise DocumentRefused("the document has no id")
    name = f"document {_shortened(document.external_id)}"
    _check_text(document.external_id, f"the id of {name}", limit=MAX_ID_BYTES)
    _check_text(document.title, f"the title of {name}", limit=MAX_TITLE_BYTES)
    _check_text(document.content, f"the text of {name}", limit=MAX_DOCUMENT_BYTES)
    if not document.title.strip() and not document.content.strip():
        raise DocumentRefused(f"{name} has neither a title nor a text")
    check_metadata(document.metadata, f"the metadata of {name}")


def _check_text(text: str, what: str, *, limit: int) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise DocumentRefused(
            f"{what} has a lone surrogate (\\u{ord(text[error.start]):04x}) at character {error.start}: "
            "it is no valid Unicode"
        ) from None
    if size > limit:
        raise DocumentRefused(
            f"{what} is {_size(size)} long; at most {_size(limit)} can be stored",
            advice="Divide it into several documents.",
        )
    found = text.find("\0")
    if found >= 0:
        raise DocumentRefused(f"{what} has a NUL character at character {found}, which PostgreSQL cannot store")


def check_metadata(metadata: Any, what: str) -> None:
    """Raise DocumentRefused, which begins with `what`, unless it is a JSON object that PostgreSQL can store."""
    if not isinstance(metadata, dict):
        raise DocumentRefused(f"{what} is a {type(metadata).__name__}, not a dict")
    level: list[Any] = [metadata]
    depth = 0
    while level:
        depth += 1
        if depth > MAX_METADATA_DEPTH:
            raise DocumentRefused(f"{what} is nested deeper than {MAX_METADATA_DEPTH} levels")
        level = [child for value in level for child in _children(value, what)]
    if not metadata:
        return
    try:
        size = len(json.dumps(metadata, ensure_ascii=False).encode())
    except ValueError as error:  # an integer with more digits than Python converts
        raise DocumentRefused(f"{what} cannot be written as JSON: {error}") from None
    if size > MAX_METADATA_BYTES:
        raise DocumentRefused(f"{what} is {_size(size)} long; at most {_size(MAX_METADATA_BYTES)}")


def _children(value: Any, what: str) -> list[Any]:
    """The values directly inside a metadata value, after checking the value itself."""
    match value:
        case str():
            _check_text(value, what, limit=MAX_METADATA_BYTES)
        case float() if not math.isfinite(value):
            raise DocumentRefused(f"{what} holds {value}, which JSON has no word for")
        case None | bool() | int() | float():
            pass
        case list():
            return list(value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        case dict():
            return [*_checked_keys(value, what), *value.values()]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        case _:
            raise DocumentRefused(f"{what} holds a {type(value).__name__}, which is no JSON value")
    return []


def _checked_keys(value: dict[Any, Any], what: str) -> list[str]:
    """Keys are texts too, and are looked at with the next level."""
    for key in value:
        if not isinstance(key, str):
            raise DocumentRefused(f"{what} has the key {key!r}, which is not a string")
    return list(value)


def _shortened(name: str) -> str:
    return ascii(name if len(name) <= 60 else f"{name[:57]}...")


def _size(size: int) -> str:
    if size >= MIB:
        return f"{size / MIB:.1f} MB".replace(".0 MB", " MB")
    return f"{size / 1024:.1f} kB".replace(".0 kB", " kB")
