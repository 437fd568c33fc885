"""Our chunkers beside those of LangChain and chonkie, on questions whose answers are marked in the texts.

    python -m bench chunking --collection PATH

PATH holds `documents/*.md` and `queries.jsonl` ({"text", "document", "references": [{"start", "end"}]}, code points):
the evaluation set of Smith and Troynikov, "Evaluating Chunking Strategies for Retrieval" (Chroma, 2024), from which the
three measures are too. All documents are one collection. For each question the nearest `TOP_K` chunks are taken, by
exact search with minilm-l6-v2, and the tokens in them are compared with those in the marked ranges:

    recall     of the marked tokens, those in the chunks
    precision  of the tokens in the chunks (twice where chunks overlap), those that are marked
    IoU        the tokens in both, of those in either

Every chunker counts with the same tokenizer, and no chunk exceeds the same size. A passage that a text has twice is
here two chunks for each of them (Reshelve itself would store it once). The texts are called `.md` and are hardly
Markdown: so ours cut them as text, and once as Markdown. The other chunkers are in the dependency group
`bench`; whichever is not installed is left out.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from reshelve.corpus.chunkers import STRATEGIES, Chunker, tokenizer_fingerprint
from reshelve.domain.documents import Chunking, Document
from reshelve.embedders.opening import open_embedder
from reshelve.embedders.protocol import Embedder
from reshelve.embedders.wordpiece import wordpiece
from reshelve.settings import EmbeddingSettings

TOP_K = 5
_WINDOW = 50_000
_Slice = tuple[int, int]
Cut = Callable[[str], Iterable[_Slice]]


@dataclass(frozen=True, slots=True)
class Question:
    text: str
    document: str
    marked: Sequence[_Slice]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One chunker's line: means over the questions, with the standard error of recall."""

    name: str
    chunks: int
    tokens: float
    seconds: float
    recall: float
    recall_error: float
    precision: float
    iou: float


def load(folder: Path) -> tuple[dict[str, str], list[Question]]:
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted((folder / "documents").glob("*.md"))}
    rows = [json.loads(line) for line in (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()]
    return texts, [
        Question(row["text"], row["document"].removesuffix(".md"), [(r["start"], r["end"]) for r in row["references"]])
        for row in rows
    ]


def chunkers(*, size: int) -> dict[str, Cut]:
    found = {f"reshelve {strategy}": _ours(strategy, size=size, overlap=0) for strategy in STRATEGIES}
    found["reshelve semantic, as Markdown"] = _ours("semantic", size=size, overlap=0, format="markdown")
    found["reshelve sliding_window, a quarter overlaps"] = _ours("sliding_window", size=size, overlap=size // 4)
    for name, make in (
        ("LangChain RecursiveCharacterTextSplitter", _langchain),
        ("chonkie RecursiveChunker", _chonkie),
    ):
        try:
            found[name] = make(size)
        except ImportError as error:
            print(f"left out: {name} ({error.name} is not installed)")
    return found


def _ours(strategy: str, *, size: int, overlap: int, format: str = "text") -> Cut:
    ruler = wordpiece()
    chunker = Chunker(
        Chunking(
            strategy=strategy,
            chunk_size=size,
            max_chunk_size=size,
            overlap=overlap,
            tokenizer=tokenizer_fingerprint(ruler),
        ),
        ruler,
    )

    def cut(text: str) -> Iterable[_Slice]:
        document = Document(external_id="", content=text, format=format)
        return chunker.slices(document)

    return cut


def _langchain(size: int) -> Cut:
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    splitter = RecursiveCharacterTextSplitter(
        chunk_size=size, chunk_overlap=0, length_function=_count, add_start_index=True
    )

    def cut(text: str) -> Iterable[_Slice]:
        made = splitter.create_documents([text])
        return [(each.metadata["start_index"], each.metadata["start_index"] + len(each.page_content)) for each in made]

    return cut


def _chonkie(size: int) -> Cut:
    from chonkie import RecursiveChunker

    chunker = RecursiveChunker(tokenizer=wordpiece(), chunk_size=size)
    return lambda text: [(each.start_index, each.end_index) for each in chunker.chunk(text)]


def _count(text: str) -> int:
    return len(wordpiece().encode(text, add_special_tokens=False))


def token_starts(text: str) -> NDArray[np.int64]:
    """Where each token of a text begins, a part at a time, each ending at white space."""
    starts: list[int] = []
    at = 0
    while at < len(text):
        end = min(at + _WINDOW, len(text))
        while end < len(text) and not text[end].isspace():
            end += 1
        encoding = wordpiece().encode(text[at:end], add_special_tokens=False)
        starts += [at + begin for begin, _ in encoding.offsets]
        at = end
    return np.array(starts, dtype=np.int64)


def joined(slices: Iterable[_Slice]) -> list[_Slice]:
    """The same places, each once."""
    found: list[_Slice] = []
    for start, end in sorted(slices):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def tokens_in(slices: Iterable[_Slice], starts: NDArray[np.int64]) -> int:
    return sum(int(np.searchsorted(starts, end) - np.searchsorted(starts, start)) for start, end in slices)


def common(left: Iterable[_Slice], right: Sequence[_Slice]) -> list[_Slice]:
    return [(max(a, c), min(b, d)) for a, b in left for c, d in right if max(a, c) < min(b, d)]


def measures(
    question: Question, found: Sequence[tuple[str, _Slice]], starts: Mapping[str, NDArray[np.int64]]
) -> tuple[float, float, float]:
    """Recall, precision and IoU of the chunks that were found, each with its document."""
    marked = joined(question.marked)
    ours = [place for document, place in found if document == question.document]
    both = tokens_in(common(joined(ours), marked), starts[question.document])
    wanted = tokens_in(marked, starts[question.document])
    taken = sum(tokens_in([place], starts[document]) for document, place in found)
    return both / wanted, both / taken if taken else 0.0, both / (wanted + taken - both)


async def measure(folder: Path, *, size: int, questions: int | None = None) -> list[Row]:
    texts, asked = load(folder)
    asked = asked[:questions]
    starts = {name: token_starts(text) for name, text in texts.items()}
    embedder = await open_embedder(EmbeddingSettings())
    try:
        queries = (await embedder.embed_queries([question.text for question in asked])).vectors
        rows: list[Row] = []
        for name, cut in chunkers(size=size).items():
            print(f"{name} ...", flush=True)
            rows.append(await _row(name, cut, texts, asked, queries, starts, embedder))
        return rows
    finally:
        await embedder.aclose()


async def _row(
    name: str,
    cut: Cut,
    texts: Mapping[str, str],
    asked: Sequence[Question],
    queries: NDArray[np.float32],
    starts: Mapping[str, NDArray[np.int64]],
    embedder: Embedder,
) -> Row:
    began = time.perf_counter()
    chunks = [(document, place) for document, text in texts.items() for place in cut(text)]
    seconds = time.perf_counter() - began
    vectors = (await embedder.embed_documents([texts[document][a:b] for document, (a, b) in chunks])).vectors
    best = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :TOP_K]
    scores = np.array(
        [measures(question, [chunks[at] for at in row], starts) for question, row in zip(asked, best, strict=True)]
    )
    recall, precision, iou = scores.mean(axis=0)
    return Row(
        name=name,
        chunks=len(chunks),
        tokens=sum(tokens_in([place], starts[document]) for document, place in chunks) / len(chunks),
        seconds=seconds,
        recall=recall,
        recall_error=scores[:, 0].std(ddof=1) / np.sqrt(len(scores)),
        precision=precision,
        iou=iou,
    )


def show(rows: Sequence[Row], *, size: int) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(f"{size} tokens a chunk, {TOP_K} chunks")
    for column in ("chunks", "tokens each", "seconds to cut", "recall", "± s.e.", "precision", "IoU"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.chunks:,}",
            f"{row.tokens:.0f}",
            f"{row.seconds:.2f}",
            f"{row.recall:.3f}",
            f"{row.recall_error:.3f}",
            f"{row.precision:.3f}",
            f"{row.iou:.3f}",
        )
    Console(width=150).print(table)


def run(collection: Path, *, sizes: Sequence[int] = (200,)) -> None:
    for size in sizes:
        show(asyncio.run(measure(collection, size=size)), size=size)
