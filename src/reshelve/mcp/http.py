"""The tools over streamable HTTP. No session is kept: any process of the service may answer any request."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from reshelve.errors import InputError

if TYPE_CHECKING:
    from mcp.server.mcpserver import Context

    from reshelve.library import Library
    from reshelve.mcp.tools import Caller

_PARAMETERS = {"tenant", "user"}
_LONGEST_NAME = 256


class McpEndpoint:
    """What is at `/mcp`. `?tenant=` and `?user=` of its address say who calls, as they do for the other routes."""

    def __init__(self, library: Callable[[str | None], Library], *, host: str, max_body_bytes: int) -> None:
        self._library = library
        self._host = host
        self._max_body_bytes = max_body_bytes
        self._app: ASGIApp | None = None

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Once a time: the SDK's own session manager lives inside it."""
        from reshelve.mcp.tools import make_server

        server = make_server(self._library, caller_of=_caller_of)
        # On a local address the SDK refuses foreign Host and Origin headers: no web page may reach in (DNS rebinding).
        self._app = server.streamable_http_app(
            streamable_http_path="/",
            stateless_http=True,
            json_response=False,  # as a stream, so that a client that hangs up is noticed, and its call cancelled
            max_request_body_size=self._max_body_bytes,
            host=self._host,
        )
        async with server.session_manager.run():
            try:
                yield
            finally:
                self._app = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._app is None:
            await Response(status_code=503)(scope, receive, send)
            return
        await self._app({**scope, "path": "/", "raw_path": b"/", "root_path": ""}, receive, send)


def _caller_of(context: Context[Any, Any]) -> Caller:
    from reshelve.mcp.tools import Caller

    request = cast("Request", context.request_context.request)
    given = request.query_params
    unknown = sorted(set(given) - _PARAMETERS)
    if unknown:
        raise InputError(f"unknown parameter {unknown[0]!r:.100} in the address", advice="Known: tenant, user.")
    for name in _PARAMETERS & set(given):
        if len(given[name]) > _LONGEST_NAME or "\0" in given[name]:
            raise InputError(f"{name} is no name", advice=f"Give at most {_LONGEST_NAME} characters.")
    return Caller(tenant=given.get("tenant", ""), user=given.get("user"))
