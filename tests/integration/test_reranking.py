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
from reshelve.database.routes import get_route
from reshelve.domain.indexes import Index
from reshelve.domain.migration import State
from reshelve.embedders.bert import open_bert
from reshelve.errors import ModelChangedError, ModelError
from reshelve.library import Library
from reshelve.settings import Settings
from reshelve.stores import tokens
from tests.support.numpy_bert import NumpyBert
from tests.support.oracle import assert_indexes_equal_source
from tests.support.tiny_bert import write_tiny_bert
from tests.support.writers import documents, writing

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
    replace(document, content=f"shelf{number} {'and more ' * number}") for number, document in enumerate(documents(20))
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


STORED = "[rag.search]\nlate_interaction = true\n"


async def serving(library: Library) -> Index:
    async with library.backends.database.service() as connection:
        return (await get_route(connection, library.settings.collection)).serving


async def stored(library: Library, index: Index) -> int:
    async with library.backends.database.service() as connection:
        statement = f"SELECT count(*) FROM {tokens.table_name(index)}"
        row = await (await connection.execute(statement.encode())).fetchone()
    assert row is not None
    return row[0]


async def test_stored_token_vectors_follow_every_change(settings_of: SettingsOf, tiny: str) -> None:
    async with reshelve.connect(settings_of(tiny + STORED)) as library:
        await library.ingest(documents(60))
        index = await serving(library)
        before = await stored(library, index)
        assert before >= 60
        found = await library.search(QUERY, top_k=40, rerank="late_interaction", explain=True)
        await library.ingest(replace(documents(1)[0], content="Nothing of the kind any more."))
        await library.delete([document.external_id for document in documents(60)[50:]])
        await library.update_embeddings(documents(60)[7].external_id, model=index.model.name)
        await assert_indexes_equal_source(library)
        assert 50 <= await stored(library, index) < before
    # The same scores as those of token vectors that are made for the query, but for the bytes.
    async with reshelve.connect(settings_of(tiny)) as library:
        fresh = await library.search(QUERY, top_k=40, rerank="late_interaction", explain=True, index=index.id)
    scores = [
        {each.chunk_id: each.legs["late_interaction"].score for each in one.results[:30] if each.legs}
        for one in (found, fresh)
    ]
    shared = scores[0].keys() & scores[1].keys()
    assert len(shared) > 15
    assert [scores[0][key] for key in shared] == pytest.approx([scores[1][key] for key in shared], abs=0.05)


async def test_to_store_them_or_not_is_a_migration(settings_of: SettingsOf, tiny: str) -> None:
    async with reshelve.connect(settings_of(tiny)) as library:
        await library.ingest(documents(120))
    async with reshelve.connect(settings_of(tiny + STORED)) as library:
        plan = await library.plan()
        assert [(change.what, change.before) for change in plan.changes] == [("token vectors", "none")]
        # The vectors are there; the token vectors are what takes time, and most of the disk.
        assert plan.reused_rows == plan.rows
        assert plan.embed_seconds > 0
        assert 0 < plan.token_vector_bytes < plan.disk_bytes
        async with writing(library):
            migration = await library.apply(cutover=True)
        assert migration.state is State.SOAKING
        # What was there has its vectors already; how much the writers put in is left to chance.
        assert migration.reused_rows > plan.rows / 2
        await assert_indexes_equal_source(library)
        index = await serving(library)
        found = await library.search(QUERY, rerank="late_interaction", explain=True)
        assert all(each.legs and "late_interaction" in each.legs for each in found.results)
        await library.cleanup(skip_soak=True)
    # Other parameters of the graph, and none of the tokens is made again: they are copied.
    other = "[rag.vector_storage.hnsw]\nm = 8\n"
    async with reshelve.connect(settings_of(tiny + STORED + other)) as library:
        plan = await library.plan()
        assert plan.embed_seconds == 0
        assert 0 < plan.token_vector_bytes < plan.disk_bytes
        await library.apply(cutover=True)
        await assert_indexes_equal_source(library)
        await library.cleanup(skip_soak=True)
    async with reshelve.connect(settings_of(tiny + other)) as library:
        async with writing(library, seed=2):
            await library.apply(cutover=True)
        await library.cleanup(skip_soak=True)
        await assert_indexes_equal_source(library)
        async with library.backends.database.service() as connection:
            cursor = await connection.execute("SELECT count(*) FROM pg_tables WHERE tablename LIKE 'token_vectors%'")
            assert await cursor.fetchone() == (0,)
        assert not (await serving(library)).has_tokens
        assert (await serving(library)).id != index.id


@pytest.mark.parametrize(
    "harm",
    [
        "DELETE FROM {table} WHERE chunk_id % 3 = 0",
        "UPDATE {table} SET vectors = overlay(vectors PLACING '\\x07'::bytea FROM 9 FOR 1) WHERE chunk_id % 4 = 0",
        "INSERT INTO {table} VALUES (99999999, '', 0)",
    ],
    ids=["lost", "changed", "too many"],
)
async def test_wrong_token_vectors_are_seen_by_the_verification_and_mended(
    settings_of: SettingsOf, tiny: str, harm: str
) -> None:
    async with reshelve.connect(settings_of(tiny + STORED)) as library:
        await library.ingest(documents(30))
        table = tokens.table_name(await serving(library))
        async with library.backends.database.owner() as connection:
            await connection.execute(harm.format(table=table).encode())
        verification = await library.verify()
        assert verification.repaired
        assert verification.passed
        again = await library.verify()
        assert (again.repaired, again.passed) == (0, True)
        await assert_indexes_equal_source(library)


@pytest.mark.usefixtures("fake_fastembed")
async def test_stored_ones_are_read_by_the_model_that_made_them(settings_of: SettingsOf) -> None:
    colbert = 'late_interaction_model = "owner/colbert"\nrerank_weight = 1.0\n'
    async with reshelve.connect(settings_of(HASHING + STORED + colbert)) as library:
        await library.ingest(LENGTHS)
        assert (await serving(library)).token_space == "fastembed:owner/colbert/96"
    async with reshelve.connect(settings_of(f"{HASHING}[rag.search]\nrerank_weight = 1.0")) as library:
        found = await library.search(QUERY, top_k=20, rerank="late_interaction")
        lengths = [len(each.content) for each in found.results]
        assert lengths == sorted(lengths, reverse=True)
        async with library.backends.database.owner() as connection:
            await connection.execute("UPDATE indexes SET token_space = 'minilm-l6-v2/0/96'")
        with pytest.raises(ModelChangedError, match="stored token vectors"):
            await library.search(QUERY, rerank="late_interaction")
