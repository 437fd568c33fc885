"""Cursors: where the next page of a search begins, and which index answers it, whatever the route says by then."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from typing import NamedTuple

from reshelve.errors import InputError


class Cursor(NamedTuple):
    """`search` is a digest of what was asked. `index_id` None: the models are asked, which the request names."""

    search: str
    offset: int
    index_id: int | None

    def __str__(self) -> str:
        return base64.urlsafe_b64encode(json.dumps(self, separators=(",", ":")).encode()).decode().rstrip("=")


def digest(*asked: object) -> str:
    return hashlib.blake2b(repr(asked).encode(), digest_size=9).hexdigest()


def read_cursor(text: str, *, search: str) -> Cursor:
    """Raises InputError for what no search gave, or another one did."""
    try:
        match json.loads(base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4))):
            case [str(asked), int(offset), (int() | None) as index] if offset >= 0:
                cursor = Cursor(asked, offset, index)
            case _:
                raise ValueError
    except (ValueError, binascii.Error, RecursionError):
        raise InputError("the cursor is none of ours", advice="Give back `next` of the page before.") from None
    if cursor.search != search:
        raise InputError(
            "the cursor belongs to another search",
            advice="Ask for its next page with the query and options of the first.",
        )
    return cursor
