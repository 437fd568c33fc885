"""What every vector store does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from reshelve.domain.indexes import Index, Scope
from reshelve.domain.models import Vectors
from reshelve.errors import MixedSpacesError

Connection = psycopg.AsyncConnection[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Entries:
    """Rows of an index: `chunk_ids` int64 (n,), `content_hashes` n of them, `vectors` float32 (n, dimension)."""

    chunk_ids: NDArray[np.int64]
    content_hashes: Sequence[UUID]
    vectors: Vectors


class Passage(NamedTuple):
    """What a chunk stands for: its document's id and title, its text, and where in the document that is.

    `place` is `domain.documents.Place` as it is stored.
    """

    document_id: str
    title: str
    content: str
    start: int
    end: int
    metadata: dict[str, Any]
    place: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Hit:
    """`score`: cosine similarity, inner product, or 1 / (1 + distance) for L2. Larger is closer.

    A store inside PostgreSQL can read the `passage` along, which saves a question.
    """

    chunk_id: int
    score: float
    passage: Passage | None = None


@dataclass(frozen=True, slots=True)
class Flaw:
    """An entry that is wrong in itself."""

    chunk_id: int
    reason: str


class VectorStore(Protocol):
    """Holds the entries of any number of indexes. An entry is right or absent, so every call may be repeated.

    `connection` is a PostgreSQL connection: a `transactional` store writes through it, and the caller's transaction
    decides; another store is written before the caller acknowledges, and keeps what it holds in the `ledger`.
    """

    transactional: bool
    durable: bool
    """What it holds outlives the process."""

    async def create(self, connection: Connection, index: Index) -> None:
        """Make room. The connection is the owner's. Idempotent."""
        ...

    async def drop(self, connection: Connection, index: Index) -> None: ...

    async def write(self, connection: Connection, index: Index, entries: Entries) -> int:
        """Add entries whose chunk still lives and that are not there yet. Returns how many."""
        ...

    async def delete(self, connection: Connection, index: Index, chunk_ids: Sequence[int]) -> int: ...

    async def read(self, connection: Connection, index: Index, chunk_ids: Sequence[int]) -> Entries:
        """The entries of those chunks that are there and not damaged, in the order of their ids."""
        ...

    def holdings(self, index: Index) -> sql.Composed:
        """A relation (chunk_id, content_hash) of what the index holds, to select from."""
        ...

    async def search(
        self,
        connection: Connection,
        index: Index,
        vector: Vectors,
        *,
        limit: int,
        scope: Scope,
        exact: bool = False,
        with_passages: bool = True,
    ) -> list[Hit]:
        """The nearest entries to `vector`, shape (dimension,), whose chunks live in the scope; best first."""
        ...

    async def flaws(self, connection: Connection, index: Index) -> list[Flaw]:
        """Every entry whose vector is not what was written, zero, or not of unit length where the model says so."""
        ...

    async def built(self, connection: Connection, index: Index) -> bool:
        """The search structure is there, and valid."""
        ...

    async def build(self, connection: Connection, index: Index) -> None:
        """Build it, beside reads and writes. The connection is the owner's, outside any transaction."""
        ...


def refuse_other_space(index: Index, vectors: Vectors) -> None:
    if vectors.ndim != 2 or vectors.shape[1] != index.dimension:
        raise MixedSpacesError(
            f"Embedding dimension mismatch: index {index.id} holds {index.dimension} dimensions, "
            f"and vectors of shape {vectors.shape} came",
            advice="A model of another size needs an index of its own: change rag.toml, then reshelve plan.",
        )
