"""Questions: answered whole, or as a stream of Server-Sent Events. Who hangs up ends the work on the answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import structlog
from fastapi import APIRouter, Request
from pydantic_core import to_json
from starlette.responses import Response, StreamingResponse
from starlette.types import Send

from reshelve.answering.results import Answered, Delta, Event, Passages
from reshelve.api.answers import answer
from reshelve.api.bodies import QueryBody
from reshelve.api.problems import FieldRefused, about_failure
from reshelve.api.search import refuse_unknown_tenant
from reshelve.api.service import service_of
from reshelve.errors import NoIndexForModel, ReshelveError
from reshelve.tasks import cancel_and_wait

router = APIRouter(prefix="/api/v1", tags=["answers"])
CLIENT_GONE = 499
"""nginx's code, for the log: nobody receives it."""
_EVENT_STREAM = "text/event-stream"
_NAMES: dict[type[Any], str] = {Passages: "passages", Delta: "delta", Answered: "done"}
_EVENT_SCHEMA: dict[str, Any] = {
    "description": "Of each event.",
    "type": "object",
    "properties": {
        "event": {"type": "string", "enum": [*_NAMES.values(), "error"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "data"],
}
STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer; with `stream` the events `passages`, `delta` and `done`, or `error`.",
        "content": {_EVENT_STREAM: {"schema": _EVENT_SCHEMA}},
    },
    404: {},
    502: {"description": "The language model does not accept the request"},
}
_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


@router.post("/query", response_model=Answered, responses=STREAMED)
async def query(request: Request, body: QueryBody) -> Response:
    """An answer from the passages that are found, with citations that were checked; or that they do not hold one."""
    library = service_of(request).of(body.collection)
    events = library.ask_events(
        body.query,
        top_k=body.top_k,
        tenant=body.tenant,
        filters=body.filters,
        user=body.user,
        session=body.session,
        model=body.model,
        style=body.style,
        summary=body.summary,
    )

    async def check(passages: Passages) -> None:
        if not passages.passages and passages.search_id is not None and body.tenant:
            await refuse_unknown_tenant(library, body.tenant)

    try:
        return await answered(request, events, stream=body.stream, check=check)
    except NoIndexForModel as error:
        raise FieldRefused(error, field="model") from error


async def answered(
    request: Request,
    events: AsyncGenerator[Event],
    *,
    stream: bool,
    check: Callable[[Passages], Awaitable[None]] | None = None,
) -> Response:
    """The events as a stream, or the last of them. `check` may refuse what was found, before anything is sent."""
    try:
        # The search comes first: what it refuses is an answer with a status of its own, streamed or not.
        passages = await unless_gone(request, anext(events))
        assert isinstance(passages, Passages)
        if check is not None:
            await check(passages)
        if stream:
            return EventStream(_written(request, passages, events))
        return answer(await unless_gone(request, last_of(events)))
    except ClientGone:
        await events.aclose()
        return Response(status_code=CLIENT_GONE)
    except BaseException:
        await events.aclose()
        raise


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


async def unless_gone(request: Request, work: Awaitable[_T]) -> _T:
    """The result of the work, which is cancelled once the client has gone. Raises ClientGone then."""
    task = asyncio.ensure_future(work)
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            _log.info("the client has gone before its answer", path=request.url.path)
            raise ClientGone
        return task.result()
    finally:
        await cancel_and_wait(task, gone)


async def _gone(request: Request) -> None:
    """The body was read already, so what comes next is that the client hangs up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def last_of(events: AsyncGenerator[Event]) -> Answered:
    """The whole answer."""
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Answered):
                return event
    raise AssertionError("the events of an answer end with it")


async def _written(request: Request, first: Passages, events: AsyncGenerator[Event]) -> AsyncGenerator[bytes]:
    """The events in the form of the HTML standard, 9.2.6. An error is the last one."""
    async with aclosing(events):
        yield _frame("passages", first)
        try:
            async for event in events:
                yield _frame(_NAMES[type(event)], event)
        except ReshelveError as error:
            yield _frame("error", about_failure(request, error))
        except Exception:
            _log.exception("an answer failed", path=request.url.path)
            yield _frame("error", about_failure(request, None))


def _frame(name: str, document: Any) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + to_json(document, inf_nan_mode="null") + b"\n\n"


class EventStream(StreamingResponse):
    """Closes what it streams, however it ends: the framework leaves that to the garbage collector."""

    def __init__(self, events: AsyncGenerator[bytes]) -> None:
        self._events = events
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type=_EVENT_STREAM, headers=headers)

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self._events):
            await super().stream_response(send)
