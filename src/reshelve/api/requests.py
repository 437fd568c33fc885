"""The frame around every request: its id, the limit of its body, and the answer to what nobody foresaw."""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid

import structlog
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reshelve.api.problems import REQUEST_ID, http_problem, unexpected
from reshelve.api.service import Service

_GIVEN_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_SWALLOWED_BYTES = 64 * 1024**2
_SWALLOWING_SECONDS = 10.0
_log = structlog.get_logger(__name__)


class RequestFrame:
    """`X-Request-ID` is taken over where it is 1 to 128 letters, digits and `._:-`, and else made."""

    def __init__(self, app: ASGIApp, *, service: Service) -> None:
        self._app = app
        self._service = service
        self._max_body_bytes = service.settings.server.max_body_kb * 1024

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False
        given, length = b"", b""
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                given = value
            elif name == b"content-length":
                length = value
        request_id = given if _GIVEN_ID.fullmatch(given) else uuid.uuid4().hex.encode()
        scope[REQUEST_ID] = request_id.decode()

        async def send_framed(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = [*message["headers"], (b"x-request-id", request_id)]
                if self._service.draining:
                    headers.append((b"connection", b"close"))
                message = {**message, "headers": headers}
            await send(message)

        try:
            if length.isdigit() and int(length) > self._max_body_bytes:
                if int(length) <= _SWALLOWED_BYTES:
                    await _swallow(receive)
                await self._refusal(scope)(scope, receive, send_framed)
                return
            # A body of a known length within the limit needs no watching.
            watched = receive if length or scope["method"] == "GET" else self._limited(receive)
            await self._app(scope, watched, send_framed)
        except Exception:
            _log.exception("a request failed", request_id=scope[REQUEST_ID], path=scope["path"])
            if started:
                raise
            await unexpected(scope)(scope, receive, send_framed)

    def _refusal(self, scope: Scope) -> Response:
        said = self._too_large
        return http_problem(scope, 413, detail=said, fields=[("body", said)], headers={"Connection": "close"})

    @property
    def _too_large(self) -> str:
        return f"the body is larger than {self._max_body_bytes // 1024:,} kB"

    def _limited(self, receive: Receive) -> Receive:
        """For a body that comes in chunks, and does not say how long it will be."""
        seen = 0

        async def limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_body_bytes:
                if message.get("more_body"):
                    await _swallow(receive)
                raise HTTPException(413, self._too_large, headers={"Connection": "close"})
            return message

        return limited


async def _swallow(receive: Receive) -> None:
    """Take the rest and forget it: a client that still sends when we hang up does not see our answer."""
    taken = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SWALLOWING_SECONDS):
            while taken < _SWALLOWED_BYTES:
                message = await receive()
                taken += len(message.get("body", b""))
                if not message.get("more_body"):
                    return
