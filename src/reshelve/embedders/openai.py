"""Models behind any OpenAI-compatible endpoint: OpenAI, Gemini, Ollama, vLLM, TEI."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from reshelve.domain.models import Embedded, EmbeddingModel, Vectors, check_vectors
from reshelve.embedders.batches import all_or_first_error, batches_in_order, prefixed
from reshelve.embedders.openai_answers import decode_answer, error_of
from reshelve.embedders.openai_models import SHORTENED, described
from reshelve.embedders.wordpiece import cut, wordpiece
from reshelve.endpoints import LONGEST_WAIT_SECONDS, OPENAI_URL, PassingFault, fault_of, wait_seconds
from reshelve.errors import EmbeddingInvalid, EmbeddingUnavailable, SettingsError
from reshelve.settings import EmbeddingSettings

_MAX_TOKENS = 8191
_BYTES_A_TOKEN = 4
"""WordPiece counts a word of a foreign script as one token; a byte-pair tokenizer makes about one of every 4 bytes."""


class OpenAIEndpoint:
    """Requests to one endpoint for one model: keys, timeouts, retries. Knows nothing of batches and registrations."""

    def __init__(self, *, model: str, base_url: str, settings: EmbeddingSettings) -> None:
        from openai import AsyncOpenAI

        self.model = model
        self.base_url = base_url
        self._timeout_seconds = settings.timeout_seconds
        self._max_retries = settings.max_retries
        self._client = AsyncOpenAI(
            api_key=key_for(settings, base_url), base_url=base_url, timeout=settings.timeout_seconds, max_retries=0
        )

    async def vectors(self, texts: Sequence[str], *, dimensions: int | None) -> tuple[Vectors, int | None]:
        """As the endpoint has them, in the order of the texts; and the tokens it counted. Retries passing faults."""
        attempt = 0
        while True:
            answer = await self._attempt(texts, dimensions)
            if not isinstance(answer, PassingFault):
                return await asyncio.to_thread(decode_answer, answer, expected=len(texts))
            asked = answer.after_seconds
            if attempt >= self._max_retries or (asked is not None and asked > LONGEST_WAIT_SECONDS):
                wait = f" (it asks to wait {asked:.0f} s)" if asked is not None else ""
                raise EmbeddingUnavailable(
                    f"{self.base_url} failed {attempt + 1} times for {self.model}; at last: {answer.reason}{wait}",
                    advice="Nothing is lost; try again later. Lower rag.embedding.concurrency if it limits the rate.",
                )
            await asyncio.sleep(wait_seconds(attempt, asked))
            attempt += 1

    async def aclose(self) -> None:
        await self._client.close()

    async def _attempt(self, texts: Sequence[str], dimensions: int | None) -> bytes | PassingFault:
        from openai import APIError

        options: dict[str, Any] = {} if dimensions is None else {"dimensions": dimensions}
        try:
            # The client's timeout starts anew with every byte; this one is for the whole answer.
            async with asyncio.timeout(self._timeout_seconds):
                # Raw: the client's own models cost more than the request when there are thousands of vectors.
                answer = await self._client.embeddings.with_raw_response.create(
                    model=self.model, input=list(texts), encoding_format="base64", **options
                )
                return answer.content
        except TimeoutError:
            return PassingFault(f"no answer within {self._timeout_seconds:g} s")
        except APIError as error:
            fault = fault_of(error)
            if isinstance(fault, PassingFault):
                return fault
            raise error_of(fault, model=self.model, base_url=self.base_url) from error


class OpenAIEmbedder:
    """Batches by count and tokens, several in flight; queries do not wait for documents."""

    costs_nothing = False
    max_tokens = _MAX_TOKENS

    def __init__(self, endpoint: OpenAIEndpoint, *, model: EmbeddingModel, settings: EmbeddingSettings) -> None:
        self.model = model
        self.location = endpoint.base_url
        self._endpoint = endpoint
        self._batch_size = settings.batch_size
        self._batch_tokens = settings.batch_tokens
        self._dimensions = model.dimension if model.revision == SHORTENED else None
        self._document_turns = asyncio.Semaphore(settings.concurrency)
        self._query_turns = asyncio.Semaphore(settings.concurrency)

    @property
    def tokenizer(self) -> Tokenizer:
        return wordpiece()

    async def embed_documents(self, texts: Sequence[str]) -> Embedded:
        return await self._embed(prefixed(texts, self.model.document_prefix), self._document_turns)

    async def embed_queries(self, texts: Sequence[str]) -> Embedded:
        return await self._embed(prefixed(texts, self.model.query_prefix), self._query_turns)

    async def aclose(self) -> None:
        await self._endpoint.aclose()

    async def _embed(self, texts: list[str], turns: asyncio.Semaphore) -> Embedded:
        ready, batches = await asyncio.to_thread(self._batches, texts)
        vectors = np.empty((len(ready), self.model.dimension), np.float32)
        tokens = 0

        async def fill(batch: range) -> None:
            nonlocal tokens
            async with turns:
                found, counted = await self._checked(ready[batch.start : batch.stop])
            vectors[batch.start : batch.stop] = found
            tokens += counted

        await all_or_first_error(fill(batch) for batch in batches)
        return Embedded(vectors, tokens)

    async def _checked(self, texts: Sequence[str]) -> tuple[Vectors, int]:
        """A wrong answer is asked for once more; the second time it is an error."""
        try:
            return await self._asked(texts)
        except EmbeddingInvalid:
            return await self._asked(texts)

    async def _asked(self, texts: Sequence[str]) -> tuple[Vectors, int]:
        vectors, tokens = await self._endpoint.vectors(texts, dimensions=self._dimensions)
        check_vectors(vectors, model=self.model, expected=len(texts))
        if self.model.normalized:
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors, sum(_token_counts(texts)) if tokens is None else tokens

    def _batches(self, texts: list[str]) -> tuple[list[str], list[range]]:
        """The texts, cut where they are too long, and how they are divided.

        No tokenizer makes more tokens than there are bytes, so most texts need not be tokenized here.
        """
        ready = [_accepted(text) for text in texts]
        sizes = [len(text.encode()) for text in ready]
        fewest = -(-len(ready) // self._batch_size)
        batches = list(batches_in_order(sizes, count=self._batch_size, weight=self._batch_tokens))
        if len(batches) > fewest:
            counts = _token_counts(ready)
            batches = list(batches_in_order(counts, count=self._batch_size, weight=self._batch_tokens))
        return ready, batches


async def open_openai(settings: EmbeddingSettings, *, dimensions: int | None) -> OpenAIEmbedder:
    """The model that the settings name. A model that is not in the table below is asked for one vector."""
    endpoint = OpenAIEndpoint(model=settings.model, base_url=_base_url(settings), settings=settings)
    try:
        model = await described(endpoint, settings, dimensions=dimensions)
    except BaseException:
        await endpoint.aclose()
        raise
    return OpenAIEmbedder(endpoint, model=model, settings=settings)


def reopen_openai(model: EmbeddingModel, *, location: str, settings: EmbeddingSettings) -> OpenAIEmbedder:
    endpoint = OpenAIEndpoint(model=model.name, base_url=location, settings=settings)
    return OpenAIEmbedder(endpoint, model=model, settings=settings)


def _base_url(settings: EmbeddingSettings) -> str:
    return (settings.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL).rstrip("/")


def key_for(settings: EmbeddingSettings, base_url: str) -> str:
    """An endpoint gets its own key, and nobody else's. A local endpoint needs none, but the client wants one."""
    own = settings.endpoint_keys.get(base_url)
    declared = base_url == _base_url(settings)
    if own is None and declared:
        own = settings.api_key
    if own is not None:
        return own.get_secret_value()
    from_environment = os.environ.get("OPENAI_API_KEY")
    if from_environment and (declared or base_url == OPENAI_URL):
        return from_environment
    if base_url == OPENAI_URL:
        raise SettingsError(
            f"{settings.model} needs a key for {OPENAI_URL}",
            advice="Set OPENAI_API_KEY, or rag.embedding.api_key; or rag.embedding.base_url for another endpoint.",
        )
    return "none"


def _accepted(text: str) -> str:
    """The APIs refuse an empty text, and one that is longer than the model takes."""
    if not text:
        return " "
    return cut(text, tokenizer=wordpiece(), max_tokens=_MAX_TOKENS)


def _token_counts(texts: Sequence[str]) -> list[int]:
    encodings = wordpiece().encode_batch_fast(list(texts))
    return [
        max(len(encoding), len(text.encode()) // _BYTES_A_TOKEN)
        for text, encoding in zip(texts, encodings, strict=True)
    ]
