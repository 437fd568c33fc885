"""The plan: what differs between `rag.toml` and what serves, what will be done, and what that costs. Writes nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any
from uuid import UUID

from reshelve.backends import Backends
from reshelve.corpus.chunkers import Chunker
from reshelve.corpus.ingest import as_document
from reshelve.database import catalog, routes
from reshelve.database.pools import Connection
from reshelve.domain.documents import content_hash
from reshelve.domain.indexes import NO_LANGUAGE, NO_TOKENS, Index, IndexState
from reshelve.domain.late_interaction import STORED_DIMENSIONS
from reshelve.domain.migration import Action, Facts, State, foresee
from reshelve.domain.models import RegisteredModel
from reshelve.embedders.protocol import Embedder
from reshelve.migrations.declaration import Declaration, find_declared
from reshelve.stores.pgvector import HNSW_MAX_VECTOR_DIMENSION, statements_for

_PROBE_CHUNKS = 64
_PROBE_DOCUMENTS = 200
_BUILD_ROWS_PER_SECOND = 5000.0
"""HNSW build, 384 dimensions, m 16, ef_construction 64, two workers: measured on two cores. A guide, not a promise."""
_WORDS_TOKENS_PER_SECOND = 600_000.0
_WORDS_BYTES_A_TOKEN = 16
"""English abstracts just ingested; a guide too. A rewritten table takes 10."""
_TOKEN_ROW_BYTES = 150
"""Beside the vectors themselves: the row, its key, and the pieces that TOAST cuts it into."""


@dataclass(frozen=True, slots=True)
class Change:
    what: str
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`rows` chunks, of which `reused_rows` have their vector already; `tokens` and `cost_usd` are for the others.

    `embed_seconds` is for vectors and stored token vectors, as a probe with the new model on real chunks makes those
    that are not there yet; `build_seconds` for the words and the graph. `disk_bytes` is what the new index takes beside
    the old one, words and token vectors included; `token_vector_bytes` is their share.
    """

    collection: str
    changes: list[Change]
    actions: list[Action]
    rows: int
    reused_rows: int
    tokens: int
    cost_usd: float
    embed_seconds: float
    build_seconds: float
    disk_bytes: int
    token_vector_bytes: int
    probe_rows_per_second: float
    sql: list[str]
    risks: list[str]
    target: dict[str, Any]

    @property
    def needed(self) -> bool:
        return bool(self.changes)

    @property
    def seconds(self) -> float:
        return self.embed_seconds + self.build_seconds

    def as_dict(self) -> dict[str, Any]:
        plain = {key: value for key, value in asdict(self).items() if key != "actions"}
        return {
            **plain,
            "seconds": self.seconds,
            "actions": [{**action.as_dict(), "description": action.describe()} for action in self.actions],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Volume:
    """`tokens` in all `rows`, of which `new_rows` with `new_tokens` have no vector yet.

    The others say what another index of the same chunks has already.
    """

    rows: int
    tokens: int
    new_rows: int
    new_tokens: int
    has_words: bool = False
    has_token_vectors: bool = False


async def make_plan(
    backends: Backends, declaration: Declaration, embedder: Embedder, *, collection: str, tenant: str = ""
) -> Plan:
    """Raises NotFoundError for a collection that is not there, ModelDimensionConflict for a name of another size."""
    async with backends.database.service() as connection:
        route = await routes.get_route(connection, collection, tenant)
        await catalog.refuse_other_dimension(connection, declaration.model)
        chunkings = await catalog.live_chunkings(connection, route.collection_id)
        serving = route.serving
        chunking = next(known for known in chunkings if known.id == serving.chunking_id)
        changes = _changes(serving, chunking, declaration)
        existing = await find_declared(connection, declaration, route.collection_id)
        volume = await _volume(connection, serving, declaration, embedder, chunking, existing)
        probe = await _probe(backends, connection, serving, declaration, embedder, volume)
        next_index = await catalog.next_index_id(connection)
        built = existing is not None and await backends.stores.of(existing).built(connection, existing)
        registered = await catalog.get_model(connection, serving.model_id)
    ready = existing is not None and existing.state is IndexState.READY
    token_vector_bytes = 0 if ready else _token_vector_bytes(declaration, volume)
    steps = tuple(step.percent for step in backends.settings.rollout.steps)
    judging = backends.settings.rollout.judged_queries is not None
    facts = Facts(rows_left=volume.rows, steps_left=steps, judging=judging)
    if ready:
        facts = replace(facts, rows_left=0, older_transactions_ended=True, ranges_enumerated=True, target_built=built)
    return Plan(
        collection=collection,
        changes=changes,
        actions=list(foresee(State.PLANNED, facts)) if changes else [],
        rows=volume.rows,
        reused_rows=volume.rows - volume.new_rows,
        tokens=volume.new_tokens,
        cost_usd=declaration.model.cost_usd(volume.new_tokens),
        embed_seconds=(volume.rows if _makes_token_vectors(declaration, volume) else volume.new_rows) / (probe or 1.0),
        build_seconds=_words_seconds(declaration, volume) + _graph_seconds(declaration, 0 if built else volume.rows),
        disk_bytes=0 if ready else _disk_bytes(declaration, volume),
        token_vector_bytes=token_vector_bytes,
        probe_rows_per_second=probe,
        sql=_sql(declaration, existing.id if existing else next_index),
        risks=_risks(declaration, serving, volume, existing) + _keyless(backends, declaration, registered),
        target=declaration.as_dict(),
    )


def _changes(serving: Index, chunking: catalog.RegisteredChunking, declaration: Declaration) -> list[Change]:
    now, then = chunking.chunking, declaration.chunking
    pairs: Sequence[tuple[str, object, object]] = (
        ("model", serving.model.name, declaration.model.name),
        ("dimension", serving.model.dimension, declaration.model.dimension),
        ("model revision", serving.model.revision, declaration.model.revision),
        (
            "prefixes",
            (serving.model.query_prefix, serving.model.document_prefix),
            (declaration.model.query_prefix, declaration.model.document_prefix),
        ),
        ("chunking", now.strategy, then.strategy),
        ("chunk size", now.chunk_size, then.chunk_size),
        ("largest chunk", now.max_chunk_size, then.max_chunk_size),
        ("smallest chunk", now.min_chunk_size, then.min_chunk_size),
        ("overlap", now.overlap, then.overlap),
        ("chunk size of tables", _own(now.csv_chunk_tokens), _own(then.csv_chunk_tokens)),
        ("largest chunk of tables", _own(now.csv_chunk_max_tokens), _own(then.csv_chunk_max_tokens)),
        ("chunk size of PDF", _own(now.pdf_chunk_tokens), _own(then.pdf_chunk_tokens)),
        ("largest chunk of PDF", _own(now.pdf_chunk_max_tokens), _own(then.pdf_chunk_max_tokens)),
        ("tokenizer", now.tokenizer[:12], then.tokenizer[:12]),
        ("store", serving.backend, declaration.backend),
        ("metric", serving.metric.value, declaration.metric.value),
        ("hnsw.m", serving.hnsw.m, declaration.hnsw.m),
        ("hnsw.ef_construction", serving.hnsw.ef_construction, declaration.hnsw.ef_construction),
        ("language of the words", serving.language, declaration.language),
        ("token vectors", serving.token_space, declaration.token_space),
    )
    changes = [Change(what, str(before), str(after)) for what, before, after in pairs if before != after]
    if not changes and serving.model.fingerprint != declaration.model.fingerprint:
        changes.append(Change("model definition", serving.model.fingerprint, declaration.model.fingerprint))
    return changes


def _own(size: int | None) -> object:
    return "like others" if size is None else size


async def _volume(
    connection: Connection,
    serving: Index,
    declaration: Declaration,
    embedder: Embedder,
    chunking: catalog.RegisteredChunking,
    existing: Index | None,
) -> _Volume:
    if chunking.chunking.fingerprint != declaration.chunking.fingerprint and existing is None:
        return await _volume_after_cutting(connection, serving, declaration, embedder)
    chunking_id = serving.chunking_id if existing is None else existing.chunking_id
    # Rows of one space have their vectors already, whichever index holds them.
    cursor = await connection.execute(
        """
        WITH ready AS (
            SELECT m.fingerprint, i.language, i.token_space FROM indexes i JOIN embedding_models m ON m.id = i.model_id
            WHERE i.chunking_id = %(chunking)s AND i.state = 'ready'
        )
        SELECT count(*), coalesce(sum(token_count), 0)::bigint,
               EXISTS (SELECT FROM ready WHERE fingerprint = %(fingerprint)s),
               EXISTS (SELECT FROM ready WHERE language = %(language)s),
               EXISTS (SELECT FROM ready WHERE token_space = %(token_space)s)
        FROM chunks WHERE chunking_id = %(chunking)s
        """,
        {
            "chunking": chunking_id,
            "fingerprint": declaration.model.fingerprint,
            "language": declaration.language,
            "token_space": declaration.token_space,
        },
    )
    row = await cursor.fetchone()
    assert row is not None
    return _Volume(
        rows=row[0],
        tokens=row[1],
        new_rows=0 if row[2] else row[0],
        new_tokens=0 if row[2] else row[1],
        has_words=row[3],
        has_token_vectors=row[4],
    )


async def _volume_after_cutting(
    connection: Connection, serving: Index, declaration: Declaration, embedder: Embedder
) -> _Volume:
    """Cut a sample of the documents the new way, and extrapolate. Equal pieces keep the vector of the same model.

    Priority sampling (Duffield, Lund and Thorup, 2007): long documents are drawn rather than short ones, and what each
    stands for makes up for it. Where all are drawn, the sums are exact.
    """
    cursor = await connection.execute(
        """
        SELECT external_id, title, content, format, sections, size, size / chance AS priority FROM (
            SELECT *, greatest(length(title) + length(content), 1)::float8 AS size,
                   ((hashint8extended(id, 7) & 1125899906842623) + 1) / 1125899906842624::float8 AS chance
            FROM documents WHERE collection_id = %s
        ) drawn ORDER BY priority DESC LIMIT %s
        """,
        (serving.collection_id, _PROBE_DOCUMENTS + 1),
    )
    drawn = await cursor.fetchall()
    least = drawn.pop()[-1] if len(drawn) > _PROBE_DOCUMENTS else 0.0
    chunker = Chunker(declaration.chunking, embedder.tokenizer)
    same_model = declaration.model.fingerprint == serving.model.fingerprint
    rows, tokens, new_rows, new_tokens = 0.0, 0.0, 0.0, 0.0
    for *columns, size, _ in drawn:
        cut = await asyncio.to_thread(chunker.pieces, as_document(*columns))
        known = await _known(connection, serving, [piece.content for piece in cut]) if same_model else set[UUID]()
        stands_for = max(1.0, least / size)
        rows += stands_for * len(cut)
        tokens += stands_for * sum(piece.token_count for piece in cut)
        new = [piece for piece in cut if content_hash(piece.content) not in known]
        new_rows += stands_for * len(new)
        new_tokens += stands_for * sum(piece.token_count for piece in new)
    return _Volume(rows=round(rows), tokens=round(tokens), new_rows=round(new_rows), new_tokens=round(new_tokens))


async def _known(connection: Connection, index: Index, texts: Sequence[str]) -> set[UUID]:
    cursor = await connection.execute(
        "SELECT DISTINCT content_hash FROM chunks WHERE chunking_id = %s AND content_hash = ANY(%s)",
        (index.chunking_id, [content_hash(text) for text in texts]),
    )
    return {row[0] for row in await cursor.fetchall()}


async def _probe(
    backends: Backends,
    connection: Connection,
    serving: Index,
    declaration: Declaration,
    embedder: Embedder,
    volume: _Volume,
) -> float:
    """Chunks per second through all that has to be made of them, measured on some of the real ones."""
    work: list[Callable[[list[str]], Awaitable[object]]] = []
    if volume.new_rows:
        work.append(embedder.embed_documents)
    if _makes_token_vectors(declaration, volume):
        work.append((await backends.rerankers.of_space(embedder, declaration.token_space)).token_vectors)
    if not work:
        return 0.0
    cursor = await connection.execute(
        "SELECT content FROM chunks WHERE chunking_id = %s ORDER BY hashint8extended(id, 7) LIMIT %s",
        (serving.chunking_id, _PROBE_CHUNKS),
    )
    texts = [row[0] for row in await cursor.fetchall()]
    if not texts:
        return 0.0
    for make in work:
        await make(texts[:2])
    started = time.perf_counter()
    for make in work:
        await make(texts)
    return len(texts) / (time.perf_counter() - started)


def _makes_token_vectors(declaration: Declaration, volume: _Volume) -> bool:
    return declaration.token_space != NO_TOKENS and not volume.has_token_vectors


def _graph_seconds(declaration: Declaration, rows: int) -> float:
    """Comparisons grow with ef_construction and m, and each costs its dimensions."""
    if declaration.backend != "pgvector":
        return 0.0
    work = (declaration.model.dimension / 384) * (declaration.hnsw.ef_construction / 64) * (declaration.hnsw.m / 16)
    return rows * work / _BUILD_ROWS_PER_SECOND


def _words_seconds(declaration: Declaration, volume: _Volume) -> float:
    return 0.0 if _has_its_words(declaration, volume) else volume.tokens / _WORDS_TOKENS_PER_SECOND


def _words_bytes(declaration: Declaration, volume: _Volume) -> int:
    return 0 if _has_its_words(declaration, volume) else volume.tokens * _WORDS_BYTES_A_TOKEN


def _has_its_words(declaration: Declaration, volume: _Volume) -> bool:
    return declaration.language == NO_LANGUAGE or volume.has_words


def _token_vector_bytes(declaration: Declaration, volume: _Volume) -> int:
    if declaration.token_space == NO_TOKENS:
        return 0
    return volume.tokens * STORED_DIMENSIONS + volume.rows * _TOKEN_ROW_BYTES


def _disk_bytes(declaration: Declaration, volume: _Volume) -> int:
    vectors = _vector_bytes(declaration, volume.rows)
    return vectors + _words_bytes(declaration, volume) + _token_vector_bytes(declaration, volume)


def _vector_bytes(declaration: Declaration, rows: int) -> int:
    """A table row and its primary key, and a graph element: the vector again, and 2 m neighbours of 6 bytes."""
    if declaration.backend != "pgvector":
        return 0
    vector = declaration.model.dimension * (4 if declaration.model.dimension <= HNSW_MAX_VECTOR_DIMENSION else 2)
    return rows * (2 * (vector + 8) + 64 + 24 + 80 + 2 * declaration.hnsw.m * 6)


def _sql(declaration: Declaration, index_id: int) -> list[str]:
    if declaration.backend != "pgvector":
        return []
    return statements_for(
        Index(
            id=index_id,
            collection_id=0,
            chunking_id=0,
            model_id=0,
            model=declaration.model,
            backend=declaration.backend,
            metric=declaration.metric,
            hnsw=declaration.hnsw,
            language=declaration.language,
            token_space=declaration.token_space,
            state=IndexState.FILLING,
        )
    )


def _risks(declaration: Declaration, serving: Index, volume: _Volume, existing: Index | None) -> list[str]:
    risks: list[str] = []
    if existing is not None and existing.state is IndexState.READY:
        risks.append(f"index {existing.id} is this already, and was fed all along: only verified again, then switched")
    if declaration.model.fingerprint != serving.model.fingerprint:
        risks.append("scores of the two models are not comparable: thresholds on scores have to be chosen anew")
    if declaration.model.price_per_million_tokens and volume.new_rows:
        risks.append("while both indexes are fed, every write is embedded twice: once for each model")
    if declaration.token_space != NO_TOKENS and declaration.model.provider == "openai":
        risks.append("token vectors are made on this machine, of every chunk, while the endpoint embeds the texts")
    if declaration.model.dimension > HNSW_MAX_VECTOR_DIMENSION:
        risks.append(f"over {HNSW_MAX_VECTOR_DIMENSION} dimensions: vectors are stored as halfvec (16-bit floats)")
    if declaration.backend == "mock":
        risks.append("the mock store lives in one process's memory: not for production")
    if declaration.model.provider == "openai":
        risks.append("texts leave this machine for the embedding endpoint")
    return risks


def _keyless(backends: Backends, declaration: Declaration, serving: RegisteredModel) -> list[str]:
    """`api_key` goes to the declared endpoint alone: the serving one may be left without."""
    embedding = backends.settings.embedding
    moved = serving.model.provider == "openai" and serving.location != declaration.location
    if not moved or serving.location in embedding.endpoint_keys or "api.openai.com" in serving.location:
        return []
    return [
        f"the serving index embeds its queries at {serving.location}, for which there is no key in the settings: "
        "if it wants one, put it under [rag.embedding.endpoint_keys]"
    ]
