"""Documents and their chunks as rows. Every function runs in its caller's transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from reshelve.database.pools import Connection
from reshelve.domain.documents import Document, Piece

_Key = tuple[int, int, UUID]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A document that has been checked, with its hash and its metadata as JSON, which take time to make."""

    document: Document
    hash: UUID
    metadata: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A document row that was added or changed, and is locked."""

    id: int
    external_id: str
    is_new: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """One document's pieces under one chunking, in order, no two of the same hash."""

    document_id: int
    chunking_id: int
    pieces: Sequence[Piece]


async def find_hashes(
    connection: Connection, external_ids: Sequence[str], *, collection_id: int, tenant: str
) -> dict[str, UUID]:
    """The content hash of each of these documents that exists. Takes no row lock."""
    cursor = await connection.execute(
        """
        SELECT external_id, content_hash FROM documents
        WHERE collection_id = %s AND tenant = %s AND external_id = ANY(%s)
        """,
        (collection_id, tenant, list(external_ids)),
    )
    return {row[0]: row[1] for row in await cursor.fetchall()}


async def write_documents(
    connection: Connection, candidates: Sequence[Candidate], *, collection_id: int, tenant: str
) -> list[Written]:
    """Add and update, and return the rows that were not as they should be already.

    Rows that exist are locked in the order of their ids, as `rechunk` and `delete` lock them, and new ones are added
    in the order of their external ids: so two writers of the same documents wait for each other, and do not deadlock.
    """
    candidates = sorted(candidates, key=lambda candidate: candidate.document.external_id)
    documents = [candidate.document for candidate in candidates]
    await connection.execute(
        """
        SELECT FROM documents WHERE collection_id = %s AND tenant = %s AND external_id = ANY(%s)
        ORDER BY id FOR NO KEY UPDATE
        """,
        (collection_id, tenant, [document.external_id for document in documents]),
    )
    cursor = await connection.execute(
        """
        INSERT INTO documents AS d (collection_id, tenant, external_id, title, content, format, metadata, content_hash,
                                    sections)
        SELECT %s, %s, n.external_id, n.title, n.content, n.format, n.metadata::jsonb, n.content_hash, n.sections::jsonb
        FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::uuid[], %s::text[])
            AS n (external_id, title, content, format, metadata, content_hash, sections)
        ON CONFLICT (collection_id, tenant, external_id) DO UPDATE
            SET title = EXCLUDED.title, content = EXCLUDED.content, format = EXCLUDED.format,
                metadata = EXCLUDED.metadata, content_hash = EXCLUDED.content_hash,
                sections = EXCLUDED.sections, updated_at = now()
            WHERE d.content_hash <> EXCLUDED.content_hash
        -- An added row has no earlier version that the conflict had to lock.
        RETURNING id, external_id, xmax = 0
        """,
        (
            collection_id,
            tenant,
            [document.external_id for document in documents],
            [document.title for document in documents],
            [document.content for document in documents],
            [document.format for document in documents],
            [candidate.metadata for candidate in candidates],
            [candidate.hash for candidate in candidates],
            [json.dumps(document.sections) for document in documents],
        ),
    )
    return [Written(id=row[0], external_id=row[1], is_new=row[2]) for row in await cursor.fetchall()]


async def write_chunks(connection: Connection, document_ids: Sequence[int], cuts: Sequence[Cut]) -> tuple[int, int]:
    """Make these pieces be the only chunks of these documents; returns how many were added, and how many removed.

    The documents have to be locked. A chunk whose text is among the pieces stays, and only its place is put right.
    Chunks of a chunking that is not live go too: so what is left under it fits the documents, if it comes alive again.
    """
    moved: list[tuple[int, int, int, int, str]] = []
    gone: list[int] = []
    wanted = _rows_by_key(cuts)
    cursor = await connection.execute(
        """
        SELECT id, document_id, chunking_id, content_hash, ordinal, start_char, end_char, place FROM chunks
        WHERE document_id = ANY(%s)
        """,
        (list(document_ids),),
    )
    for chunk_id, document_id, chunking_id, hash, *place in await cursor.fetchall():
        found = wanted.pop((document_id, chunking_id, hash), None)
        if found is None:
            gone.append(chunk_id)
            continue
        ordinal, piece = found
        if place != [ordinal, piece.start, piece.end, piece.place.as_dict()]:
            moved.append((chunk_id, ordinal, piece.start, piece.end, json.dumps(piece.place.as_dict())))
    if gone:
        await connection.execute("DELETE FROM chunks WHERE id = ANY(%s)", (gone,))
    if moved:
        await _move(connection, moved)
    return await _add(connection, wanted), len(gone)


async def add_chunks(connection: Connection, cuts: Sequence[Cut]) -> int:
    """Add the pieces that are not there as chunks yet; returns how many."""
    return await _add(connection, _rows_by_key(cuts))


def _rows_by_key(cuts: Sequence[Cut]) -> dict[_Key, tuple[int, Piece]]:
    """Ordinal and piece by document, chunking and content hash."""
    return {
        (cut.document_id, cut.chunking_id, piece.hash): (ordinal, piece)
        for cut in cuts
        for ordinal, piece in enumerate(cut.pieces)
    }


async def _move(connection: Connection, places: Sequence[tuple[int, int, int, int, str]]) -> None:
    await connection.execute(
        """
        UPDATE chunks c SET ordinal = n.ordinal, start_char = n.start_char, end_char = n.end_char,
                            place = n.place::jsonb
        FROM unnest(%s::bigint[], %s::integer[], %s::integer[], %s::integer[], %s::text[])
            AS n (id, ordinal, start_char, end_char, place)
        WHERE c.id = n.id
        """,
        [list(column) for column in zip(*places, strict=True)],
    )


async def _add(connection: Connection, wanted: Mapping[_Key, tuple[int, Piece]]) -> int:
    if not wanted:
        return 0
    rows = [(*key, *place) for key, place in wanted.items()]
    cursor = await connection.execute(
        """
        INSERT INTO chunks (document_id, chunking_id, content_hash, ordinal, content, token_count, start_char, end_char,
                            place)
        SELECT * FROM unnest(%s::bigint[], %s::integer[], %s::uuid[], %s::integer[], %s::text[], %s::integer[],
                             %s::integer[], %s::integer[], %s::jsonb[])
        ON CONFLICT DO NOTHING
        """,
        (
            [row[0] for row in rows],
            [row[1] for row in rows],
            [row[2] for row in rows],
            [row[3] for row in rows],
            [row[4].content for row in rows],
            [row[4].token_count for row in rows],
            [row[4].start for row in rows],
            [row[4].end for row in rows],
            [json.dumps(row[4].place.as_dict()) for row in rows],
        ),
    )
    return cursor.rowcount


async def delete_documents(
    connection: Connection, external_ids: Sequence[str], *, collection_id: int, tenant: str
) -> int:
    """Delete these documents and their chunks; returns how many documents there were."""
    cursor = await connection.execute(
        """
        SELECT id FROM documents WHERE collection_id = %s AND tenant = %s AND external_id = ANY(%s)
        ORDER BY id FOR UPDATE
        """,
        (collection_id, tenant, list(external_ids)),
    )
    ids = [row[0] for row in await cursor.fetchall()]
    if ids:
        # The foreign key would do it too, with a statement, and so a run of the triggers, for each document.
        await connection.execute("DELETE FROM chunks WHERE document_id = ANY(%s)", (ids,))
        await connection.execute("DELETE FROM documents WHERE id = ANY(%s)", (ids,))
    return len(ids)
