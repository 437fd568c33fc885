"""A hybrid search with a rerank of 30: from stored token vectors, and with token vectors made at the search.

What is stored comes of made-up token vectors, as many a passage as SciFact has on the mean: real ones of so many
passages would take half an hour. They are reduced, packed, written, fetched and compared as real ones are, and the
query goes through the built-in model. What the reduction costs in quality is in docs/decisions/0028.
"""

from __future__ import annotations

import statistics
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from bench.figures import Figure
from bench.free_embedder import unit_vectors
from bench.shelf import Server, octets, opened, put_in, queries, serving, settings_for
from reshelve.domain.models import Vectors
from reshelve.embedders.protocol import Embedder, TokenEmbedder
from reshelve.embedders.rerankers import Rerankers
from reshelve.library import Library
from reshelve.retrieval.search import SearchResponse
from reshelve.stores import tokens

ROWS = 86_000
TOKENS_A_PASSAGE = 181
SEARCHES = 200
MADE_AT_THE_SEARCH = 15
_POOL = 20_000


class FreeTokens:
    """The token vectors of passages are slices of one matrix; those of queries are the model's own."""

    def __init__(self, model: TokenEmbedder, *, dimension: int) -> None:
        self._model = model
        self._pool = unit_vectors(_POOL, dimension)
        self._next = 0
        self.token_space = model.token_space

    async def token_vectors(self, texts: Sequence[str], *, of_query: bool = False) -> list[Vectors]:
        if of_query:
            return await self._model.token_vectors(texts, of_query=True)
        return [self._some() for _ in texts]

    def _some(self) -> Vectors:
        self._next = (self._next + 7) % (_POOL - TOKENS_A_PASSAGE)
        return self._pool[self._next : self._next + TOKENS_A_PASSAGE]


class WithFreeTokens(Rerankers):
    async def of_space(self, embedder: Embedder, space: str) -> TokenEmbedder:
        return FreeTokens(await super().of_space(embedder, space), dimension=384)


async def run(server: Server) -> AsyncGenerator[list[Figure]]:
    database = server.database("rerank")
    async with opened(settings_for(database, '[rag.embedding]\nmodel = "hashing-64"\n')) as library:
        await put_in(library, ROWS, fed=False)
    declared = '[rag.embedding]\nmodel = "hashing-384"\n'
    stored = settings_for(database, f"{declared}[rag.search]\nlate_interaction = true\n")
    async with opened(stored) as library:
        free = WithFreeTokens(stored.search)
        filling = Library(replace(library.backends, rerankers=free), worker=False)
        await filling.apply(cutover=True)
        await free.close()
        index = await serving(library)
        plain = [each.total_ms for each in await _searches(library, SEARCHES, rerank=False)]
        reranked = await _searches(library, SEARCHES, rerank=True)
        size = await octets(library, tokens.table_name(index))
        await _forget_tokens(library)
        fresh = await _searches(library, MADE_AT_THE_SEARCH, rerank=True, warm=1)
    p50 = statistics.median(each.total_ms for each in reranked)
    yield [
        Figure(
            name=f"hybrid search, {ROWS:,} passages, rerank of 30 from stored token vectors: p50",
            value=p50,
            unit="ms",
            beside="without a rerank",
            raw=statistics.median(plain),
            target="< 60",
            met=p50 < 60,
        ),
        Figure(name="  of it the rerank", value=_rerank_ms(reranked), unit="ms"),
        Figure(
            name=f"  stored, {TOKENS_A_PASSAGE} tokens a passage",
            value=size / ROWS,
            unit="bytes a passage",
            beside="the token vectors as they are, float32",
            raw=TOKENS_A_PASSAGE * 384 * 4,
        ),
        Figure(
            name="rerank of 30, token vectors made at the search: p50",
            value=_rerank_ms(fresh),
            unit="ms",
            beside="from stored ones",
            raw=_rerank_ms(reranked),
        ),
    ]


def _rerank_ms(found: Sequence[SearchResponse]) -> float:
    return statistics.median(each.legs_ms["rerank"] for each in found)


async def _searches(library: Library, count: int, *, rerank: bool, warm: int = 20) -> list[SearchResponse]:
    found: list[SearchResponse] = []
    for query in queries(count + warm, seed=3):
        found.append(await library.search(query, rerank="late_interaction" if rerank else "none"))
    return found[-count:]


async def _forget_tokens(library: Library) -> None:
    """As if the index had none stored: each search makes its own."""
    async with library.backends.database.owner() as connection:
        await connection.execute("UPDATE indexes SET token_space = 'none'")
