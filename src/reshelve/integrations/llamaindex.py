"""LlamaIndex: a retriever on a running service. Needs the extra `llamaindex`."""

from __future__ import annotations

from typing import Any

try:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.schema import NodeRelationship, NodeWithScore, QueryBundle, RelatedNodeInfo, TextNode
except ImportError as error:
    raise ImportError(
        "reshelve.integrations.llamaindex needs llama-index-core: pip install 'llama-index-core>=0.14'"
    ) from error

from reshelve.client import AsyncClient, Client, Found, FoundChunk


class ReshelveRetriever(BaseRetriever):
    """The `top_k` best passages, as nodes whose source is their document.

    `search_options` go with every search: `filters`, `user`, `session`, `model`, ... Raises the service's own errors.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        collection: str | None = None,
        tenant: str = "",
        top_k: int = 4,
        search_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)  # pyright: ignore[reportUnknownMemberType]  # theirs, in part without types
        self._url = url
        self._client = Client(url)
        self._options: dict[str, Any] = {
            "collection": collection,
            "tenant": tenant,
            "top_k": top_k,
            **(search_options or {}),
        }

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return _nodes(self._client.search(query_bundle.query_str, **self._options))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        # A client of its own: connections belong to the event loop that opened them.
        async with AsyncClient(self._url) as client:
            return _nodes(await client.search(query_bundle.query_str, **self._options))


def _nodes(found: Found) -> list[NodeWithScore]:
    return [NodeWithScore(node=_node(each), score=each.score) for each in found.results]


def _node(chunk: FoundChunk) -> TextNode:
    source = RelatedNodeInfo(node_id=chunk.document_id, metadata={"title": chunk.title})
    return TextNode(
        id_=str(chunk.chunk_id),
        text=chunk.content,
        metadata=chunk.metadata,
        start_char_idx=chunk.start,
        end_char_idx=chunk.end,
        relationships={NodeRelationship.SOURCE: source},
    )
