"""What every embedding provider does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from tokenizers import Tokenizer

from reshelve.domain.models import Embedded, EmbeddingModel, Vectors


class Embedder(Protocol):
    """Turns texts into vectors of one space.

    Any number of texts may be given, in any length: the embedder makes its own batches, keeps the order, and cuts a
    text that is longer than the model takes. Every vector has been checked (`check_vectors`). Raises
    EmbeddingUnavailable once its own retries are used up, EmbeddingRefused for an input that will never do,
    EmbeddingInvalid and MixedSpacesError for a wrong answer. Safe to use from several tasks at once.
    """

    @property
    def model(self) -> EmbeddingModel: ...

    @property
    def location(self) -> str:
        """What finds the model again, beside its name: a directory, a hub name with its commit, a base URL, or ""."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's own, or the closest one at hand: chunk sizes are counted with it."""
        ...

    @property
    def max_tokens(self) -> int:
        """The longest text that is not cut, special tokens included."""
        ...

    @property
    def costs_nothing(self) -> bool:
        """Embedding again is cheaper than looking a vector up."""
        ...

    async def embed_documents(self, texts: Sequence[str]) -> Embedded: ...

    async def embed_queries(self, texts: Sequence[str]) -> Embedded: ...

    async def aclose(self) -> None: ...


@runtime_checkable
class TokenEmbedder(Protocol):
    """Shows a vector for each token, not one for the whole text."""

    @property
    def token_space(self) -> str:
        """Names the model and its revision: equal for two that make the same vectors."""
        ...

    async def token_vectors(self, texts: Sequence[str], *, of_query: bool = False) -> list[Vectors]:
        """One array a text: (its tokens, dimension) float32 of unit length, the special tokens left out."""
        ...
