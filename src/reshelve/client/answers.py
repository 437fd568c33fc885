"""The calls of questions and chats: how each is asked for, and what its answer becomes."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from reshelve.client.calls import Call, given
from reshelve.client.results import Answered, ChatSession, Message, answered, made_of

_SESSIONS = "/api/v1/chat/sessions"
_Body = Mapping[str, Any]
_ANSWER_SECONDS = 300.0
"""A language model takes its time, and the service tries it again."""


def ask(
    question: str,
    *,
    top_k: int | None = None,
    style: str | None = None,
    summary: bool | None = None,
    filters: Mapping[str, Any] | None = None,
    tenant: str = "",
    user: str | None = None,
    session: str | None = None,
    collection: str | None = None,
    model: str | None = None,
) -> Call[Answered]:
    """An answer from the documents, with its checked citations. `style` is "minimal", "concise" or "detailed"."""
    body = given(
        query=question,
        top_k=top_k,
        style=style,
        summary=summary,
        filters=dict(filters) if filters is not None else None,
        tenant=tenant,
        user=user,
        session=session,
        collection=collection,
        model=model,
    )
    return Call(
        method="POST",
        path="/api/v1/query",
        read=answered,
        params={},
        body=body,
        headers={},
        timeout_seconds=_ANSWER_SECONDS,
    )


def chat(
    session: str,
    content: str,
    *,
    user: str,
    tenant: str = "",
    style: str | None = None,
    collection: str | None = None,
    key: str | None = None,
) -> Call[Answered]:
    """Say something in a session of yours to name; the reply. Both are kept, and remembered for this user."""
    body = given(content=content, user=user, tenant=tenant, style=style, collection=collection)
    return Call(
        method="POST",
        path=f"{_SESSIONS}/{session}/messages",
        read=answered,
        params={},
        body=body,
        headers={"Idempotency-Key": key or str(uuid.uuid4())},
        timeout_seconds=_ANSWER_SECONDS,
    )


def chat_sessions(*, user: str, tenant: str = "", limit: int = 100) -> Call[list[ChatSession]]:
    """The latest first."""

    def read(answer: _Body) -> list[ChatSession]:
        return [made_of(ChatSession, each) for each in answer["sessions"]]

    params = {"user": user, "tenant": tenant, "limit": limit}
    return Call(method="GET", path=_SESSIONS, read=read, params=params, headers={})


def chat_messages(session: str, *, user: str, tenant: str = "", limit: int = 100) -> Call[list[Message]]:
    """The last messages of a session, the oldest first."""

    def read(answer: _Body) -> list[Message]:
        return [made_of(Message, each) for each in answer["messages"]]

    params = {"user": user, "tenant": tenant, "limit": limit}
    return Call(method="GET", path=f"{_SESSIONS}/{session}/messages", read=read, params=params, headers={})


def delete_chat(session: str, *, user: str, tenant: str = "") -> Call[int]:
    """How many messages the session had. Raises NotFoundError where there is none."""

    def read(answer: _Body) -> int:
        return answer["deleted"]

    params = {"user": user, "tenant": tenant}
    return Call(method="DELETE", path=f"{_SESSIONS}/{session}", read=read, params=params, headers={})
