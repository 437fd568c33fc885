"""LangChain's own standard tests, and LlamaIndex, on a real service."""

from __future__ import annotations

import itertools
from collections.abc import Generator
from typing import Any

import psycopg
import pytest
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import RetrieversIntegrationTests, VectorStoreIntegrationTests
from llama_index.core.schema import NodeRelationship
from pydantic import SecretStr

import reshelve
from reshelve import errors
from reshelve.api.app import create_app
from reshelve.integrations import llamaindex
from reshelve.integrations.langchain import ReshelveRetriever, ReshelveVectorStore
from reshelve.settings import parse_settings
from tests.conftest import Server
from tests.support.served import in_a_thread

_collections = itertools.count(1)
NOTES = [
    {"id": "door", "title": "The door", "text": "The key hangs behind the blue pot.", "metadata": {"room": "hall"}},
    {"id": "cat", "text": "The cat is fed at seven.", "metadata": {"room": "kitchen"}},
    {"id": "moss", "text": "Moss grows on the north side.", "metadata": {"room": "hall"}},
]


@pytest.fixture(scope="module")
def url(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """One service for all; each test has a collection of its own."""
    with psycopg.connect(server.owner, autocommit=True) as connection:
        connection.execute("CREATE DATABASE test_integrations TEMPLATE template_reshelve")
        connection.execute("ALTER DATABASE test_integrations SET search_path = reshelve, public")
    owner, service = (SecretStr(each) for each in server.database("test_integrations"))
    text = '[rag.embedding]\nmodel = "hashing-256"\n'
    settings = parse_settings(text, source=tmp_path_factory.mktemp("integrations") / "rag.toml")
    database = settings.database.model_copy(update={"url": owner, "service_url": service})
    with in_a_thread(create_app(settings.model_copy(update={"database": database}))) as url:
        yield url
    with psycopg.connect(server.owner, autocommit=True) as connection:
        connection.execute("DROP DATABASE test_integrations WITH (FORCE)")


@pytest.fixture(scope="module")
def notes(url: str) -> str:
    with reshelve.Client(url) as client:
        client.add(NOTES, collection="notes", wait=True)
    return "notes"


class TestVectorStore(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, url: str) -> Generator[VectorStore]:  # type: ignore[override]
        store = ReshelveVectorStore(url, collection=f"store-{next(_collections)}")
        yield store
        store.close()


class TestRetriever(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _place(self, url: str, notes: str) -> None:
        self._params = {"url": url, "collection": notes}

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return ReshelveRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return self._params

    @property
    def retriever_query_example(self) -> str:
        return "where is the key?"


def test_a_store_speaks_to_its_collection_and_tenant(url: str) -> None:
    place = {"url": url, "collection": "shelves"}
    store = ReshelveVectorStore.from_texts(["blue pot", "green gate"], metadatas=[{"n": 1}, {"n": 2}], **place)
    theirs = ReshelveVectorStore.from_documents([Document("red roof")], None, tenant="acme", **place)  # type: ignore[arg-type]
    assert [each.page_content for each in theirs.similarity_search("pot")] == ["red roof"]
    assert [each.metadata for each in store.similarity_search("pot", filter={"n": 2})] == [{"n": 2}]
    [(nearest, score)] = store.similarity_search_with_relevance_scores("blue pot", k=1)
    assert (nearest.page_content, round(score, 3)) == ("blue pot", 1.0)
    assert store.as_retriever(search_kwargs={"k": 1}).invoke("green gate")[0].page_content == "green gate"
    assert store.embeddings is None
    with pytest.raises(errors.NoIndexForModel):
        store.similarity_search("pot", model="m9")
    with pytest.raises(errors.InputError, match="needs ids"):
        store.delete()
    with pytest.raises(errors.InputError):
        store.add_texts([""])


def test_a_retriever_says_where_a_passage_is_from(url: str, notes: str) -> None:
    retriever = ReshelveRetriever(
        url=url, collection=notes, search_options={"filters": {"room": "hall"}, "user": "ada"}
    )
    found = retriever.invoke("where is the key?")
    assert [each.id for each in found] == ["door", "moss"]
    about = found[0].metadata["reshelve"]
    assert (about["title"], about["model"], found[0].metadata["room"]) == ("The door", "hashing-256", "hall")
    with reshelve.Client(url) as client:
        used = client.feedback(about["search_id"], about["chunk_id"], index=about["index"], collection=notes)
    assert used.chunk_id == about["chunk_id"]
    with pytest.raises(errors.NotFoundError):
        ReshelveRetriever(url=url, collection="nowhere").invoke("key")


async def test_llamaindex(url: str, notes: str) -> None:
    retriever = llamaindex.ReshelveRetriever(url, collection=notes, top_k=2)
    found = retriever.retrieve("where is the key?")
    assert found[0].node.relationships[NodeRelationship.SOURCE].node_id == "door"
    assert len(found) == 2
    assert found[0].text == "The door\nThe key hangs behind the blue pot."
    assert found[0].metadata == {"room": "hall"}
    assert (found[0].score or 0) > (found[1].score or 0)
    again = await retriever.aretrieve("where is the key?")
    assert [node.node_id for node in again] == [node.node_id for node in found]
