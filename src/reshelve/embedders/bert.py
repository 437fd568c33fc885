"""Models of the BERT family, run here by OpenVINO."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reshelve.domain.late_interaction import unit_rows
from reshelve.domain.models import Embedded, EmbeddingModel, Vectors, check_vectors
from reshelve.embedders.batches import LITTLE_CHARACTERS, all_or_first_error, batches_by_length, prefixed
from reshelve.embedders.bert_files import BertDirectory, read_bert_directory
from reshelve.embedders.bert_graph import Precision, build_graph, compile_graph
from reshelve.embedders.wordpiece import cut
from reshelve.errors import EmbeddingError, ModelError

_BATCH_TOKENS = 1024
"""Enough to keep a core busy, and few enough that a query never waits long behind documents (measured: 512 and 4,096
give the same throughput within 3 %)."""
_TEXTS_A_STEP = 2048


class BertEmbedder:
    """Batches of equal length run on threads of their own, one a stream, so the event loop stays free.

    Documents hold at most one batch a stream in the line; a query is next after the batch that is running.
    """

    costs_nothing = False

    def __init__(
        self, directory: BertDirectory, *, model: EmbeddingModel, location: str, precision: Precision | None
    ) -> None:
        """Blocking: reads, builds and compiles (0.5 s for MiniLM)."""
        self.model = model
        self.location = location
        self.max_tokens = directory.max_tokens
        self.tokenizer = directory.tokenizer()
        self._cutting_tokenizer: Any = directory.tokenizer()
        self._cutting_tokenizer.enable_truncation(self.max_tokens)
        self._lower_case = directory.lower_case
        compiled = _compiled(directory, precision)
        streams = max(1, int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")))
        self._idle: SimpleQueue[Any] = SimpleQueue()
        for _ in range(streams):
            self._idle.put(compiled.create_infer_request())
        self._threads = ThreadPoolExecutor(streams, thread_name_prefix="reshelve-bert")
        self._document_turns = asyncio.Semaphore(streams)
        self._closed = False

    async def embed_documents(self, texts: Sequence[str]) -> Embedded:
        return await self._embed(prefixed(texts, self.model.document_prefix), turns=self._document_turns)

    async def embed_queries(self, texts: Sequence[str]) -> Embedded:
        turns = asyncio.Semaphore(max(1, len(texts)))
        return await self._embed(prefixed(texts, self.model.query_prefix), turns=turns)

    @property
    def token_space(self) -> str:
        return f"{self.model.name}/{self.model.fingerprint[:8]}"

    async def token_vectors(self, texts: Sequence[str], *, of_query: bool = False) -> list[Vectors]:
        self._refuse_if_closed()
        ready = prefixed(texts, self.model.query_prefix if of_query else self.model.document_prefix)
        little = sum(map(len, ready)) <= LITTLE_CHARACTERS
        encoded, special = self._tokens(ready) if little else await asyncio.to_thread(self._tokens, ready)
        found: list[Vectors] = [np.empty((0, self.model.dimension), np.float32)] * len(ready)

        async def fill_one(batch: list[int]) -> None:
            async with nullcontext() if of_query else self._document_turns:
                hidden = await self._on_a_thread([encoded[place] for place in batch], tokens=True)
            for place, states in zip(batch, hidden, strict=True):
                found[place] = unit_rows(states[: len(encoded[place])][~special[place]])

        batches = batches_by_length([len(ids) for ids in encoded], padded_tokens=_BATCH_TOKENS)
        await all_or_first_error(fill_one(batch) for batch in batches)
        return found

    async def aclose(self) -> None:
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        while not self._idle.empty():
            self._idle.get()

    async def _embed(self, texts: list[str], *, turns: asyncio.Semaphore) -> Embedded:
        self._refuse_if_closed()
        vectors = np.empty((len(texts), self.model.dimension), np.float32)
        tokens = 0
        for start in range(0, len(texts), _TEXTS_A_STEP):
            step = texts[start : start + _TEXTS_A_STEP]
            little = sum(map(len, step)) <= LITTLE_CHARACTERS
            encoded = self._token_ids(step) if little else await asyncio.to_thread(self._token_ids, step)
            tokens += sum(map(len, encoded))
            await self._fill(vectors[start : start + len(encoded)], encoded, turns)
        return Embedded(check_vectors(vectors, model=self.model, expected=len(texts)), tokens)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise EmbeddingError(f"{self.model.name} is closed")

    async def _fill(self, vectors: Vectors, encoded: list[list[int]], turns: asyncio.Semaphore) -> None:
        async def fill_one(batch: list[int]) -> None:
            async with turns:
                vectors[batch] = await self._on_a_thread([encoded[place] for place in batch])

        batches = batches_by_length([len(ids) for ids in encoded], padded_tokens=_BATCH_TOKENS)
        await all_or_first_error(fill_one(batch) for batch in batches)

    async def _on_a_thread(self, batch: list[list[int]], *, tokens: bool = False) -> Vectors:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._infer, batch, tokens)

    def _token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._encoded(texts)]

    def _tokens(self, texts: Sequence[str]) -> tuple[list[list[int]], list[NDArray[np.bool_]]]:
        """The ids of each text, and which of them stand for no part of it."""
        encoded = self._encoded(texts)
        return [each.ids for each in encoded], [np.array(each.special_tokens_mask, bool) for each in encoded]

    def _encoded(self, texts: Sequence[str]) -> list[Any]:
        # The library tokenizes the whole text before it cuts; a book's worth is cut first.
        short = [
            cut(text, tokenizer=self.tokenizer, max_tokens=self.max_tokens) if _long(text) else text for text in texts
        ]
        if self._lower_case:
            short = [text.lower() for text in short]
        return self._cutting_tokenizer.encode_batch_fast(short)

    def _infer(self, batch: list[list[int]], tokens: bool) -> Vectors:
        """(texts, hidden), or, of `tokens`, (texts, longest, hidden)."""
        longest = max(map(len, batch))
        ids = np.zeros((len(batch), longest), np.int32)
        mask = np.zeros((len(batch), longest), np.float32)
        for row, text in enumerate(batch):
            ids[row, : len(text)] = text
            mask[row, : len(text)] = 1.0
        request = self._idle.get()
        try:
            request.infer({"ids": ids, "mask": mask}, share_inputs=True)
            return request.get_output_tensor(int(tokens)).data.copy()
        finally:
            self._idle.put(request)


def open_bert(
    path: Path,
    *,
    name: str,
    location: str,
    query_prefix: str | None = None,
    document_prefix: str | None = None,
    price_per_million_tokens: float = 0.0,
    precision: Precision | None = None,
) -> BertEmbedder:
    """The model in `path`, under `name`. Prefixes are the model's own where None is given. Blocking."""
    directory = read_bert_directory(path)
    model = EmbeddingModel(
        name=name,
        provider="bert",
        dimension=directory.shape.hidden,
        revision=directory.revision(),
        query_prefix=directory.query_prefix if query_prefix is None else query_prefix,
        document_prefix=directory.document_prefix if document_prefix is None else document_prefix,
        pooling=directory.shape.pooling,
        normalized=directory.shape.normalized,
        price_per_million_tokens=price_per_million_tokens,
    )
    return BertEmbedder(directory, model=model, location=location, precision=precision)


def _compiled(directory: BertDirectory, precision: Precision | None) -> Any:
    graph = build_graph(directory.shape, directory.weights())
    try:
        return compile_graph(graph, precision=precision)
    except RuntimeError as error:
        raise ModelError(f"OpenVINO cannot compile {directory.path.name}: {error}") from error


def _long(text: str) -> bool:
    return len(text) > 100_000
