"""Models for reranking that FastEmbed runs, where it is installed: cross-encoders, and ColBERT's token vectors."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from reshelve.domain.late_interaction import unit_rows
from reshelve.domain.models import Vectors
from reshelve.errors import EmbeddingInvalid, ModelError

_INSTEAD = 'Set rag.search.rerank = "late_interaction" without a late_interaction_model: that needs nothing more.'


class CrossEncoder:
    """Reads the query and a text together. Its scores compare among the texts of one query."""

    def __init__(self, name: str) -> None:
        """Blocking. Raises ModelError where FastEmbed is missing, or does not have the model."""
        self.name = name
        self._model = _load("fastembed.rerank.cross_encoder", "TextCrossEncoder", name)

    async def scores(self, query: str, texts: Sequence[str]) -> list[float]:
        """One for each text; the larger, the better."""
        found = await asyncio.to_thread(lambda: [float(score) for score in self._model.rerank(query, list(texts))])
        if len(found) != len(texts) or not np.isfinite(found).all():
            raise EmbeddingInvalid(f"{self.name} answered {len(found)} scores for {len(texts)} texts, or no numbers")
        return found


class ColbertEmbedder:
    """Token vectors of a model that was trained for late interaction."""

    def __init__(self, name: str, *, token_space: str) -> None:
        """As `CrossEncoder`."""
        self.name = name
        self.token_space = token_space
        self._model = _load("fastembed", "LateInteractionTextEmbedding", name)

    async def token_vectors(self, texts: Sequence[str], *, of_query: bool = False) -> list[Vectors]:
        embed = self._model.query_embed if of_query else self._model.embed
        found = await asyncio.to_thread(lambda: [unit_rows(np.asarray(each)) for each in embed(list(texts))])
        if len(found) != len(texts):
            raise EmbeddingInvalid(f"{self.name} answered for {len(found)} texts, and {len(texts)} were asked")
        return found


def _load(module: str, kind: str, name: str) -> Any:
    try:
        made: Any = getattr(importlib.import_module(module), kind)
    except ImportError as error:
        raise ModelError(
            f"{name} is run by FastEmbed, which is not installed", advice=f"pip install fastembed. {_INSTEAD}"
        ) from error
    try:
        return made(model_name=name)
    except Exception as error:  # what it raises is its downloader's, or ONNX Runtime's
        raise ModelError(
            f"FastEmbed cannot load {name}: {error}",
            advice=f"Check the name against FastEmbed's list, and that the model's hub can be reached. {_INSTEAD}",
        ) from error
