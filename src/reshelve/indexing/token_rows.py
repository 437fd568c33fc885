"""Token vectors of chunks, made ready to be stored. The text goes through the model a second time for them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from reshelve.backends import Backends
from reshelve.domain.indexes import Index
from reshelve.domain.late_interaction import pack
from reshelve.domain.models import Vectors
from reshelve.embedders.pace import Pace
from reshelve.indexing.vectors import ChunkText
from reshelve.stores.tokens import TokenRow

_CHUNKS_AT_ONCE = 64
"""Unreduced, the tokens of so many are some 20 MB."""
_CHUNKS_BESIDE_SEARCHES = 8


async def token_rows(
    backends: Backends, index: Index, chunks: Sequence[ChunkText], *, pace: Pace | None = None
) -> list[TokenRow]:
    """One row a chunk; none, where the index stores no token vectors. Without a `pace` nothing is held back.

    No transaction is open meanwhile. Raises what the model raises.
    """
    if not index.has_tokens or not chunks:
        return []
    embedder = await backends.rerankers.of_space(await backends.embedders.of(index.model_id), index.token_space)
    rows: list[TokenRow] = []
    while len(rows) < len(chunks):
        size = _CHUNKS_BESIDE_SEARCHES if pace is not None and pace.careful else _CHUNKS_AT_ONCE
        some = chunks[len(rows) : len(rows) + size]
        texts = [chunk.content for chunk in some]
        if pace is None:
            found = await embedder.token_vectors(texts)
        else:
            async with pace.working():
                found = await embedder.token_vectors(texts)
        packed = await asyncio.to_thread(_packed, found)
        rows += [TokenRow(chunk.id, each) for chunk, each in zip(some, packed, strict=True)]
    return rows


def _packed(found: Sequence[Vectors]) -> list[bytes]:
    return [pack(vectors) for vectors in found]
