"""The OpenAPI document is true: its examples work, and nothing that it allows or forbids is a fault of the server."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Generator, Iterator
from typing import Any

import httpx
import hypothesis
import psycopg
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.conftest import Server
from tests.support.served import in_a_process
from tests.support.waiting import until

METHODS = ("get", "put", "post", "delete", "patch")
NOTES = [{"id": f"note-{number}", "text": f"word{number} moss fern", "metadata": {"n": number}} for number in range(5)]
DOOR = {"id": "notes/door.md", "title": "The door", "text": "The key hangs behind the blue pot."}
SETTINGS = """
[rag.embedding]
model = "hashing-64"
[rag.alerts]
webhook_secret = "s3cret"
"""


@pytest.fixture(scope="module")
def url(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """A service with a few documents, and a migration that is proven.

    A process of its own: hypothesis wants that nobody else draws random numbers.
    """
    with psycopg.connect(server.owner, autocommit=True) as connection:
        connection.execute("CREATE DATABASE test_openapi TEMPLATE template_reshelve")
        connection.execute("ALTER DATABASE test_openapi SET search_path = reshelve, public")
    path = tmp_path_factory.mktemp("openapi") / "rag.toml"
    owner, service = server.database("test_openapi")
    path.write_text(f"{SETTINGS}\n[rag.database]\nurl = {json.dumps(owner)}\nservice_url = {json.dumps(service)}\n")
    with in_a_process(path) as url, httpx.Client(base_url=url, timeout=60) as http:
        http.post("/api/v1/documents", params={"wait": True}, json=[DOOR, *NOTES]).raise_for_status()
        path.write_text(path.read_text().replace("hashing-64", "hashing-128"))
        http.post("/api/v1/migrations", json={"schedule": ""}).raise_for_status()

        def proven() -> bool:
            return bool(http.get("/api/v1/migrations/1").json()["verification"])

        asyncio.run(until(proven))
        yield url
    with psycopg.connect(server.owner, autocommit=True) as connection:
        connection.execute("DROP DATABASE test_openapi WITH (FORCE)")


@pytest.fixture(scope="module")
def document(url: str) -> dict[str, Any]:
    return httpx.get(f"{url}/openapi.json").json()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        yield from ((method, path, operation) for method, operation in methods.items() if method in METHODS)


def examples_of(schema: dict[str, Any], document: dict[str, Any]) -> list[Any]:
    """Of the schema itself, of what it refers to, or of each of its alternatives."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return examples_of(document["components"]["schemas"][name], document)
    if "examples" in schema:
        return schema["examples"]
    alternatives = [*schema.get("oneOf", ()), *schema.get("anyOf", ())]
    found = [example for alternative in alternatives for example in examples_of(alternative, document)]
    if schema.get("type") == "array":
        inner = examples_of(schema["items"], document)
        return [inner] if inner else []
    return found


def requests_of(document: dict[str, Any], operation: dict[str, Any], path: str) -> Iterator[dict[str, Any]]:
    places: dict[str, dict[str, Any]] = {"query": {}, "path": {}, "header": {}}
    for parameter in operation.get("parameters", ()):
        found = examples_of(parameter["schema"], document)
        if found:
            places[parameter["in"]][parameter["name"]] = found[0]
        else:
            assert not parameter.get("required"), f"{path}: no example of {parameter['name']}"
    filled = re.sub(r"\{(\w+)\}", lambda name: str(places["path"][name[1]]), path)
    request = {"url": filled, "params": places["query"], "headers": {"Authorization": "Bearer s3cret"}}
    content = operation.get("requestBody", {}).get("content", {})
    if "application/json" in content:
        bodies = examples_of(content["application/json"]["schema"], document)
        assert bodies, f"{path}: no example of the body"
        yield from ({**request, "json": body} for body in bodies)
    elif "multipart/form-data" in content:
        yield {**request, "files": [("files", ("door.md", b"# The door"))]}
    else:
        yield request


def test_every_example_works(url: str, document: dict[str, Any]) -> None:
    sent = 0
    with httpx.Client(base_url=url, timeout=60) as http:
        # What takes something away comes last.
        order = sorted(operations(document), key=lambda each: (each[0] == "delete", "/migrations/{" in each[1]))
        for method, path, operation in order:
            for request in requests_of(document, operation, path):
                response = http.request(method, **request)
                where = f"{method} {path} {request} answered {response.status_code} {response.text}"
                assert str(response.status_code) in operation["responses"], where
                # A migration's verbs may come at the wrong moment; everything else is there.
                assert response.is_success or response.status_code == 409 or path.endswith("/share"), where
                sent += 1
    assert sent >= 25


def test_every_error_is_a_problem_document(document: dict[str, Any]) -> None:
    for _, path, operation in operations(document):
        for status, response in operation["responses"].items():
            assert status < "400" or "application/problem+json" in response["content"], path
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_nothing_is_a_fault_of_the_server(url: str) -> None:
    """What the document allows, and what it forbids; every answer is one that it names."""
    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    for result, mode in itertools.product(schema.get_all_operations(), modes):
        operation = result.ok()

        @hypothesis.settings(
            max_examples=8,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=[hypothesis.Phase.generate],
        )
        @hypothesis.given(case=operation.as_strategy(mode))
        def check(case: schemathesis.Case) -> None:
            case.call_and_validate(base_url=url, checks=checks)

        try:
            check()
        except hypothesis.errors.Unsatisfiable:
            assert mode is schemathesis.GenerationMode.NEGATIVE
