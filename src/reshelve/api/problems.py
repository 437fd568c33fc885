"""What goes wrong, as RFC 9457 problem documents: every error has a status, a stable code, and a request id."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, cast

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from reshelve import errors
from reshelve.errors import ReshelveError

MEDIA_TYPE = "application/problem+json"
REQUEST_ID = "reshelve.request_id"
"""Where the request's id stands in its scope."""
UNION_TAGS = frozenset({"one", "many"})
"""Which member of a union a body was taken for: no part of a field's name."""
NO_NUL = r"^[^\u0000]*$"
"""The pattern of a text that PostgreSQL can store."""
_SHOWN_ERRORS = 20
_STATUS: Mapping[type[ReshelveError], int] = {
    ReshelveError: 500,
    errors.InputError: 422,
    errors.NotFoundError: 404,
    errors.ModelError: 409,
    errors.ModelChangedError: 502,
    errors.EmbeddingError: 502,
    errors.EmbeddingUnavailable: 503,
    errors.EmbeddingRefused: 422,
    errors.AnswerError: 502,
    errors.AnswerUnavailable: 503,
    errors.DatabaseUnavailable: 503,
    errors.StoreError: 503,
    errors.MixedSpacesError: 500,
    errors.LeaseLost: 409,
    errors.ServiceUnavailable: 503,
    errors.RequestUnderWay: 409,
    errors.MigrationError: 409,
}
_HTTP_CODES = {
    400: ("malformed", "Send one JSON document in UTF-8."),
    401: ("unauthorised", "Send the header Authorization: Bearer, with rag.alerts.webhook_secret."),
    404: ("not_found", "The routes are listed at /docs."),
    405: ("method_not_allowed", "The header Allow names what is."),
    413: ("body_too_large", "Send it in several requests, or raise server.max_body_kb."),
    415: ("unsupported_media_type", "Send JSON, with Content-Type: application/json."),
}


class FieldError(BaseModel):
    field: str
    message: str


class Problem(BaseModel):
    """RFC 9457. `code` is stable and meant for programs; `errors` names the fields that are wrong, if any."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:reshelve:input",
                    "title": "Input",
                    "status": 422,
                    "detail": "top_k: Input should be less than or equal to 1000",
                    "code": "input",
                    "advice": "",
                    "request_id": "6d0f0a3c9b6b4f0f8f0e6a1d2c3b4a59",
                    "retryable": False,
                    "errors": [{"field": "top_k", "message": "Input should be less than or equal to 1000"}],
                    "facts": {},
                }
            ]
        }
    )

    type: str
    title: str
    status: int
    detail: str
    code: str
    advice: str
    request_id: str
    retryable: bool
    errors: list[FieldError] = Field(default_factory=list[FieldError])
    facts: dict[str, Any] = Field(default_factory=dict[str, Any], description="What the error's class knows beside.")


class FieldRefused(Exception):
    """An error about one field of the request."""

    def __init__(self, error: ReshelveError, *, field: str) -> None:
        super().__init__(error.message)
        self.error = error
        self.field = field


def register(app: FastAPI) -> None:
    app.add_exception_handler(ReshelveError, _ours)
    app.add_exception_handler(FieldRefused, _field_refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)


def problem(
    scope: Scope,
    *,
    status: int,
    code: str,
    detail: str,
    advice: str = "",
    retryable: bool = False,
    fields: Sequence[tuple[str, str]] = (),
    facts: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    document = _document(
        scope, status=status, code=code, detail=detail, advice=advice, retryable=retryable, fields=fields, facts=facts
    )
    headers = {**(headers or {}), **({"Retry-After": "1"} if status == HTTPStatus.SERVICE_UNAVAILABLE else {})}
    return Response(json.dumps(document), status_code=status, headers=headers, media_type=MEDIA_TYPE)


def _document(
    scope: Scope,
    *,
    status: int,
    code: str,
    detail: str,
    advice: str = "",
    retryable: bool = False,
    fields: Sequence[tuple[str, str]] = (),
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "type": f"urn:reshelve:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": status,
        "detail": _storable(detail),
        "code": code,
        "advice": _storable(advice),
        "request_id": scope.get(REQUEST_ID, ""),
        "retryable": retryable,
        "errors": [{"field": _storable(name)[:200], "message": _storable(said)} for name, said in fields],
        "facts": dict(facts or {}),
    }


_UNEXPECTED: dict[str, Any] = {
    "status": 500,
    "code": "unexpected",
    "detail": "something went wrong that should not",
    "advice": "The service's log has it, under this request id.",
}


def unexpected(scope: Scope) -> Response:
    return problem(scope, **_UNEXPECTED)


def about_failure(request: Request, error: ReshelveError | None) -> dict[str, Any]:
    """The problem document of an answer that has begun, and has its status already. None: nobody foresaw it."""
    return _document(request.scope, **(_UNEXPECTED if error is None else _told(error)))


def http_problem(
    scope: Scope, status: int, *, detail: str, fields: Sequence[tuple[str, str]] = (), headers: Mapping[str, str] | None
) -> Response:
    """What HTTP itself refuses."""
    code, advice = _HTTP_CODES.get(status, ("http", ""))
    return problem(scope, status=status, code=code, detail=detail, advice=advice, fields=fields, headers=headers)


def status_of(error: ReshelveError) -> int:
    return next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)


def _about(request: Request, error: ReshelveError, *, field: str | None = None) -> Response:
    return problem(request.scope, fields=[(field, error.message)] if field is not None else (), **_told(error))


def _told(error: ReshelveError) -> dict[str, Any]:
    plain = (str, int, float, type(None))
    facts = {name: value for name, value in vars(error).items() if isinstance(value, plain)}
    return {
        "status": status_of(error),
        "code": error.code,
        "detail": error.message,
        "advice": error.advice,
        "retryable": error.retryable,
        "facts": {name: value for name, value in facts.items() if name not in ("message", "advice")},
    }


async def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, ReshelveError)
    return _about(request, error)


async def _field_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, FieldRefused)
    return _about(request, error.error, field=error.field)


async def _invalid(request: Request, error: Exception) -> Response:
    """The framework's refusals. What they quote of the request is not said again: it may be anything."""
    assert isinstance(error, RequestValidationError)
    found = cast("Sequence[Mapping[str, Any]]", error.errors())
    first = found[0]
    if first["type"] == "json_invalid":
        detail = f"the body is no JSON: {first['ctx']['error']} at character {first['loc'][-1]}"
        return http_problem(request.scope, 400, detail=detail, fields=[("body", detail)], headers=None)
    if first["loc"] == ("body",) and isinstance(first.get("input"), bytes):
        detail = f"the body's type is {request.headers.get('content-type', 'not said')!r:.100}"
        return http_problem(request.scope, 415, detail=detail, fields=[("body", detail)], headers=None)
    fields = [(_name(each["loc"]), _said(each)) for each in found[:_SHOWN_ERRORS]]
    return problem(
        request.scope,
        status=422,
        code=errors.InputError.code,
        detail="; ".join(f"{name[:200]}: {said}" for name, said in fields[:3]),
        fields=fields,
    )


def _name(place: Sequence[str | int]) -> str:
    """ "results.3.score" for the body's field; "body" for the body itself."""
    inner = [str(part) for part in place[1:] if part not in UNION_TAGS]
    return ".".join(inner) or str(place[0])


def _said(error: Mapping[str, Any]) -> str:
    if error["type"] == "string_pattern_mismatch" and error["ctx"]["pattern"] == NO_NUL:
        return "it holds a NUL character"
    return str(error["msg"]).removeprefix("Value error, ")


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail, fields = str(error.detail), []
    match error.status_code:
        case 404:
            detail = "there is nothing at this address"
        case 405:
            detail = f"{request.method} is not allowed here"
        case 400:
            if isinstance(error.__cause__, UnicodeDecodeError):
                detail = f"the body is not valid UTF-8: byte {error.__cause__.start}"
            fields = [("body", detail)]
        case 413:
            fields = [("body", detail)]
        case _:
            pass
    return http_problem(request.scope, error.status_code, detail=detail, fields=fields, headers=error.headers)


def _storable(text: str) -> str:
    """Without lone surrogates, which UTF-8 has no bytes for."""
    return text.encode("utf-8", "replace").decode()
