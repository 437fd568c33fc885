"""Messages as they are stored: documents of the chat collection, under a tenant that is the user's alone.

So the outbox embeds them, a migration moves them, and a search cannot leave the user's own: all as for any document.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import LiteralString, TypeVar

from psycopg.rows import class_row

from reshelve.backends import Backends
from reshelve.corpus.ingest import delete
from reshelve.database.pools import Connection
from reshelve.database.routes import find_route
from reshelve.domain.chats import ChatSession, Message, owner_of
from reshelve.domain.indexes import Scope
from reshelve.retrieval.asking import Options
from reshelve.retrieval.requests import SearchRequest
from reshelve.retrieval.search import search

_EXPIRED_AT_ONCE = 500
_MESSAGE: LiteralString = (
    "SELECT external_id AS id, split_part(external_id, '/', 1) AS session, metadata->>'role' AS role, "
    "content, created_at"
)
_KEPT: LiteralString = (
    "collection_id = %(collection)s AND tenant = %(owner)s "
    "AND (%(ttl)s::float8 IS NULL OR created_at > now() - make_interval(secs => %(ttl)s * 3600))"
)
_OF_SESSION: LiteralString = f"{_KEPT} AND starts_with(external_id, %(session)s || '/')"
_Row = TypeVar("_Row")


async def list_sessions(backends: Backends, *, tenant: str, user: str, limit: int = 100) -> list[ChatSession]:
    """The latest first."""
    return await _read(
        backends,
        ChatSession,
        f"""
        SELECT split_part(external_id, '/', 1) AS session, count(*)::int AS messages, min(created_at) AS began_at,
               max(created_at) AS last_at
        FROM documents WHERE {_KEPT} GROUP BY 1 ORDER BY last_at DESC, session LIMIT %(limit)s
        """,
        tenant=tenant,
        user=user,
        limit=limit,
    )


async def list_messages(
    backends: Backends, session: str, *, tenant: str, user: str, limit: int | None = None
) -> list[Message]:
    """The last `limit` messages of the session (None: all), the oldest first."""
    found = await _read(
        backends,
        Message,
        f"""{_MESSAGE} FROM documents WHERE {_OF_SESSION} ORDER BY external_id COLLATE "C" DESC LIMIT %(limit)s""",
        tenant=tenant,
        user=user,
        session=session,
        limit=limit,
    )
    return found[::-1]


async def recall(
    backends: Backends, query: str, *, tenant: str, user: str, without: Sequence[Message] = ()
) -> list[Message]:
    """The user's own messages that are nearest to the query, each with its neighbours, in the order of their ids.

    `rag.chat.context_limit` messages are looked for. Those in `without` are left out, and so is the query itself.
    """
    settings = backends.settings.chat
    if not settings.context_limit or await _collection_id(backends) is None:
        return []
    known = {message.id for message in without}
    request = SearchRequest(
        query=query,
        collection=settings.collection,
        options=Options(top_k=settings.context_limit + len(known), scope=Scope(tenant=owner_of(tenant, user))),
        user=user,
    )
    found = await search(backends, request)
    nearest = list(dict.fromkeys(each.document_id for each in found.results if each.document_id not in known))
    around = await _read(
        backends,
        Message,
        f"""
        WITH mine AS (
            {_MESSAGE}, lag(external_id) OVER of_session AS before, lead(external_id) OVER of_session AS after
            FROM documents WHERE {_KEPT}
            WINDOW of_session AS (PARTITION BY split_part(external_id, '/', 1) ORDER BY external_id COLLATE "C")
        )
        SELECT id, session, role, content, created_at FROM mine WHERE id IN (
            SELECT unnest(ARRAY[id, before, after]) FROM mine WHERE id = ANY(%(nearest)s)
        ) ORDER BY id COLLATE "C"
        """,
        tenant=tenant,
        user=user,
        nearest=nearest[: settings.context_limit],
    )
    return [message for message in around if message.id not in known and message.content != query]


async def delete_session(backends: Backends, session: str, *, tenant: str, user: str) -> tuple[int, int | None]:
    """How many messages there were, and the transaction that deleted them."""
    collection_id = await _collection_id(backends)
    if collection_id is None:
        return 0, None
    deleted, last = 0, None
    # A reply that was kept meanwhile is seen the next time; none is kept once its message is gone.
    while messages := await list_messages(backends, session, tenant=tenant, user=user):
        ids = [message.id for message in messages]
        count, xid = await delete(backends.database, ids, collection_id=collection_id, tenant=owner_of(tenant, user))
        deleted, last = deleted + count, xid or last
    return deleted, last


async def expire(backends: Backends) -> None:
    """Delete what is older than `rag.chat.ttl_hours`, some at a time."""
    collection_id = await _collection_id(backends)
    ttl_hours = backends.settings.chat.ttl_hours
    if ttl_hours is None or collection_id is None:
        return
    while True:
        async with backends.database.service() as connection, connection.transaction():
            cursor = await connection.execute(
                "SELECT id FROM documents WHERE collection_id = %s AND created_at <= now() - make_interval(secs => %s) "
                "LIMIT %s FOR UPDATE SKIP LOCKED",
                (collection_id, ttl_hours * 3600, _EXPIRED_AT_ONCE),
            )
            ids = [row[0] for row in await cursor.fetchall()]
            await connection.execute("DELETE FROM chunks WHERE document_id = ANY(%s)", (ids,))
            await connection.execute("DELETE FROM documents WHERE id = ANY(%s)", (ids,))
        if len(ids) < _EXPIRED_AT_ONCE:
            return


async def _collection_id(backends: Backends) -> int | None:
    async with backends.database.service() as connection:
        route = await find_route(connection, backends.settings.chat.collection)
    return None if route is None else route.collection_id


async def _read(
    backends: Backends, kind: type[_Row], statement: LiteralString, *, tenant: str, user: str, **more: object
) -> list[_Row]:
    """Nothing where nobody has chatted yet."""
    collection_id = await _collection_id(backends)
    if collection_id is None:
        return []
    values = {"collection": collection_id, "owner": owner_of(tenant, user), "ttl": backends.settings.chat.ttl_hours}

    async def act(connection: Connection) -> list[_Row]:
        cursor = connection.cursor(row_factory=class_row(kind))
        await cursor.execute(statement, {**values, **more})
        return await cursor.fetchall()

    return await backends.database.read(act)
