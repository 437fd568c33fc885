"""One index asked: by meaning, by words, or both ways at once, and what was found read for the page that is wanted."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from reshelve.backends import Backends
from reshelve.database.pools import Connection
from reshelve.domain.bm25 import Bm25
from reshelve.domain.documents import Place
from reshelve.domain.fusion import Fused, Standing, best_of_each_first, fuse
from reshelve.domain.indexes import Index, Metric, Scope
from reshelve.errors import InputError
from reshelve.retrieval.highlighting import Span, highlights
from reshelve.retrieval.reranking import Rerank, open_reranker, reranked
from reshelve.stores import word_search
from reshelve.stores.protocol import Hit, Passage
from reshelve.stores.scope import passages
from reshelve.tasks import cancel_and_wait

Mode = Literal["dense", "lexical", "hybrid"]
MAX_DEPTH = 1000
"""No search goes deeper: offset and top_k together."""
_SPARE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is asked of an index beside the query. Results `offset` to `offset + top_k`.

    `mode` and `rerank` None: the settings' own.
    `exact` compares with every vector. `min_score` leaves out what scores less. `diversify` puts the best chunk of each
    document first. `highlight` finds the query's words in each passage, `explain` says where each leg had it.
    """

    top_k: int = 10
    offset: int = 0
    scope: Scope = field(default_factory=Scope)
    mode: Mode | None = None
    rerank: Rerank | None = None
    exact: bool = False
    min_score: float | None = None
    diversify: bool = False
    highlight: bool = False
    explain: bool = False

    @property
    def end(self) -> int:
        return self.offset + self.top_k


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One chunk that was found. `start` and `end` are code points of the document's content.

    `score` is the leg's own, or the fused one of a hybrid search. Where asked for, `legs` is where each leg had
    it, and `highlights` the words that were asked for: [start, end) in code points of the chunk's content.
    """

    document_id: str
    title: str
    chunk_id: int
    content: str
    start: int
    end: int
    score: float
    metadata: dict[str, Any]
    place: Place
    index: int
    model: str
    legs: dict[str, Standing] | None = None
    highlights: list[Span] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one index answered.

    `query_model` made the query's vector, `index.model` the index's: the same, always. None: no vector was made.
    """

    index: Index
    mode: Mode
    """The one that was used: an index that has no words is searched by meaning."""
    query_model: str | None
    results: list[Result]
    similarity: float | None
    """The greatest cosine that was met; None where the index has another metric, or nothing was found by meaning."""
    cached: bool
    """The query's vector was kept from an earlier search."""
    legs_ms: dict[str, float]
    embed_ms: float
    search_ms: float


@dataclass(slots=True)
class _Times:
    """Milliseconds of what was done, by name; legs run side by side."""

    by_name: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def of(self, name: str) -> Generator[None]:
        began = time.perf_counter()
        yield
        self.by_name[name] = (time.perf_counter() - began) * 1000


@dataclass(slots=True)
class _Vector:
    """Where the query's vector came from."""

    model: str | None = None
    cached: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    backends: Backends
    index: Index
    query: str
    options: Options
    mode: Mode
    rerank: Rerank
    times: _Times = field(default_factory=_Times)
    vector: _Vector = field(default_factory=_Vector)

    @property
    def deep(self) -> int:
        """So many hits of each leg: where they are put in another order, more than the page shows."""
        search = self.backends.settings.search
        deep = self.options.end if self.rerank == "none" else max(self.options.end, search.rerank_candidates)
        if self.mode == "hybrid" or self.options.diversify:
            return max(deep, search.candidates)
        # Of what is found by words, a few may go away before they are read.
        return deep + _SPARE if self.mode == "lexical" else deep


async def ask(backends: Backends, index: Index, query: str, options: Options) -> Answer:
    """Raises what the embedder and the store raise; StoreError when the index was dropped meanwhile."""
    mode = options.mode or backends.settings.search.mode
    if not index.has_words or options.scope.tenant is None:
        # A hybrid search, and the settings, ask for what there is; who asks for words alone is told of it.
        if options.mode == "lexical":
            raise InputError(
                f"index {index.id} cannot be searched by words",
                advice="Set rag.search.language, then reshelve apply; or search with mode dense.",
            )
        mode = "dense"
    rerank = options.rerank or backends.settings.search.rerank
    asked = _Asked(backends=backends, index=index, query=query, options=options, mode=mode, rerank=rerank)
    async with backends.pins.reading(index.id):
        if mode != "lexical" or rerank != "none":
            # What it takes to load a model is no search's time.
            await backends.embedders.of(index.model_id)
            await open_reranker(backends, index, rerank)
        began = time.perf_counter()
        legs = await _legs(asked)
        known = {hit.chunk_id: hit.passage for hits in legs.values() for hit in hits if hit.passage is not None}
        ranked = _ranked(asked, legs)
        if rerank != "none":
            with asked.times.of("rerank"):
                ranked = await reranked(backends, index, query, ranked, known, rerank)
        with asked.times.of("read"):
            results = await backends.database.read(functools.partial(_page, asked, ranked, known))
    embed_ms = asked.times.by_name.pop("embed", 0.0)
    dense = legs.get("dense")
    return Answer(
        index=index,
        mode=mode,
        query_model=asked.vector.model,
        results=results,
        similarity=dense[0].score if dense and index.metric is Metric.COSINE else None,
        cached=asked.vector.cached,
        legs_ms=asked.times.by_name,
        embed_ms=embed_ms,
        search_ms=(time.perf_counter() - began) * 1000 - embed_ms,
    )


async def _legs(asked: _Asked) -> dict[str, list[Hit]]:
    """What each leg found, best first."""
    if asked.mode == "lexical":
        return {"lexical": await _lexical(asked)}
    if asked.mode == "dense":
        return {"dense": await _dense(asked)}
    words = asyncio.create_task(_lexical(asked))
    try:
        return {"dense": await _dense(asked), "lexical": await words}
    finally:
        await cancel_and_wait(words)


async def _dense(asked: _Asked) -> list[Hit]:
    backends, index, options = asked.backends, asked.index, asked.options
    embedder = await backends.embedders.of(index.model_id)
    with asked.times.of("embed"):
        known = backends.query_cache.get(embedder.model, asked.query)
        vector = await backends.queries.embed(embedder, asked.query) if known is None else known
        backends.query_cache.keep(embedder.model, asked.query, vector)
    asked.vector.model, asked.vector.cached = embedder.model.name, known is not None
    store = backends.stores.of(index)

    async def look_up(connection: Connection) -> list[Hit]:
        return await store.search(
            connection,
            index,
            vector,
            limit=asked.deep,
            scope=options.scope,
            exact=options.exact,
            with_passages=asked.mode == "dense",
        )

    with asked.times.of("dense"):
        return await backends.database.read(look_up)


async def _lexical(asked: _Asked) -> list[Hit]:
    search = asked.backends.settings.search
    bm25 = Bm25(k1=search.bm25_k1, b=search.bm25_b)

    async def look_up(connection: Connection) -> list[Hit]:
        return await word_search.search(
            connection, asked.index, asked.query, limit=asked.deep, scope=asked.options.scope, bm25=bm25
        )

    with asked.times.of("lexical"):
        return await asked.backends.database.read(look_up)


async def _page(
    asked: _Asked, ranked: Sequence[Fused[int]], known: Mapping[int, Passage], connection: Connection
) -> list[Result]:
    """The results that are wanted, best first. In the place of a chunk that went away a moment ago comes the next."""
    index, options = asked.index, asked.options
    if options.min_score is not None:
        ranked = [one for one in ranked if one.score >= options.min_score]
    known = dict(known)
    if options.diversify:
        # A page further on asks for more: of what it finds beyond, nothing is to move to the pages before.
        head = ranked[: asked.backends.settings.search.candidates]
        known |= await _read(connection, head, known)
        head = best_of_each_first(head, lambda one: known[one.key].document_id if one.key in known else None)
        ranked = [*head, *ranked[len(head) :]]
    page: list[Fused[int]] = []
    rest = ranked[options.offset :]
    while rest and len(page) < options.top_k:
        some, rest = rest[: options.top_k - len(page)], rest[options.top_k - len(page) :]
        known |= await _read(connection, some, known)
        page += [one for one in some if one.key in known]
    results = [
        Result(
            document_id=passage.document_id,
            title=passage.title,
            chunk_id=one.key,
            content=passage.content,
            start=passage.start,
            end=passage.end,
            score=one.score,
            metadata=passage.metadata,
            place=Place.from_dict(passage.place),
            index=index.id,
            model=index.model.name,
            legs=one.legs if options.explain else None,
        )
        for one in page
        for passage in (known[one.key],)
    ]
    if not options.highlight:
        return results
    found = await highlights(connection, index, asked.query, [result.content for result in results])
    return [replace(result, highlights=spans) for result, spans in zip(results, found, strict=True)]


async def _read(
    connection: Connection, ranked: Sequence[Fused[int]], known: Mapping[int, Passage]
) -> dict[int, Passage]:
    missing = [one.key for one in ranked if one.key not in known]
    return await passages(connection, missing) if missing else {}


def _ranked(asked: _Asked, legs: Mapping[str, Sequence[Hit]]) -> list[Fused[int]]:
    search = asked.backends.settings.search
    if asked.mode != "hybrid":
        return [
            Fused(hit.chunk_id, hit.score, {name: Standing(rank, hit.score, hit.score)})
            for name, hits in legs.items()
            for rank, hit in enumerate(hits, 1)
        ]
    weights = {"dense": search.dense_weight, "lexical": 1 - search.dense_weight}
    found = {name: [(hit.chunk_id, hit.score) for hit in hits] for name, hits in legs.items()}
    return fuse(found, depth=search.candidates, weights=weights if search.fusion == "convex" else None)
