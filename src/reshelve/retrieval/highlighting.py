"""Which words of a passage are those that were asked for."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import chain

from reshelve.database.pools import Connection
from reshelve.domain.indexes import Index
from reshelve.stores.word_search import matching_words

Span = tuple[int, int]
_WORD = re.compile(r"\w+")


async def highlights(connection: Connection, index: Index, query: str, contents: Sequence[str]) -> list[list[Span]]:
    """For each text the words that have a stem of the query's: [start, end) in code points, in their order."""
    words = {match.group() for match in chain.from_iterable(map(_WORD.finditer, contents))}
    matching = await matching_words(connection, index, query, words)
    return [_spans(content, matching) for content in contents]


def _spans(content: str, words: Collection[str]) -> list[Span]:
    return [match.span() for match in _WORD.finditer(content) if match.group() in words]
