"""Pieces: their size in tokens, their place in the document, and that nothing of it is lost."""

from __future__ import annotations

import time
from dataclasses import fields, replace
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from reshelve.corpus.chunkers import STRATEGIES, Chunker, tokenizer_fingerprint
from reshelve.corpus.token_counts import TokenCounter
from reshelve.domain.documents import FURTHER_CHUNKING, Chunking, Document, Piece, Place, Section
from reshelve.embedders.wordpiece import wordpiece
from reshelve.errors import InputError

SENTENCES = [
    f"Sentence number {n} says that shelf {n * 7 % 13} holds some {n * n} books, maybe more." for n in range(400)
]


def _byte_level_bpe() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


WORDPIECE, BPE = wordpiece(), _byte_level_bpe()
COUNTER = TokenCounter(WORDPIECE)
EACH = pytest.mark.parametrize("strategy", STRATEGIES)
TOKENIZERS = pytest.mark.parametrize("tokenizer", [WORDPIECE, BPE], ids=["wordpiece", "bpe"])


@cache
def _chunker(
    tokenizer: Tokenizer,
    *,
    size: int = 40,
    most: int = 50,
    overlap: int = 0,
    strategy: str = "semantic",
    **further: int,
) -> Chunker:
    chunking = Chunking(
        **further,
        strategy=strategy,
        chunk_size=size,
        max_chunk_size=most,
        overlap=overlap,
        tokenizer=tokenizer_fingerprint(tokenizer),
    )
    return Chunker(chunking, tokenizer)


def _tokens(tokenizer: Tokenizer, text: str) -> int:
    return len(tokenizer.encode(text, add_special_tokens=False))


def _check(document: Document, pieces: list[Piece], tokenizer: Tokenizer, *, most: int = 50) -> None:
    """Every piece is what it says it is, and together they are all of the content but white space."""
    for piece in pieces:
        body = document.content[piece.start : piece.end]
        assert body.strip() == body != ""
        assert piece.content.endswith(body)
        assert piece.token_count == _tokens(tokenizer, piece.content) <= most
    assert len({piece.hash for piece in pieces}) == len(pieces)


@EACH
@TOKENIZERS
@pytest.mark.parametrize("form", ["text", "markdown"])
def test_pieces_cover_the_document_and_fit(tokenizer: Tokenizer, form: str, strategy: str) -> None:
    text = "\n\n".join(f"# Heading {n}\n\n" + " ".join(SENTENCES[n * 10 : n * 10 + 10]) for n in range(20))
    document = Document(external_id="a", title="A title\nof two lines", content=f"\n {text}\n", format=form)
    pieces = _chunker(tokenizer, strategy=strategy).pieces(document)
    _check(document, pieces, tokenizer)
    assert "".join("".join(document.content[p.start : p.end].split()) for p in pieces) == "".join(text.split())
    assert all(piece.content.startswith("A title of two lines\n") for piece in pieces)
    full = sum(piece.token_count >= 25 for piece in pieces)
    assert full > len(pieces) * 0.6


@TOKENIZERS
def test_what_fits_is_one_piece(tokenizer: Tokenizer) -> None:
    document = Document(external_id="a", title="T", content=" A short text.\n\nOf two parts. ")
    (piece,) = _chunker(tokenizer).pieces(document)
    assert (piece.content, piece.start, piece.end) == ("T\nA short text.\n\nOf two parts.", 1, 29)
    assert piece.token_count == _tokens(tokenizer, piece.content)


@TOKENIZERS
def test_titles(tokenizer: Tokenizer) -> None:
    chunker = _chunker(tokenizer)
    assert [
        (p.content, p.start, p.end) for p in chunker.pieces(Document(external_id="a", title=" T ", content="\n"))
    ] == [("T", 0, 0)]
    assert chunker.pieces(Document(external_id="a", content=" \n ")) == []
    long = Document(external_id="a", title=" ".join(SENTENCES), content=" ".join(SENTENCES[:20]))
    pieces = chunker.pieces(long)
    _check(long, pieces, tokenizer)
    prefix = pieces[0].content.partition("\n")[0]
    assert long.title.startswith(prefix)
    assert 15 <= _tokens(tokenizer, prefix) <= 25
    (alone,) = chunker.pieces(Document(external_id="a", title=long.title, content=""))
    assert 35 <= alone.token_count <= 50


def test_a_repeated_passage_is_one_piece() -> None:
    passage = " ".join(SENTENCES[:3])
    pieces = _chunker(WORDPIECE).pieces(Document(external_id="a", content="\n\n".join([passage] * 5)))
    assert len({piece.content for piece in pieces}) == len(pieces) < 5


@EACH
def test_neighbours_overlap_when_asked_to(strategy: str) -> None:
    document = Document(external_id="a", content=" ".join(SENTENCES[:30]))
    pieces = _chunker(WORDPIECE, size=60, most=70, overlap=30, strategy=strategy).pieces(document)
    _check(document, pieces, WORDPIECE, most=70)
    assert any(after.start < before.end for before, after in pairwise(pieces))


@EACH
@TOKENIZERS
@pytest.mark.parametrize(
    "content",
    [
        "a" * 400_000,
        "中文" * 60_000,
        "x1.y2," * 40_000,
        "word " * 60_000,
        " " * 300_000 + "x",
        "x\n" * 100_000,
        "😀" * 90_000,
    ],
    ids=["letter", "chinese", "unbroken", "words", "space", "lines", "emoji"],
)
def test_long_texts_without_good_breaks_take_seconds_at_most(tokenizer: Tokenizer, content: str, strategy: str) -> None:
    document = Document(external_id="a", content=content)
    started = time.perf_counter()
    pieces = _chunker(tokenizer, strategy=strategy).pieces(document)
    assert time.perf_counter() - started < 20
    _check(document, pieces, tokenizer)
    assert max(len(piece.content) for piece in pieces) <= 50 * 16 + 16


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300), st.text(max_size=40), st.sampled_from(STRATEGIES), st.sampled_from([0, 12]))
def test_any_text_is_cut_into_pieces_that_fit(content: str, title: str, strategy: str, least: int) -> None:
    document = Document(external_id="a", title=title, content=content)
    for tokenizer in (WORDPIECE, BPE):
        chunker = _chunker(tokenizer, size=30, most=40, strategy=strategy, min_chunk_size=least)
        pieces = chunker.pieces(document)
        if content.strip():
            _check(document, pieces, tokenizer, most=40)
            kept = {mark for piece in pieces for mark in content[piece.start : piece.end]}
            assert {mark for mark in content if not mark.isspace()} <= kept


@settings(max_examples=500, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])) | st.text("ab \t\n\x0b\x1c\x85\u2028\xa0\u200b\u0301[SEP]中."))
def test_counting_by_words_counts_what_the_tokenizer_counts(text: str) -> None:
    assert COUNTER.count(text) == COUNTER.count(text) == _tokens(WORDPIECE, text)


def test_the_fingerprint_leaves_truncation_and_padding_out() -> None:
    other = Tokenizer.from_str(WORDPIECE.to_str())
    other.enable_truncation(5)
    other.enable_padding(length=100)
    assert tokenizer_fingerprint(other) == tokenizer_fingerprint(WORDPIECE) != tokenizer_fingerprint(BPE)
    document = Document(external_id="a", title="T", content=" ".join(SENTENCES[:20]))
    assert _chunker(other).pieces(document) == _chunker(WORDPIECE).pieces(document)


def test_an_unknown_strategy_is_refused() -> None:
    chunking = Chunking(strategy="by page", chunk_size=40, max_chunk_size=50, overlap=0, tokenizer="x")
    with pytest.raises(InputError, match="by page"):
        Chunker(chunking, WORDPIECE)


def _bodies(document: Document, **options: Any) -> list[str]:
    return [document.content[piece.start : piece.end] for piece in _chunker(WORDPIECE, **options).pieces(document)]


def test_sentences_stay_whole() -> None:
    text = "Dr. Ada Smith counted 3.5 million books. She stopped. Did she? " + " ".join(SENTENCES[:20])
    for body in _bodies(Document(external_id="a", content=text), strategy="sentence"):
        assert body[0].isupper()
        assert body[-1] in ".?"


def test_windows_are_full_whatever_the_text_says() -> None:
    document = Document(external_id="a", content="\n\n".join(SENTENCES[:40]))
    pieces = _chunker(WORDPIECE, strategy="sliding_window", overlap=10).pieces(document)
    assert all(34 <= piece.token_count <= 40 for piece in pieces[:-1])
    for before, after in pairwise(pieces):
        assert 5 <= _tokens(WORDPIECE, document.content[after.start : before.end]) <= 10


def test_no_piece_stays_under_the_smallest_size_beside_one_that_has_room() -> None:
    content = "\n\n".join(f"# Heading {at}\n\n{' '.join(SENTENCES[at : at + 1 + at % 3])}" for at in range(30))
    document = Document(external_id="a", content=content, format="markdown")
    few, many = _chunker(WORDPIECE, min_chunk_size=25), _chunker(WORDPIECE)
    assert min(piece.token_count for piece in many.pieces(document)) < 25
    pieces = few.pieces(document)
    _check(document, pieces, WORDPIECE)
    for before, after in pairwise(pieces):
        together = _tokens(WORDPIECE, document.content[before.start : after.end])
        assert min(before.token_count, after.token_count) >= 25 or together > 50


def test_tables_and_pdf_have_sizes_of_their_own() -> None:
    rows = [f"name: shelf {at}\nbooks: {at * at}\nroom: {at % 7}" for at in range(2, 40)]
    starts = [sum(len(row) + 2 for row in rows[:at]) for at in range(len(rows))]
    sections = tuple(Section(start, number) for number, start in enumerate(starts, 2))
    content = "\n\n".join(rows)
    own = {"csv_chunk_tokens": 30, "csv_chunk_max_tokens": 32, "pdf_chunk_tokens": 12, "pdf_chunk_max_tokens": 20}
    most = {}
    for form in ("csv", "pdf", "text"):
        document = Document(external_id="a", content=content, format=form, sections=sections)
        pieces = _chunker(WORDPIECE, size=60, most=70, strategy="sliding_window", **own).pieces(document)
        most[form] = max(piece.token_count for piece in pieces)
        if form == "csv":
            assert all(document.content[piece.start : piece.end].startswith("name: ") for piece in pieces), "whole rows"
            first, last = (
                [each.place.row for each in pieces],
                [each.place.last_row or each.place.row for each in pieces],
            )
            assert (first[0], last[0], last[-1]) == (2, 4, 39)
            assert first[1:] == [(row or 0) + 1 for row in last[:-1]]
    assert 20 < most["csv"] <= 32
    assert most["pdf"] <= 12
    assert 50 < most["text"] <= 60


def test_every_piece_knows_its_page() -> None:
    pages = [" ".join(SENTENCES[at * 4 : at * 4 + 4]) for at in range(5)]
    starts = [sum(len(page) + 2 for page in pages[:at]) for at in range(5)]
    sections = tuple(Section(start, number) for start, number in zip(starts, (1, 2, 4, 5, 6), strict=True))
    document = Document(external_id="a", content="\n\n".join(pages), format="pdf", sections=sections)
    for strategy in STRATEGIES:
        for piece in _chunker(WORDPIECE, strategy=strategy).pieces(document):
            begins = max(number for start, number in sections if start <= piece.start)
            ends = max(number for start, number in sections if start < piece.end)
            assert piece.place == Place(page=begins, last_page=None if begins == ends else ends)


def test_every_piece_knows_the_headings_above_it() -> None:
    text = f"""---
title: x
---
{SENTENCES[0]}

# One

{SENTENCES[1]}

```sh
# no heading
```

## One, a

{" ".join(SENTENCES[2:8])}

Two
===

{" ".join(SENTENCES[8:12])}
"""
    document = Document(external_id="a", content=text, format="markdown")
    paths = {}
    for piece in _chunker(WORDPIECE).pieces(document):
        for sentence in SENTENCES[:12]:
            if sentence in piece.content:
                paths[SENTENCES.index(sentence)] = piece.place.headings
    assert paths[0] == ()
    assert paths[5] == ("One", "One, a")
    assert paths[11] == ("Two",)
    plain = _chunker(WORDPIECE).pieces(Document(external_id="a", content=text))
    assert {piece.place for piece in plain} == {Place()}


def test_a_chunking_is_all_of_its_parameters() -> None:
    base = Chunking(strategy="semantic", chunk_size=200, max_chunk_size=250, overlap=0, tokenizer="t")
    assert base.fingerprint == "a7b93b5478d96d6ca38c87edab8fbcf5", "collections of earlier versions keep theirs"
    changes: list[dict[str, Any]] = [{"strategy": "sentence"}, {"chunk_size": 100}, {"max_chunk_size": 210}]
    changes += [{"overlap": 1}, {"tokenizer": "u"}, *({name: 90} for name in FURTHER_CHUNKING)]
    assert {next(iter(change)) for change in changes} == {each.name for each in fields(Chunking)}
    assert len({base.fingerprint, *(replace(base, **change).fingerprint for change in changes)}) == len(changes) + 1
