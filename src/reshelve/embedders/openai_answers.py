"""What an OpenAI-compatible endpoint answers: vectors, or an error and what it means for us."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np

from reshelve.domain.models import Vectors
from reshelve.endpoints import LastingFault
from reshelve.errors import EmbeddingInvalid, EmbeddingRefused, EmbeddingUnavailable, NotFoundError, ReshelveError


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


def error_of(fault: LastingFault, *, model: str, base_url: str) -> ReshelveError:
    match fault.kind:
        case "quota":
            return EmbeddingUnavailable(
                f"{base_url} answered: {fault.said}", advice="Check the plan and billing of the key."
            )
        case "key":
            return EmbeddingRefused(
                f"{base_url} refused the key ({fault.status}): {fault.said}",
                advice="Set OPENAI_API_KEY, rag.embedding.api_key, or this endpoint's line in "
                "rag.embedding.endpoint_keys.",
            )
        case "missing":
            return NotFoundError(
                f"{base_url} has no model {model} ({fault.status}): {fault.said}",
                advice="Check rag.embedding.model, and that base_url ends where /embeddings follows (often in /v1).",
            )
        case "refused":
            return EmbeddingRefused(
                f"{base_url} refused the texts ({fault.status}): {fault.said}", advice=_advice(fault.said)
            )


def _advice(said: str) -> str:
    lowered = said.lower()
    if "batch" in lowered or "inputs" in lowered:
        return "Lower rag.embedding.batch_size or batch_tokens."
    if "token" in lowered or "length" in lowered or "long" in lowered:
        return "Lower rag.chunking.max_chunk_size: the model takes shorter texts."
    return ""
