"""Search by words: BM25 over the postings that `lexical` keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import replace
from itertools import groupby
from typing import LiteralString

import numpy as np
import psycopg
from psycopg import sql

from reshelve.domain.bm25 import POSTING, Bm25, QueryWord, best_passages
from reshelve.domain.indexes import Index, Scope
from reshelve.errors import StoreError
from reshelve.stores.lexical import filled, gone
from reshelve.stores.protocol import Connection, Hit
from reshelve.stores.scope import living

_LOOKED_AT = 100
"""So many of the best are looked at first, for those that live inside the scope."""
_FEW = 256
"""Of a word that so many passages have, the dead among them are looked for."""
_MOST_WORDS = 64
"""Of a longer query the rarest words count: what they find, the commoner ones would only confirm."""


async def search(
    connection: Connection, index: Index, query: str, *, limit: int, scope: Scope, bm25: Bm25
) -> list[Hit]:
    """The passages that have words of the query, best first, by their BM25 among the tenant's own.

    Raises StoreError for an index without words, or a scope of all tenants: a score is made of one tenant's counts.
    """
    if not index.has_words or scope.tenant is None:
        raise StoreError(f"index {index.id} cannot be searched by words", advice="Search with mode dense.")
    try:
        words, passages, length = await _looked_up(connection, index, query, tenant=scope.tenant)
        most = sum(word.containing for word in words)
        deep = max(2 * limit, _LOOKED_AT)
        while True:
            best = await asyncio.to_thread(
                best_passages, words, bm25, passages=passages, length=length, most=min(deep, most)
            )
            inside = await living(connection, index, [chunk for chunk, _ in best], scope)
            hits = [Hit(chunk, score) for chunk, score in best if chunk in inside]
            if len(hits) >= limit or deep >= most:
                return hits[:limit]
            # Of the best, few live inside the scope: more are looked at.
            deep *= 20
    except psycopg.errors.UndefinedTable as error:
        raise StoreError(
            f"the words of index {index.id} were dropped",
            advice="Search again: the route names the index that serves now.",
        ) from error


_LOOK_UP: LiteralString = """
    WITH asked AS (
        SELECT hashtextextended(v.lexeme, hashtextextended(%s, 0)) AS word, cardinality(v.positions) AS repeated
        FROM unnest(to_tsvector({configuration}::regconfig, %s)) v
    ), q AS (
        SELECT word, repeated FROM asked ORDER BY CASE WHEN (SELECT count(*) FROM asked) > {most} THEN (
            SELECT sum(octet_length(p.records)) FROM {postings} p WHERE p.word = asked.word
        ) END LIMIT {most}
    ), t AS (
        SELECT sum(passages)::bigint AS passages, sum(length)::bigint AS length FROM {totals}
        WHERE tenant = hashtextextended(%s, 0)
    )
    SELECT q.word, q.repeated, p.records, coalesce(t.passages, 0), coalesce(t.length, 0)
    FROM t, q JOIN {postings} p ON p.word = q.word ORDER BY q.word
"""


async def _looked_up(
    connection: Connection, index: Index, query: str, *, tenant: str
) -> tuple[list[QueryWord], int, int]:
    """The query's words that any passage has, and the tenant's passages and their length in words."""
    statement = filled(_LOOK_UP, index, most=sql.Literal(_MOST_WORDS))
    cursor = await connection.execute(statement, [tenant, query, tenant], binary=True)
    rows = await cursor.fetchall()
    words = [
        QueryWord(repeated=repeated, postings=[np.frombuffer(row[2], POSTING) for row in of_word])
        for (_, repeated), of_word in groupby(rows, key=lambda row: (row[0], row[1]))
    ]
    words = await _without_the_dead(connection, index, words)
    return words, rows[0][3] if rows else 0, rows[0][4] if rows else 0


async def _without_the_dead(connection: Connection, index: Index, words: list[QueryWord]) -> list[QueryWord]:
    """Rare words are worth what their living passages say: a few dead ones would make them look common."""
    few = [piece["chunk"] for word in words if word.containing <= _FEW for piece in word.postings]
    if not few:
        return words
    dead = await gone(connection, index, np.unique(np.concatenate(few).astype(np.int64)))
    if not dead:
        return words
    return [
        replace(word, postings=[piece[~np.isin(piece["chunk"], dead)] for piece in word.postings])
        if word.containing <= _FEW
        else word
        for word in words
    ]


async def matching_words(connection: Connection, index: Index, query: str, words: Collection[str]) -> set[str]:
    """Those of the words that have a stem of the query's. An index without a language takes words as they are."""
    language = index.language if index.has_words else "simple"
    cursor = await connection.execute(
        """
        WITH asked AS MATERIALIZED (
            SELECT tsvector_to_array(to_tsvector(%(language)s::regconfig, %(query)s)) AS stems
        )
        SELECT w FROM asked, unnest(%(words)s::text[]) w
        WHERE tsvector_to_array(to_tsvector(%(language)s::regconfig, w)) && stems
        """,
        {"words": list(words), "language": f"pg_catalog.{language}", "query": query},
    )
    return {row[0] for row in await cursor.fetchall()}
