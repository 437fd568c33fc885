"""Documents in and out: a document and its chunks change in one transaction, and the outbox hears of it by trigger."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import psycopg

from reshelve.corpus.batches import BATCH_CHARACTERS, batches_of
from reshelve.corpus.chunkers import Chunker
from reshelve.corpus.rows import (
    Candidate,
    Cut,
    add_chunks,
    delete_documents,
    find_hashes,
    write_chunks,
    write_documents,
)
from reshelve.database.catalog import RegisteredChunking, live_chunkings
from reshelve.database.pools import Connection, Database
from reshelve.domain.documents import Document, Piece, Section
from reshelve.errors import DatabaseUnavailable, DocumentRefused, NotFoundError

ChunkerOf = Callable[[RegisteredChunking], Awaitable[Chunker]]
KEPT_REFUSALS = 1000
_Pieces = dict[int, dict[str, list[Piece]]]
"""By chunking and external id."""
_DELETED_AT_ONCE = 1000
_FETCHED_AT_ONCE = 16
_CUT_AT_ONCE = 256
_TRIES = 8
_PAUSE_SECONDS = 0.05
_Result = TypeVar("_Result")
_CONFLICTS = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)
# psycopg has no common class for what one row can be guilty of.
_ROW_ERRORS = (
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.errors.ProgramLimitExceeded,
    psycopg.errors.StatementTooComplex,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """`line` is the document's in its file, if it has one; `external_id` is None where that could not be read."""

    line: int | None
    external_id: str | None
    reason: str


@dataclass(slots=True, kw_only=True)
class IngestReport:
    """Documents by what became of them. `refused` holds the first 1,000 refusals, `refused_count` counts all.

    `xid` is the greatest transaction id that changed something, for a caller who wants to wait for it.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    refused: list[Refusal] = field(default_factory=list[Refusal])
    refused_count: int = 0
    chunks_added: int = 0
    chunks_removed: int = 0
    xid: int | None = None

    def refuse(self, error: DocumentRefused, *, external_id: str | None = None) -> None:
        self.refused_count += 1
        if len(self.refused) < KEPT_REFUSALS:
            self.refused.append(Refusal(line=error.line, external_id=external_id, reason=error.message))

    @property
    def seen(self) -> int:
        return self.added + self.updated + self.unchanged + self.refused_count


async def ingest(
    database: Database,
    documents: Iterable[Document | DocumentRefused] | AsyncIterable[Document | DocumentRefused],
    *,
    collection_id: int,
    tenant: str = "",
    chunker_of: ChunkerOf,
    batch_rows: int = 256,
    on_progress: Callable[[IngestReport], None] | None = None,
    beside: str | None = None,
) -> IngestReport:
    """Take the documents in, each batch in one transaction, in memory that does not grow with their number.

    A document that cannot be taken in is in the report, and stops nothing. One that is unchanged writes nothing and
    locks nothing. Of several with one external id the last one stays. Running it again after an interruption goes on.
    `on_progress` is called after every batch. Once there is no document of the id `beside`, nothing is written.
    Raises NotFoundError when the collection does not exist, and DatabaseUnavailable.
    """
    report = IngestReport()
    writer = _Writer(database, collection_id, tenant, chunker_of, report, beside)
    async for batch in batches_of(documents, rows=batch_rows):
        for refusal, external_id in batch.refused:
            report.refuse(refusal, external_id=external_id)
        await writer.write(batch.candidates)
        if on_progress is not None:
            on_progress(report)
    return report


@dataclass(slots=True)
class _Writer:
    database: Database
    collection_id: int
    tenant: str
    chunker_of: ChunkerOf
    report: IngestReport
    beside: str | None

    async def write(self, candidates: Mapping[str, Candidate]) -> None:
        if not candidates:
            return
        async with self.database.service() as connection:
            stored = await find_hashes(
                connection, list(candidates), collection_id=self.collection_id, tenant=self.tenant
            )
            chunkings = await live_chunkings(connection, self.collection_id)
        changed = [candidate for name, candidate in candidates.items() if stored.get(name) != candidate.hash]
        self.report.unchanged += len(candidates) - len(changed)
        if changed:
            # Before the transaction, which would hold its locks meanwhile.
            await self._store(changed, await self._cut(changed, chunkings))

    async def _cut(self, candidates: Sequence[Candidate], chunkings: Sequence[RegisteredChunking]) -> _Pieces:
        def pieces_by(chunker: Chunker) -> dict[str, list[Piece]]:
            return {each.document.external_id: chunker.pieces(each.document) for each in candidates}

        return {
            chunking.id: await asyncio.to_thread(pieces_by, await self.chunker_of(chunking)) for chunking in chunkings
        }

    async def _store(self, candidates: Sequence[Candidate], pieces: _Pieces) -> None:
        """All in one transaction. Where a row is refused that passed every check, each in one of its own."""
        try:
            await self._store_together(candidates, pieces)
        except DocumentRefused as refusal:
            if len(candidates) == 1:
                self.report.refuse(refusal, external_id=candidates[0].document.external_id)
                return
            for candidate in candidates:
                await self._store([candidate], pieces)

    async def _store_together(self, candidates: Sequence[Candidate], pieces: _Pieces) -> None:
        late: list[RegisteredChunking] = []

        async def act(connection: Connection) -> _Outcome:
            try:
                return await self._store_within(connection, candidates, pieces, late)
            except psycopg.errors.ForeignKeyViolation as error:
                raise NotFoundError(f"no collection {self.collection_id}") from error
            except _ROW_ERRORS as error:
                raise DocumentRefused(f"the database refused it: {error.diag.message_primary or error}") from error

        outcome = await _in_transaction(self.database, act)
        if outcome is None:
            # Cut outside: making a chunker may need a connection, and this one was holding locks.
            await self._store_together(candidates, pieces | await self._cut(candidates, late))
            return
        report = self.report
        report.added += outcome.added
        report.updated += outcome.updated
        report.unchanged += len(candidates) - outcome.added - outcome.updated
        report.chunks_added += outcome.chunks_added
        report.chunks_removed += outcome.chunks_removed
        report.xid = max(report.xid or 0, outcome.xid) or None

    async def _store_within(
        self,
        connection: Connection,
        candidates: Sequence[Candidate],
        pieces: _Pieces,
        late: list[RegisteredChunking],
    ) -> _Outcome:
        """Takes everything back, and appends to `late`, when there are live chunkings that nothing was cut for."""
        if self.beside is not None and not await self._holds(connection, self.beside):
            return _Outcome()
        written = await write_documents(connection, candidates, collection_id=self.collection_id, tenant=self.tenant)
        if not written:
            return _Outcome()
        # Asked again after the first write: whoever makes a chunking live waits for the transactions that began to
        # write before, and those that begin later see it.
        live = await live_chunkings(connection, self.collection_id)
        late += [chunking for chunking in live if chunking.id not in pieces]
        if late:
            raise psycopg.Rollback
        cuts = [
            Cut(document_id=row.id, chunking_id=chunking.id, pieces=pieces[chunking.id][row.external_id])
            for row in written
            for chunking in live
        ]
        chunks_added, chunks_removed = await write_chunks(connection, [row.id for row in written], cuts)
        new = sum(row.is_new for row in written)
        return _Outcome(
            added=new,
            updated=len(written) - new,
            chunks_added=chunks_added,
            chunks_removed=chunks_removed,
            xid=await _transaction_id(connection),
        )

    async def _holds(self, connection: Connection, external_id: str) -> bool:
        """Whether the document is there, which then is not deleted before the transaction has ended."""
        cursor = await connection.execute(
            "SELECT FROM documents WHERE collection_id = %s AND tenant = %s AND external_id = %s FOR KEY SHARE",
            (self.collection_id, self.tenant, external_id),
        )
        return await cursor.fetchone() is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """What one transaction did; `xid` 0 for nothing."""

    added: int = 0
    updated: int = 0
    chunks_added: int = 0
    chunks_removed: int = 0
    xid: int = 0


async def _in_transaction(database: Database, act: Callable[[Connection], Awaitable[_Result]]) -> _Result | None:
    """Do it in a transaction, and again when another one stood in its way. None where `act` raises psycopg.Rollback."""
    for attempt in range(_TRIES):
        async with database.service() as connection:
            try:
                async with connection.transaction():
                    return await act(connection)
                return None
            except _CONFLICTS:
                pass
        await asyncio.sleep(_PAUSE_SECONDS * (attempt + random.random()))
    raise DatabaseUnavailable(
        f"{_TRIES} times in a row another transaction stood in the way of this one",
        advice="Have fewer writers change the same documents at once.",
    )


async def _transaction_id(connection: Connection) -> int:
    row = await (await connection.execute("SELECT pg_current_xact_id()::text::bigint")).fetchone()
    assert row is not None
    return row[0]


async def delete(
    database: Database, external_ids: Sequence[str], *, collection_id: int, tenant: str = ""
) -> tuple[int, int | None]:
    """Delete documents and their chunks, a thousand in a transaction.

    Returns how many there were, and the greatest id of a transaction that deleted any. Ids that no document has are
    passed over.
    """

    async def act(connection: Connection) -> tuple[int, int]:
        count = await delete_documents(connection, some, collection_id=collection_id, tenant=tenant)
        return count, await _transaction_id(connection) if count else 0

    # No document has an id that PostgreSQL cannot store.
    wanted = sorted({name for name in external_ids if _is_storable(name)})
    deleted = greatest = 0
    for start in range(0, len(wanted), _DELETED_AT_ONCE):
        some = wanted[start : start + _DELETED_AT_ONCE]
        count, xid = await _in_transaction(database, act) or (0, 0)
        deleted, greatest = deleted + count, max(greatest, xid)
    return deleted, greatest or None


def _is_storable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


async def rechunk(connection: Connection, *, chunking_id: int, chunker: Chunker, lo: int, hi: int) -> int:
    """Cut the documents lo <= id <= hi of the chunking's collection; returns the chunks that were added.

    It runs inside the caller's transaction, which keeps the documents locked: a writer of one of them waits, and what
    is cut is the text that the last one left. The chunking has to be live. May be repeated.
    """
    added = 0
    async with connection.cursor(f"rechunk_{chunking_id}") as cursor:
        await cursor.execute(
            """
            SELECT id, external_id, title, content, format, sections FROM documents
            WHERE collection_id = (SELECT collection_id FROM chunkings WHERE id = %s) AND id BETWEEN %s AND %s
            ORDER BY id FOR NO KEY UPDATE
            """,
            (chunking_id, lo, hi),
        )
        group: list[tuple[int, Document]] = []
        while rows := await cursor.fetchmany(_FETCHED_AT_ONCE):
            group += [(id, as_document(*row)) for id, *row in rows]
            if sum(len(document.content) for _, document in group) >= BATCH_CHARACTERS or len(group) >= _CUT_AT_ONCE:
                added += await _rechunk(connection, chunking_id, chunker, group)
                group = []
        return added + await _rechunk(connection, chunking_id, chunker, group)


def as_document(external_id: str, title: str, content: str, format: str, sections: Sequence[Sequence[int]]) -> Document:
    """What a chunker needs of a stored document."""
    return Document(
        external_id=external_id,
        title=title,
        content=content,
        format=format,
        sections=tuple(Section(*section) for section in sections),
    )


async def _rechunk(
    connection: Connection, chunking_id: int, chunker: Chunker, documents: Sequence[tuple[int, Document]]
) -> int:
    def cut() -> list[Cut]:
        return [Cut(document_id=id, chunking_id=chunking_id, pieces=chunker.pieces(each)) for id, each in documents]

    return await add_chunks(connection, await asyncio.to_thread(cut))
