"""Over HTTP: searches that name their models, the models that can be named, and a document's embeddings."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx
import pytest

import reshelve
from reshelve.settings import Settings
from tests.support.served import served
from tests.support.waiting import until
from tests.support.writers import documents

OLD, NEW = "hashing-64", "hashing-128"
DOCUMENTS, SEARCH = "/api/v1/documents", "/api/v1/search"
ID = "notes/door.md"


@pytest.fixture
async def http(settings_of: Callable[[str], Settings]) -> AsyncGenerator[httpx.AsyncClient]:
    """`hashing-64` serves and `hashing-128` is ready; the tenant `apart` has a document of its own."""
    async with reshelve.connect(settings_of(f'[rag.embedding]\nmodel = "{OLD}"')) as library:
        await library.ingest(documents(20))
        await library.ingest({"_id": ID, "title": "The door", "text": "The key hangs behind the blue pot."})
        await library.ingest({"_id": ID, "text": "Ask the neighbour."}, tenant="apart")
    settings = settings_of(f'[rag.embedding]\nmodel = "{NEW}"')
    async with reshelve.connect(settings) as library:
        await library.apply()
    async with served(settings) as client:
        yield client


def problem(response: httpx.Response, *, status: int, code: str, field: str | None = None) -> dict[str, Any]:
    document = response.json()
    assert (response.status_code, document["code"]) == (status, code), response.text
    assert field is None or field in [each["field"] for each in document["errors"]], document
    return document


async def searched(http: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await http.post(SEARCH, json={"query": "blue pot", **body})
    assert response.status_code == 200, response.text
    return response.json()


async def test_a_search_names_its_models(http: httpx.AsyncClient) -> None:
    assert (await searched(http))["model"] == OLD
    assert (await searched(http, model=NEW))["model"] == NEW
    several = await searched(http, models=[OLD, NEW], aggregation="intersection", top_k=3)
    assert several["model"] == f"{OLD}, {NEW}"
    assert several["results"][0]["document_id"] == ID
    assert several["results"][0]["score"] == pytest.approx(2 / 61)
    assert len((await searched(http, models=[OLD, NEW], top_k=3))["results"]) == 3


async def test_what_a_search_by_model_refuses(http: httpx.AsyncClient) -> None:
    for models, field in (({"model": "nope"}, "model"), ({"models": [OLD, "nope"]}, "models")):
        response = await http.post(SEARCH, json={"query": "pot", **models})
        refused = problem(response, status=404, code="no_index_for_model", field=field)
        assert refused["detail"].startswith("Column does not exist")
        assert f"Searchable: {OLD}, {NEW}." in refused["advice"]
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"models": []}, "models"),
        ({"models": [OLD] * 9}, "models"),
        ({"models": OLD}, "models"),
        ({"model": ""}, "model"),
        ({"model": 3}, "model"),
        ({"models": [OLD], "aggregation": "average"}, "aggregation"),
        ({"model": OLD, "models": [NEW]}, "body"),
        ({"model": OLD, "interleave": True}, "body"),
    ]
    for body, field in wrong:
        response = await http.post(SEARCH, json={"query": "pot", **body})
        problem(response, status=422, code="input", field=field)


async def test_the_models_that_can_be_named(http: httpx.AsyncClient) -> None:
    told = (await http.get("/api/v1/models/search")).json()["models"]
    assert [(each["model"], each["dimension"], each["role"]) for each in told] == [
        (OLD, 64, "serving"),
        (NEW, 128, "standby"),
    ]
    problem(await http.get("/api/v1/models/search", params={"collection": "no"}), status=404, code="not_found")


async def test_a_documents_embeddings(http: httpx.AsyncClient) -> None:
    told = (await http.get(f"{DOCUMENTS}/{ID}/embeddings")).json()
    assert told["document_id"] == ID
    assert [(each["model"], each["embedded"], each["complete"]) for each in told["embeddings"]] == [
        (OLD, 1, True),
        (NEW, 1, True),
    ]
    made = await http.put(f"{DOCUMENTS}/{ID}/embeddings", params={"model": NEW, "tenant": "apart"})
    assert (made.status_code, made.json()["model"], made.json()["complete"]) == (200, NEW, True)
    assert (await searched(http, model=NEW, tenant="apart"))["results"][0]["content"] == "Ask the neighbour."
    assert (await http.get(f"{DOCUMENTS}/{ID}")).json()["title"] == "The door"


async def test_the_same_key_embeds_once(http: httpx.AsyncClient) -> None:
    place, headers = f"{DOCUMENTS}/{ID}/embeddings", {"Idempotency-Key": "one"}
    first = await http.put(place, params={"model": OLD}, headers=headers)
    again = await http.put(place, params={"model": OLD}, headers=headers)
    assert again.json() == first.json()
    assert again.headers["Idempotency-Replayed"] == "true"
    other = await http.put(place, params={"model": NEW}, headers=headers)
    problem(other, status=422, code="idempotency_conflict")


async def test_embeddings_of_what_is_not_there(http: httpx.AsyncClient) -> None:
    problem(await http.get(f"{DOCUMENTS}/nope/embeddings"), status=404, code="not_found")
    problem(await http.get(f"{DOCUMENTS}/d1/embeddings", params={"tenant": "apart"}), status=404, code="not_found")
    place = f"{DOCUMENTS}/d1/embeddings"
    problem(await http.put(place, params={"model": "nope"}), status=404, code="no_index_for_model", field="model")
    problem(await http.put(place), status=422, code="input", field="model")
    problem(await http.put(place, params={"model": OLD, "modle": NEW}), status=422, code="input", field="modle")
    problem(await http.put(f"{DOCUMENTS}/no/embeddings", params={"model": OLD}), status=404, code="not_found")


async def test_an_id_that_ends_like_the_route_is_a_document_all_the_same(http: httpx.AsyncClient) -> None:
    written = await http.post(DOCUMENTS, json={"id": "notes/embeddings", "text": "a word of its own"})
    assert written.json()["added"] == 1
    told = await http.get(f"{DOCUMENTS}/notes/embeddings/embeddings")
    assert told.json()["document_id"] == "notes/embeddings"
    assert (await http.delete(f"{DOCUMENTS}/notes/embeddings")).json() == {"deleted": 1}

    async def gone() -> bool:
        return (await http.get(f"{DOCUMENTS}/notes/embeddings/embeddings")).status_code == 404

    await until(gone)
