"""A backfill one category at a time: the documents whose metadata name it come first, and the others later."""

from __future__ import annotations

from collections.abc import Callable

from reshelve.backends import Backends
from reshelve.corpus.ingest import rechunk
from reshelve.database import catalog
from reshelve.database.pools import Connection
from reshelve.domain.indexes import Index
from reshelve.errors import InputError
from reshelve.indexing.draining import drain
from reshelve.indexing.outbox import enqueue
from reshelve.migrations.declaration import chunker_of

_DOCUMENTS = 200


async def fill_category(
    backends: Backends, target: Index, category: str, *, on_progress: Callable[[int, int], None]
) -> int:
    """Take in the documents with this `metadata.category`; returns how many there are.

    What comes by the ranges later finds them there. `on_progress` hears (documents in, documents in all). Raises
    InputError, with the categories that there are, for one that has no document.
    """
    async with backends.database.service() as connection:
        documents = await _documents(connection, target, category)
        if not documents:
            known = await _categories(connection, target)
            raise InputError(
                f"no document has the category {category!r}",
                advice=f"There are: {', '.join(known)}." if known else "No document has `category` in its metadata.",
            )
        chunkings = await catalog.live_chunkings(connection, target.collection_id)
    chunking = next(each for each in chunkings if each.id == target.chunking_id)
    chunker = await chunker_of(backends, chunking)
    for start in range(0, len(documents), _DOCUMENTS):
        some = documents[start : start + _DOCUMENTS]
        async with backends.database.service() as connection, connection.transaction():
            for document in some:
                await rechunk(connection, chunking_id=chunking.id, chunker=chunker, lo=document, hi=document)
            cursor = await connection.execute(
                "SELECT id FROM chunks WHERE document_id = ANY(%s) AND chunking_id = %s", (some, chunking.id)
            )
            await enqueue(connection, target, [row[0] for row in await cursor.fetchall()])
        await drain(backends, [target])
        on_progress(min(start + _DOCUMENTS, len(documents)), len(documents))
    return len(documents)


async def _documents(connection: Connection, target: Index, category: str) -> list[int]:
    cursor = await connection.execute(
        "SELECT id FROM documents WHERE collection_id = %s AND metadata->>'category' = %s ORDER BY id",
        (target.collection_id, category),
    )
    return [row[0] for row in await cursor.fetchall()]


async def _categories(connection: Connection, target: Index) -> list[str]:
    cursor = await connection.execute(
        "SELECT DISTINCT metadata->>'category' AS name FROM documents "
        "WHERE collection_id = %s AND metadata ? 'category' ORDER BY name LIMIT 20",
        (target.collection_id,),
    )
    return [row[0] for row in await cursor.fetchall()]
