"""What a call can fail of, as the errors of the service itself, and when it is worth another try."""

from __future__ import annotations

import random
from typing import Any, cast

import httpx

from reshelve import errors
from reshelve.errors import ReshelveError, ServiceError, ServiceUnavailable

_KINDS: dict[str, type[ReshelveError]] = {
    kind.code: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ReshelveError)
}
_LONGEST_PAUSE_SECONDS = 10.0


def failure_of(response: httpx.Response) -> ReshelveError | None:
    """The error that the answer stands for; None for a good one. `code` is the service's, known here or not."""
    if response.is_success:
        return None
    problem = _problem_of(response)
    kind = _KINDS.get(str(problem.get("code")))
    if kind is None:
        kind = ServiceUnavailable if response.status_code in (502, 503, 504) else _by_status(response.status_code)
    error = kind.__new__(kind)
    # Some kinds take more than a message to be made; what they know beside is in the facts.
    detail = str(problem.get("detail") or f"the service answered {response.status_code}")
    ReshelveError.__init__(error, detail, advice=str(problem.get("advice", "")))
    vars(error).update(problem.get("facts") or {})
    vars(error).update(
        code=str(problem.get("code", kind.code)),
        retryable=bool(problem.get("retryable", kind.retryable)),
        status=response.status_code,
        errors=problem.get("errors", []),
        request_id=problem.get("request_id"),
    )
    return error


def unreachable(error: httpx.TransportError) -> ServiceUnavailable:
    said = str(error) or type(error).__name__
    return ServiceUnavailable(f"the service does not answer: {said}", advice="Is it running, at this address?")


def unreadable(response: httpx.Response, error: Exception) -> ServiceError:
    return ServiceError(
        f"{response.request.url} answered what this client does not understand: {error!r:.200}",
        advice="Is it a reshelve service, of this version?",
    )


def pause_before(attempt: int, response: httpx.Response | None) -> float:
    """Seconds to wait before try number `attempt` (2 is the second): what the service asks for, or 0.1, 0.2, 0.4, …"""
    asked = response.headers.get("retry-after", "") if response is not None else ""
    if asked.isdigit():
        return min(float(asked), _LONGEST_PAUSE_SECONDS)
    return min(0.1 * 2 ** (attempt - 2), _LONGEST_PAUSE_SECONDS) * random.uniform(0.75, 1.25)


def _problem_of(response: httpx.Response) -> dict[str, Any]:
    try:
        document: Any = response.json()
    except ValueError:
        return {}
    return cast("dict[str, Any]", document) if isinstance(document, dict) else {}


def _by_status(status: int) -> type[ReshelveError]:
    if status == 404:
        return errors.NotFoundError
    return errors.InputError if status < 500 else ServiceError
