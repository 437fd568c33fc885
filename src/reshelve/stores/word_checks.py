"""The words of an index held against what was written, and against their texts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from reshelve.domain.bm25 import POSTING
from reshelve.domain.indexes import Index
from reshelve.stores.lexical import CUT, SUMS, filled
from reshelve.stores.protocol import Connection

_PASSAGES_AT_ONCE = 50_000
_ROWS_AT_ONCE = 2000
_SPARSE = 16
"""Where ids spread over so many times their number, a table of all of them is larger than it is fast."""


async def wrong(connection: Connection, index: Index, *, sample: int, most: int) -> list[int]:
    """The first `most` passages whose postings are not those that were written, or not those of their text.

    All of them are held against their checksums, and `sample` against their texts, the same ones at each call. Inside a
    transaction, which sees one state. Takes some dozens of bytes of memory a passage.
    """
    written: list[NDArray[np.int64]] = []
    async with connection.cursor("passages", binary=True) as cursor:
        await cursor.execute(filled("SELECT chunk_id, length, checksum FROM {passages} ORDER BY chunk_id", index))
        while rows := await cursor.fetchmany(_PASSAGES_AT_ONCE):
            written.append(np.array(rows, np.int64))
    if not written:
        return []
    found = _Found(np.concatenate(written))
    async with connection.cursor("postings", binary=True) as cursor:
        await cursor.execute(filled("SELECT word, records FROM {postings}", index))
        while rows := await cursor.fetchmany(_ROWS_AT_ONCE):
            await asyncio.to_thread(found.add, rows)
    return sorted(found.wrong() | await _not_of_their_text(connection, index, rows=sample))[:most]


class _Found:
    """What the postings say of each passage, beside what was written of it: rows of (chunk, length, checksum)."""

    def __init__(self, written: NDArray[np.int64]) -> None:
        self._chunks, self._lengths, self._checksums = written.T.copy()
        self._sums = np.zeros(len(written), np.int64)
        self._differs = np.zeros(len(written), bool)
        self._first = int(self._chunks[0])
        self._places: NDArray[np.int64] | None = None
        span = int(self._chunks[-1]) - self._first + 1
        if span < _SPARSE * len(written):
            self._places = np.zeros(span, np.int64)
            self._places[self._chunks - self._first] = np.arange(len(written))

    def add(self, rows: Sequence[tuple[int, bytes]]) -> None:
        """Of (word, records)."""
        postings = np.frombuffer(b"".join(records for _, records in rows), POSTING)
        keys = (np.array([word for word, _ in rows], np.int64) >> 24) & 1073741823
        keys = np.repeat(keys, [len(records) // POSTING.itemsize for _, records in rows])
        chunks = postings["chunk"].astype(np.int64)
        places = self._places_of(chunks)
        # Those of passages that are gone are looked at by nobody.
        living = self._chunks[places] == chunks
        places, postings = places[living], postings[living]
        np.add.at(self._sums, places, keys[living] * postings["frequency"].astype(np.int64))
        self._differs[places[postings["length"] != self._lengths[places]]] = True

    def _places_of(self, chunks: NDArray[np.int64]) -> NDArray[np.int64]:
        if self._places is None:
            return np.minimum(np.searchsorted(self._chunks, chunks), len(self._chunks) - 1)
        return self._places[np.clip(chunks - self._first, 0, len(self._places) - 1)]

    def wrong(self) -> set[int]:
        return {*self._chunks[self._differs | (self._sums != self._checksums)].tolist()}


async def _not_of_their_text(connection: Connection, index: Index, *, rows: int) -> set[int]:
    cut = filled(CUT, index, chosen=sql.SQL("c.id IN (SELECT chunk_id FROM sample)"))
    cursor = await connection.execute(
        filled(
            """
            WITH sample AS MATERIALIZED (
                SELECT * FROM {passages} ORDER BY hashint8extended(chunk_id, 11), chunk_id LIMIT %s
            ), meant AS (SELECT chunk_id, {sums} FROM ({cut}) cut GROUP BY chunk_id)
            SELECT s.chunk_id FROM sample s JOIN meant m USING (chunk_id)
            WHERE (s.length, s.checksum) IS DISTINCT FROM (m.length, m.checksum)
            """,
            index,
            cut=cut,
            sums=SUMS,
        ),
        [rows],
    )
    return {row[0] for row in await cursor.fetchall()}
