"""How an answer's length is chosen, its citations checked, and an extract made."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reshelve.domain.citations import NO_ANSWER, CheckedAnswer
from reshelve.domain.extracts import extract, sentences
from reshelve.domain.greetings import local_answer
from reshelve.domain.styles import WordLimits, asks_for_summary, style_of, summary_top_k


@pytest.mark.parametrize(
    ("question", "style"),
    [
        ("When was the bridge built?", "minimal"),
        ("how many rooms are there", "minimal"),
        ("Is the door locked?", "minimal"),
        ("Briefly explain the outbox", "minimal"),
        ("What is a covering index?", "concise"),
        ("the key behind the pot", "concise"),
        ("Why does the drain wait?", "detailed"),
        ("How do I change the model?", "detailed"),
        ("Describe the door in detail", "detailed"),
        ("Summarize the report", "detailed"),
    ],
)
def test_the_style_is_in_the_wording(question: str, style: str) -> None:
    assert style_of(question) == style


def test_summaries_look_at_more_passages() -> None:
    asked = ["Give me a summary of it", "TL;DR", "what are the key points?", "summarise this", "an overview, please"]
    assert all(asks_for_summary(question) for question in asked)
    assert not asks_for_summary("what is the summit of the mountain?")
    assert [summary_top_k(top_k, most=30) for top_k in (1, 5, 6, 10, 50)] == [15, 15, 18, 30, 30]
    assert summary_top_k(6, most=10) == 10


def test_styles_have_word_limits() -> None:
    assert [WordLimits().of(style) for style in ("minimal", "concise", "detailed")] == [25, 60, 180]


@pytest.mark.parametrize(
    "said",
    ["Hi!", "hello there", "Good morning", "Who are you?", "Hi, who are you?", "thanks a lot", "what's your name"],
)
def test_small_talk_needs_no_document(said: str) -> None:
    assert local_answer(said)


@pytest.mark.parametrize(
    "said", ["hello world in C", "who are you looking for", "", "hi, where is the key?", "thanks to whom"]
)
def test_a_question_is_no_small_talk(said: str) -> None:
    assert local_answer(said) is None


def fed(pieces: list[str], *, passages: int) -> tuple[CheckedAnswer, str]:
    answer = CheckedAnswer(passages=passages)
    shown = "".join(answer.feed(piece) for piece in pieces)
    return answer, shown + answer.end()


def test_citations_are_checked() -> None:
    answer, shown = fed(["It hangs there [2], says one [1, 9] and another [7]. So [2][3]!"], passages=3)
    assert shown == "It hangs there [2], says one [1] and another. So [2][3]!"
    assert (answer.cited, answer.dropped, answer.abstained) == ([2, 1, 3], 2, False)
    plain, shown = fed(["a [b] c[ d", " [0] [1"], passages=1)
    assert shown == "a [b] c[ d [1"
    assert (plain.cited, plain.dropped) == ([], 1)


@given(st.lists(st.sampled_from(["a", " ", "[", "]", "1", "9", ",", "[1]", "NO_", "ANSWER", "\n"]), max_size=30))
def test_however_the_pieces_are_cut_the_answer_is_the_same(pieces: list[str]) -> None:
    whole, shown_whole = fed(["".join(pieces)], passages=3)
    answer, shown = fed(pieces, passages=3)
    assert answer.abstained == whole.abstained
    if not whole.abstained:
        assert shown == shown_whole == answer.text
        assert (answer.cited, answer.dropped) == (whole.cited, whole.dropped)


def test_a_mark_of_many_passages_is_checked_in_pieces_too() -> None:
    mark = f"[{', '.join(str(number) for number in range(1, 101))}]"
    answer, shown = fed(list(f"All say so {mark}."), passages=20)
    assert shown == f"All say so {''.join(f'[{number}]' for number in range(1, 21))}."
    assert (len(answer.cited), answer.dropped) == (20, 80)


def test_much_white_space_takes_no_longer() -> None:
    gap = " " * 200_000
    began = time.perf_counter()
    _, shown = fed([f"It{gap}is{gap}[9] blue{gap}[1"], passages=1)
    assert shown == f"It{gap}is blue{gap}[1"
    assert time.perf_counter() - began < 2  # it was minutes


def test_an_abstention_is_not_shown() -> None:
    answer, shown = fed(["NO", "_ANS", "WER", " The passages are about cats [1]."], passages=1)
    assert (answer.abstained, shown) == (True, "")
    begins_alike, shown = fed(["NO", " way [1]"], passages=1)
    assert (begins_alike.abstained, shown) == (False, "NO way [1]")
    assert NO_ANSWER == "NO_ANSWER"
    quoted, shown = fed([" **", "NO_", "ANSWER**"], passages=1)
    assert (quoted.abstained, shown) == (True, "")


def test_what_was_shown_is_no_abstention() -> None:
    said = "It is blue [1]. NO_ANSWER"
    for pieces in ([said], ["It is blue [1].", " NO_ANSWER"], list(said)):
        answer, shown = fed(pieces, passages=1)
        assert (answer.abstained, shown, answer.text, answer.cited) == (False, said, said, [1])
    quoting = CheckedAnswer(passages=1, may_abstain=False)
    shown = quoting.feed("NO_ANSWER is what it says. [1]") + quoting.end()
    assert (quoting.abstained, shown) == (False, "NO_ANSWER is what it says. [1]")


DOOR = ("The door", "The key hangs behind the blue pot [12]. The door is green.")
CAT = ("The cat", "The cat is fed at seven, and once more if nobody told her.")


def test_an_extract_is_the_best_sentences_with_their_passages() -> None:
    found = extract("Where is the key?", [CAT, DOOR], max_words=25, min_support=0.4)
    assert found.text == "The key hangs behind the blue pot. [2]"
    assert found.cited == (2,)
    assert extract("What of the door?", [DOOR], max_words=9, min_support=0.4).text == "The door is green. [1]"
    both = extract("When is the cat fed, and where is the key?", [CAT, DOOR], max_words=60, min_support=0.4)
    assert both.cited == (1, 2)


def test_an_extract_looks_for_the_first_terms_of_a_long_question() -> None:
    rest = " ".join(f"word{number}" for number in range(2000))
    assert extract(f"Where is the key? {rest}", [CAT, DOOR], max_words=25, min_support=0.01).cited == (2,)
    assert extract(f"{rest} Where is the key?", [CAT, DOOR], max_words=25, min_support=0.0).cited == ()


@pytest.mark.parametrize(
    "question",
    [
        "Summarize what is known about oxygen",
        "What are the key points about oxygen?",
        "TL;DR of oxygen",
        "Sum up all that was said of oxygen",
    ],
)
def test_a_request_for_a_summary_is_not_what_it_is_of(question: str) -> None:
    oxygen = ("Oxygen", "Oxygen is a gas. Most life needs oxygen.")
    others = ("Bells", "It is known as Big Ben. The key is lost, so it is said. Points sum up.")
    found = extract(question, [others, oxygen], max_words=60, min_support=0.4)
    assert found.text == "Oxygen is a gas. [2] Most life needs oxygen. [2]"
    known = extract("Where is the known key?", [others, oxygen], max_words=60, min_support=0.4)
    assert known.cited == (1,)


def test_an_extract_abstains_where_no_passage_holds_the_question() -> None:
    assert extract("What is the capital of Peru?", [CAT, DOOR], max_words=25, min_support=0.4).text == ""
    assert extract("Where is the key of Lima's cathedral?", [CAT, DOOR], max_words=25, min_support=0.6).text == ""
    assert extract("Where is the key?", [], max_words=25, min_support=0.4).text == ""


@given(
    st.text(max_size=60),
    st.lists(st.tuples(st.text(max_size=20), st.text(max_size=200)), max_size=4),
    st.integers(1, 40),
)
def test_an_extract_is_short_and_cites_what_is_there(
    question: str, passages: list[tuple[str, str]], max_words: int
) -> None:
    found = extract(question, passages, max_words=max_words, min_support=0.0)
    assert all(1 <= number <= len(passages) for number in found.cited)
    marks = len(found.cited)
    assert len(found.text.split()) <= max_words + 1 + found.text.count("[") or marks == 0


def test_sentences_are_found_in_any_script() -> None:
    assert sentences("# One\n- Two. Three! «Four»") == ["Two.", "Three!", "«Four»"]
    wrapped = "It is kept open for as long as the soak lasts, which is 48 hours,\nand then no more.\n- Another\nLine"
    assert sentences(wrapped) == [
        "It is kept open for as long as the soak lasts, which is 48 hours, and then no more.",
        "Another",
        "Line",
    ]
    assert sentences("钥匙挂在蓝色花盆后面。门是绿色的。") == ["钥匙挂在蓝色花盆后面。", "门是绿色的。"]
    passages = [("", "猫七点喂食。"), ("", "钥匙挂在蓝色花盆后面。门是绿色的。")]
    found = extract("钥匙在哪里？", passages, max_words=25, min_support=0.2)
    assert found.cited == (2,)
