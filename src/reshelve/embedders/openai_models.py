"""What is known of OpenAI's models, and how the dimension of any other is found out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from reshelve.domain.models import EmbeddingModel
from reshelve.errors import ModelError
from reshelve.settings import EmbeddingSettings

if TYPE_CHECKING:
    from reshelve.embedders.openai import OpenAIEndpoint


SHORTENED = "shortened"
"""The revision of a model whose vectors are cut by the endpoint: `dimensions` is sent with every request."""


@dataclass(frozen=True, slots=True)
class _Known:
    dimension: int
    price_per_million_tokens: float
    can_be_shortened: bool


OPENAI_MODELS = {
    "text-embedding-3-small": _Known(1536, 0.02, can_be_shortened=True),
    "text-embedding-3-large": _Known(3072, 0.13, can_be_shortened=True),
    "text-embedding-ada-002": _Known(1536, 0.10, can_be_shortened=False),
}


async def described(endpoint: OpenAIEndpoint, settings: EmbeddingSettings, *, dimensions: int | None) -> EmbeddingModel:
    """The model as it will be registered. Raises ModelError for a dimension that it does not have."""
    known = OPENAI_MODELS.get(settings.model)
    if known is not None:
        own = known.dimension
        if dimensions is not None and dimensions != own and not (known.can_be_shortened and dimensions < own):
            raise _conflict(settings.model, own, dimensions)
    else:
        own = await _answered(endpoint, None)
        if dimensions not in (None, own) and await _answered(endpoint, dimensions) != dimensions:
            raise _conflict(settings.model, own, dimensions or own)
    stated = settings.price_per_million_tokens
    return EmbeddingModel(
        name=settings.model,
        provider="openai",
        dimension=dimensions or own,
        revision=SHORTENED if dimensions not in (None, own) else "",
        query_prefix=settings.query_prefix or "",
        document_prefix=settings.document_prefix or "",
        pooling="",
        price_per_million_tokens=stated if stated is not None else known.price_per_million_tokens if known else 0.0,
    )


async def _answered(endpoint: OpenAIEndpoint, dimensions: int | None) -> int:
    vectors, _ = await endpoint.vectors(["dimension"], dimensions=dimensions)
    return vectors.shape[1]


def _conflict(name: str, own: int, requested: int) -> ModelError:
    return ModelError(
        f"{name} has {own} dimensions, not {requested}",
        advice=f"Leave rag.vector_storage.dimensions out, or set it to {own}.",
    )
