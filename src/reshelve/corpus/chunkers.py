"""Documents cut into pieces that a model takes whole."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

from semantic_text_splitter import MarkdownSplitter, TextSplitter
from tokenizers import Tokenizer

from reshelve.corpus.packing import Slice, pack, sentences, words
from reshelve.corpus.places import MARKDOWN, Places
from reshelve.corpus.token_counts import TokenCounter
from reshelve.domain.documents import Chunking, Document, Piece
from reshelve.errors import InputError

STRATEGIES = ("semantic", "sentence", "sliding_window")
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
        if chunking.strategy not in STRATEGIES:
            known = ", ".join(STRATEGIES)
            raise InputError(f"unknown chunking strategy {chunking.strategy!r}", advice=f"Known strategies: {known}.")
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
        cut = self._cutting(document)
        if not content.strip():
            whole = self._counter.start(_one_line(document.title, cut.most), tokens=cut.most)
            return [Piece(content=whole, start=0, end=0, token_count=self._counter.count(whole))] if whole else []
        places = Places(document)
        pieces: dict[str, Piece] = {}
        for begin, stop in cut.slices(content, format=document.format):
            text = cut.prefix + content[begin:stop]
            if text not in pieces:
                tokens, place = self._counter.count(text), places.of(begin, stop)
                pieces[text] = Piece(content=text, start=begin, end=stop, token_count=tokens, place=place)
        return list(pieces.values())

    def slices(self, document: Document) -> Iterator[Slice]:
        """Where the content is cut, in order: a passage that comes twice is here twice."""
        return self._cutting(document).slices(document.content, format=document.format)

    def _cutting(self, document: Document) -> _Cutting:
        size, most = self._chunking.sizes(document.format)
        prefix = self._prefix(_one_line(document.title, most), most)
        return _Cutting(self._chunking, self._counter, prefix=prefix, size=size, most=most)

    def _prefix(self, title: str, most: int) -> str:
        if not title:
            return ""
        limit = most // 2
        kept = self._counter.start(title[: limit * _CHARACTERS_A_TOKEN], tokens=limit)
        return f"{kept}\n" if kept else ""


class _Cutting:
    """One document's content cut. Each piece, `prefix` included, aims for `size` tokens and has at most `most`."""

    def __init__(self, chunking: Chunking, counter: TokenCounter, *, prefix: str, size: int, most: int) -> None:
        self.prefix = prefix
        self.most = most
        self._chunking = chunking
        self._counter = counter
        taken = counter.count(prefix)
        self._taken = taken
        self._wanted = max(1, size - taken)
        self._room = most - taken
        self._overlap = min(chunking.overlap, self._wanted - 1)

    def slices(self, content: str, *, format: str) -> Iterator[Slice]:
        """In order; together they hold all but white space."""
        start, end = len(content) - len(content.lstrip()), len(content.rstrip())
        if start >= end:
            return
        if end - start <= self.most * _CHARACTERS_A_TOKEN and self._fits(content[start:end]):
            yield start, end
            return
        found = (
            fitting
            for begin, stop in self._by_strategy(content, start, end, format)
            for fitting in _fitting(content, begin, stop, self._fits)
        )
        yield from self._joined(content, found) if self._chunking.min_chunk_size else found

    def _by_strategy(self, content: str, start: int, end: int, format: str) -> Iterator[Slice]:
        # A table is cut between its rows, whatever the strategy.
        if self._chunking.strategy == "semantic" or format == "csv":
            return self._windows(content, start, end, markdown=format in MARKDOWN)
        if self._chunking.strategy == "sentence":
            units = sentences(content, start, end, counter=self._counter, most=self._room, measure=self._measure)
        else:
            units = words(content, start, end, counter=self._counter)
        return pack(units, wanted=self._wanted, overlap=self._overlap)

    def _fits(self, text: str) -> bool:
        return self._measure(text) <= self._room

    def _measure(self, text: str) -> int:
        """The tokens that a text adds to the prefix. A text that cannot fit is not encoded only to learn so."""
        if len(text) > self.most * _CHARACTERS_A_TOKEN:
            return len(text)
        return max(self._counter.count(self.prefix + text) - self._taken, len(text) // _CHARACTERS_A_TOKEN)

    def _joined(self, content: str, slices: Iterable[Slice]) -> Iterator[Slice]:
        """A slice under the smallest size put to the one before it, or to the one behind, if both fit together."""
        least = self._chunking.min_chunk_size - self._taken
        last: Slice | None = None
        for begin, stop in slices:
            if last is None:
                last = begin, stop
                continue
            small = min(self._measure(content[last[0] : last[1]]), self._measure(content[begin:stop])) < least
            if small and self._fits(content[last[0] : stop]):
                last = last[0], stop
                continue
            yield last
            last = begin, stop
        if last is not None:
            yield last

    def _windows(self, content: str, start: int, end: int, *, markdown: bool) -> Iterator[Slice]:
        """Split a window at a time: the splitter's time grows with the square of a text without breaks.

        The last chunk of a window was cut off by its edge, so the next window begins where that chunk does.
        """
        kind = MarkdownSplitter if markdown else TextSplitter
        splitter = kind.from_callback(self._measure, (min(self._wanted, self._room), self._room), self._overlap)
        width = max(_WINDOW_CHARACTERS, 4 * self.most * _CHARACTERS_A_TOKEN)
        while start < end:
            window = content[start : min(start + width, end)]
            if _is_unbroken(window[:_UNBROKEN_WINDOW_CHARACTERS]):
                window = window[:_UNBROKEN_WINDOW_CHARACTERS]
                chunks = self._cut_at_tokens(window, self._wanted)
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


def _one_line(title: str, tokens: int) -> str:
    return " ".join(title[: tokens * _CHARACTERS_A_TOKEN].split())


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
