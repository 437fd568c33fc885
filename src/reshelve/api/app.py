"""The application: its routes, its frame, and the document that describes it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.routing import Route

from reshelve.api import (
    alerts,
    chats,
    collections,
    documents,
    embeddings,
    feedback,
    health,
    indexes,
    migrations,
    models,
    monitoring,
    page,
    problems,
    query,
    search,
)
from reshelve.api.problems import Problem
from reshelve.api.requests import RequestFrame
from reshelve.api.service import Service
from reshelve.mcp.http import McpEndpoint
from reshelve.settings import Settings, load_settings

_ROOMS = (
    health,
    search,
    query,
    embeddings,  # before documents, whose ids may hold slashes
    documents,
    models,
    collections,
    indexes,
    migrations,
    monitoring,
    alerts,
    feedback,
    chats,
    page,
)
_METHODS = ("get", "put", "post", "delete", "patch")
_ALWAYS = {"400": "Malformed", "422": "A field is wrong", "500": "A fault of the program", "503": "Not now"}
_WITH_BODY = {"413": "The body is too large", "415": "The body is no JSON"}
_WITH_NAMES = {"404": "There is no such thing"}
_WITH_KEY = {"409": "The first request with this idempotency key has not ended, or the state does not allow it"}
_DESCRIPTION = """Change a live RAG collection's embedding model while it serves.

Errors are problem documents (RFC 9457) with a stable `code`. Every answer has an `X-Request-ID`."""


def create_app(settings: Settings, *, worker: bool = True, declared: Callable[[], Settings] | None = None) -> FastAPI:
    """The service on these settings; with `worker` the process also feeds the indexes and drives migrations.

    `declared` reads the settings again: a migration that is asked for follows them as they are then.
    """
    from reshelve import __version__

    service = Service(settings, worker=worker, declared=declared)

    tools = McpEndpoint(service.of, host=settings.server.host, max_body_bytes=settings.server.max_body_kb * 1024)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        async with service, tools.open():
            yield

    app = FastAPI(
        title="Reshelve",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.service = service
    app.add_middleware(RequestFrame, service=service)
    problems.register(app)
    for room in _ROOMS:
        app.include_router(room.router)
    for path in ("/mcp", "/mcp/"):
        app.router.routes.append(Route(path, endpoint=tools, include_in_schema=False))
    app.openapi = lambda: _described(app)
    return app


def from_environment() -> FastAPI:
    """For other ASGI servers: `uvicorn --factory reshelve.api.app:from_environment`."""
    return create_app(load_settings(), declared=load_settings)


def _described(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document; every error is a problem document."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schemas = document["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= {**problem.pop("$defs"), "Problem": problem}
        for operations in document["paths"].values():
            for method in _METHODS:
                if method in operations:
                    _add_problems(operations[method])
        app.openapi_schema = document
    return app.openapi_schema


def _add_problems(operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    possible = dict(_ALWAYS)
    if "requestBody" in operation:
        possible |= _WITH_BODY
    parameters = {parameter["name"]: parameter["in"] for parameter in operation.get("parameters", ())}
    if "collection" in parameters or "path" in parameters.values():
        possible |= _WITH_NAMES
    if "idempotency-key" in parameters:
        possible |= _WITH_KEY
    told = {"schema": {"$ref": "#/components/schemas/Problem"}}
    for status in sorted({*possible, *(known for known in responses if known >= "400")}):
        known = responses.get(status, {})
        description = possible.get(status) or known.get("description", "")
        content: dict[str, Any] = {} if status == "422" else known.get("content", {})
        responses[status] = {"description": description, "content": {**content, problems.MEDIA_TYPE: told}}
