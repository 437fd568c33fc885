"""Searches that name their model or several, and a document's embeddings made anew, in every store."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict

import numpy as np
import pytest

import reshelve
from reshelve.database.catalog import get_index
from reshelve.domain.migration import State
from reshelve.errors import InputError, NoIndexForModel, NotFoundError
from reshelve.retrieval.requests import SearchResponse
from reshelve.settings import Settings
from reshelve.stores.memory import MemoryStore
from tests.support.oracle import assert_indexes_equal_source
from tests.support.writers import documents

SettingsOf = Callable[[str], Settings]
OLD, NEW = "hashing-64", "hashing-128"
ROWS = 40
LONG = "shelf index vector outbox lease query chunk corpus graph recall epoch route tenant model schema barrier"


def declared(model: str, *, backend: str = "pgvector", more: str = "") -> str:
    return f'[rag.vector_storage]\nbackend = "{backend}"\n[rag.embedding]\nmodel = "{model}"\n{more}'


@asynccontextmanager
async def two_models(
    settings_of: SettingsOf, *, backend: str = "pgvector", more: str = ""
) -> AsyncGenerator[reshelve.Library]:
    """Verified: `hashing-64` serves, and `hashing-128` is ready."""
    async with reshelve.connect(settings_of(declared(OLD, backend=backend))) as library:
        await library.ingest(documents(ROWS))
        await library.ingest(documents(3, seed=1), tenant="apart")
    async with reshelve.connect(settings_of(declared(NEW, backend=backend, more=more))) as library:
        assert (await library.apply()).state is State.VERIFYING
        yield library


@pytest.fixture(params=["pgvector", "mock"])
async def library(settings_of: SettingsOf, request: pytest.FixtureRequest) -> AsyncGenerator[reshelve.Library]:
    async with two_models(settings_of, backend=request.param) as opened:
        yield opened


def keys(found: SearchResponse) -> list[tuple[str, str]]:
    return [(result.document_id, result.content) for result in found.results]


async def test_a_search_may_name_its_model(library: reshelve.Library) -> None:
    by_index = {each.model: each.id for each in (await library.status()).indexes}
    for model in (OLD, NEW):
        found = await library.search("shelf1 outbox2", models=[model], top_k=7)
        asked = await library.search("shelf1 outbox2", index=by_index[model], top_k=7)
        assert found.results == asked.results
        assert (found.model, found.query_model, found.index) == (model, model, by_index[model])
        assert {result.model for result in found.results} == {model}
    assert (await library.search("shelf1")).model == OLD
    await library.cutover()
    assert (await library.search("shelf1")).model == NEW
    assert (await library.search("shelf1", models=[OLD])).model == OLD


async def test_several_models_are_fused_by_rank(library: reshelve.Library) -> None:
    """By the ranks alone: a cosine of one model says nothing beside one of another."""
    query, top_k = "recall3 graph epoch7", 10
    ranks: dict[tuple[str, str], list[int]] = {}
    deep: dict[tuple[str, str], list[int]] = {}
    for model in (OLD, NEW):
        for lists, depth in ((ranks, top_k), (deep, 3 * top_k)):
            for rank, key in enumerate(keys(await library.search(query, models=[model], top_k=depth)), 1):
                lists.setdefault(key, []).append(rank)
    either = await library.search(query, models=[OLD, NEW, OLD], top_k=top_k)
    assert (either.model, either.query_model, either.interleaved) == (f"{OLD}, {NEW}",) * 2 + (False,)
    assert {key: result.score for key, result in zip(keys(either), either.results, strict=True)} == pytest.approx(
        {key: sum(1 / (60 + rank) for rank in ranks[key]) for key in keys(either)}
    )
    scores = [result.score for result in either.results]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == top_k
    first = set(keys(await library.search(query, models=[OLD], top_k=top_k)))
    assert [result.model for result in either.results] == [OLD if key in first else NEW for key in keys(either)]
    both = await library.search(query, models=[OLD, NEW], aggregation="intersection", top_k=top_k)
    in_both = {key: sum(1 / (60 + rank) for rank in found) for key, found in deep.items() if len(found) == 2}
    assert 0 < len(both.results) == min(top_k, len(in_both))
    assert {key: result.score for key, result in zip(keys(both), both.results, strict=True)} == pytest.approx(
        {key: in_both[key] for key in keys(both)}
    )


async def test_models_that_were_cut_in_other_chunks_are_fused_by_document_and_text(settings_of: SettingsOf) -> None:
    """The same text is the same result, though each chunking has a chunk of its own for it."""
    more = "[rag.chunking]\nchunk_size = 100\nmax_chunk_size = 120\n"
    async with two_models(settings_of, more=more) as library:
        await library.ingest({"_id": "short", "text": "a word that is nowhere else"})
        await assert_indexes_equal_source(library)
        found = await library.search("a word that is nowhere else", models=[OLD, NEW], aggregation="intersection")
        assert keys(found)[0] == ("short", "a word that is nowhere else")
        assert found.results[0].score == pytest.approx(2 / 61)
        assert len(set(keys(found))) == len(found.results)


async def test_a_tenant_sees_its_own_documents_whatever_the_model(library: reshelve.Library) -> None:
    own = {(each.external_id, each.content) for each in documents(3, seed=1)}
    for models in ([OLD], [OLD, NEW]):
        assert set(keys(await library.search("shelf", models=models, tenant="apart", top_k=50))) == own
        assert not own & set(keys(await library.search("shelf", models=models, top_k=50)))


async def test_an_unknown_model_is_named_with_what_there_is(library: reshelve.Library) -> None:
    for models in (["nope"], [OLD, "nope"]):
        with pytest.raises(NoIndexForModel, match=r"^Column does not exist: .*'nope'") as refused:
            await library.search("shelf", models=models)
        assert f"Searchable: {OLD}, {NEW}." in refused.value.advice
    with pytest.raises(InputError):
        await library.search(" ", models=[OLD])


async def test_the_searchable_models_and_their_roles(settings_of: SettingsOf) -> None:
    async with reshelve.connect(settings_of(declared(OLD))) as library:
        await library.ingest(documents(ROWS))
    target = declared(NEW, more="[rag.migration]\nrange_rows = 10\n")
    async with reshelve.connect(settings_of(target)) as library:

        async def roles() -> dict[str, str]:
            return {each.model: each.role for each in await library.searchable_models()}

        await library.apply(limit=10)
        assert await roles() == {OLD: "serving"}
        with pytest.raises(NoIndexForModel):
            await library.search("shelf", models=[NEW])
        await library.apply()
        assert await roles() == {OLD: "serving", NEW: "standby"}
        await library.rollout(10)
        assert await roles() == {OLD: "serving", NEW: "candidate"}
        await library.cutover()
        assert await roles() == {NEW: "serving", OLD: "previous"}
        listed = [asdict(each) for each in await library.searchable_models()]
        assert listed[0] == {"model": NEW, "provider": "hashing", "dimension": 128, "index": 2, "role": "serving"}
        await library.cleanup(skip_soak=True)
        assert await roles() == {NEW: "serving"}
        with pytest.raises(NoIndexForModel, match=OLD):
            await library.search("shelf", models=[OLD])


async def _damage(library: reshelve.Library, document_id: str, index_id: int) -> None:
    """The document's vectors in this index are no longer what was written."""
    backends = library.backends
    async with backends.database.owner() as owner:
        index = await get_index(owner, index_id)
        cursor = await owner.execute(
            "SELECT c.id FROM chunks c JOIN documents d ON d.id = c.document_id WHERE d.external_id = %s",
            (document_id,),
        )
        chunks = [row[0] for row in await cursor.fetchall()]
        store = backends.stores.of(index)
        if isinstance(store, MemoryStore):
            shelf = store._shelf(index)
            for chunk in chunks:
                shelf.vectors[chunk] = np.ones(index.dimension, np.float32) / np.sqrt(np.float32(index.dimension))
            return
        other = "(SELECT embedding FROM {} WHERE chunk_id <> ALL(%(these)s) LIMIT 1)"
        statement = f"UPDATE {{}} SET embedding = {other} WHERE chunk_id = ANY(%(these)s)"
        await owner.execute(statement.replace("{}", f"embeddings_{index_id}").encode(), {"these": chunks})


async def test_damaged_embeddings_are_made_anew(library: reshelve.Library) -> None:
    long = " ".join(f"{LONG} {number}." for number in range(60))
    await library.ingest({"_id": "notes/long.md", "text": long})
    await assert_indexes_equal_source(library)
    before = {each.model: each for each in await library.embeddings("notes/long.md")}
    assert before.keys() == {OLD, NEW}
    assert all(each.chunks == each.embedded > 2 and each.as_dict()["complete"] for each in before.values())
    for model in (OLD, NEW):
        await _damage(library, "notes/long.md", before[model].index)
        with pytest.raises(AssertionError):
            await assert_indexes_equal_source(library)
        assert await library.update_embeddings("notes/long.md", model=model) == before[model]
        assert await assert_indexes_equal_source(library) == 2 * (ROWS + 3 + before[OLD].chunks)
    assert (await library.verify(index=before[OLD].index)).repaired == 0


async def test_lost_embeddings_are_counted_and_put_back(settings_of: SettingsOf) -> None:
    async with two_models(settings_of) as library:
        async with library.backends.database.owner() as owner:
            await owner.execute(
                "DELETE FROM embeddings_1 WHERE chunk_id = "
                "(SELECT c.id FROM chunks c JOIN documents d ON d.id = c.document_id WHERE d.external_id = 'd7')"
            )
        [old, new] = await library.embeddings("d7")
        assert (old.chunks, old.embedded, old.as_dict()["complete"]) == (1, 0, False)
        assert (new.chunks, new.embedded) == (1, 1)
        assert (await library.update_embeddings("d7", model=OLD)).embedded == 1
        assert (await library.search(documents(8)[7].content)).results[0].document_id == "d7"


async def test_embeddings_of_what_is_not_there(library: reshelve.Library) -> None:
    for missing, tenant in (("nope", ""), ("d1", "stranger"), ("d5", "apart")):
        with pytest.raises(NotFoundError, match=f"no document '{missing}'"):
            await library.embeddings(missing, tenant=tenant)
        with pytest.raises(NotFoundError, match=f"no document '{missing}'"):
            await library.update_embeddings(missing, model=OLD, tenant=tenant)
    with pytest.raises(NoIndexForModel, match=r"^Column does not exist"):
        await library.update_embeddings("d1", model="nope")
    assert [each.embedded for each in await library.embeddings("d1", tenant="apart")] == [1, 1]
