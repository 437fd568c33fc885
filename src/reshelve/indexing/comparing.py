"""Comparing an index with the corpus, and mending what differs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

from psycopg import sql

from reshelve.backends import Backends
from reshelve.database.pools import Connection
from reshelve.database.routes import count_change
from reshelve.domain.indexes import Index
from reshelve.indexing.outbox import enqueue
from reshelve.indexing.token_rows import token_rows
from reshelve.indexing.vectors import read_chunks
from reshelve.indexing.writing import delete_entries
from reshelve.stores import lexical, tokens, word_checks
from reshelve.stores.protocol import Flaw

_NAMED = 1000
"""So many keys of each kind are named in one pass; the next pass names the next ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Both sides of an index. The checksums are over (chunk, content hash, fingerprint), and equal when all is well."""

    chunks: int
    entries: int
    source_checksum: str
    index_checksum: str
    ranges: int
    missing: list[int]
    extra: list[int]
    flaws: list[Flaw]
    wordless: list[int]
    """Chunks that a search by words does not find, or finds by the wrong ones."""
    tokenless: list[int]
    """Chunks whose token vectors are missing, or not those that were written."""
    refused: dict[int, str]

    @property
    def equal(self) -> bool:
        wrong = self.missing or self.extra or self.flaws or self.wordless or self.tokenless
        return not wrong and self.source_checksum == self.index_checksum


def _unheard(_: list[int]) -> None:
    return


async def sweep_orphans(backends: Backends, index: Index, *, on_found: Callable[[list[int]], None] = _unheard) -> int:
    """Take away the entries, words and token vectors whose chunk is gone.

    Ids are never used again, so a chunk that is not there stays away. `on_found` is told the ids, batch by batch.
    Returns how many.
    """
    held = backends.stores.of(index).holdings(index)
    relations = [held]
    if index.has_words:
        relations.append(lexical.holdings(index))
    if index.has_tokens:
        relations.append(tokens.holdings(index))
    orphans = sql.SQL(
        "SELECT h.chunk_id FROM ({}) h LEFT JOIN chunks c ON c.id = h.chunk_id AND c.chunking_id = {} "
        "WHERE c.id IS NULL AND h.chunk_id > %s ORDER BY h.chunk_id LIMIT {}"
    ).format(
        sql.SQL(" UNION ").join(sql.SQL("SELECT chunk_id FROM {} h").format(each) for each in relations),
        sql.Literal(index.chunking_id),
        sql.Literal(_NAMED),
    )
    swept, last = 0, 0
    while True:
        async with backends.database.service() as connection:
            found = [row[0] for row in await (await connection.execute(orphans, (last,))).fetchall()]
        if not found:
            return swept + await _tidied(backends, index)
        on_found(found)
        await delete_entries(backends, index, found)
        swept, last = swept + len(found), found[-1]


async def _tidied(backends: Backends, index: Index) -> int:
    """The words of what is gone are cleared away, and the totals set right; how many of those were wrong."""
    async with backends.database.service() as connection:
        async with connection.transaction():
            await lexical.clear(connection, index)
        return await lexical.recount(connection, index)


async def compare(backends: Backends, index: Index) -> Comparison:
    """Both sides at one instant: counts, a checksum a range of 10,000 keys, and each key that differs by name.

    A change and its outbox row commit together, and the row goes with the entry's own transaction. So in one snapshot
    every chunk that no waiting row names must be in the index, whatever is being written meanwhile.
    """
    store = backends.stores.of(index)
    chunks = sql.SQL("(SELECT id AS chunk_id, content_hash FROM chunks WHERE chunking_id = {})").format(
        sql.Literal(index.chunking_id)
    )
    source, held = _settled(index, chunks), _settled(index, store.holdings(index))
    async with backends.database.service() as connection, connection.transaction():
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        source_sums = await _checksums(connection, source, index.model.fingerprint)
        index_sums = await _checksums(connection, held, index.model.fingerprint)
        differ = source_sums != index_sums
        missing = await _only_in(connection, source, held) if differ else []
        extra = await _only_in(connection, held, source) if differ else []
        flaws = await store.flaws(connection, index)
        wordless = await _wordless(backends, connection, index, chunks) if index.has_words else []
        tokenless = await _tokenless(connection, index, chunks) if index.has_tokens else []
        refused = await _refused(connection, index)
    return Comparison(
        chunks=sum(rows for rows, _ in source_sums.values()),
        entries=sum(rows for rows, _ in index_sums.values()),
        source_checksum=_combined(source_sums),
        index_checksum=_combined(index_sums),
        ranges=len(source_sums),
        missing=missing,
        extra=extra,
        flaws=flaws,
        wordless=wordless,
        tokenless=tokenless,
        refused=refused,
    )


def _settled(index: Index, relation: sql.Composed) -> sql.Composed:
    """The relation without the keys that a waiting change names."""
    return sql.SQL(
        """
        (SELECT r.chunk_id, r.content_hash FROM {relation} r
         WHERE NOT EXISTS (SELECT FROM outbox o WHERE o.chunk_id = r.chunk_id)
           AND NOT EXISTS (SELECT FROM index_queue q WHERE q.index_id = {index} AND q.refusal IS NULL
                           AND q.chunk_id = r.chunk_id))
        """
    ).format(relation=relation, index=sql.Literal(index.id))


async def _only_in(connection: Connection, one: sql.Composed, other: sql.Composed) -> list[int]:
    cursor = await connection.execute(
        sql.SQL(
            "SELECT a.chunk_id FROM {} a LEFT JOIN {} b ON b.chunk_id = a.chunk_id AND b.content_hash = a.content_hash "
            "WHERE b.chunk_id IS NULL ORDER BY a.chunk_id LIMIT {}"
        ).format(one, other, sql.Literal(_NAMED))
    )
    return [row[0] for row in await cursor.fetchall()]


async def _wordless(backends: Backends, connection: Connection, index: Index, chunks: sql.Composed) -> list[int]:
    absent = await _absent(connection, index, chunks, lexical.holdings(index))
    sample = backends.settings.migration.sample_rows
    return absent or await word_checks.wrong(connection, index, sample=sample, most=_NAMED)


async def _tokenless(connection: Connection, index: Index, chunks: sql.Composed) -> list[int]:
    absent = await _absent(connection, index, chunks, tokens.holdings(index))
    return absent or await tokens.wrong(connection, index, most=_NAMED)


async def _absent(connection: Connection, index: Index, chunks: sql.Composed, holdings: sql.Composed) -> list[int]:
    cursor = await connection.execute(
        sql.SQL(
            "SELECT a.chunk_id FROM {} a LEFT JOIN {} b ON b.chunk_id = a.chunk_id "
            "WHERE b.chunk_id IS NULL ORDER BY a.chunk_id LIMIT {}"
        ).format(_settled(index, chunks), holdings, sql.Literal(_NAMED))
    )
    return [row[0] for row in await cursor.fetchall()]


async def _checksums(connection: Connection, relation: sql.Composed, fingerprint: str) -> dict[int, tuple[int, int]]:
    """Range of keys -> (rows, checksum). XOR of 64-bit row hashes: keys are unique, so equal rows cannot cancel out."""
    cursor = await connection.execute(
        sql.SQL(
            """
            SELECT chunk_id / 10000, count(*),
                   bit_xor(hash_record_extended(ROW(chunk_id, content_hash), hashtextextended(%s, 0)))
            FROM {} side GROUP BY 1 ORDER BY 1
            """
        ).format(relation),
        (fingerprint,),
    )
    return {row[0]: (row[1], row[2]) for row in await cursor.fetchall()}


def _combined(checksums: dict[int, tuple[int, int]]) -> str:
    return hashlib.blake2b(json.dumps(sorted(checksums.items())).encode(), digest_size=8).hexdigest()


async def _refused(connection: Connection, index: Index) -> dict[int, str]:
    cursor = await connection.execute(
        "SELECT chunk_id, refusal FROM index_queue WHERE index_id = %s AND refusal IS NOT NULL ORDER BY id LIMIT %s",
        (index.id, _NAMED),
    )
    return {row[0]: row[1] for row in await cursor.fetchall() if row[0] is not None}


async def repair(backends: Backends, index: Index, found: Comparison) -> int:
    """Queue what is missing, take away what is too much or flawed, write wrong words and tokens anew; returns how many.

    The feeder does the rest.
    """
    wrong = sorted({*found.extra, *(flaw.chunk_id for flaw in found.flaws)})
    if wrong:
        await delete_entries(backends, index, wrong, keep_vectors=False)
    wanted = sorted({*found.missing, *(flaw.chunk_id for flaw in found.flaws)} - set(found.extra))
    if wanted:
        async with backends.database.service() as connection, connection.transaction():
            # Whatever was refused before gets another chance.
            await connection.execute(
                "DELETE FROM index_queue WHERE index_id = %s AND chunk_id = ANY(%s) AND refusal IS NOT NULL",
                (index.id, wanted),
            )
            await enqueue(connection, index, wanted)
    if found.wordless:
        async with backends.database.service() as connection, connection.transaction():
            await lexical.replace(connection, index, found.wordless)
            await count_change(connection, index.collection_id)
    if found.tokenless:
        await _mend_tokens(backends, index, found.tokenless)
    return len({*wrong, *wanted, *found.wordless, *found.tokenless})


async def _mend_tokens(backends: Backends, index: Index, chunk_ids: list[int]) -> None:
    async with backends.database.service() as connection:
        chunks = await read_chunks(connection, chunk_ids)
    rows = await token_rows(backends, index, chunks, pace=backends.pace)
    async with backends.database.service() as connection, connection.transaction():
        await tokens.remove(connection, index, chunk_ids, dead_only=False)
        await tokens.write(connection, index, rows)
        await count_change(connection, index.collection_id)
