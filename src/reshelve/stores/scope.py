"""Who may see what: the SQL that keeps a search inside its scope."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from psycopg import sql

from reshelve.database import arrays
from reshelve.domain.indexes import Index, Scope
from reshelve.stores.filters import filter_condition
from reshelve.stores.protocol import Connection, Passage

LIVING = sql.SQL("JOIN chunks c ON c.id = e.chunk_id JOIN documents d ON d.id = c.document_id")
"""Joins entries `e` with what still lives: an entry that outlived its chunk is never shown."""

PASSAGE = sql.SQL("d.external_id, d.title, c.content, c.start_char, c.end_char, d.metadata, c.place")
"""The columns of a `Passage`."""


def condition(index: Index, scope: Scope) -> tuple[sql.Composed, list[object]]:
    """A WHERE clause over `d` and its parameters: what differs from caller to caller."""
    clauses: list[sql.Composable] = [sql.SQL("d.collection_id = {}").format(sql.Literal(index.collection_id))]
    values: list[object] = []
    if scope.tenant == "":
        clauses.append(sql.SQL("d.tenant = ''"))
    elif scope.tenant is not None:
        clauses.append(sql.SQL("d.tenant = %s"))
        values.append(scope.tenant)
    if scope.filter is not None:
        clause, asked = filter_condition(scope.filter)
        clauses.append(clause)
        values.extend(asked)
    return sql.SQL(" AND ").join(clauses), values


async def passages(connection: Connection, chunk_ids: Sequence[int]) -> dict[int, Passage]:
    """What those chunks stand for that are still there."""
    statement = sql.SQL(
        "SELECT c.id, {} FROM chunks c JOIN documents d ON d.id = c.document_id WHERE c.id = ANY(%s)"
    ).format(PASSAGE)
    cursor = await connection.execute(statement, [list(chunk_ids)])
    return {row[0]: Passage(*row[1:]) for row in await cursor.fetchall()}


async def living(connection: Connection, index: Index, chunk_ids: Sequence[int], scope: Scope) -> set[int]:
    """Those of the chunks that live inside the scope."""
    where, values = condition(index, scope)
    statement = sql.SQL(
        "SELECT c.id FROM chunks c JOIN documents d ON d.id = c.document_id WHERE c.id = ANY(%b::bigint[]) AND {}"
    ).format(where)
    # Of a million ids a list would take seconds to be written down.
    asked = arrays.bigints(np.array(chunk_ids, np.int64))
    cursor = await connection.execute(statement, [asked, *values])
    return {row[0] for row in await cursor.fetchall()}
