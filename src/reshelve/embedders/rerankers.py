"""The models that this process reranks with, each opened once, when it is first asked for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from reshelve.domain.late_interaction import STORED_DIMENSIONS
from reshelve.embedders.protocol import Embedder, TokenEmbedder
from reshelve.errors import ModelChangedError
from reshelve.settings import EmbeddingSettings, SearchSettings

if TYPE_CHECKING:
    from reshelve.embedders.fastembed_models import CrossEncoder

FASTEMBED = "fastembed:"
"""Begins the name of a token space that FastEmbed makes."""


def stored_space(embedder: TokenEmbedder) -> str:
    """Names what is stored of an embedder's token vectors."""
    return f"{embedder.token_space}/{STORED_DIMENSIONS}"


class Rerankers:
    def __init__(self, settings: SearchSettings) -> None:
        self._settings = settings
        self._opening = asyncio.Lock()
        self._cross_encoder: CrossEncoder | None = None
        self._tokens: dict[str | None, TokenEmbedder] = {}
        """By FastEmbed's name for it; None is the built-in one."""
        self._built_in: Embedder | None = None

    async def cross_encoder(self) -> CrossEncoder:
        """Raises ModelError."""
        async with self._opening:
            if self._cross_encoder is None:
                from reshelve.embedders.fastembed_models import CrossEncoder

                self._cross_encoder = await asyncio.to_thread(CrossEncoder, self._settings.cross_encoder_model)
            return self._cross_encoder

    async def token_embedder(self, embedder: Embedder) -> TokenEmbedder:
        """The one that the settings name, else the index's own, else, where that shows no tokens, the built-in one."""
        named = self._settings.late_interaction_model
        if named is None and isinstance(embedder, TokenEmbedder):
            return embedder
        return await self._opened(named)

    async def of_space(self, embedder: Embedder, space: str) -> TokenEmbedder:
        """The one whose token vectors are stored under this name, whatever the settings say by now.

        Raises ModelChangedError where no model here makes them any more.
        """
        if isinstance(embedder, TokenEmbedder) and stored_space(embedder) == space:
            return embedder
        named = space.removeprefix(FASTEMBED).rpartition("/")[0] if space.startswith(FASTEMBED) else None
        found = await self._opened(named)
        if stored_space(found) != space:
            raise ModelChangedError(
                f"the stored token vectors are of {space}, and this program makes {stored_space(found)}",
                advice="Bring that model back, or set rag.search.late_interaction = false, then reshelve apply.",
            )
        return found

    async def _opened(self, named: str | None) -> TokenEmbedder:
        async with self._opening:
            if named not in self._tokens:
                self._tokens[named] = await (
                    self._open_built_in() if named is None else asyncio.to_thread(_colbert, named)
                )
            return self._tokens[named]

    async def _open_built_in(self) -> TokenEmbedder:
        from reshelve.embedders.opening import open_embedder
        from reshelve.embedders.weights import MINILM

        self._built_in = await open_embedder(EmbeddingSettings(model=MINILM))
        assert isinstance(self._built_in, TokenEmbedder)
        return self._built_in

    async def close(self) -> None:
        if self._built_in is not None:
            await self._built_in.aclose()


def _colbert(name: str) -> TokenEmbedder:
    from reshelve.embedders.fastembed_models import ColbertEmbedder

    return ColbertEmbedder(name, token_space=FASTEMBED + name)
