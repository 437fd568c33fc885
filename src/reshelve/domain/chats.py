"""Messages of a chat: whose they are, and how they are told apart."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Role = Literal["user", "assistant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """`id` begins with the session's, and sorts by time."""

    id: str
    session: str
    role: Role
    content: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatSession:
    session: str
    messages: int
    began_at: datetime
    last_at: datetime


def owner_of(tenant: str, user: str) -> str:
    """The tenant that a user's messages are stored under: no two pairs of tenant and user have the same one."""
    return f"{_quoted(tenant)}/{_quoted(user)}"


def message_id(session: str, *, nanoseconds: int, nonce: str) -> str:
    """`nanoseconds` since 1970; `nonce` keeps two messages of one moment apart."""
    return f"{session}/{nanoseconds:020d}-{nonce}"


def _quoted(name: str) -> str:
    return name.replace("%", "%25").replace("/", "%2F")
