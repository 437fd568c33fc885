"""The best of what was found, looked at more closely, and put in a better order."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from typing import Literal

from reshelve.backends import Backends
from reshelve.domain.fusion import Fused, rerank
from reshelve.domain.indexes import Index
from reshelve.domain.late_interaction import maxsim
from reshelve.embedders.protocol import Embedder
from reshelve.stores.protocol import Passage
from reshelve.stores.scope import passages

Rerank = Literal["none", "late_interaction", "cross_encoder"]


async def open_reranker(backends: Backends, embedder: Embedder, how: Rerank) -> None:
    """What it takes to load a model is no search's time. Raises ModelError."""
    if how == "late_interaction":
        await backends.rerankers.token_embedder(embedder)
    elif how == "cross_encoder":
        await backends.rerankers.cross_encoder()


async def reranked(
    backends: Backends, index: Index, query: str, ranked: Sequence[Fused[int]], known: dict[int, Passage], how: Rerank
) -> list[Fused[int]]:
    """The first `rerank_candidates` in their new order, and the others as they were.

    `known` gets the passages that had to be read. Raises what the model raises.
    """
    settings = backends.settings.search
    head = [one.key for one in ranked[: settings.rerank_candidates]]
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
    return rerank(ranked, dict(zip(living, scores, strict=True)), leg=how, weight=settings.rerank_weight)


async def _scores(backends: Backends, index: Index, query: str, texts: Sequence[str], how: Rerank) -> Sequence[float]:
    if not texts:
        return []
    if how == "cross_encoder":
        return await (await backends.rerankers.cross_encoder()).scores(query, texts)
    embedder = await backends.rerankers.token_embedder(await backends.embedders.of(index.model_id))
    asked, of_texts = await asyncio.gather(
        embedder.token_vectors([query], of_query=True), embedder.token_vectors(texts)
    )
    return (await asyncio.to_thread(maxsim, asked[0], of_texts)).tolist()
