"""Chunks of whole words or whole sentences, as many as fit, with an overlap."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any, NamedTuple

from reshelve.corpus.token_counts import TokenCounter

_WORD = re.compile(r"\S+")
_WINDOW_CHARACTERS = 8192
_WHOLE_WORD_TOKENS = 16
"""What has more is no word of a language with spaces, and may be cut anywhere."""
_WHOLE_WORD_CHARACTERS = 128
_LONGEST_RUN = 2048


class Unit(NamedTuple):
    """A slice of the content that is not cut, and its tokens."""

    start: int
    end: int
    tokens: int


Slice = tuple[int, int]


def pack(units: Iterable[Unit], *, wanted: int, overlap: int) -> Iterator[Slice]:
    """Slices of at most `wanted` tokens, or of one unit that has more; each begins with `overlap` tokens, as far as
    they are whole units, of the one before."""
    held: deque[Unit] = deque()
    total = 0
    for unit in units:
        if held and total + unit.tokens > wanted:
            yield held[0].start, held[-1].end
            while held and (total > overlap or total + unit.tokens > wanted):
                total -= held.popleft().tokens
        held.append(unit)
        total += unit.tokens
    if held:
        yield held[0].start, held[-1].end


def words(content: str, start: int, end: int, *, counter: TokenCounter) -> Iterator[Unit]:
    """What stands between white space; of what is too long for a word, its tokens."""
    for match in _WORD.finditer(content, start, end):
        begin, stop = match.span()
        tokens = counter.count(match[0]) if stop - begin <= _WHOLE_WORD_CHARACTERS else _WHOLE_WORD_TOKENS + 1
        if tokens <= _WHOLE_WORD_TOKENS:
            yield Unit(begin, stop, tokens)
        else:
            yield from _tokens(content, begin, stop, counter=counter)


def _tokens(content: str, start: int, end: int, *, counter: TokenCounter) -> Iterator[Unit]:
    """A part at a time: a tokenizer may take a run of letters of any length for one word that it does not know."""
    for at in range(start, end, _LONGEST_RUN):
        part = content[at : min(at + _LONGEST_RUN, end)]
        begin = at
        for stop in [*counter.token_ends(part), len(part)]:
            if at + stop > begin:
                yield Unit(begin, at + stop, max(1, -(-(at + stop - begin) // _WHOLE_WORD_TOKENS)))
                begin = at + stop


def sentences(
    content: str, start: int, end: int, *, counter: TokenCounter, most: int, measure: Callable[[str], int]
) -> Iterator[Unit]:
    """Sentences, as they end in most languages; the words of one that has more than `most` tokens."""
    for begin, stop in _sentences(content, start, end):
        tokens = measure(content[begin:stop])
        if tokens <= most:
            yield Unit(begin, stop, tokens)
        else:
            yield from words(content, begin, stop, counter=counter)


def _sentences(content: str, start: int, end: int) -> Iterator[Slice]:
    """A window at a time. The last sentence of a window was cut off by its edge, and is the first one of the next."""
    # The package has no types.
    boundaries_of: Any = import_module("sentencex").get_sentence_boundaries
    while start < end:
        window = content[start : min(start + _WINDOW_CHARACTERS, end)]
        found: list[Slice] = [(each["start_index"], each["end_index"]) for each in boundaries_of("en", window)]
        following = start + len(window)
        if following < end and len(found) > 1:
            following = start + found.pop()[0]
        for begin, stop in found:
            text = window[begin:stop]
            if stripped := text.strip():
                begin += len(text) - len(text.lstrip())
                yield start + begin, start + begin + len(stripped)
        start = following
