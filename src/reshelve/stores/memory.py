"""Exact search in this process's memory: the `mock` backend, for development and tests.

The vectors live and die with the process; the ledger in PostgreSQL says what they were, and `indexing` fills a fresh
process from it. One process at a time sees its own writes only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

import numpy as np
from psycopg import sql

from reshelve.domain.indexes import Index, Metric, Scope
from reshelve.domain.models import Vectors
from reshelve.stores.protocol import Connection, Entries, Flaw, Hit, refuse_other_space
from reshelve.stores.scope import living


@dataclass(slots=True)
class _Shelf:
    """`vectors` is what is searched, `written` a hash of what was written by chunk: a difference is a flaw."""

    vectors: dict[int, Vectors] = field(default_factory=dict[int, Vectors])
    hashes: dict[int, UUID] = field(default_factory=dict[int, UUID])
    written: dict[int, int] = field(default_factory=dict[int, int])


class MemoryStore:
    transactional = False
    durable = False

    def __init__(self) -> None:
        self._shelves: dict[int, _Shelf] = {}

    def _shelf(self, index: Index) -> _Shelf:
        return self._shelves.setdefault(index.id, _Shelf())

    async def create(self, connection: Connection, index: Index) -> None:
        self._shelf(index)

    async def drop(self, connection: Connection, index: Index) -> None:
        self._shelves.pop(index.id, None)

    async def write(self, connection: Connection, index: Index, entries: Entries) -> int:
        refuse_other_space(index, entries.vectors)
        cursor = await connection.execute(
            "SELECT id FROM chunks WHERE id = ANY(%s)", ([int(chunk_id) for chunk_id in entries.chunk_ids],)
        )
        alive = {row[0] for row in await cursor.fetchall()}
        shelf = self._shelf(index)
        written = 0
        for chunk_id, digest, vector in zip(
            entries.chunk_ids.tolist(), entries.content_hashes, entries.vectors, strict=True
        ):
            if chunk_id in alive and chunk_id not in shelf.vectors:
                shelf.vectors[chunk_id] = vector.astype(np.float32, copy=True)
                shelf.hashes[chunk_id] = digest
                shelf.written[chunk_id] = hash(shelf.vectors[chunk_id].tobytes())
                written += 1
        return written

    async def delete(self, connection: Connection, index: Index, chunk_ids: Sequence[int]) -> int:
        shelf = self._shelf(index)
        gone = [chunk_id for chunk_id in chunk_ids if shelf.vectors.pop(chunk_id, None) is not None]
        for chunk_id in chunk_ids:
            shelf.hashes.pop(chunk_id, None)
            shelf.written.pop(chunk_id, None)
        return len(gone)

    async def read(self, connection: Connection, index: Index, chunk_ids: Sequence[int]) -> Entries:
        shelf = self._shelf(index)
        intact = (key for key in set(chunk_ids) & shelf.vectors.keys() if not _changed(shelf, key))
        found = sorted(intact)
        empty = np.empty((0, index.dimension), np.float32)
        vectors = np.stack([shelf.vectors[chunk_id] for chunk_id in found]) if found else empty
        return Entries(np.array(found, dtype=np.int64), [shelf.hashes[chunk_id] for chunk_id in found], vectors)

    def holdings(self, index: Index) -> sql.Composed:
        return sql.SQL("(SELECT chunk_id, content_hash FROM ledger WHERE index_id = {})").format(sql.Literal(index.id))

    async def search(
        self,
        connection: Connection,
        index: Index,
        vector: Vectors,
        *,
        limit: int,
        scope: Scope,
        exact: bool = False,
        with_passages: bool = True,
    ) -> list[Hit]:
        refuse_other_space(index, vector.reshape(1, -1))
        shelf = self._shelf(index)
        if not shelf.vectors:
            return []
        ids = np.fromiter(shelf.vectors, dtype=np.int64, count=len(shelf.vectors))
        scores = _scores(index.metric, np.stack(list(shelf.vectors.values())), vector)
        order = np.argsort(-scores, kind="stable")
        hits: list[Hit] = []
        for start in range(0, len(order), step := max(4 * limit, 100)):
            some = order[start : start + step]
            alive = await living(connection, index, ids[some].tolist(), scope)
            hits.extend(Hit(int(ids[at]), float(scores[at])) for at in some if int(ids[at]) in alive)
            if len(hits) >= limit:
                break
        return hits[:limit]

    async def flaws(self, connection: Connection, index: Index) -> list[Flaw]:
        shelf = self._shelf(index)
        found: list[Flaw] = []
        for chunk_id in sorted(shelf.vectors.keys() | shelf.written.keys()):
            if chunk_id not in shelf.vectors:
                found.append(Flaw(chunk_id, "the vector is gone"))
                continue
            norm = float(np.linalg.norm(shelf.vectors[chunk_id]))
            if _changed(shelf, chunk_id):
                found.append(Flaw(chunk_id, "the vector was changed"))
            elif norm == 0:
                found.append(Flaw(chunk_id, "the vector is zero"))
            elif index.model.normalized and abs(norm - 1) > 0.01:
                found.append(Flaw(chunk_id, "the vector is not of unit length"))
        return found

    async def built(self, connection: Connection, index: Index) -> bool:
        return True

    async def build(self, connection: Connection, index: Index) -> None:
        """Nothing to build: every search is exact."""


def _changed(shelf: _Shelf, chunk_id: int) -> bool:
    return hash(shelf.vectors[chunk_id].tobytes()) != shelf.written.get(chunk_id)


def _scores(metric: Metric, vectors: Vectors, query: Vectors) -> Vectors:
    match metric:
        case Metric.COSINE:
            norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
            return (vectors @ query) / np.maximum(norms, np.finfo(np.float32).tiny)
        case Metric.L2:
            return 1.0 / (1.0 + np.linalg.norm(vectors - query, axis=1))
        case Metric.INNER_PRODUCT:
            return vectors @ query
