"""Who may see what: the SQL that keeps a search inside its scope."""

from __future__ import annotations

import json
from collections.abc import Sequence

from psycopg import sql

from reshelve.domain.indexes import Index, Scope
from reshelve.stores.protocol import Connection

LIVING = sql.SQL("JOIN chunks c ON c.id = e.chunk_id JOIN documents d ON d.id = c.document_id")
"""Joins entries `e` with what still lives: an entry that outlived its chunk is never shown."""


def condition(index: Index, scope: Scope) -> tuple[sql.Composed, list[object]]:
    """A WHERE clause over `d` and its parameters."""
    clauses: list[sql.Composable] = [sql.SQL("d.collection_id = %s")]
    values: list[object] = [index.collection_id]
    if scope.tenant is not None:
        clauses.append(sql.SQL("d.tenant = %s"))
        values.append(scope.tenant)
    if scope.metadata:
        clauses.append(sql.SQL("d.metadata @> %s::jsonb"))
        values.append(json.dumps(scope.metadata))
    return sql.SQL(" AND ").join(clauses), values


async def living(connection: Connection, index: Index, chunk_ids: Sequence[int], scope: Scope) -> set[int]:
    """Those of the chunks that live inside the scope."""
    where, values = condition(index, scope)
    statement = sql.SQL(
        "SELECT c.id FROM chunks c JOIN documents d ON d.id = c.document_id WHERE c.id = ANY(%s) AND {}"
    ).format(where)
    cursor = await connection.execute(statement, [list(chunk_ids), *values])
    return {row[0] for row in await cursor.fetchall()}
