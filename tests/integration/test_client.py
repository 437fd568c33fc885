"""The client, which waits, and the one that is awaited, on a real service."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable, Generator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import reshelve
from reshelve import errors
from reshelve.api.app import create_app
from reshelve.client import Found, StoredDocument, Written, answers, calls
from reshelve.settings import Settings
from tests.support.served import in_a_thread

DOOR = {"id": "notes/door?.md", "title": "The door", "text": "The key hangs behind the blue pot."}


@pytest.fixture
def url(settings_of: Callable[[str], Settings]) -> Generator[str]:
    with in_a_thread(create_app(settings_of('[rag.embedding]\nmodel = "hashing-64"'))) as url:
        yield url


@pytest.fixture
def client(url: str) -> Generator[reshelve.Client]:
    with reshelve.Client(url) as client:
        yield client


def test_documents_and_searches(client: reshelve.Client, tmp_path: Path) -> None:
    assert client.ready() is True
    written = client.add(DOOR, wait=True)
    assert (type(written), written.added, written.refused) == (Written, 1, [])
    assert client.add([DOOR, {"id": "b", "text": "moss"}], wait=True).unchanged == 1
    found = client.search("blue pot", top_k=1, user="ada")
    assert type(found) is Found
    assert [(each.document_id, each.model) for each in found.results] == [(DOOR["id"], "hashing-64")]
    closer = client.search("blue pot", rerank="late_interaction", explain=True)
    assert all(each.legs and "late_interaction" in each.legs for each in closer.results)
    stored = client.document(DOOR["id"])
    assert (type(stored), stored.text, stored.title) == (StoredDocument, DOOR["text"], "The door")
    page = client.list_documents(limit=1)
    assert ([each.id for each in page.documents], page.next) == (["b"], "b")
    assert client.list_documents(after="b").next is None
    assert client.replace(DOOR["id"], {"text": "new"}, wait=True).updated == 1
    (tmp_path / "rows.jsonl").write_text('{"_id": "x", "text": "fern"}\n{broken\n')
    sent = client.add_files([tmp_path / "rows.jsonl"], wait=True)
    assert (sent.added, sent.refused[0].line) == (1, 2)
    assert client.delete("x") == 1
    assert [each.model for each in client.models()] == ["hashing-64"]
    assert [(each.model, each.role) for each in client.searchable_models()] == [("hashing-64", "serving")]
    assert client.embeddings(DOOR["id"])[0].complete
    assert client.update_embeddings(DOOR["id"], "hashing-64").embedded == 1
    named = client.search("new", top_k=1, models=["hashing-64"])
    used = client.feedback(named.search_id, named.results[0].chunk_id, index=named.results[0].index)
    assert used.search_id == named.search_id
    assert client.collections() == ["default"]
    assert client.indexes()[0].serving is True
    assert client.health()["status"] == "ok"
    assert client.plan()["needed"] is False
    assert client.migrations() == []


async def test_the_same_verbs_awaited(url: str) -> None:
    async with reshelve.AsyncClient(url) as client:
        assert (await client.add(DOOR, wait=True)).added == 1
        assert (await client.search("blue pot")).results[0].document_id == DOOR["id"]
        with pytest.raises(errors.NotFoundError, match="no document 'x'"):
            await client.document("x")


def test_every_call_is_a_verb_of_both() -> None:
    functions = [each for module in (calls, answers) for each in vars(module).values() if inspect.isfunction(each)]
    returned = {each.__name__: each.__annotations__.get("return", "") for each in functions}
    named = {name for name, kind in returned.items() if kind.startswith("Call[") and not name.startswith("_")}
    assert {"search", "ask", "chat", "rollback"} <= named
    for kind in (reshelve.Client, reshelve.AsyncClient):
        assert {name for name in named if not hasattr(kind, name)} == set()
        assert "best first" in (kind.search.__doc__ or "")


def test_errors_are_those_of_the_service(client: reshelve.Client) -> None:
    with pytest.raises(errors.NotFoundError) as missing:
        client.search("x")
    assert missing.value.code == "not_found"
    assert "'default'" in missing.value.message
    assert missing.value.advice
    client.add(DOOR)
    with pytest.raises(errors.InputError) as wrong:
        client.search("x", top_k=0)
    assert vars(wrong.value)["errors"][0]["field"] == "top_k"
    assert vars(wrong.value)["status"] == 422
    with pytest.raises(errors.NothingToDo):
        client.start_migration()
    client.add(DOOR, key="mine")
    with pytest.raises(errors.IdempotencyConflict):
        client.add({**DOOR, "text": "other"}, key="mine")
    with pytest.raises(errors.NotFoundError):
        client.migration(7)


class Flaky(BaseHTTPRequestHandler):
    """Answers with what is left in `answers`, and keeps what was asked."""

    answers: list[tuple[int, dict[str, str], bytes]]
    asked: list[tuple[str, str, str | None]]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.asked.append((self.command, self.path, self.headers["idempotency-key"]))
        status, headers, content = self.answers.pop(0)
        if status == 0:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def flaky() -> Generator[tuple[str, type[Flaky]]]:
    class Handler(Flaky):
        pass

    Handler.answers, Handler.asked = [], []
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", Handler
        server.shutdown()
        thread.join()


GOOD = b'{"added":1,"updated":0,"unchanged":0,"chunks_added":1,"chunks_removed":0,"refused_count":0,"refused":[]}'
BUSY = b'{"code": "database_unavailable", "detail": "down", "retryable": true}'


def test_what_may_pass_is_tried_again_under_the_same_key(flaky: tuple[str, type[Flaky]]) -> None:
    url, handler = flaky
    handler.answers += [(503, {"Retry-After": "0"}, BUSY), (0, {}, b""), (502, {}, b"<html>"), (200, {}, GOOD)]
    with reshelve.Client(url) as client:
        assert client.add(DOOR).added == 1
        keys = {key for _, _, key in handler.asked}
        assert len(handler.asked) == 4
        assert len(keys) == 1
        assert None not in keys
        handler.answers += [(503, {"Retry-After": "0"}, BUSY)] * 4
        with pytest.raises(errors.DatabaseUnavailable, match="down"):
            client.add(DOOR)
        assert handler.answers == []
        refusal = b'{"code": "model_dimension_conflict", "detail": "no", "facts": {"name": "m", "registered": 3}}'
        handler.answers += [(409, {}, refusal)]
        with pytest.raises(errors.ModelDimensionConflict) as conflict:
            client.add(DOOR)
        assert (conflict.value.name, conflict.value.registered) == ("m", 3)
        handler.answers += [(200, {}, b"[]")]
        with pytest.raises(errors.ServiceError, match="does not understand"):
            client.add(DOOR)
        handler.answers += [(418, {}, b'{"code": "teapot", "detail": "short"}')]
        with pytest.raises(errors.InputError) as unknown:
            client.add(DOOR)
        assert unknown.value.code == "teapot"


def test_nobody_there() -> None:
    with reshelve.Client("http://127.0.0.1:9", retries=1) as client, pytest.raises(errors.ServiceUnavailable) as gone:
        client.ready()
    assert gone.value.retryable
    assert "does not answer" in gone.value.message


def test_the_client_needs_none_of_the_servers_packages() -> None:
    program = """
import sys
for name in ("fastapi", "starlette", "uvicorn", "pydantic", "psycopg", "openvino", "numpy", "structlog", "scipy"):
    sys.modules[name] = None
import reshelve
with reshelve.Client("http://127.0.0.1:9", retries=0) as client:
    try:
        client.search("x")
    except reshelve.ReshelveError as error:
        print(error.code)
reshelve.AsyncClient()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "service_unavailable", done.stderr
