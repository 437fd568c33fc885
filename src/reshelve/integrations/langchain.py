"""LangChain: a vector store and a retriever on a running service, which cuts and embeds. Nothing is embedded here.

Needs the extra `langchain`. Whatever model answers, and whether it is being changed, is the service's affair.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, cast

try:
    from langchain_core.callbacks import CallbackManagerForRetrieverRun
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.vectorstores import VectorStore
except ImportError as error:
    raise ImportError(
        "reshelve.integrations.langchain needs langchain-core: pip install 'langchain-core>=1.0'"
    ) from error

from pydantic import Field, PrivateAttr

from reshelve.client import Client, Found, FoundChunk
from reshelve.errors import InputError, NotFoundError

_LOCAL = "http://127.0.0.1:8000"
_MOST_DOCUMENTS = 1000
"""In one request."""


class ReshelveVectorStore(VectorStore):
    """Documents of one collection and tenant. A search answers with passages, whose `id` is their document's.

    `search_options` go with every search (`user`, `session`, `model`, ...). Methods raise the errors of the service.
    The asynchronous ones run these in a thread. Vectors are not handed out: there is no search by vector, and no MMR.
    """

    def __init__(
        self,
        url: str = _LOCAL,
        *,
        collection: str | None = None,
        tenant: str = "",
        client: Client | None = None,
        search_options: dict[str, Any] | None = None,
    ) -> None:
        self._client = Client(url) if client is None else client
        self._place: dict[str, Any] = {"collection": collection, "tenant": tenant}
        self._search_options = search_options or {}

    @property
    def embeddings(self) -> Embeddings | None:
        """None: the service embeds."""
        return None

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Add or change documents by their ids, and return once searches find them. Ids that are not given are made."""
        contents = list(texts)
        given: Sequence[str | None] = ids if ids is not None else [None] * len(contents)
        about = metadatas if metadatas is not None else [dict[str, Any]() for _ in contents]
        return self._add(
            {"id": id or str(uuid.uuid4()), "text": text, "metadata": metadata}
            for id, text, metadata in zip(given, contents, about, strict=True)
        )

    def add_documents(self, documents: list[Document], **kwargs: Any) -> list[str]:
        """The same for documents; `ids` goes over theirs."""
        given: Sequence[str | None] = kwargs.get("ids") or [each.id for each in documents]
        return self._add(
            {"id": id or str(uuid.uuid4()), "text": each.page_content, "metadata": _metadata(each)}
            for id, each in zip(given, documents, strict=True)
        )

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:
        """Delete documents by their ids; those that are not there are passed over."""
        if ids is None:
            raise InputError("delete needs ids: a whole collection is not deleted by this")
        for id in ids:
            try:
                self._client.delete(id, wait=True, **self._place)
            except NotFoundError:
                continue
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Whole documents, in the order of their ids; those that are not there are passed over."""
        found: list[Document] = []
        for id in ids:
            try:
                stored = self._client.document(id, **self._place)
            except NotFoundError:
                continue
            found.append(Document(id=stored.id, page_content=stored.text or "", metadata=stored.metadata))
        return found

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """The `k` best passages. `filter` (or `filters`) asks for metadata; other arguments go to the search."""
        return [document for document, _ in self.similarity_search_with_score(query, k=k, **kwargs)]

    def similarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> list[tuple[Document, float]]:
        """Higher is nearer."""
        options = {**self._search_options, **kwargs}
        if "filter" in options:
            options["filters"] = options.pop("filter")
        try:
            found = self._client.search(query, top_k=k, **self._place, **options)
        except NotFoundError as error:
            # Nothing was put in yet: neither the collection nor the tenant is known. A wrong model is another error.
            if type(error) is not NotFoundError:
                raise
            return []
        return [(_passage(each), each.score) for each in found.results]

    def _similarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Scores that are cut to 0 and 1, as the interface wants them."""
        found = self.similarity_search_with_score(query, k=k, **kwargs)
        return [(document, min(1.0, max(0.0, score))) for document, score in found]

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings | None = None,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> ReshelveVectorStore:
        """A store with these texts. `embedding` is not used: the service embeds with the model of its settings."""
        store = cls(**kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    def close(self) -> None:
        self._client.close()

    def _add(self, bodies: Iterator[dict[str, Any]]) -> list[str]:
        added: list[str] = []
        while batch := list(islice(bodies, _MOST_DOCUMENTS)):
            written = self._client.add(batch, wait=True, **self._place)
            if written.refused:
                first = written.refused[0]
                raise InputError(f"{written.refused_count} documents were refused; the first: {first.reason}")
            added += [body["id"] for body in batch]
        return added


class ReshelveRetriever(BaseRetriever):
    """The `k` best passages of a service. What the service knows of each is in its metadata, under `reshelve`.

    `search_options` go with every search: `filters`, `user`, `session`, `model`, ...
    """

    url: str = _LOCAL
    collection: str | None = None
    tenant: str = ""
    k: int = 4
    search_options: dict[str, Any] = Field(default_factory=dict[str, Any])
    _client: Client | None = PrivateAttr(default=None)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        if self._client is None:
            self._client = Client(self.url)
        options: dict[str, Any] = {"top_k": self.k, **self.search_options, **kwargs}
        options["top_k"] = options.pop("k", options["top_k"])
        found = self._client.search(query, collection=self.collection, tenant=self.tenant, **options)
        return [_passage(each, more={"reshelve": _about(found, each)}) for each in found.results]


def _metadata(document: Document) -> dict[str, Any]:
    return cast("dict[str, Any]", document.metadata)  # pyright: ignore[reportUnknownMemberType]


def _passage(found: FoundChunk, *, more: dict[str, Any] | None = None) -> Document:
    return Document(id=found.document_id, page_content=found.content, metadata={**found.metadata, **(more or {})})


def _about(found: Found, chunk: FoundChunk) -> dict[str, Any]:
    """`search_id`, `chunk_id` and `index` are what feedback is given by."""
    return {
        "title": chunk.title,
        "chunk_id": chunk.chunk_id,
        "start": chunk.start,
        "end": chunk.end,
        "score": chunk.score,
        "index": chunk.index,
        "model": chunk.model,
        "search_id": found.search_id,
    }
