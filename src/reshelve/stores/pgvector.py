"""pgvector: one table an index, `vector` or (above 2,000 dimensions) `halfvec`, and an HNSW graph over it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, LiteralString

import numpy as np
import psycopg
from pgvector import HalfVector, Vector
from psycopg import sql

from reshelve.crash_points import crash_point
from reshelve.database import arrays
from reshelve.domain.indexes import Index, Metric, Scope
from reshelve.domain.models import Vectors
from reshelve.errors import StoreError
from reshelve.stores.protocol import Connection, Entries, Flaw, Hit, Passage, refuse_other_space
from reshelve.stores.scope import LIVING, PASSAGE, condition

HNSW_MAX_VECTOR_DIMENSION = 2000
"""pgvector builds HNSW on `vector` up to here, and on `halfvec` up to 4,000."""
_AND_PASSAGE = sql.SQL(", {}").format(PASSAGE)
_UNIT_TOLERANCE = 0.01
_ROWS_A_STATEMENT = 1000

_OPERATOR: dict[Metric, LiteralString] = {Metric.COSINE: "<=>", Metric.L2: "<->", Metric.INNER_PRODUCT: "<#>"}
_OPERATOR_CLASS: dict[Metric, LiteralString] = {
    Metric.COSINE: "cosine_ops",
    Metric.L2: "l2_ops",
    Metric.INNER_PRODUCT: "ip_ops",
}


def vector_type(index: Index) -> LiteralString:
    return "vector" if index.dimension <= HNSW_MAX_VECTOR_DIMENSION else "halfvec"


def _table(index: Index) -> sql.Identifier:
    return sql.Identifier("reshelve", index.table)


def _table_statement(index: Index) -> sql.Composed:
    return sql.SQL(
        "CREATE TABLE IF NOT EXISTS {} (chunk_id bigint PRIMARY KEY, content_hash uuid NOT NULL, "
        "embedding {}({}) NOT NULL, checksum bigint NOT NULL)"
    ).format(_table(index), sql.SQL(vector_type(index)), sql.Literal(index.dimension))


def _graph_statement(index: Index) -> sql.Composed:
    return sql.SQL(
        "CREATE INDEX CONCURRENTLY {} ON {} USING hnsw (embedding {}) WITH (m = {}, ef_construction = {})"
    ).format(
        sql.Identifier(index.hnsw_name),
        _table(index),
        sql.SQL(f"{vector_type(index)}_{_OPERATOR_CLASS[index.metric]}"),
        sql.Literal(index.hnsw.m),
        sql.Literal(index.hnsw.ef_construction),
    )


def statements_for(index: Index) -> list[str]:
    """The SQL that makes the index, for people to read."""
    return [_table_statement(index).as_string(), _graph_statement(index).as_string()]


class PgvectorStore:
    transactional = True
    durable = True

    async def create(self, connection: Connection, index: Index) -> None:
        await connection.execute(_table_statement(index))
        # Vectors are read whole at every comparison: out of line they would cost a second read each.
        await connection.execute(
            sql.SQL("ALTER TABLE {} ALTER COLUMN embedding SET STORAGE PLAIN").format(_table(index))
        )
        await connection.execute(
            sql.SQL(
                """
                DO $$ BEGIN
                    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'reshelve_service') THEN
                        GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO reshelve_service;
                    END IF;
                END $$
                """
            ).format(_table(index))
        )

    async def drop(self, connection: Connection, index: Index) -> None:
        await connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(_table(index)))

    async def write(self, connection: Connection, index: Index, entries: Entries) -> int:
        refuse_other_space(index, entries.vectors)
        kind = vector_type(index)
        statement = sql.SQL(
            """
            INSERT INTO {table} (chunk_id, content_hash, embedding, checksum)
            SELECT s.chunk_id, s.content_hash, s.embedding, hashbyteaextended({send}(s.embedding), 0)
            FROM unnest(%b::bigint[], %b::uuid[], %b::{kind}[]) s (chunk_id, content_hash, embedding)
            -- One probe of the key a row. As a join, whose size nobody can tell, it could read all chunks each time.
            WHERE s.content_hash = (SELECT c.content_hash FROM chunks c WHERE c.id = s.chunk_id)
            ON CONFLICT (chunk_id) DO NOTHING
            """
        ).format(table=_table(index), kind=sql.SQL(kind), send=sql.SQL(f"{kind}_send"))
        oid = connection.adapters.types[kind].oid
        written = 0
        for start in range(0, len(entries.chunk_ids), _ROWS_A_STATEMENT):
            part = slice(start, start + _ROWS_A_STATEMENT)
            cursor = await connection.execute(
                statement,
                (
                    arrays.bigints(entries.chunk_ids[part]),
                    arrays.uuids(entries.content_hashes[part]),
                    arrays.vectors(entries.vectors[part], half=kind == "halfvec", oid=oid),
                ),
            )
            written += cursor.rowcount
            crash_point("apply.half_written")
        return written

    async def delete(self, connection: Connection, index: Index, chunk_ids: Sequence[int]) -> int:
        cursor = await connection.execute(
            sql.SQL("DELETE FROM {} WHERE chunk_id = ANY(%s)").format(_table(index)), (list(chunk_ids),)
        )
        return cursor.rowcount

    async def read(self, connection: Connection, index: Index, chunk_ids: Sequence[int]) -> Entries:
        cursor = await connection.execute(
            sql.SQL(
                "SELECT chunk_id, content_hash, embedding::vector FROM {} WHERE chunk_id = ANY(%s) "
                "AND hashbyteaextended({}(embedding), 0) = checksum ORDER BY chunk_id"
            ).format(_table(index), sql.SQL("vector_send" if vector_type(index) == "vector" else "halfvec_send")),
            (list(chunk_ids),),
        )
        rows = await cursor.fetchall()
        vectors = np.stack([_as_array(row[2]) for row in rows]) if rows else np.empty((0, index.dimension), np.float32)
        return Entries(np.array([row[0] for row in rows], dtype=np.int64), [row[1] for row in rows], vectors)

    def holdings(self, index: Index) -> sql.Composed:
        return sql.SQL("(SELECT chunk_id, content_hash FROM {})").format(_table(index))

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
        """Filters inside the iterative scan. Where that gives up before `limit` hits, the exact search answers."""
        refuse_other_space(index, vector.reshape(1, -1))
        look = functools.partial(
            self._nearest, connection, index, vector, limit=limit, scope=scope, with_passages=with_passages
        )
        hits = await look(exact=exact)
        if not exact and len(hits) < limit:
            hits = await look(exact=True)
        return hits

    async def _nearest(
        self,
        connection: Connection,
        index: Index,
        vector: Vectors,
        *,
        limit: int,
        scope: Scope,
        exact: bool,
        with_passages: bool,
    ) -> list[Hit]:
        where, values = condition(index, scope)
        # The planner cannot use the graph for a sum: that makes the search exact.
        distance = sql.SQL("(e.embedding {} %b) + 0" if exact else "e.embedding {} %b").format(
            sql.SQL(_OPERATOR[index.metric])
        )
        # Equal distances have an order too, so that pages fit together: sorted incrementally, as the graph yields them.
        # Where only the vector differs, one plan is good for all, and is kept. With a limit that it cannot know, the
        # server always finds it cheaper to plan anew: a small tenant is searched in another way than a large one.
        most = sql.Placeholder() if values else sql.Literal(limit)
        statement = sql.SQL(
            "SELECT e.chunk_id, {} AS distance{} FROM {} e {} WHERE {} ORDER BY distance, e.chunk_id LIMIT {}"
        ).format(distance, _AND_PASSAGE if with_passages else sql.SQL(""), _table(index), LIVING, where, most)
        parameters = [_parameter(index, vector), *values, *([limit] if values else [])]
        try:
            cursor = await connection.execute(statement, parameters)
        except psycopg.errors.UndefinedTable as error:
            raise StoreError(
                f"Column does not exist: index {index.id} of {index.model.name} was dropped",
                advice="Search again: the route names the index that serves now.",
            ) from error
        return [
            Hit(row[0], _score(index.metric, row[1]), Passage(*row[2:]) if with_passages else None)
            for row in await cursor.fetchall()
        ]

    async def flaws(self, connection: Connection, index: Index) -> list[Flaw]:
        kind = vector_type(index)
        norm = sql.SQL("vector_norm" if kind == "vector" else "l2_norm")
        unit = sql.SQL("abs({}(embedding) - 1) > {}").format(norm, sql.Literal(_UNIT_TOLERANCE))
        cursor = await connection.execute(
            sql.SQL(
                """
                SELECT chunk_id, reason FROM (
                    SELECT chunk_id, CASE
                        WHEN hashbyteaextended({send}(embedding), 0) <> checksum THEN 'the vector was changed'
                        WHEN {norm}(embedding) = 0 THEN 'the vector is zero'
                        WHEN {normalized} AND {unit} THEN 'the vector is not of unit length'
                    END AS reason FROM {table}
                ) checked WHERE reason IS NOT NULL ORDER BY chunk_id LIMIT 10000
                """
            ).format(
                send=sql.SQL("vector_send" if kind == "vector" else "halfvec_send"),
                norm=norm,
                normalized=sql.Literal(index.model.normalized),
                unit=unit,
                table=_table(index),
            )
        )
        return [Flaw(row[0], row[1]) for row in await cursor.fetchall()]

    async def built(self, connection: Connection, index: Index) -> bool:
        row = await self._graph(connection, index)
        return row is not None and bool(row[0])

    async def _graph(self, connection: Connection, index: Index) -> tuple[Any, ...] | None:
        cursor = await connection.execute(
            "SELECT i.indisvalid FROM pg_index i WHERE i.indexrelid = to_regclass(%s)", (f"reshelve.{index.hnsw_name}",)
        )
        return await cursor.fetchone()

    async def build(self, connection: Connection, index: Index) -> None:
        """A build that was killed leaves an invalid graph behind: it is dropped, and built again."""
        graph = await self._graph(connection, index)
        if graph is not None and graph[0]:
            return
        if graph is not None:
            await connection.execute(
                sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(sql.Identifier("reshelve", index.hnsw_name))
            )
        await connection.execute(_graph_statement(index))
        await connection.execute(sql.SQL("ANALYZE {}").format(_table(index)))


def _parameter(index: Index, vector: Vectors) -> Vector | HalfVector:
    return Vector(vector) if vector_type(index) == "vector" else HalfVector(vector)


def _score(metric: Metric, distance: float) -> float:
    match metric:
        case Metric.COSINE:
            return 1.0 - distance
        case Metric.L2:
            return 1.0 / (1.0 + distance)
        case Metric.INNER_PRODUCT:
            return -distance


def _as_array(value: Any) -> Vectors:
    return np.asarray(value.to_numpy() if hasattr(value, "to_numpy") else value, dtype=np.float32)
