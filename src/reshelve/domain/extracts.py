"""An answer without a language model: the sentences of the passages that share most with the question."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import islice

from reshelve.domain.styles import without_request

_TERM = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
"""A word; of scripts that are written without spaces, each character."""
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=\S)|(?<=[。！？])|\n+")
_HEADING = re.compile(r"\s*#+\s")
_LIST_MARK = re.compile(r"^\s*([-*>]|\d+\.)\s+")
_BEGINS_ANEW = re.compile(r"\s*(#|[-*>|]\s|\||\d+\.\s)")
_WRAPPED = 60
"""Characters of a line that was broken because it was full."""
_ENDING = re.compile(r"(?<=\w{3})(ies|es|s|ing|ed)$")
_QUOTED_MARK = re.compile(r"\s*\[\d{1,4}(?:\s*[,;–-]\s*\d{1,4})*\]")
_COMMON = frozenset(
    _TERM.findall(
        """a about an and any are as at be been but by can could did do does for from had has have how i if in into is
        it its many me more much my no not of on or our please should so some than that the their them then there these
        they this to was we were what when where which who whom whose why will with would you your tell give
        summarize summarise summary overview explain describe discuss elaborate briefly detail details"""
    )
)
"""Words that say how to answer, and not of what."""
_CLOSE, _NEW = 0.5, 0.25
"""Sentences of less than this share of the best one's weight are left out; counting only terms that none had yet."""
_RANK_DISCOUNT = 0.05
_MOST_TERMS = 64
"""Of a question. Looking for sentences takes as many rounds."""


@dataclass(frozen=True, slots=True)
class Extract:
    """`text` is "" where the passages do not hold an answer. `cited` numbers the passages from 1."""

    text: str
    cited: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Sentence:
    passage: int
    text: str
    asked: frozenset[str]
    """The terms of the question that it has."""
    discount: float
    """Of a lower rank."""

    def weight(self, weights: Mapping[str, float], *, without: Set[str] = frozenset()) -> float:
        return self.discount * sum(weights[term] for term in self.asked - without)


def extract(question: str, passages: Sequence[tuple[str, str]], *, max_words: int, min_support: float) -> Extract:
    """The best sentences, each with the number of its passage, in at most `max_words` words.

    A passage is its heading, which is looked at but not quoted, and its text. A term of the question weighs more the
    fewer sentences have it (inverse document frequency); the first 64 count. `min_support` is the share of the
    question's weight, 0 to 1, that one passage must hold for there to be an answer.
    """
    asked = _asked(question)
    split = [sentences(text) for _, text in passages]
    frequency: Counter[str] = Counter(term for each in split for text in each for term in set(terms(text)))
    count = sum(len(each) for each in split)
    weights = {term: math.log(1 + (count + 1) / (1 + frequency[term])) for term in asked}
    total = sum(weights.values())
    held = [sum(weights[term] for term in asked & set(terms(f"{heading}\n{text}"))) for heading, text in passages]
    if not total or max(held, default=0.0) / total < min_support:
        return Extract("", ())
    found = [
        _Sentence(number, text, frozenset(asked & set(terms(text))), 1 / (1 + _RANK_DISCOUNT * number))
        for number, each in enumerate(split)
        for text in each
    ]
    return _joined(_best(found, weights), max_words)


def _best(found: Sequence[_Sentence], weights: Mapping[str, float]) -> list[_Sentence]:
    """First those that each bring most of what the ones before do not say, then the others, both best first."""
    ordered = sorted(found, key=lambda each: (-each.weight(weights), len(each.text)))
    if not ordered or not ordered[0].asked:
        return []
    most = ordered[0].weight(weights)
    first: list[_Sentence] = []
    said: set[str] = set()
    while True:
        next_one = max(ordered, key=lambda each: each.weight(weights, without=said))
        if next_one.weight(weights, without=said) < _NEW * most:
            break
        first.append(next_one)
        said |= next_one.asked
    return first + [each for each in ordered if each not in first and each.weight(weights) >= _CLOSE * most]


def sentences(passage: str) -> list[str]:
    """Without headings, the marks of lists, and reference marks, which would pass for ours. Headings say nothing."""
    cut = _SENTENCE_END.split(_unwrapped(passage))
    bare = (_QUOTED_MARK.sub("", _LIST_MARK.sub("", part)).strip() for part in cut if not _HEADING.match(part))
    return [part for part in bare if part]


def _unwrapped(passage: str) -> str:
    """A long line that does not end a sentence goes on in the next one, unless that begins something new."""
    lines: list[str] = []
    full = False
    for line in passage.split("\n"):
        if full and line.strip() and not _BEGINS_ANEW.match(line):
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line)
        full = len(line) >= _WRAPPED and not _HEADING.match(line)
    return "\n".join(lines)


def terms(text: str) -> list[str]:
    """Words in lower case, without the commonest English endings."""
    return [_ENDING.sub("", word) for word in _TERM.findall(text.casefold())]


def _asked(question: str) -> set[str]:
    words = _telling(without_request(question)) or _telling(question)
    distinct = dict.fromkeys(terms(" ".join(words) if words else question))
    return set(islice(distinct, _MOST_TERMS))


def _telling(text: str) -> list[str]:
    return [word for word in _TERM.findall(text.casefold()) if word not in _COMMON]


def _joined(best: Sequence[_Sentence], max_words: int) -> Extract:
    chosen: list[_Sentence] = []
    words = 0
    for each in best:
        length = len(each.text.split())
        if any(each.text == other.text for other in chosen) or (chosen and words + length > max_words):
            continue
        chosen.append(each)
        words += length
    parts = [f"{_shortened(each.text, max_words)} [{each.passage + 1}]" for each in chosen]
    return Extract(" ".join(parts), tuple(dict.fromkeys(each.passage + 1 for each in chosen)))


def _shortened(text: str, max_words: int) -> str:
    words = text.split()
    return text if len(words) <= max_words else " ".join(words[:max_words]) + " …"
