"""Chats with a memory, over HTTP, with a language model behind a real endpoint and without one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

import httpx
import psycopg
import pytest
from structlog.testing import capture_logs

import reshelve
from reshelve.answering import messages
from reshelve.answering.results import Delta
from reshelve.api.app import create_app
from reshelve.domain.chats import message_id, owner_of
from reshelve.errors import NotFoundError
from reshelve.library import chats
from reshelve.settings import Settings, load_settings
from tests.support.chat_endpoint import ChatEndpoint
from tests.support.embedding_endpoint import Hang, Status
from tests.support.served import in_a_thread, served
from tests.support.waiting import until

SettingsOf = Callable[[str], Settings]
SESSIONS = "/api/v1/chat/sessions"
HASHING = '[rag.embedding]\nmodel = "hashing-256"\n'
DOOR = {"id": "door", "text": "The key hangs behind the blue pot."}
WARNING = "No OpenAI API key configured - RAG functionality will be disabled"


@pytest.fixture(autouse=True)
def _nobodys_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "GEMINI_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(chats, "_said", [])


@pytest.fixture
def endpoint() -> Generator[ChatEndpoint]:
    with ChatEndpoint("Noted.") as endpoint:
        yield endpoint


@pytest.fixture
def chatting(settings_of: SettingsOf, endpoint: ChatEndpoint) -> Callable[[str], Settings]:
    def make(more: str = "") -> Settings:
        llm = f'[rag.answering]\nbase_url = "{endpoint.base_url}"\nmodel = "m1"\nmax_retries = 0\n'
        return settings_of(f"{HASHING}{llm}[rag.chat]\n{more}")

    return make


@pytest.fixture
async def http(chatting: Callable[[str], Settings]) -> AsyncGenerator[httpx.AsyncClient]:
    async with served(chatting("history_messages = 2\ncontext_limit = 1\n"), worker=True) as http:
        yield http


async def say(http: httpx.AsyncClient, session: str, content: str, *, user: str = "ada", **more: Any) -> dict[str, Any]:
    body = {"content": content, "user": user, **more}
    reply = await http.post(f"{SESSIONS}/{session}/messages", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def messages_of(http: httpx.AsyncClient, session: str, *, user: str = "ada", **more: Any) -> list[str]:
    found = await http.get(f"{SESSIONS}/{session}/messages", params={"user": user, **more})
    assert found.status_code == 200, found.text
    return [f"{each['role']}: {each['content']}" for each in found.json()["messages"]]


async def embedded(http: httpx.AsyncClient) -> None:
    """Until every message is in its index."""

    async def up_to_date() -> bool:
        found = await http.get("/api/v1/indexes", params={"collection": "chat"})
        return all(each["lag_changes"] == 0 for each in found.json()["indexes"])

    await until(up_to_date)


def told(endpoint: ChatEndpoint) -> str:
    return "\n".join(each["content"] for each in endpoint.last["messages"])


async def test_a_chat_remembers_what_the_user_said(http: httpx.AsyncClient, endpoint: ChatEndpoint) -> None:
    """There is no collection of documents: a chat goes on without one."""
    assert (await say(http, "s1", "Let us talk of plants."))["abstained"] is False
    assert "This is a chat." in told(endpoint)
    said = await say(http, "s1", "My fern is called Walter.")
    assert (said["answer"], said["answered_by"], said["passages"]) == ("Noted.", "llm", [])
    endpoint.says = ["A fine name for it."]
    await say(http, "s1", "It lives by the window.")
    await say(http, "s1", "The weather is grey today.")
    await say(http, "bobs", "My fern is called Rosa.", user="bob")
    await say(http, "theirs", "My fern is called Fritz.", tenant="acme")
    await embedded(http)
    endpoint.says = ["Walter."]
    said = await say(http, "s2", "How is my fern called?")
    assert (said["answer"], said["abstained"]) == ("Walter.", False)
    prompt = endpoint.last["messages"]
    system, question = prompt[0]["content"], prompt[-1]["content"]
    fence = system.split('"EARLIER ')[1].split('"')[0]
    assert f"EARLIER {fence}\nuser: My fern is called Walter.\nEND {fence}" in question
    # Its neighbours come along, and nobody else's messages.
    assert f"EARLIER {fence}\nassistant: Noted.\nEND {fence}" in question
    assert not [other for other in ("Rosa", "Fritz", "weather") if other in told(endpoint)]
    # The end of the session itself is told as what was said.
    await say(http, "s2", "Thank you, and what does it like?")
    assert [(each["role"], each["content"]) for each in endpoint.last["messages"][1:3]] == [
        ("user", "How is my fern called?"),
        ("assistant", "Walter."),
    ]


async def test_sessions_are_listed_read_and_deleted(http: httpx.AsyncClient, endpoint: ChatEndpoint) -> None:
    # All at once, the first of all messages: each would make the collection.
    await asyncio.gather(*(say(http, session, f"This is {session}.") for session in ("s1", "s10", "s2")))
    await say(http, "s1", "And more.")
    found = (await http.get(SESSIONS, params={"user": "ada"})).json()["sessions"]
    assert found[0]["session"] == "s1"
    assert {each["session"]: each["messages"] for each in found} == {"s1": 4, "s2": 2, "s10": 2}
    assert (await messages_of(http, "s1"))[::2] == ["user: This is s1.", "user: And more."]
    assert await messages_of(http, "s1", limit=1) == ["assistant: Noted."]
    assert (await http.get(SESSIONS, params={"user": "bob"})).json() == {"sessions": []}
    for other in ({"user": "bob"}, {"user": "ada", "tenant": "acme"}):
        assert (await http.get(f"{SESSIONS}/s1/messages", params=other)).status_code == 404
        assert (await http.delete(f"{SESSIONS}/s1", params=other)).status_code == 404
    assert (await http.delete(f"{SESSIONS}/s1", params={"user": "ada"})).json() == {"deleted": 4}
    assert (await http.delete(f"{SESSIONS}/s1", params={"user": "ada"})).status_code == 404
    assert await messages_of(http, "s10") == ["user: This is s10.", "assistant: Noted."]
    await embedded(http)
    await say(http, "s3", "What is s1?")
    assert "This is s1." not in told(endpoint)
    for wrong in ("a b", "x" * 65, "a%2Fb"):
        refused = await http.post(f"{SESSIONS}/{wrong}/messages", json={"content": "x", "user": "ada"})
        assert refused.status_code in (404, 422)
    for body in ({"content": "x", "user": ""}, {"content": "x", "user": "ada", "collection": "chat"}):
        assert (await http.post(f"{SESSIONS}/s/messages", json=body)).status_code == 422


async def test_a_chat_rests_on_documents_too(http: httpx.AsyncClient, endpoint: ChatEndpoint) -> None:
    await http.post("/api/v1/documents", params={"wait": True}, json=DOOR)
    endpoint.says = ["Behind the blue pot [1] [7]."]
    said = await say(http, "s1", "Where is the key?", style="detailed")
    assert (said["answer"], said["dropped_citations"]) == ("Behind the blue pot [1].", 1)
    assert said["citations"][0]["document_id"] == "door"
    async with http.stream(
        "POST", f"{SESSIONS}/s1/messages", json={"content": "Sure?", "user": "ada", "stream": True}
    ) as response:
        streamed = "".join([part async for part in response.aiter_text()])
    assert [line.removeprefix("event: ") for line in streamed.split("\n") if line.startswith("event")][-1] == "done"
    assert len(await messages_of(http, "s1")) == 4
    # A model that fails, or a client that goes: the message stays, without a reply.
    endpoint.faults.append(Status(400))
    failed = await http.post(f"{SESSIONS}/s1/messages", json={"content": "One?", "user": "ada"})
    assert failed.json()["code"] == "answer_refused"
    endpoint.says = ["It ", Hang()]
    request = asyncio.create_task(http.post(f"{SESSIONS}/s1/messages", json={"content": "Two?", "user": "ada"}))
    asked = len(endpoint.requests)
    await until(lambda: len(endpoint.requests) > asked)
    request.cancel()
    await until(lambda: endpoint.given_up == 1)
    assert (await messages_of(http, "s1"))[-2:] == ["user: One?", "user: Two?"]
    # Said again it gets its reply, and is there once; under one key it is said once.
    endpoint.says = ["Yes."]
    body = {"content": "Two?", "user": "ada"}
    for _ in range(2):
        replied = await http.post(f"{SESSIONS}/s1/messages", json=body, headers={"Idempotency-Key": "k"})
        assert replied.json()["answer"] == "Yes."
    assert (await messages_of(http, "s1"))[-3:] == ["user: One?", "user: Two?", "assistant: Yes."]


async def test_a_session_that_is_deleted_while_it_is_replied_to_stays_deleted(
    chatting: Callable[[str], Settings], endpoint: ChatEndpoint
) -> None:
    async with reshelve.connect(chatting("")) as library:
        await library.chat("s1", "Before.", user="ada")
        endpoint.says = ["It ", "hangs."]
        kinds: list[str] = []
        async for event in library.chat_events("s1", "Where is the key?", user="ada"):
            if "Delta" not in kinds and isinstance(event, Delta):
                assert await library.delete_chat("s1", user="ada") == 3
            kinds.append(type(event).__name__)
        assert kinds[-1] == "Answered"
        assert await library.chat_sessions(user="ada") == []


async def test_a_reply_is_kept_before_its_message_is_deleted_or_not_at_all(chatting: Callable[[str], Settings]) -> None:
    """Whichever of the two comes first, while both run."""
    async with reshelve.connect(chatting("")) as library:
        for number in range(8):
            chat = asyncio.create_task(library.chat(f"s{number}", "Where is the key?", user="ada"))
            await until(lambda number=number: _is_begun(library, f"s{number}"))
            await asyncio.sleep(number * 0.004)
            await library.delete_chat(f"s{number}", user="ada")
            await chat
        assert await library.chat_sessions(user="ada") == []


async def _is_begun(library: reshelve.Library, session: str) -> bool:
    return session in [each.session for each in await library.chat_sessions(user="ada")]


async def test_old_messages_are_not_shown_and_then_deleted(
    chatting: Callable[[str], Settings], database_urls: tuple[str, str]
) -> None:
    async with reshelve.connect(chatting("ttl_hours = 24.0\n")) as library:
        for session in ("old", "new"):
            await library.chat(session, f"My fern is {session}.", user="ada")
        with psycopg.connect(database_urls[0], autocommit=True) as connection:
            statement = "UPDATE documents SET created_at = now() - interval '25 hours' WHERE external_id LIKE 'old/%'"
            assert connection.execute(statement).rowcount == 2
        assert [each.session for each in await library.chat_sessions(user="ada")] == ["new"]
        chat = library.of("chat")
        await until(lambda: _has_no_lag(chat))
        recalled = await messages.recall(library.backends, "my fern", tenant="", user="ada")
        assert {each.session for each in recalled} == {"new"}
        await messages.expire(library.backends)
        assert (await chat.status()).documents == 2
        verified = await chat.verify()
        assert (verified.passed, verified.chunks) == (True, 2)


def test_the_client_chats(chatting: Callable[[str], Settings]) -> None:
    with in_a_thread(create_app(chatting('collection = "talks"'))) as url, reshelve.Client(url) as client:
        assert client.chat("s1", "Let us talk of plants.", user="ada").answer == "Noted."
        assert [each.role for each in client.chat_messages("s1", user="ada")] == ["user", "assistant"]
        assert [(each.session, each.messages) for each in client.chat_sessions(user="ada")] == [("s1", 2)]
        assert client.collections() == ["talks"]
        assert client.delete_chat("s1", user="ada") == 2
        with pytest.raises(NotFoundError):
            client.delete_chat("s1", user="ada")


async def _has_no_lag(library: reshelve.Library) -> bool:
    return all(index.lag_changes == 0 for index in (await library.status()).indexes)


async def test_without_a_key_a_chat_goes_on_and_says_so_once(settings_of: SettingsOf) -> None:
    async with reshelve.connect(settings_of(HASHING)) as library:
        await library.ingest({"_id": "door", "text": DOOR["text"]})
        with capture_logs() as logs:
            said = await library.chat("s1", "Where is the key?", user="ada")
            assert (said.answered_by, said.answer) == ("extractive", "The key hangs behind the blue pot. [1]")
            assert (await library.chat("s1", "Who rules Peru?", user="ada")).abstained
        assert [line["event"] for line in logs if line["log_level"] == "warning"] == [WARNING]
        assert [each.role for each in await library.chat_messages("s1", user="ada")] == ["user", "assistant"] * 2


async def test_the_messages_migrate_like_any_documents(settings_of: SettingsOf, endpoint: ChatEndpoint) -> None:
    llm = f'[rag.answering]\nbase_url = "{endpoint.base_url}"\nmodel = "m1"\n'
    async with reshelve.connect(settings_of(HASHING + llm)) as library:
        await library.chat("s1", "My fern is called Walter.", user="ada")
    target = '[rag]\ncollection = "chat"\n[rag.embedding]\nmodel = "hashing-128"\n'
    async with reshelve.connect(settings_of(target)) as library:
        assert (await library.apply(cutover=True)).state == "soaking"
    async with reshelve.connect(settings_of(HASHING + llm)) as library:
        await library.chat("s2", "How is my fern called?", user="ada")
        assert (await library.of("chat").status()).indexes[1].serving
    assert "user: My fern is called Walter." in told(endpoint)


def test_owners_are_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [("", "a/b"), ("a", "b"), ("a/b", ""), ("", "a%2Fb"), ("a%2Fb", "")]
    assert len({owner_of(tenant, user) for tenant, user in pairs}) == len(pairs)
    assert message_id("s", nanoseconds=9, nonce="z") < message_id("s", nanoseconds=10, nonce="a")
    monkeypatch.setenv("RAG_CONTEXT_LIMIT", "3")
    assert load_settings().chat.context_limit == 3
