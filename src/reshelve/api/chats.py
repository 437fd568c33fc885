"""Chats: what is said and replied, whose it is, and away with it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from reshelve.answering.results import Answered
from reshelve.api import bodies
from reshelve.api.answers import IdempotencyKey, answer, once
from reshelve.api.problems import NO_NUL
from reshelve.api.query import CLIENT_GONE, STREAMED, ClientGone, answered, last_of, unless_gone
from reshelve.api.service import service_of
from reshelve.domain.chats import ChatSession, Message
from reshelve.domain.styles import Style

router = APIRouter(prefix="/api/v1/chat/sessions", tags=["chat"])
_SESSION = r"^[A-Za-z0-9_-]{1,64}$"
Session = Annotated[str, Path(pattern=_SESSION, examples=["s1"], description="Chosen by you.")]
User = Annotated[str, Field(min_length=1, max_length=256, pattern=NO_NUL, examples=["ada"])]


class ChatBody(bodies.Body):
    """`user` says it; only the user's own messages are remembered. `stream`: Server-Sent Events."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"content": "where is the key?", "user": "ada"}]})

    content: bodies.Query
    user: User
    tenant: bodies.Name = ""
    style: Style | None = None
    stream: bool = False
    collection: bodies.CollectionName | None = None


class UserParams(bodies.Params):
    user: User
    tenant: bodies.Name = Field(default="", examples=[""])


class ListParams(UserParams):
    limit: int = Field(default=100, ge=1, le=1000, examples=[10])


class ChatSessions(BaseModel):
    sessions: list[ChatSession]


class Messages(BaseModel):
    messages: list[Message]


@router.post("/{session}/messages", response_model=Answered, responses=STREAMED)
async def say(request: Request, session: Session, body: ChatBody, idempotency_key: IdempotencyKey = None) -> Response:
    """Say something, and get a reply from the documents and from what was said before. Both are kept.

    A stream takes no idempotency key.
    """
    library = service_of(request).of(body.collection)
    events = library.chat_events(session, body.content, user=body.user, tenant=body.tenant, style=body.style)
    if body.stream or idempotency_key is None:
        return await answered(request, events, stream=body.stream)

    async def act() -> Answered:
        return await unless_gone(request, last_of(events))

    try:
        return await once(request, idempotency_key, act)
    except ClientGone:
        return Response(status_code=CLIENT_GONE)
    finally:
        await events.aclose()


@router.get("", response_model=ChatSessions)
async def list_sessions(request: Request, params: Annotated[ListParams, Query()]) -> Response:
    """A user's sessions, the latest first."""
    found = await service_of(request).library.chat_sessions(user=params.user, tenant=params.tenant, limit=params.limit)
    return answer({"sessions": found})


@router.get("/{session}/messages", response_model=Messages, responses={404: {}})
async def list_messages(request: Request, session: Session, params: Annotated[ListParams, Query()]) -> Response:
    """The last messages of a session, the oldest first."""
    found = await service_of(request).library.chat_messages(
        session, user=params.user, tenant=params.tenant, limit=params.limit
    )
    return answer({"messages": found})


@router.delete("/{session}", response_model=bodies.Deleted, responses={404: {}})
async def delete_session(request: Request, session: Session, params: Annotated[UserParams, Query()]) -> Response:
    """Delete a session, also from every index."""
    deleted = await service_of(request).library.delete_chat(session, user=params.user, tenant=params.tenant)
    return answer({"deleted": deleted})
