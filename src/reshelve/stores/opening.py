"""Which store holds an index."""

from __future__ import annotations

from reshelve.domain.indexes import Index
from reshelve.errors import NotFoundError
from reshelve.stores.memory import MemoryStore
from reshelve.stores.pgvector import PgvectorStore
from reshelve.stores.protocol import VectorStore


class Stores:
    """The stores of one process, by the name of their backend."""

    def __init__(self) -> None:
        self._stores: dict[str, VectorStore] = {"pgvector": PgvectorStore(), "mock": MemoryStore()}

    def of(self, index: Index) -> VectorStore:
        try:
            return self._stores[index.backend]
        except KeyError:
            raise NotFoundError(
                f"index {index.id} lives in {index.backend!r}, which this program does not know"
            ) from None
