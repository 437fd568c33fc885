"""The HTTP service: documents, searches, health, and what it says to what is wrong."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import httpx
import psycopg
import pytest
from fastapi import FastAPI

from reshelve.api.app import create_app
from reshelve.api.service import Service
from reshelve.settings import Settings
from tests.support.files import pdf
from tests.support.served import in_a_thread
from tests.support.waiting import until

SMALL = '[rag.embedding]\nmodel = "hashing-64"\n[rag.server]\nmax_body_kb = 64\n'
DOOR = {"id": "notes/door.md", "title": "The door", "text": "The key hangs behind the blue pot.", "metadata": {"n": 1}}
JSON = {"Content-Type": "application/json"}
DOCUMENTS, SEARCH = "/api/v1/documents", "/api/v1/search"


@pytest.fixture
def app(settings_of: Callable[[str], Settings]) -> FastAPI:
    app = create_app(settings_of(SMALL))

    @app.get("/boom", include_in_schema=False)
    async def boom() -> None:
        raise ZeroDivisionError("secret words")

    return app


@pytest.fixture
async def http(app: FastAPI) -> AsyncGenerator[httpx.AsyncClient]:
    with in_a_thread(app) as url:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            yield client


@pytest.fixture
async def filled(http: httpx.AsyncClient) -> httpx.AsyncClient:
    """With the door, and nine notes of nobody's, which searches find."""
    notes = [{"id": f"note-{number}", "text": f"word{number} moss fern"} for number in range(9)]
    written = await http.post(DOCUMENTS, params={"wait": True}, json=[DOOR, *notes])
    assert written.json()["added"] == 10, written.text
    return http


def problem(response: httpx.Response, *, status: int, code: str, field: str | None = None) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert (document["status"], document["code"], document["type"]) == (status, code, f"urn:reshelve:{code}")
    assert document["detail"]
    assert document["request_id"] == response.headers["x-request-id"]
    if field is not None:
        assert field in [each["field"] for each in document["errors"]], document
    return document


async def found(http: httpx.AsyncClient, query: str, **body: Any) -> list[str]:
    response = await http.post(SEARCH, json={"query": query, **body})
    assert response.status_code == 200, response.text
    return [result["document_id"] for result in response.json()["results"]]


async def test_documents_in_out_and_away(filled: httpx.AsyncClient) -> None:
    assert (await found(filled, "blue pot"))[0] == DOOR["id"]
    stored = (await filled.get(f"{DOCUMENTS}/notes/door.md")).json()
    assert {name: stored[name] for name in DOOR} == DOOR
    assert (stored["chunks"], stored["characters"]) == (1, len(DOOR["text"]))

    again = await filled.post(DOCUMENTS, json=DOOR)
    assert again.json()["unchanged"] == 1
    other = {"text": "Ask the neighbour with the green gate.", "format": "markdown"}
    replaced = await filled.put(f"{DOCUMENTS}/notes/door.md", params={"wait": True}, json=other)
    assert (replaced.json()["updated"], replaced.json()["chunks_removed"]) == (1, 1)
    assert (await filled.get(f"{DOCUMENTS}/notes/door.md")).json()["metadata"] == {}
    assert (await found(filled, "green gate"))[0] == DOOR["id"]

    assert (await filled.delete(f"{DOCUMENTS}/notes/door.md", params={"wait": True})).json() == {"deleted": 1}
    assert DOOR["id"] not in await found(filled, "green gate")
    for gone in (await filled.get(f"{DOCUMENTS}/notes/door.md"), await filled.delete(f"{DOCUMENTS}/notes/door.md")):
        problem(gone, status=404, code="not_found")


async def test_pages_of_documents(filled: httpx.AsyncClient) -> None:
    seen: list[str] = []
    after = ""
    while after is not None:
        page = (await filled.get(DOCUMENTS, params={"limit": 4, "after": after})).json()
        assert len(page["documents"]) <= 4
        assert all(each["text"] is None for each in page["documents"])
        seen += [each["id"] for each in page["documents"]]
        after = page["next"]
    assert seen == sorted([DOOR["id"], *(f"note-{number}" for number in range(9))])


async def test_files(http: httpx.AsyncClient) -> None:
    rows = b'{"_id": "a", "text": "apple"}\n{broken\n{"_id": "b", "text": "pear"}\n'
    files = [("files", ("door.md", b"# The door\n\nblue pot\n")), ("files", ("rows.jsonl", rows))]
    written = (await http.post(f"{DOCUMENTS}/files", params={"wait": True}, files=files)).json()
    assert (written["added"], written["refused_count"]) == (3, 1)
    assert written["refused"][0]["line"] == 2
    assert written["refused"][0]["reason"].startswith("rows.jsonl: broken JSON")
    assert (await http.get(f"{DOCUMENTS}/door.md")).json()["title"] == "The door"
    assert await found(http, "pear", top_k=1) == ["b"]

    files = [("files", ("plan.pdf", pdf(["Meet at the green gate."]))), ("files", ("t.csv", b"fruit;price\nplum;3\n"))]
    files += [("files", ("locked.pdf", pdf(["x"], owner="o", user="u")))]
    written = (await http.post(f"{DOCUMENTS}/files", params={"wait": True}, files=files)).json()
    assert (written["added"], written["refused_count"]) == (2, 1)
    assert written["refused"][0]["reason"] == "locked.pdf: the PDF asks for a password to be opened"
    assert await found(http, "green gate", top_k=1) == ["plan.pdf"]
    assert await found(http, "plum", top_k=1, filters={"price": 3}) == ["t.csv#2"]

    for name, content in (("picture.png", b"x"), ("", b"x"), ("..", b"x"), ("../../etc/x.bin", b"\0")):
        refused = await http.post(f"{DOCUMENTS}/files", files=[("files", (name, content))])
        assert refused.status_code == 422, refused.text
    binary = await http.post(f"{DOCUMENTS}/files", files=[("files", ("a.txt", b"a\0b"))])
    assert "binary" in problem(binary, status=422, code="input")["detail"]
    outside = await http.post(f"{DOCUMENTS}/files", files=[("files", ("../../up.md", b"climbs"))])
    assert outside.json()["added"] == 1
    assert (await http.get(f"{DOCUMENTS}/up.md")).status_code == 200


async def test_tenants_and_filters(filled: httpx.AsyncClient) -> None:
    await filled.post(DOCUMENTS, params={"tenant": "acme", "wait": True}, json={"id": "theirs", "text": "moss fern"})
    assert await found(filled, "moss fern", tenant="acme") == ["theirs"]
    assert "theirs" not in await found(filled, "moss fern", top_k=50)
    assert await found(filled, "moss", filters={"n": 1}) == [DOOR["id"]]
    assert await found(filled, "moss", filters={"$and": [{"n": {"$gte": 1}}, {"n": {"$nin": [2, 3]}}]}) == [DOOR["id"]]
    assert await found(filled, "moss", tenant="acme", filters={"n": 1}) == []
    unknown = await filled.post(SEARCH, json={"query": "moss", "tenant": "acne"})
    problem(unknown, status=404, code="not_found", field="tenant")


async def test_a_search_tells_who_answered(filled: httpx.AsyncClient) -> None:
    answer = (await filled.post(SEARCH, json={"query": "blue pot", "user": "ada", "session": "s"})).json()
    assert answer["query_model"] == answer["model"] == "hashing-64"
    assert (answer["arm"], answer["fell_back"], answer["interleaved"]) == ("serving", None, False)
    assert re.fullmatch(r"[0-9a-f-]{36}", answer["search_id"])
    assert answer["total_ms"] > answer["embed_ms"] > 0
    assert answer["results"][0]["metadata"] == {"n": 1}
    assert await found(filled, "blue", index=answer["index"]) == await found(filled, "blue")
    problem(await filled.post(SEARCH, json={"query": "blue", "index": 99}), status=404, code="not_found")


async def test_collections(filled: httpx.AsyncClient) -> None:
    empty = await filled.post(SEARCH, json={"query": "moss", "collection": "other"})
    assert "'other'" in problem(empty, status=404, code="not_found")["detail"]
    await filled.post(DOCUMENTS, params={"collection": "other", "wait": True}, json={"id": "x", "text": "moss"})
    assert await found(filled, "moss", collection="other") == ["x"]
    assert (await filled.get("/api/v1/collections")).json() == {"collections": ["default", "other"]}
    other = (await filled.get("/api/v1/collections/other")).json()
    assert (other["documents"], other["chunks"], other["migration"]) == (1, 1, None)
    indexes = (await filled.get("/api/v1/indexes", params={"collection": "other"})).json()["indexes"]
    assert [(each["model"], each["entries"], each["serving"]) for each in indexes] == [("hashing-64", 1, True)]
    models = (await filled.get("/api/v1/models")).json()["models"]
    assert [(each["model"], each["dimension"], each["indexes"]) for each in models] == [("hashing-64", 64, 2)]
    problem(await filled.get("/api/v1/collections/none"), status=404, code="not_found")
    problem(await filled.get("/api/v1/collections/No"), status=422, code="input", field="name")


WRONG: list[tuple[str, str, Any, int, str, str | None]] = [
    ("POST", SEARCH, {"query": "x", "top_k": 0}, 422, "input", "top_k"),
    ("POST", SEARCH, {"query": "x", "top_k": 10**30}, 422, "input", "top_k"),
    ("POST", SEARCH, {"query": "x", "top_k": "5"}, 422, "input", "top_k"),
    ("POST", SEARCH, {"query": "x", "top_k": 5.5}, 422, "input", "top_k"),
    ("POST", SEARCH, {"query": "x", "topk": 5}, 422, "input", "topk"),
    ("POST", SEARCH, {"query": " \n"}, 422, "input", "query"),
    ("POST", SEARCH, {"query": "a\0b"}, 422, "input", "query"),
    ("POST", SEARCH, {"query": "x" * 20_001}, 422, "input", "query"),
    ("POST", SEARCH, {"top_k": 3}, 422, "input", "query"),
    ("POST", SEARCH, {"query": "x", "tenant": "a\0b"}, 422, "input", "tenant"),
    ("POST", SEARCH, {"query": "x", "filters": {"a": "b\0"}}, 422, "input", "filters"),
    ("POST", SEARCH, {"query": "x", "filters": [1]}, 422, "input", "filters"),
    ("POST", SEARCH, {"query": "x", "filters": {"n": {"$gtt": 1}}}, 422, "input", "filters"),
    ("POST", SEARCH, {"query": "x", "index": 2**40}, 422, "input", "index"),
    ("POST", SEARCH, {"query": "x", "collection": "No Such"}, 422, "input", "collection"),
    ("POST", SEARCH, [], 422, "input", "body"),
    ("POST", SEARCH, b"", 422, "input", "body"),
    ("POST", SEARCH, b'{"query": "x"', 400, "malformed", "body"),
    ("POST", SEARCH, b'{"query": "\xff"}', 400, "malformed", "body"),
    ("POST", SEARCH, b'{"query": "\\ud800"}', 422, "input", "query"),
    ("POST", SEARCH, b'{"query": "x", "\\ud800": 1}', 422, "input", None),
    ("POST", SEARCH, b'{"query": "x", "filters": {"a": NaN}}', 422, "input", "filters"),
    ("POST", SEARCH, b'{"query": "x", "top_k": ' + b"9" * 5000 + b"}", 400, "malformed", "body"),
    ("POST", SEARCH, b"[" * 60_000, 400, "malformed", "body"),
    ("POST", SEARCH, {"query": "x", "filters": {"a": "y" * 70_000}}, 413, "body_too_large", "body"),
    ("POST", DOCUMENTS, {"id": "a", "text": "b\0"}, 422, "input", "text"),
    ("POST", DOCUMENTS, {"id": "a"}, 422, "input", "text"),
    ("POST", DOCUMENTS, {"id": "  ", "text": "b"}, 422, "input", "id"),
    ("POST", DOCUMENTS, {"id": "ä" * 600, "text": "b"}, 422, "input", "id"),
    ("POST", DOCUMENTS, {"id": "a", "text": 7}, 422, "input", "text"),
    ("POST", DOCUMENTS, [{"id": "a", "text": "b"}, {"id": "c", "texts": "b"}], 422, "input", "1.texts"),
    ("POST", DOCUMENTS, [], 422, "input", "body"),
    ("POST", DOCUMENTS, "words", 422, "input", "body"),
    ("POST", f"{DOCUMENTS}?tenent=a", {"id": "a", "text": "b"}, 422, "input", "tenent"),
    ("POST", f"{DOCUMENTS}?wait=perhaps", {"id": "a", "text": "b"}, 422, "input", "wait"),
    ("POST", f"{DOCUMENTS}/files", b"--x", 422, "input", "files"),
    ("PUT", f"{DOCUMENTS}/a", {"id": "a", "text": "b"}, 422, "input", "id"),
    ("PUT", f"{DOCUMENTS}/", {"text": "b"}, 422, "input", "document_id"),
    ("PUT", f"{DOCUMENTS}/a%00b", {"text": "b"}, 422, "input", "document_id"),
    ("GET", f"{DOCUMENTS}?limit=0", None, 422, "input", "limit"),
    ("GET", f"{DOCUMENTS}?after=%00", None, 422, "input", "after"),
    ("GET", "/api/v1/nothing", None, 404, "not_found", None),
    ("GET", "/api/v1/migrations/1", None, 404, "not_found", None),
    ("GET", "/api/v1/migrations/x", None, 422, "input", "migration_id"),
    ("PATCH", SEARCH, {}, 405, "method_not_allowed", None),
]  # fmt: skip


async def test_what_is_wrong_is_named(filled: httpx.AsyncClient) -> None:
    for method, address, body, status, code, field in WRONG:
        content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        response = await filled.request(method, address, content=content, headers=JSON)
        problem(response, status=status, code=code, field=field)
    form = await filled.post(SEARCH, data={"query": "x"})
    problem(form, status=415, code="unsupported_media_type", field="body")
    assert "Allow" in (await filled.patch(SEARCH)).headers
    assert len(await found(filled, "moss", top_k=50)) == 10


async def test_a_body_in_chunks_is_limited_too(filled: httpx.AsyncClient) -> None:
    def pieces() -> Iterator[bytes]:
        yield b'{"query": "'
        for _ in range(100):
            yield b"x" * 1024
        yield b'"}'

    async def slowly() -> AsyncGenerator[bytes]:
        for piece in pieces():
            yield piece

    response = await filled.post(SEARCH, content=slowly(), headers=JSON)
    problem(response, status=413, code="body_too_large", field="body")
    assert len(await found(filled, "moss")) == 10


async def test_request_ids(filled: httpx.AsyncClient) -> None:
    given = await filled.get("/", headers={"X-Request-ID": "trace:7.a_b-c"})
    assert given.headers["x-request-id"] == "trace:7.a_b-c"
    for bad in ("", "a b", "x" * 129, 'a"b'):
        made = (await filled.get("/", headers={"X-Request-ID": bad})).headers["x-request-id"]
        assert re.fullmatch(r"[0-9a-f]{32}", made)


async def test_a_fault_shows_no_trace(http: httpx.AsyncClient) -> None:
    response = await http.get("/boom", headers={"X-Request-ID": "r1"})
    document = problem(response, status=500, code="unexpected")
    assert document["request_id"] == "r1"
    assert "secret words" not in response.text
    assert "Traceback" not in response.text


async def test_a_write_is_done_once(filled: httpx.AsyncClient, database_urls: tuple[str, str]) -> None:
    key = {"Idempotency-Key": "k-1"}
    first = await filled.post(DOCUMENTS, json={"id": "once", "text": "one"}, headers=key)
    assert first.json()["added"] == 1
    again = await filled.post(DOCUMENTS, json={"id": "once", "text": "one"}, headers=key)
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    other = await filled.post(DOCUMENTS, json={"id": "once", "text": "two"}, headers=key)
    problem(other, status=422, code="idempotency_conflict")
    elsewhere = await filled.post(DOCUMENTS, params={"tenant": "t"}, json={"id": "once", "text": "one"}, headers=key)
    problem(elsewhere, status=422, code="idempotency_conflict")
    deleted = await filled.delete(f"{DOCUMENTS}/once", headers=key)
    assert deleted.json() == {"deleted": 1}
    assert (await filled.delete(f"{DOCUMENTS}/once", headers=key)).json() == {"deleted": 1}
    problem(await filled.delete(f"{DOCUMENTS}/once"), status=404, code="not_found")
    files = [("files", ("f.md", b"# F"))]
    for replayed in (None, "true"):
        sent = await filled.post(f"{DOCUMENTS}/files", files=files, headers=key)
        assert sent.headers.get("idempotency-replayed") == replayed

    with psycopg.connect(database_urls[0], autocommit=True) as connection:
        connection.execute("UPDATE idempotency_keys SET status = NULL, response = NULL")
        body = {"id": "once", "text": "one"}
        running = await filled.post(DOCUMENTS, json=body, headers=key)
        assert problem(running, status=409, code="request_under_way")["retryable"]
        connection.execute("UPDATE idempotency_keys SET started_at = started_at - interval '61 seconds'")
        assert (await filled.post(DOCUMENTS, json=body, headers=key)).json()["added"] == 1
        connection.execute("UPDATE idempotency_keys SET started_at = started_at - interval '25 hours'")
        assert (await filled.post(DOCUMENTS, json=body, headers=key)).json()["unchanged"] == 1
    problem(await filled.post(DOCUMENTS, json=body, headers={"Idempotency-Key": "a b"}), status=422, code="input")


async def test_what_failed_may_be_tried_again_under_its_key(filled: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "k-2"}
    for _ in range(2):
        problem(await filled.delete(f"{DOCUMENTS}/later", headers=key), status=404, code="not_found")
    await filled.post(DOCUMENTS, json={"id": "later", "text": "x"})
    assert (await filled.delete(f"{DOCUMENTS}/later", headers=key)).json() == {"deleted": 1}


async def test_of_many_at_once_one_writes(filled: httpx.AsyncClient) -> None:
    key, body = {"Idempotency-Key": "k-3"}, {"id": "race", "text": "one"}
    answers = await asyncio.gather(*(filled.post(DOCUMENTS, json=body, headers=key) for _ in range(8)))
    assert {answer.status_code for answer in answers} <= {200, 409}
    done = [answer for answer in answers if answer.status_code == 200]
    assert all(answer.json()["added"] == 1 for answer in done)
    assert sum("idempotency-replayed" not in answer.headers for answer in done) == 1


async def test_health(http: httpx.AsyncClient, app: FastAPI, database_urls: tuple[str, str]) -> None:
    assert (await http.get("/")).json()["name"] == "reshelve"
    empty = await http.get("/api/rag/v2/health")
    assert (empty.status_code, empty.json()["status"]) == (503, "down")
    assert (await http.get("/ready")).json() == {"ready": True}
    await http.post(DOCUMENTS, params={"wait": True}, json=DOOR)
    assert (await http.get("/api/rag/v2/health")).json()["index"] == 1
    health = await http.get("/health")
    assert health.status_code == 200
    checks = health.json()["checks"]
    assert list(checks) == ["database", "embeddings", "llm", "memory", "disk"]
    assert {each["status"] for name, each in checks.items() if name in ("database", "embeddings")} == {"ok"}
    assert checks["llm"] == {"status": "not configured", "latency_ms": None, "detail": "answers are extractive"}
    assert checks["embeddings"]["detail"] == "hashing-64, 64 dimensions"
    assert all(each["latency_ms"] > 0 for name, each in checks.items() if name != "llm")

    service: Service = app.state.service
    service.draining = True
    leaving = await http.get("/ready")
    assert problem(leaving, status=503, code="service_unavailable")["retryable"]
    assert leaving.headers["retry-after"] == "1"
    assert len(await found(http, "blue")) == 1


async def test_the_road_of_a_migration(settings_of: Callable[[str], Settings], database_urls: tuple[str, str]) -> None:
    wanted = ["hashing-64"]

    def declared() -> Settings:
        return settings_of(f'[rag.embedding]\nmodel = "{wanted[0]}"\n[rag.rollout]\ncheck_seconds = 0.1\n')

    with in_a_thread(create_app(declared(), declared=declared)) as url:
        async with httpx.AsyncClient(base_url=url, timeout=60) as http:
            await http.post(
                DOCUMENTS, params={"wait": True}, json=[{"id": f"d{n}", "text": f"w{n}"} for n in range(50)]
            )
            assert (await http.post("/api/v1/migrations/plan")).json()["needed"] is False
            problem(await http.post("/api/v1/migrations", json={}), status=409, code="nothing_to_do")
            wanted[0] = "hashing-128"
            plan = (await http.post("/api/v1/migrations/plan")).json()
            assert (plan["needed"], plan["rows"]) == (True, 50)
            wrong = await http.post("/api/v1/migrations", json={"schedule": "10 percent"})
            problem(wrong, status=422, code="input", field="schedule")
            key = {"Idempotency-Key": "start"}
            started = (await http.post("/api/v1/migrations", json={"schedule": ""}, headers=key)).json()
            place = f"/api/v1/migrations/{started['id']}"
            assert (started["to_model"], started["driven_by"]) == ("hashing-128", "service")

            async def state() -> str:
                return (await http.get(place)).json()["state"]

            async def proven() -> bool:
                return bool((await http.get(place)).json()["verification"])

            await until(proven)
            assert [each["id"] for each in (await http.get("/api/v1/migrations")).json()["migrations"]] == [1]
            assert (await http.post(f"{place}/verify")).json()["passed"] is True
            half = (await http.put(f"{place}/share", json={"percent": 50.0})).json()
            assert (half["state"], half["percent"]) == ("rolling_out", 50.0)
            sides = {
                (await http.post(SEARCH, json={"query": "w1", "user": f"u{n}"})).json()["model"] for n in range(40)
            }
            assert sides == {"hashing-64", "hashing-128"}
            problem(await http.put(f"{place}/share", json={"percent": 101}), status=422, code="input", field="percent")
            assert (await http.post(f"{place}/cutover")).json()["state"] == "soaking"
            assert (await http.post(f"{place}/rollback")).json()["state"] == "rolled_back"
            assert "switched" in [each["event"] for each in (await http.get(place)).json()["journal"]]
            problem(await http.post(f"{place}/pause"), status=409, code="transition_refused")
            assert (await http.post(f"{place}/cleanup", json={"skip_soak": True})).json()["dropped"] == 2
            second = (await http.post("/api/v1/migrations", json={"schedule": ""})).json()
            late = await http.post(f"{place}/pause")
            assert f"migration {second['id']}" in problem(late, status=409, code="transition_refused")["advice"]
            assert await state() == "rolled_back"
