"""The measures of `bench chunking`, by hand."""

from __future__ import annotations

import pytest

from bench.chunking import Question, common, joined, measures, token_starts, tokens_in

TEXT = "one two three four five six seven eight nine ten"
STARTS = {"a": token_starts(TEXT), "b": token_starts(TEXT)}


def _at(first: str, last: str) -> tuple[int, int]:
    return TEXT.index(first), TEXT.index(last) + len(last)


def test_slices() -> None:
    assert joined([(5, 9), (0, 3), (2, 4), (9, 10)]) == [(0, 4), (5, 10)]
    assert common([(0, 4), (6, 9)], [(3, 7)]) == [(3, 4), (6, 7)]
    assert tokens_in([_at("two", "four"), _at("ten", "ten")], STARTS["a"]) == 4


def test_recall_precision_and_iou_count_tokens() -> None:
    question = Question("?", "a", [_at("two", "four"), _at("nine", "nine")])
    assert measures(question, [("a", _at("two", "four")), ("a", _at("nine", "nine"))], STARTS) == (1.0, 1.0, 1.0)
    found = [("a", _at("three", "six")), ("b", _at("one", "ten"))]
    assert measures(question, found, STARTS) == pytest.approx((2 / 4, 2 / 14, 2 / 16))
    twice = [("a", _at("two", "four")), ("a", _at("four", "five"))]
    assert measures(question, twice, STARTS) == pytest.approx((3 / 4, 3 / 5, 3 / 6))


def test_tokens_are_those_of_the_whole_text_wherever_it_is_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.chunking._WINDOW", 7)
    assert token_starts(TEXT).tolist() == STARTS["a"].tolist()
