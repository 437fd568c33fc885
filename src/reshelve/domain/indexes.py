"""Indexes and routes: which embedding of a collection exists, and which one answers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from reshelve.domain.filters import Filter
from reshelve.domain.models import EmbeddingModel

NO_LANGUAGE = "none"
NO_TOKENS = "none"


class IndexState(StrEnum):
    FILLING = "filling"
    """Fed by the outbox, but not yet proven complete."""
    READY = "ready"
    """Proven complete: it may answer, and a write that is waited for waits for it too."""
    DROPPED = "dropped"


class Metric(StrEnum):
    COSINE = "cosine"
    L2 = "l2"
    INNER_PRODUCT = "inner_product"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hnsw:
    """Parameters that shape the HNSW graph: a change of one is a new index. (`ef_search` belongs to the query.)"""

    m: int = 16
    ef_construction: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexDefinition:
    """What makes two indexes the same: equal definitions hold equal entries."""

    collection_id: int
    chunking_id: int
    model_id: int
    backend: str
    metric: Metric
    m: int
    ef_construction: int
    language: str
    token_space: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """One embedding of a collection, as registered. `language` says how its words are stemmed; `none`: not at all.

    `token_space` says which model made the token vectors that are stored beside it, and how; `none`: there are none.
    """

    id: int
    collection_id: int
    chunking_id: int
    model_id: int
    model: EmbeddingModel
    backend: str
    metric: Metric
    hnsw: Hnsw
    language: str
    token_space: str
    state: IndexState

    @property
    def has_words(self) -> bool:
        """It can be searched by words."""
        return self.language != NO_LANGUAGE

    @property
    def has_tokens(self) -> bool:
        """Token vectors are stored beside it."""
        return self.token_space != NO_TOKENS

    @property
    def dimension(self) -> int:
        return self.model.dimension

    @property
    def table(self) -> str:
        """The pgvector table that holds it."""
        return f"embeddings_{self.id}"

    @property
    def hnsw_name(self) -> str:
        return f"idx_embeddings_hnsw_{self.dimension}_{self.id}"

    @property
    def definition(self) -> IndexDefinition:
        return IndexDefinition(
            collection_id=self.collection_id,
            chunking_id=self.chunking_id,
            model_id=self.model_id,
            backend=self.backend,
            metric=self.metric,
            m=self.hnsw.m,
            ef_construction=self.hnsw.ef_construction,
            language=self.language,
            token_space=self.token_space,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Whose documents a search may see (None: everybody's, for checks of a whole index), and which of them."""

    tenant: str | None = ""
    filter: Filter | None = None
