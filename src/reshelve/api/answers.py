"""JSON answers, and writes that are done once however often they are sent."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import structlog
from fastapi import Header
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from reshelve.api.service import service_of
from reshelve.errors import ReshelveError
from reshelve.operations.idempotency import Claim, Stored, claim, release, settle

_log = structlog.get_logger(__name__)
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\u0021-\u007e]+$",
        description="The same key with the same request is answered once, for a day.",
    ),
]


def answer(document: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Numbers that JSON has no word for become null."""
    content = to_json(document, inf_nan_mode="null")
    return Response(content, status_code=status, headers=headers, media_type="application/json")


async def once(
    request: Request, key: str | None, act: Callable[[], Awaitable[Any]], *, content: bytes | None = None
) -> Response:
    """Do it, unless it was done before under this key: then say again what was answered.

    `content` stands for the body where that is a stream that was read already. What fails is not kept: it may be
    tried again under the same key.
    """
    if key is None:
        return answer(await act())
    database = service_of(request).library.backends.database
    body = await request.body() if content is None else content
    told = f"{request.url.path}?{request.url.query}".encode()
    async with database.service() as connection:
        claimed = await claim(
            connection,
            key=key,
            operation=f"{request.method} {request.scope['route'].path}",
            request_hash=hashlib.sha256(told + b"\0" + body).hexdigest(),
        )
    if isinstance(claimed, Stored):
        return answer(claimed.document, status=claimed.status, headers={"Idempotency-Replayed": "true"})
    return await _carried_out(request, claimed, act)


async def _carried_out(request: Request, claimed: Claim, act: Callable[[], Awaitable[Any]]) -> Response:
    database = service_of(request).library.backends.database
    try:
        done = answer(await act())
    except BaseException:
        await asyncio.shield(_released(request, claimed))
        raise
    async with database.service() as connection:
        await settle(connection, claimed, status=done.status_code, document=bytes(done.body))
    return done


async def _released(request: Request, claimed: Claim) -> None:
    try:
        async with service_of(request).library.backends.database.service() as connection:
            await release(connection, claimed)
    except ReshelveError as error:
        _log.warning("an idempotency key stays claimed for a minute", error=error.message)
