"""Documents cut into pieces that a model takes whole."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from itertools import pairwise

from semantic_text_splitter import MarkdownSplitter, TextSplitter
from tokenizers import Tokenizer

from reshelve.corpus.token_counts import TokenCounter
from reshelve.domain.documents import Chunking, Document, Piece
from reshelve.errors import InputError

_CHARACTERS_A_TOKEN = 16
"""A piece has at most these for each token: a megabyte that a tokenizer calls one unknown word is no chunk."""
_WINDOW_CHARACTERS = 8192
_UNBROKEN_WINDOW_CHARACTERS = 2048
_UNBROKEN_CHARACTERS = 500
_BREAK = re.compile(r"\s|[。！？．｡]")


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """128-bit hex hash of the tokenizer's definition, without its truncation and padding."""
    return hashlib.blake2b(_definition(tokenizer).encode(), digest_size=16).hexdigest()


def _definition(tokenizer: Tokenizer) -> str:
    definition = json.loads(tokenizer.to_str()) | {"truncation": None, "padding": None}
    return json.dumps(definition, sort_keys=True, ensure_ascii=False)


class Chunker:
    """Cuts documents in one way, counting with one tokenizer. Safe to use from several threads."""

    def __init__(self, chunking: Chunking, tokenizer: Tokenizer) -> None:
        if chunking.strategy != "semantic":
            raise InputError(f"unknown chunking strategy {chunking.strategy!r}", advice="Known strategies: semantic.")
        self._chunking = chunking
        # Its own copy: the embedder's truncates and pads.
        self._counter = TokenCounter(Tokenizer.from_str(_definition(tokenizer)))

    def pieces(self, document: Document) -> list[Piece]:
        """The pieces of a document, in order, each once.

        What is embedded is the title, a line break, and a slice of the content without white space around it. `start`
        and `end` are that slice's place. `token_count` is of the whole, and at most `max_chunk_size`: only a single
        code point that alone has more tokens than that is let through. The title may take half of the maximum; what is
        longer is cut off. A document with a title and no content is one piece, and one with neither none.
        """
        content = document.content
        title = " ".join(document.title[: self._chunking.max_chunk_size * _CHARACTERS_A_TOKEN].split())
        start = len(content) - len(content.lstrip())
        end = len(content.rstrip())
        if start >= end:
            whole = self._counter.start(title, tokens=self._chunking.max_chunk_size)
            return [Piece(content=whole, start=0, end=0, token_count=self._counter.count(whole))] if whole else []
        prefix = self._prefix(title)
        pieces: dict[str, Piece] = {}
        for begin, stop in self._slices(content, start, end, prefix, markdown=document.format == "markdown"):
            text = prefix + content[begin:stop]
            if text not in pieces:
                pieces[text] = Piece(content=text, start=begin, end=stop, token_count=self._counter.count(text))
        return list(pieces.values())

    def _prefix(self, title: str) -> str:
        if not title:
            return ""
        limit = self._chunking.max_chunk_size // 2
        kept = self._counter.start(title[: limit * _CHARACTERS_A_TOKEN], tokens=limit)
        return f"{kept}\n" if kept else ""

    def _slices(self, content: str, start: int, end: int, prefix: str, *, markdown: bool) -> Iterator[tuple[int, int]]:
        most = self._chunking.max_chunk_size
        taken = self._counter.count(prefix)
        if end - start <= most * _CHARACTERS_A_TOKEN and self._counter.count(prefix + content[start:end]) <= most:
            yield start, end
            return
        measure = self._measure(prefix, taken)
        splitter = self._splitter(measure, taken, markdown=markdown)
        for begin, stop in self._windows(splitter, content, start, end, room=self._wanted(taken)):
            yield from _fitting(content, begin, stop, lambda text: measure(text) <= most - taken)

    def _wanted(self, taken: int) -> int:
        return max(1, min(self._chunking.max_chunk_size, self._chunking.chunk_size) - taken)

    def _measure(self, prefix: str, taken: int) -> Callable[[str], int]:
        """The tokens that a text adds to the prefix. A text that cannot fit is not encoded only to learn so."""
        longest = self._chunking.max_chunk_size * _CHARACTERS_A_TOKEN

        def measure(text: str) -> int:
            if len(text) > longest:
                return len(text)
            return max(self._counter.count(prefix + text) - taken, len(text) // _CHARACTERS_A_TOKEN)

        return measure

    def _splitter(
        self, measure: Callable[[str], int], taken: int, *, markdown: bool
    ) -> TextSplitter | MarkdownSplitter:
        wanted, most = self._wanted(taken), self._chunking.max_chunk_size - taken
        overlap = min(self._chunking.overlap, wanted - 1)
        kind = MarkdownSplitter if markdown else TextSplitter
        return kind.from_callback(measure, (wanted, most), overlap)

    def _windows(
        self, splitter: TextSplitter | MarkdownSplitter, content: str, start: int, end: int, *, room: int
    ) -> Iterator[tuple[int, int]]:
        """Split a window at a time: the splitter's time grows with the square of a text without breaks.

        The last chunk of a window was cut off by its edge, so the next window begins where that chunk does.
        """
        width = max(_WINDOW_CHARACTERS, 4 * self._chunking.max_chunk_size * _CHARACTERS_A_TOKEN)
        while start < end:
            window = content[start : min(start + width, end)]
            if _is_unbroken(window[:_UNBROKEN_WINDOW_CHARACTERS]):
                window = window[:_UNBROKEN_WINDOW_CHARACTERS]
                chunks = self._cut_at_tokens(window, room)
            else:
                chunks = [(offset, offset + len(text)) for offset, text in splitter.chunk_indices(window)]
            following = start + len(window)
            if following < end and len(chunks) > 1 and chunks[-1][0] > 0:
                following = start + chunks.pop()[0]
            yield from ((start + begin, start + stop) for begin, stop in chunks)
            start = following

    def _cut_at_tokens(self, text: str, room: int) -> list[tuple[int, int]]:
        """Slices of `room` tokens: there is no better place to cut, and the splitter is slow to find that out."""
        ends = self._counter.token_ends(text)
        cuts = [0, *ends[room - 1 :: room]]
        if cuts[-1] < len(text):
            cuts.append(len(text))
        return [(begin, stop) for begin, stop in pairwise(cuts) if begin < stop]


def _is_unbroken(text: str) -> bool:
    """Longer than a sentence may be, and with hardly a place where a sentence could end."""
    return len(text) == _UNBROKEN_WINDOW_CHARACTERS and len(_BREAK.findall(text)) * _UNBROKEN_CHARACTERS < len(text)


def _fitting(content: str, start: int, end: int, fits: Callable[[str], bool]) -> Iterator[tuple[int, int]]:
    """The slice, halved until it fits: the tokens of a text are not always those that its parts led to expect."""
    pending = [(start, end)]
    while pending:
        begin, stop = pending.pop()
        text = content[begin:stop]
        begin, stop = begin + len(text) - len(text.lstrip()), stop - (len(text) - len(text.rstrip()))
        if begin >= stop:
            continue
        if stop - begin == 1 or fits(content[begin:stop]):
            yield begin, stop
            continue
        middle = (begin + stop) // 2
        pending += [(middle, stop), (begin, middle)]
