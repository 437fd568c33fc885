"""What an OpenAI-compatible endpoint answers: vectors, or an error and what it means for us."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from reshelve.domain.models import Vectors
from reshelve.errors import EmbeddingInvalid, EmbeddingRefused, EmbeddingUnavailable, NotFoundError, ReshelveError

if TYPE_CHECKING:
    from openai import APIError, APIStatusError

_PASSING_STATUS = frozenset({408, 409, 425, 429})


@dataclass(frozen=True, slots=True)
class PassingFault:
    """Worth another attempt. `after_seconds` is what the endpoint asked for, None when it did not."""

    reason: str
    after_seconds: float | None = None


def decode_answer(body: bytes, *, expected: int) -> tuple[Vectors, int | None]:
    """The vectors in the order of the texts, of shape (expected, what the endpoint has), and the tokens it counted.

    Takes base64 (little-endian float32) and lists of numbers. Raises EmbeddingInvalid for what is neither, for a wrong
    count, for indexes that are not each text's once, and for vectors of several lengths.
    """
    try:
        document: Any = json.loads(body)
        items: list[dict[str, Any]] = document["data"]
        rows = [_row(item["embedding"]) for item in items]
        places = [int(item.get("index", number)) for number, item in enumerate(items)]
        usage: dict[str, Any] = document.get("usage") or {}
        tokens = usage.get("total_tokens", usage.get("prompt_tokens"))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise EmbeddingInvalid(f"The endpoint answered no embeddings ({error!r}): {body[:200]!r}") from error
    if len(rows) != expected:
        raise EmbeddingInvalid(f"The endpoint answered {len(rows)} vectors for {expected} texts")
    if sorted(places) != list(range(expected)):
        raise EmbeddingInvalid(f"The endpoint answered the indexes {places[:10]}: not each text's once")
    if len({len(row) for row in rows}) > 1:
        raise EmbeddingInvalid("The endpoint answered vectors of different lengths in one answer")
    vectors = np.empty((expected, len(rows[0]) if rows else 0), np.float32)
    vectors[places] = rows
    return vectors, tokens if isinstance(tokens, int) and tokens >= 0 else None


def _row(embedding: object) -> Vectors:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4")
    with np.errstate(over="ignore"):  # becomes infinite, which is refused later
        row = np.asarray(embedding, np.float32)
    if row.ndim != 1:
        raise ValueError("an embedding is not a list of numbers")
    return row


def fault_of(error: APIError, *, model: str, base_url: str) -> PassingFault | ReshelveError:
    """A fault that may pass, or the error to raise."""
    from openai import APIStatusError

    if not isinstance(error, APIStatusError):
        return PassingFault(f"{type(error).__name__}: {error.__cause__ or error}")
    said = _sentence(error)
    status = error.status_code
    if error.code == "insufficient_quota":
        return EmbeddingUnavailable(f"{base_url} answered: {said}", advice="Check the plan and billing of the key.")
    if status in _PASSING_STATUS or status >= 500:
        return PassingFault(f"{status} {said}", _retry_after(error.response.headers))
    if status in (401, 403):
        return EmbeddingRefused(
            f"{base_url} refused the key ({status}): {said}",
            advice="Set OPENAI_API_KEY, rag.embedding.api_key, or this endpoint's line in rag.embedding.endpoint_keys.",
        )
    if status == 404:
        return NotFoundError(
            f"{base_url} has no model {model} ({status}): {said}",
            advice="Check rag.embedding.model, and that base_url ends where /embeddings follows (often in /v1).",
        )
    return EmbeddingRefused(f"{base_url} refused the texts ({status}): {said}", advice=_advice(said))


def _advice(said: str) -> str:
    lowered = said.lower()
    if "batch" in lowered or "inputs" in lowered:
        return "Lower rag.embedding.batch_size or batch_tokens."
    if "token" in lowered or "length" in lowered or "long" in lowered:
        return "Lower rag.chunking.max_chunk_size: the model takes shorter texts."
    return ""


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
