"""Two thin transports for the same calls: one that waits, and one that is awaited."""

from __future__ import annotations

import asyncio
import functools
import time
import weakref
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Generic, ParamSpec, TypeVar, overload

import httpx

from reshelve.client import answers, calls
from reshelve.client.calls import Call
from reshelve.client.failures import failure_of, pause_before, unreachable, unreadable
from reshelve.errors import ReshelveError

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _Verb(Generic[_P, _T]):
    """A call as a method: a Client answers with what it becomes, an AsyncClient with an awaitable of that."""

    def __init__(self, call: Callable[_P, Call[_T]]) -> None:
        self._call = call
        self.__doc__ = call.__doc__

    @overload
    def __get__(self, client: None, owner: type[Any]) -> _Verb[_P, _T]: ...
    @overload
    def __get__(self, client: Client, owner: type[Any]) -> Callable[_P, _T]: ...
    @overload
    def __get__(self, client: AsyncClient, owner: type[Any]) -> Callable[_P, Awaitable[_T]]: ...
    def __get__(self, client: Client | AsyncClient | None, owner: type[Any]) -> Any:
        if client is None:
            return self

        @functools.wraps(self._call)
        def ask(*arguments: _P.args, **named: _P.kwargs) -> Any:
            return client.send(self._call(*arguments, **named))

        return ask


class _Verbs:
    search = _Verb(calls.search)
    ask = _Verb(answers.ask)
    chat = _Verb(answers.chat)
    chat_sessions = _Verb(answers.chat_sessions)
    chat_messages = _Verb(answers.chat_messages)
    delete_chat = _Verb(answers.delete_chat)
    add = _Verb(calls.add)
    add_files = _Verb(calls.add_files)
    replace = _Verb(calls.replace)
    delete = _Verb(calls.delete)
    document = _Verb(calls.document)
    list_documents = _Verb(calls.list_documents)
    models = _Verb(calls.models)
    searchable_models = _Verb(calls.searchable_models)
    embeddings = _Verb(calls.embeddings)
    update_embeddings = _Verb(calls.update_embeddings)
    feedback = _Verb(calls.feedback)
    collections = _Verb(calls.collections)
    indexes = _Verb(calls.indexes)
    health = _Verb(calls.health)
    ready = _Verb(calls.ready)
    plan = _Verb(calls.plan)
    start_migration = _Verb(calls.start_migration)
    migrations = _Verb(calls.migrations)
    migration = _Verb(calls.migration)
    pause = _Verb(calls.pause)
    resume = _Verb(calls.resume)
    rollout = _Verb(calls.rollout)
    cutover = _Verb(calls.cutover)
    rollback = _Verb(calls.rollback)
    verify = _Verb(calls.verify)
    cleanup = _Verb(calls.cleanup)


class Client(_Verbs):
    """`with reshelve.Client("http://localhost:8000") as client: client.search("...")`.

    Every verb raises the service's own errors (`reshelve.errors`), ServiceUnavailable where it cannot be reached. What
    may pass is tried `retries` times more: every call may be, because a write has an idempotency key.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        timeout_seconds: float = 30.0,
        retries: int = 3,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._retries = retries
        self._http = httpx.Client(base_url=url, timeout=timeout_seconds, headers=dict(headers or {}))
        # Whoever keeps a client inside an object of somebody else's has no moment to close it.
        weakref.finalize(self, self._http.close)

    def send(self, call: Call[_T]) -> _T:
        """Carry one call out."""
        attempt = _Attempt(call, retries=self._retries)
        while True:
            try:
                response = self._http.send(attempt.request(self._http))
            except httpx.TransportError as error:
                pause = attempt.unanswered(error)
            else:
                pause = attempt.answered(response)
            if pause is None:
                return attempt.result()
            time.sleep(pause)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(_Verbs):
    """`async with reshelve.AsyncClient("http://localhost:8000") as client: await client.search("...")`. See Client."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        timeout_seconds: float = 30.0,
        retries: int = 3,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._retries = retries
        self._http = httpx.AsyncClient(base_url=url, timeout=timeout_seconds, headers=dict(headers or {}))

    async def send(self, call: Call[_T]) -> _T:
        """Carry one call out."""
        attempt = _Attempt(call, retries=self._retries)
        while True:
            try:
                response = await self._http.send(attempt.request(self._http))
            except httpx.TransportError as error:
                pause = attempt.unanswered(error)
            else:
                pause = attempt.answered(response)
            if pause is None:
                return attempt.result()
            await asyncio.sleep(pause)

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class _Attempt(Generic[_T]):
    """One call on its way: what was answered so far, and whether to try again."""

    def __init__(self, call: Call[_T], *, retries: int) -> None:
        self._call = call
        self._retries = retries
        self._tried = 0
        self._response: httpx.Response | None = None
        self._failure: ReshelveError | None = None

    def request(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        call = self._call
        given: dict[str, Any] = {} if call.timeout_seconds is None else {"timeout": call.timeout_seconds}
        return http.build_request(
            call.method, call.path, params=call.params, json=call.body, files=call.files, headers=call.headers, **given
        )

    def answered(self, response: httpx.Response) -> float | None:
        """The seconds until the next try; None where this answer stands."""
        self._response, self._failure = response, failure_of(response)
        return self._next(response) if self._failure is not None and self._failure.retryable else None

    def unanswered(self, error: httpx.TransportError) -> float | None:
        self._failure = unreachable(error)
        self._failure.__cause__ = error
        return self._next(None)

    def result(self) -> _T:
        if self._failure is not None:
            raise self._failure
        assert self._response is not None
        try:
            return self._call.read(self._response.json())
        except (ValueError, TypeError, KeyError) as error:
            raise unreadable(self._response, error) from error

    def _next(self, response: httpx.Response | None) -> float | None:
        self._tried += 1
        return pause_before(self._tried + 1, response) if self._tried <= self._retries else None
