"""BM25 over packed postings, beside the formula written out."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reshelve.domain.bm25 import POSTING, Bm25, QueryWord, best_passages, idf

word = st.sampled_from("abcdef")
texts = st.dictionaries(st.integers(1, 10**12), st.lists(word, min_size=1, max_size=12), min_size=1, max_size=15)


def asked(passages: dict[int, list[str]], query: list[str], *, pieces: int) -> list[QueryWord]:
    words: list[QueryWord] = []
    for each, repeated in Counter(query).items():
        postings = [(chunk, text.count(each), len(text)) for chunk, text in sorted(passages.items()) if each in text]
        if postings:
            parts = [postings[at::pieces] for at in range(pieces)]
            words.append(QueryWord(repeated=repeated, postings=[np.array(part, POSTING) for part in parts]))
    return words


@given(texts, st.lists(word, min_size=1, max_size=6), st.floats(0, 3), st.floats(0, 1), st.integers(1, 4))
def test_scores_are_those_of_the_formula(
    passages: dict[int, list[str]], query: list[str], k1: float, b: float, pieces: int
) -> None:
    length = sum(map(len, passages.values()))
    found = best_passages(
        asked(passages, query, pieces=pieces), Bm25(k1=k1, b=b), passages=len(passages), length=length, most=100
    )
    expected: dict[int, float] = {}
    for chunk, text in passages.items():
        for each in query:
            frequency = text.count(each)
            if frequency:
                containing = sum(each in other for other in passages.values())
                rarity = math.log(1 + (len(passages) - containing + 0.5) / (containing + 0.5))
                norm = k1 * (1 - b + b * len(text) / (length / len(passages)))
                expected[chunk] = expected.get(chunk, 0.0) + rarity * frequency * (k1 + 1) / (frequency + norm)
    assert dict(found) == pytest.approx(expected)
    assert found == sorted(found, key=lambda one: (-one[1], one[0]))


@given(texts, st.lists(word, min_size=1, max_size=6), st.integers(1, 15))
def test_fewer_are_the_first_of_more(passages: dict[int, list[str]], query: list[str], most: int) -> None:
    words = asked(passages, query, pieces=2)
    length = sum(map(len, passages.values()))

    def best(number: int) -> list[tuple[int, float]]:
        return best_passages(words, Bm25(k1=1.2, b=0.75), passages=len(passages), length=length, most=number)

    assert best(most) == best(100)[:most]


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_a_word_is_never_worth_less_than_nothing_and_a_rarer_one_is_worth_more(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert 0 <= idf(high, high) <= idf(high, low)


def test_nothing_is_found_by_no_words() -> None:
    assert best_passages([], Bm25(k1=1.2, b=0.75), passages=0, length=0, most=10) == []
