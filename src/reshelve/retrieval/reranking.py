"""The best of what was found, looked at more closely, and put in a better order."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from typing import Literal

from reshelve.backends import Backends
from reshelve.domain.fusion import Fused, rerank
from reshelve.domain.indexes import Index
from reshelve.domain.late_interaction import maxsim, reduce, unpack
from reshelve.domain.models import Vectors
from reshelve.embedders.protocol import TokenEmbedder
from reshelve.stores import tokens
from reshelve.stores.protocol import Passage
from reshelve.stores.scope import passages

Rerank = Literal["none", "late_interaction", "cross_encoder"]


async def open_reranker(backends: Backends, index: Index, how: Rerank) -> None:
    """What it takes to load a model is no search's time. Raises ModelError."""
    if how == "late_interaction":
        await _token_embedder(backends, index)
    elif how == "cross_encoder":
        await backends.rerankers.cross_encoder()


async def _token_embedder(backends: Backends, index: Index) -> TokenEmbedder:
    embedder = await backends.embedders.of(index.model_id)
    if index.has_tokens:
        return await backends.rerankers.of_space(embedder, index.token_space)
    return await backends.rerankers.token_embedder(embedder)


async def reranked(
    backends: Backends, index: Index, query: str, ranked: Sequence[Fused[int]], known: dict[int, Passage], how: Rerank
) -> list[Fused[int]]:
    """The first `rerank_candidates` in their new order, and the others as they were.

    `known` gets the passages that had to be read. Raises what the model raises.
    """
    settings = backends.settings.search
    head = [one.key for one in ranked[: settings.rerank_candidates]]
    if how == "late_interaction" and index.has_tokens:
        scores = await _stored_scores(backends, index, query, head)
    else:
        scores = await _fresh_scores(backends, index, query, head, known, how)
    return rerank(ranked, scores, leg=how, weight=settings.rerank_weight)


async def _stored_scores(backends: Backends, index: Index, query: str, head: Sequence[int]) -> dict[int, float]:
    """Of those whose token vectors are there: while an index is being filled, some may not be."""
    embedder = await _token_embedder(backends, index)
    of_query, packed = await asyncio.gather(
        embedder.token_vectors([query], of_query=True),
        backends.database.read(functools.partial(tokens.read, index=index, chunk_ids=head)),
    )
    found = await asyncio.to_thread(_maxsim_of_packed, of_query[0], list(packed.values()))
    return dict(zip(packed, found, strict=True))


def _maxsim_of_packed(query: Vectors, packed: Sequence[bytes]) -> list[float]:
    asked = reduce(query)
    return maxsim(asked, [unpack(each, dimension=asked.shape[1]) for each in packed]).tolist()


async def _fresh_scores(
    backends: Backends, index: Index, query: str, head: Sequence[int], known: dict[int, Passage], how: Rerank
) -> dict[int, float]:
    missing = [key for key in head if key not in known]
    if missing:
        known |= await backends.database.read(functools.partial(passages, chunk_ids=missing))
    # A chunk that went away a moment ago is left where it was.
    living = [key for key in head if key in known]
    backends.pace.query_began()
    try:
        scores = await _scores(backends, index, query, [known[key].content for key in living], how)
    finally:
        backends.pace.query_ended()
    return dict(zip(living, scores, strict=True))


async def _scores(backends: Backends, index: Index, query: str, texts: Sequence[str], how: Rerank) -> Sequence[float]:
    if not texts:
        return []
    if how == "cross_encoder":
        return await (await backends.rerankers.cross_encoder()).scores(query, texts)
    embedder = await _token_embedder(backends, index)
    asked, of_texts = await asyncio.gather(
        embedder.token_vectors([query], of_query=True), embedder.token_vectors(texts)
    )
    return (await asyncio.to_thread(maxsim, asked[0], of_texts)).tolist()
