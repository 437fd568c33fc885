"""OpenAI-compatible endpoints: what their errors mean, and how long to wait before another try."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    from openai import APIError, APIStatusError

OPENAI_URL = "https://api.openai.com/v1"
LONGEST_WAIT_SECONDS = 60.0
_PASSING_STATUS = frozenset({408, 409, 425, 429})


@dataclass(frozen=True, slots=True)
class PassingFault:
    """Worth another attempt. `after_seconds` is what the endpoint asked for, None when it did not."""

    reason: str
    after_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class LastingFault:
    """The same request will fail again. `said` is in the endpoint's own words."""

    kind: Literal["quota", "key", "missing", "refused"]
    status: int
    said: str


def fault_of(error: APIError) -> PassingFault | LastingFault:
    from openai import APIStatusError

    if not isinstance(error, APIStatusError):
        return PassingFault(f"{type(error).__name__}: {error.__cause__ or error}")
    said = _sentence(error)
    status = error.status_code
    if error.code == "insufficient_quota":
        return LastingFault("quota", status, said)
    if status in _PASSING_STATUS or status >= 500:
        return PassingFault(f"{status} {said}", _retry_after(error.response.headers))
    if status in (401, 403):
        return LastingFault("key", status, said)
    return LastingFault("missing" if status == 404 else "refused", status, said)


def wait_seconds(attempt: int, asked: float | None) -> float:
    """What was asked for and a little more, else exponential backoff; both with jitter, so that clients part."""
    if asked is not None:
        return asked + random.uniform(0.0, 0.1 + 0.1 * asked)
    return random.uniform(0.5, 1.0) * min(20.0, 0.25 * 2**attempt)


def _sentence(error: APIStatusError) -> str:
    """The API's own words, without the JSON around them."""
    answered: object = error.body
    if isinstance(answered, dict):
        body = cast("dict[str, Any]", answered)
        words = body.get("message") or body.get("error") or body.get("detail")
        if isinstance(words, str):
            return words[:500]
    return str(error.message)[:500]


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from `retry-after-ms`, or `retry-after` as seconds or as a date (RFC 9110, 10.2.3)."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        stated = headers.get("retry-after")
        if stated is None:
            return None
        if stated.strip().replace(".", "", 1).isdigit():
            return float(stated)
        return max(0.0, parsedate_to_datetime(stated).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
