"""The calls of chats: how each is asked for, and what its answer becomes."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from reshelve.client.calls import ANSWER_SECONDS, Call
from reshelve.client.results import Answered, ChatSession, Message, answered, made_of

_SESSIONS = "/api/v1/chat/sessions"
_Body = Mapping[str, Any]


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
    given = {"style": style, "collection": collection}
    body = {"content": content, "user": user, "tenant": tenant}
    body |= {name: value for name, value in given.items() if value is not None}
    return Call(
        method="POST",
        path=f"{_SESSIONS}/{session}/messages",
        read=answered,
        params={},
        body=body,
        headers={"Idempotency-Key": key or str(uuid.uuid4())},
        timeout_seconds=ANSWER_SECONDS,
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
