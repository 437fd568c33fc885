"""The best put in a better order: by token vectors, by a cross-encoder, page by page."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import reshelve
from reshelve.embedders.bert import open_bert
from reshelve.errors import ModelError
from reshelve.library import Library
from reshelve.settings import Settings
from tests.support.numpy_bert import NumpyBert
from tests.support.tiny_bert import write_tiny_bert
from tests.support.writers import documents

SettingsOf = Callable[[str], Settings]
HASHING = '[rag.embedding]\nmodel = "hashing-64"\n'
QUERY = "shelf1 outbox2 lease3"


async def test_token_vectors_are_the_last_hidden_states(tmp_path: Path) -> None:
    directory = write_tiny_bert(tmp_path / "tiny", prompts={"query": "query: ", "document": ""})
    embedder = open_bert(directory, name="tiny", location="", precision="f32")
    reference = NumpyBert(directory, pooling="cls", max_tokens=32)
    texts = ["", "a", "The key hangs behind the blue pot.", "long " * 50]
    found = await embedder.token_vectors(texts)
    of_query = (await embedder.token_vectors(["a key"], of_query=True))[0]
    await embedder.aclose()
    assert [len(each) for each in found] == [0, 1, 8, 30]
    for text, vectors in zip(texts, found, strict=True):
        assert vectors == pytest.approx(reference.tokens(text).reshape(-1, 48), abs=2e-3)
    assert of_query == pytest.approx(reference.tokens("query: a key"), abs=2e-3)


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """Settings lines of a tiny model, whose chunks are as small as it is."""
    directory = write_tiny_bert(tmp_path / "tiny", pooling="mean")
    return f'[rag.embedding]\nmodel = "{directory}"\n'


async def keys(library: Library, **options: Any) -> list[int]:
    return [result.chunk_id for result in (await library.search(QUERY, **options)).results]


async def test_the_best_are_ordered_by_their_tokens_and_the_rest_follows(
    settings_of: SettingsOf, tiny: str, tmp_path: Path
) -> None:
    search = "[rag.search]\nrerank_candidates = 12\nrerank_weight = 1.0\n"
    async with reshelve.connect(settings_of(tiny + search)) as library:
        await library.ingest(documents(60))
        plain = await library.search(QUERY, top_k=40, rerank="none")
        found = await library.search(QUERY, top_k=40, rerank="late_interaction", explain=True)
        assert {"dense", "lexical", "rerank", "read"} == found.legs_ms.keys()
        assert [each.chunk_id for each in found.results[12:]] == [each.chunk_id for each in plain.results[12:]]
        assert found.results[12].score == plain.results[12].score
        head = found.results[:12]
        assert {each.chunk_id for each in head} == {each.chunk_id for each in plain.results[:12]}
        assert [each.chunk_id for each in head] != [each.chunk_id for each in plain.results[:12]]
        reference = NumpyBert(tmp_path / "tiny", pooling="mean", max_tokens=32)
        asked = reference.tokens(QUERY)
        for rank, each in enumerate(head, 1):
            assert each.legs is not None
            place = each.legs["late_interaction"]
            assert place.rank == rank
            # The graph may run in bfloat16 here.
            assert place.score == pytest.approx((asked @ reference.tokens(each.content).T).max(axis=1).sum(), abs=0.1)
            assert each.score == pytest.approx(sum(place.share for place in each.legs.values()))
        for options in ({}, {"mode": "dense"}, {"mode": "lexical"}, {"diversify": True}):
            whole = await keys(library, top_k=40, rerank="late_interaction", **options)
            paged = [
                key
                for offset in range(0, 40, 5)
                for key in await keys(library, top_k=5, offset=offset, rerank="late_interaction", **options)
            ]
            assert paged == whole


async def test_an_embedder_without_tokens_uses_the_built_in_models(library: Library) -> None:
    texts = {"wrong": "key key key door door", "right": "Hang up your coat. The latchkey is under the flower pot."}
    await library.ingest([reshelve.Document(external_id=key, content=text) for key, text in texts.items()])
    found = await library.search("where do I find what opens the door?", rerank="late_interaction", explain=True)
    scores = {each.document_id: each.legs["late_interaction"].score for each in found.results if each.legs}
    assert scores["right"] > scores["wrong"]


async def test_the_settings_say_what_a_search_does_not(settings_of: SettingsOf, tiny: str) -> None:
    lines = (
        "",
        'rerank = "late_interaction"',
        'rerank = "late_interaction"\nrerank_candidates = 5',
        'rerank = "late_interaction"\nrerank_weight = 1.0',
    )
    found: dict[str, list[int]] = {}
    for line in lines:
        async with reshelve.connect(settings_of(f"{tiny}[rag.search]\n{line}\n")) as library:
            if not line:
                await library.ingest(documents(60))
            found[line] = await keys(library, top_k=40)
            by_default = await keys(library, top_k=40, rerank="none")
        assert by_default == found[""]
    assert len({tuple(each) for each in found.values()}) == len(lines)


class FakeCrossEncoder:
    def __init__(self, model_name: str) -> None:
        if model_name != "owner/cross":
            raise ValueError(f"Model {model_name} is not supported in TextCrossEncoder.")

    def rerank(self, query: str, documents: list[str], batch_size: int = 64) -> Iterator[float]:
        return (float(len(text)) for text in documents)


class FakeColbert:
    def __init__(self, model_name: str) -> None:
        assert model_name == "owner/colbert"

    def embed(self, documents: list[str]) -> Iterator[np.ndarray]:
        return (np.array([[len(text), 100.0]]) for text in documents)

    def query_embed(self, query: list[str]) -> Iterator[np.ndarray]:
        return (np.array([[1.0, 0.0]]) for _ in query)


@pytest.fixture
def fake_fastembed(monkeypatch: pytest.MonkeyPatch) -> None:
    """FastEmbed's own calls, without its models: they would have to be fetched."""
    root: Any = types.ModuleType("fastembed")
    root.LateInteractionTextEmbedding = FakeColbert
    cross: Any = types.ModuleType("fastembed.rerank.cross_encoder")
    cross.TextCrossEncoder = FakeCrossEncoder
    monkeypatch.setitem(sys.modules, "fastembed", root)
    monkeypatch.setitem(sys.modules, "fastembed.rerank", types.ModuleType("fastembed.rerank"))
    monkeypatch.setitem(sys.modules, "fastembed.rerank.cross_encoder", cross)


LENGTHS = [
    replace(document, content=f"{document.content} {'and more ' * number}")
    for number, document in enumerate(documents(20))
]


@pytest.mark.parametrize(
    ("how", "setting"),
    [
        ("cross_encoder", 'cross_encoder_model = "owner/cross"'),
        ("late_interaction", 'late_interaction_model = "owner/colbert"'),
    ],
)
@pytest.mark.usefixtures("fake_fastembed")
async def test_models_of_fastembed(settings_of: SettingsOf, how: Any, setting: str) -> None:
    text = f"{HASHING}[rag.search]\nrerank_weight = 1.0\n{setting}\n"
    async with reshelve.connect(settings_of(text)) as library:
        await library.ingest(LENGTHS)
        found = await library.search(QUERY, top_k=20, rerank=how, explain=True)
    lengths = [len(each.content) for each in found.results]
    assert lengths == sorted(lengths, reverse=True)
    assert all(each.legs and how in each.legs for each in found.results)


@pytest.mark.usefixtures("fake_fastembed")
async def test_a_model_that_cannot_be_loaded_is_named(library: Library) -> None:
    await library.ingest(documents(3))
    with pytest.raises(ModelError, match="cannot load Xenova/ms-marco") as error:
        await library.search(QUERY, rerank="cross_encoder")
    assert "hub" in (error.value.advice or "")


async def test_without_fastembed_it_says_what_to_install(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastembed", None)
    await library.ingest(documents(3))
    with pytest.raises(ModelError, match="not installed") as error:
        await library.search(QUERY, rerank="cross_encoder")
    assert "pip install fastembed" in (error.value.advice or "")
