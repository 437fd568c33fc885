"""Chats with a memory."""

from __future__ import annotations

import secrets
import time
from abc import abstractmethod
from contextlib import aclosing
from typing import TYPE_CHECKING, get_args

import structlog

from reshelve.domain.chats import message_id, owner_of
from reshelve.domain.documents import Document
from reshelve.domain.indexes import Scope
from reshelve.errors import InputError, NotFoundError
from reshelve.library.documents import Documents

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from reshelve.answering.results import Answered, Event
    from reshelve.domain.chats import ChatSession, Message, Role
    from reshelve.domain.styles import Style

_NO_KEY = "No OpenAI API key configured - RAG functionality will be disabled"
_log = structlog.get_logger(__name__)


class Chats(Documents):
    async def chat(
        self, session: str, content: str, *, user: str, tenant: str = "", style: Style | None = None
    ) -> Answered:
        """Say something in a session, which begins with its first message; the reply. Both are kept.

        The reply rests on the collection's documents, on the end of the session, and on what the same user said
        earlier. Without a language model there is no such memory, and replies are extractive.
        """
        from reshelve.answering.answers import whole

        return await whole(self.chat_events(session, content, user=user, tenant=tenant, style=style))

    async def chat_events(
        self, session: str, content: str, *, user: str, tenant: str = "", style: Style | None = None
    ) -> AsyncGenerator[Event]:
        """The same as it comes, as for `ask_events`. Closed early, the message stays and has no reply.

        Said again, a message that has no reply gets one, and is kept once. A reply is not kept where its message was
        deleted meanwhile.
        """
        from reshelve.answering.answers import answer_events
        from reshelve.answering.messages import list_messages, recall
        from reshelve.answering.results import Answered, Question
        from reshelve.domain.styles import Style
        from reshelve.retrieval.asking import Options
        from reshelve.retrieval.requests import SearchRequest, check_choice, check_query

        _check_names(session=session, user=user)
        if self.settings.collection == self.settings.chat.collection:
            said = f"the collection {self.settings.collection!r} holds chats, and is not what they are about"
            raise InputError(said, advice="Name the collection of your documents.")
        check_query(content, Options())
        check_choice("style", style, get_args(Style))
        last = self.settings.chat.history_messages
        history = await list_messages(self.backends, session, tenant=tenant, user=user, limit=last + 1)
        said_already = bool(history) and (history[-1].role, history[-1].content) == ("user", content)
        message = history.pop().id if said_already else None
        history = history[len(history) - min(last, len(history)) :]
        memory: list[Message] = []
        if self.backends.llm is None:
            self._say_once()
        else:
            memory = await recall(self.backends, content, tenant=tenant, user=user, without=history)
        if message is None:
            message = await self._keep(session, "user", content, tenant=tenant, user=user)
        question = Question(
            search=SearchRequest(
                query=content,
                collection=self.settings.collection,
                options=Options(top_k=self.settings.answering.top_k, scope=Scope(tenant=tenant)),
                user=user,
                session=session,
            ),
            style=style,
            chat=True,
            history=tuple(history),
            memory=tuple(memory),
        )
        async with aclosing(answer_events(self.backends, question)) as events:
            async for event in events:
                if isinstance(event, Answered):
                    await self._keep(session, "assistant", event.answer, tenant=tenant, user=user, beside=message)
                yield event

    async def chat_sessions(self, *, user: str, tenant: str = "", limit: int = 100) -> list[ChatSession]:
        """A user's sessions, the latest first."""
        from reshelve.answering.messages import list_sessions

        return await list_sessions(self.backends, tenant=tenant, user=user, limit=limit)

    async def chat_messages(
        self, session: str, *, user: str, tenant: str = "", limit: int | None = None
    ) -> list[Message]:
        """The last `limit` messages of a session, the oldest first. Raises NotFoundError where the user has none."""
        from reshelve.answering.messages import list_messages

        found = await list_messages(self.backends, session, tenant=tenant, user=user, limit=limit)
        if not found:
            raise NotFoundError(f"the user has no chat session {session!r:.100}")
        return found

    async def delete_chat(self, session: str, *, user: str, tenant: str = "") -> int:
        """Delete a session, also from every index; how many messages it had. Raises NotFoundError."""
        from reshelve.answering.messages import delete_session

        deleted, _ = await delete_session(self.backends, session, tenant=tenant, user=user)
        if not deleted:
            raise NotFoundError(f"the user has no chat session {session!r:.100}")
        if self._feeder is not None:
            self._feeder.wake()
        return deleted

    async def _keep(
        self, session: str, role: Role, content: str, *, tenant: str, user: str, beside: str | None = None
    ) -> str:
        """Its id. `beside`: only while this message is there."""
        from reshelve.corpus.ingest import ingest

        id = message_id(session, nanoseconds=time.time_ns(), nonce=secrets.token_hex(4))
        document = Document(external_id=id, content=content, metadata={"role": role, "session": session, "user": user})
        messages = self._messages
        collection_id = await messages._ensure_collection()
        report = await ingest(
            self.backends.database,
            [document],
            collection_id=collection_id,
            tenant=owner_of(tenant, user),
            chunker_of=messages._chunker_of,
            beside=beside,
        )
        await messages._applied(collection_id, report.xid, wait=False)
        if report.refused:
            raise InputError(report.refused[0].reason)
        return id

    @property
    @abstractmethod
    def _messages(self) -> Documents:
        """The library, as of the collection of messages."""

    def _say_once(self) -> None:
        """In the log, and once a process."""
        if not _said:
            _said.append(_NO_KEY)
            _log.warning(_NO_KEY)


_said: list[str] = []


def _check_names(*, session: str, user: str) -> None:
    if not user:
        raise InputError("a chat needs a user", advice="Say who speaks: the memory is each user's own.")
    if not 1 <= len(session) <= 64 or not all(each.isascii() and (each.isalnum() or each in "-_") for each in session):
        raise InputError(f"{session!r:.100} is no session", advice="Give 1 to 64 letters, digits, - and _.")
