"""Pieces: their size in tokens, their place in the document, and that nothing of it is lost."""

from __future__ import annotations

import time
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from reshelve.corpus.chunkers import Chunker, tokenizer_fingerprint
from reshelve.corpus.token_counts import TokenCounter
from reshelve.domain.documents import Chunking, Document, Piece
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
TOKENIZERS = pytest.mark.parametrize("tokenizer", [WORDPIECE, BPE], ids=["wordpiece", "bpe"])


@cache
def _chunker(tokenizer: Tokenizer, *, size: int = 40, most: int = 50, overlap: int = 0) -> Chunker:
    chunking = Chunking(
        strategy="semantic",
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


@TOKENIZERS
@pytest.mark.parametrize("form", ["text", "markdown"])
def test_pieces_cover_the_document_and_fit(tokenizer: Tokenizer, form: str) -> None:
    text = "\n\n".join(f"# Heading {n}\n\n" + " ".join(SENTENCES[n * 10 : n * 10 + 10]) for n in range(20))
    document = Document(external_id="a", title="A title\nof two lines", content=f"\n {text}\n", format=form)
    pieces = _chunker(tokenizer).pieces(document)
    _check(document, pieces, tokenizer)
    assert "".join("".join(document.content[p.start : p.end].split()) for p in pieces) == "".join(text.split())
    assert all(piece.content.startswith("A title of two lines\n") for piece in pieces)
    full = sum(piece.token_count >= 30 for piece in pieces)
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


def test_neighbours_overlap_when_asked_to() -> None:
    document = Document(external_id="a", content=" ".join(SENTENCES[:30]))
    pieces = _chunker(WORDPIECE, size=60, most=70, overlap=30).pieces(document)
    _check(document, pieces, WORDPIECE, most=70)
    assert any(after.start < before.end for before, after in pairwise(pieces))


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
def test_long_texts_without_good_breaks_take_seconds_at_most(tokenizer: Tokenizer, content: str) -> None:
    document = Document(external_id="a", content=content)
    started = time.perf_counter()
    pieces = _chunker(tokenizer).pieces(document)
    assert time.perf_counter() - started < 20
    _check(document, pieces, tokenizer)
    assert max(len(piece.content) for piece in pieces) <= 50 * 16 + 16


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300), st.text(max_size=40))
def test_any_text_is_cut_into_pieces_that_fit(content: str, title: str) -> None:
    document = Document(external_id="a", title=title, content=content)
    for tokenizer in (WORDPIECE, BPE):
        pieces = _chunker(tokenizer, size=30, most=40).pieces(document)
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
