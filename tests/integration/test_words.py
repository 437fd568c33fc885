"""Search by words, and both ways at once: true to the corpus, to the tenant, and through every change of it."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from psycopg import sql

import reshelve
from reshelve.database.routes import get_route
from reshelve.domain.bm25 import POSTING, Bm25
from reshelve.domain.indexes import Index, Scope
from reshelve.domain.migration import State
from reshelve.errors import InputError
from reshelve.library import Library
from reshelve.operations.now_and_then import NowAndThen
from reshelve.retrieval import asking
from reshelve.settings import Settings
from reshelve.stores import lexical, word_search
from reshelve.stores.scope import passages
from tests.support.oracle import assert_indexes_equal_source
from tests.support.writers import documents, writing

SettingsOf = Callable[[str], Settings]
HASHING = '[rag.embedding]\nmodel = "hashing-64"\n'
KEYS = [
    reshelve.Document(
        external_id="pot", content="The key hangs behind the blue pot, the keys of the cellar beside it."
    ),
    reshelve.Document(external_id="door", content="A door without a lock needs no key."),
    reshelve.Document(external_id="boat", content="The boats are painted in spring, all of them blue."),
]


async def serving(library: Library) -> Index:
    async with library.backends.database.service() as connection:
        return (await get_route(connection, library.settings.collection)).serving


async def ids(library: Library, query: str, **options: object) -> list[str]:
    found = await library.search(query, **{"mode": "lexical", **options})  # pyright: ignore[reportArgumentType]
    return [result.document_id for result in found.results]


async def test_words_are_found_by_their_stems_and_stop_words_by_nothing(library: Library) -> None:
    await library.ingest(KEYS)
    assert await ids(library, "KEYS") == ["pot", "door"]
    assert await ids(library, "painting a boat") == ["boat"]
    assert await ids(library, "the of it") == []
    assert await ids(library, "'); DROP TABLE chunks; -- & | ! :* <->") == []
    assert await ids(library, "key", min_score=100.0) == []


async def test_of_a_long_query_the_rarest_words_count(library: Library) -> None:
    common = [f"common{number}" for number in range(100)]
    texts = {f"d{number}": " ".join(common) for number in range(20)}
    texts["rare"] = " ".join([f"rare{number}" for number in range(64)])
    await library.ingest([reshelve.Document(external_id=key, content=text) for key, text in texts.items()])
    assert await ids(library, " ".join([*common, *texts["rare"].split()]), top_k=50) == ["rare"]
    assert len(await ids(library, " ".join(common[:64]), top_k=50)) == 20


async def test_scores_are_bm25_of_the_tenants_own_passages(library: Library) -> None:
    chance = random.Random(5)
    texts = {
        f"d{n}": " ".join(chance.choices(["oak", "elm", "ash", "yew", "fir"], k=chance.randint(1, 9)))
        for n in range(40)
    }
    await library.ingest([reshelve.Document(external_id=key, content=text) for key, text in texts.items()])
    await library.ingest([reshelve.Document(external_id=f"x{n}", content="oak") for n in range(30)], tenant="other")
    found = (await library.search("oak yew yew", mode="lexical", top_k=50)).results
    expected: dict[str, float] = {}
    mean = sum(len(text.split()) for text in texts.values()) / len(texts)
    for key, text in texts.items():
        for word, repeated in (("oak", 1), ("yew", 2)):
            containing = sum(word in other.split() for other in texts.values())
            frequency = text.split().count(word)
            rarity = math.log(1 + (len(texts) - containing + 0.5) / (containing + 0.5))
            norm = 1.2 * (0.25 + 0.75 * len(text.split()) / mean)
            if frequency:
                expected[key] = expected.get(key, 0) + repeated * rarity * frequency * 2.2 / (frequency + norm)
    assert {result.document_id: result.score for result in found} == pytest.approx(expected)
    assert set(await ids(library, "oak", tenant="other", top_k=50)) == {f"x{n}" for n in range(30)}
    assert await ids(library, "yew", tenant="other") == []
    assert await ids(library, "oak", tenant="nobody") == []


async def test_what_is_changed_or_deleted_is_not_found_any_more_and_its_traces_go(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NowAndThen, "due", False)
    await library.ingest(KEYS)
    await library.ingest(replace(KEYS[0], content="The lamp hangs there now."))
    await library.delete(["boat"], wait=False)
    assert await ids(library, "key") == ["door"]
    assert await ids(library, "blue") == []
    assert await ids(library, "lamp") == ["pot"]
    # Forty documents more, so that there are rows enough to fold.
    for document in documents(40):
        await library.ingest(replace(document, content=f"key {document.content}"))
    await library.delete([document.external_id for document in documents(10)])
    before = (await library.search("key lamp", mode="lexical", top_k=50)).results
    index = await serving(library)
    assert await _postings_of_the_dead(library, index) > 0
    async with library.backends.database.service() as connection:
        await lexical.fold(connection, index)
    assert await _most_rows_of_a_size(library, index) < 16
    after = (await library.search("key lamp", mode="lexical", top_k=50)).results
    assert {result.document_id for result in after} == {result.document_id for result in before}
    assert len(after) == 32
    assert await _postings_of_the_dead(library, index) == 0
    await assert_indexes_equal_source(library)


async def _postings_of_the_dead(library: Library, index: Index) -> int:
    """Of the words that have so many rows that they are folded, or were."""
    name, passages, _ = lexical.table_names(index)
    async with library.backends.database.service() as connection:
        cursor = await connection.execute(
            f"SELECT records FROM {name} WHERE word IN (SELECT word FROM {name} GROUP BY word "
            "HAVING count(*) >= 16 OR max(tier) > 0)".encode()
        )
        met = [np.frombuffer(row[0], POSTING)["chunk"] for row in await cursor.fetchall()]
        cursor = await connection.execute(f"SELECT chunk_id FROM {passages}".encode())
        alive = [row[0] for row in await cursor.fetchall()]
    return int((~np.isin(np.concatenate(met).astype(np.int64), alive)).sum())


async def _most_rows_of_a_size(library: Library, index: Index) -> int:
    name, _, _ = lexical.table_names(index)
    counted = f"SELECT max(rows) FROM (SELECT count(*) AS rows FROM {name} GROUP BY word, tier) counted"
    async with library.backends.database.service() as connection:
        row = await (await connection.execute(counted.encode())).fetchone()
    assert row is not None
    return row[0]


async def test_folding_beside_writers_loses_nothing(library: Library) -> None:
    await library.ingest(documents(60))
    index = await serving(library)
    async with writing(library, seed=3, pause=0.0):
        for _ in range(20):
            async with library.backends.database.service() as one, library.backends.database.service() as other:
                await asyncio.gather(lexical.fold(one, index), lexical.fold(other, index))
            await asyncio.sleep(0.05)
    await assert_indexes_equal_source(library)


@pytest.fixture
async def german(settings_of: SettingsOf) -> AsyncGenerator[Library]:
    """A collection that is served without words, and a file that asks for German ones."""
    async with reshelve.connect(settings_of(f'{HASHING}[rag.search]\nlanguage = "none"')) as library:
        # One word that is in every range, and so in rows enough to fold.
        texts = [replace(each, content=f"neu {each.content}") for each in documents(200)]
        await library.ingest([*texts, reshelve.Document(external_id="haus", content="Die Häuser sind alt.")])
        found = await library.search("Häuser")
        assert found.mode == "dense"
        with pytest.raises(InputError, match="cannot be searched by words"):
            await library.search("Häuser", mode="lexical")
    ranges = "[rag.migration]\nrange_rows = 10\n[rag.rollout]\nparallel = true\n"
    async with reshelve.connect(settings_of(f'{HASHING}{ranges}[rag.search]\nlanguage = "german"')) as library:
        yield library


async def test_a_plan_counts_words_that_are_not_there_yet(settings_of: SettingsOf) -> None:
    async def planned(language: str, *, other: str = "") -> reshelve.Plan:
        async with reshelve.connect(settings_of(f'{HASHING}{other}[rag.search]\nlanguage = "{language}"')) as library:
            await library.ingest(documents(50))
            return await library.plan()

    assert not (await planned("english")).needed
    graph = "[rag.vector_storage.hnsw]\nm = 8\n"
    same, german, none = [await planned(language, other=graph) for language in ("english", "german", "none")]
    assert same.disk_bytes == none.disk_bytes < german.disk_bytes
    assert same.build_seconds < german.build_seconds


async def test_another_language_is_a_migration_that_embeds_nothing(german: Library) -> None:
    plan = await german.plan()
    assert [(change.what, change.before, change.after) for change in plan.changes] == [
        ("language of the words", "none", "german")
    ]
    assert plan.reused_rows == plan.rows
    async with writing(german):
        migration = await german.apply(cutover=True)
    assert migration.state is State.SOAKING
    assert migration.embedded_rows == 0
    assert await ids(german, "Haus") == ["haus"]
    assert (await german.search("alte Häuser")).mode == "hybrid"
    # The index that was there before has no words, and is not asked for them beside the new one.
    for _ in range(8):
        await ids(german, "Haus")
    await asyncio.sleep(0.3)
    assert all(breaker.state == "closed" for breaker in german.backends.breakers.states().values())
    await assert_indexes_equal_source(german)
    await german.cleanup(skip_soak=True)
    assert await ids(german, "Haus") == ["haus"]


@pytest.mark.parametrize(
    "harm",
    [
        "DELETE FROM {postings} WHERE id % 3 = 0",
        "DELETE FROM {passages} WHERE chunk_id % 5 = 0",
        "UPDATE {postings} SET records = overlay(records PLACING '\\x0007'::bytea FROM 9 FOR 2) WHERE id % 4 = 0",
        "INSERT INTO {passages} VALUES (99999999, 1, 1, 1)",
    ],
    ids=["postings lost", "passages lost", "frequencies changed", "a passage too many"],
)
async def test_wrong_words_are_seen_by_the_verification_and_mended(german: Library, harm: str) -> None:
    await german.apply(cutover=True)
    index = await serving(german)
    postings, passages, _ = lexical.table_names(index)
    assert await _most_rows_of_a_size(german, index) < 16
    async with german.backends.database.owner() as connection:
        await connection.execute(harm.format(postings=postings, passages=passages).encode())
    verification = await german.verify()
    assert verification.repaired
    assert verification.passed
    again = await german.verify()
    assert (again.repaired, again.passed) == (0, True)
    await assert_indexes_equal_source(german)


async def test_both_ways_at_once_explains_itself_and_its_pages_fit_together(library: Library) -> None:
    await library.ingest(documents(150))
    whole = await library.search("shelf1 outbox2 lease3", top_k=120, explain=True)
    assert whole.mode == "hybrid"
    assert {"dense", "lexical", "read"} == whole.legs_ms.keys()
    for result in whole.results:
        assert result.legs
        assert result.score == pytest.approx(sum(place.share for place in result.legs.values()))
    keys = [result.chunk_id for result in whole.results]
    by_offset = [
        result.chunk_id
        for offset in range(0, 120, 30)
        for result in (await library.search("shelf1 outbox2 lease3", top_k=30, offset=offset)).results
    ]
    assert by_offset == keys
    by_cursor: list[int] = []
    page = await library.search("shelf1 outbox2 lease3", top_k=50)
    while True:
        by_cursor += [result.chunk_id for result in page.results]
        if page.next is None:
            break
        page = await library.search("shelf1 outbox2 lease3", top_k=50, cursor=page.next)
    assert by_cursor[:120] == keys
    assert len(by_cursor) == len(set(by_cursor)) == 150


async def test_a_cursor_belongs_to_its_search_and_its_index(library: Library, settings_of: SettingsOf) -> None:
    await library.ingest(documents(40))
    first = await library.search("shelf1", top_k=5)
    assert first.next is not None
    for wrong in ({"query": "shelf2"}, {"mode": "dense"}, {"tenant": "other"}, {"min_score": 0.1}):
        with pytest.raises(InputError, match="another search"):
            await library.search(**{"query": "shelf1", "top_k": 5, "cursor": first.next, **wrong})
    for cursor in ("", "nonsense", "W10", "bnVsbA"):
        with pytest.raises(InputError, match="cursor"):
            await library.search("shelf1", top_k=5, cursor=cursor)
    async with reshelve.connect(settings_of('[rag.embedding]\nmodel = "hashing-128"')) as changed:
        await changed.apply(cutover=True)
        assert (await changed.search("shelf1", top_k=5)).index != first.index
        second = await changed.search("shelf1", top_k=5, cursor=first.next)
        assert second.index == first.index
        both = [result.chunk_id for result in (*first.results, *second.results)]
        assert both == [result.chunk_id for result in (await changed.search("shelf1", index=first.index)).results]


async def test_the_best_chunk_of_each_document_first(library: Library) -> None:
    long = "\n\n".join(f"{'shelf ' * 60} {n}" for n in range(6))
    await library.ingest([reshelve.Document(external_id="long", content=long), *documents(10)])
    plain = await library.search("shelf", top_k=5)
    mixed = await library.search("shelf", top_k=5, diversify=True)
    assert len({result.document_id for result in plain.results}) < 5
    assert len({result.document_id for result in mixed.results}) == 5
    assert mixed.results[0] == plain.results[0]


async def test_the_querys_words_are_marked_where_they_stand(library: Library) -> None:
    await library.ingest(KEYS)
    (result, *_) = (await library.search("painted boat", mode="lexical", highlight=True)).results
    assert result.highlights is not None
    assert [result.content[start:end] for start, end in result.highlights] == ["boats", "painted"]
    (dense, *_) = (await library.search("painted boat", mode="dense")).results
    assert dense.highlights is None


async def test_every_search_setting_has_an_effect(settings_of: SettingsOf) -> None:
    found: dict[str, list[tuple[int, float]]] = {}
    lines = (
        "",
        "dense_weight = 0.9",
        'fusion = "rrf"',
        "candidates = 10",
        "bm25_k1 = 0.1",
        "bm25_b = 0.0",
        'mode = "dense"',
    )
    for line in lines:
        async with reshelve.connect(settings_of(f"{HASHING}[rag.search]\n{line}")) as library:
            if not line:
                long = [reshelve.Document(external_id=f"l{n}", content="shelf1 " * n + "oak " * 9) for n in range(9)]
                await library.ingest([*documents(80), *long])
            response = await library.search("shelf1 shelf2 shelf3 outbox2 lease3 lease4", top_k=30)
        found[line] = [(result.chunk_id, round(result.score, 9)) for result in response.results]
    assert [line for line in lines[1:] if found[line] == found[""]] == []


async def test_words_are_refused_to_a_scope_of_all_tenants(library: Library) -> None:
    await library.ingest(KEYS)
    index = await serving(library)
    async with library.backends.database.service() as connection:
        with pytest.raises(reshelve.ReshelveError, match="by words"):
            await word_search.search(
                connection, index, "key", limit=5, scope=Scope(tenant=None), bm25=Bm25(k1=1.2, b=0.75)
            )


async def test_words_that_are_mended_while_a_writer_writes_them_are_found(library: Library) -> None:
    await library.ingest([reshelve.Document(external_id=key, content=f"{key} banana") for key in ("apple", "cherry")])
    index = await serving(library)
    _, held, _ = lexical.table_names(index)
    async with library.backends.database.service() as connection:
        cursor = await connection.execute(f"DELETE FROM {held} RETURNING chunk_id".encode())
        chunks = [row[0] for row in await cursor.fetchall()]
        await lexical.recount(connection, index)
    async with library.backends.database.service() as mending, library.backends.database.service() as writer:
        writers: list[asyncio.Task[None]] = []
        execute = mending.execute

        async def and_then_the_writer(query: Any, *arguments: Any, **named: Any) -> Any:
            cursor = await execute(query, *arguments, **named)
            if isinstance(query, sql.Composed) and "WITH locked" in query.as_string(mending):
                writers.append(asyncio.create_task(lexical.add(writer, index, chunks)))
                await asyncio.wait(writers, timeout=0.2)
            return cursor

        mending.execute = and_then_the_writer
        async with mending.transaction():
            await lexical.replace(mending, index, chunks)
        del mending.execute
        await asyncio.gather(*writers)
    assert len(writers) == 1
    assert await ids(library, "banana") == ["apple", "cherry"]
    await assert_indexes_equal_source(library)


async def test_what_is_gone_makes_no_word_common(library: Library) -> None:
    rare = [reshelve.Document(external_id=f"d{n}", content=f"rare text {n}") for n in range(100)]
    await library.ingest([*rare, reshelve.Document(external_id="one", content="unique text alone")])
    await library.delete([document.external_id for document in rare[1:]])
    (left,) = (await library.search("rare", mode="lexical")).results
    (one,) = (await library.search("unique", mode="lexical")).results
    assert left.score == pytest.approx(one.score)
    index = await serving(library)
    name, _, _ = lexical.table_names(index)
    assert (await library.verify()).passed
    async with library.backends.database.service() as connection:
        cursor = await connection.execute(f"SELECT sum(octet_length(records)) FROM {name}".encode())
        # "rare", "text" and a number; "unique", "text" and "alone".
        assert await cursor.fetchone() == (6 * POSTING.itemsize,)
    assert await ids(library, "rare") == ["d0"]


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
@pytest.mark.parametrize("diversify", [False, True])
async def test_pages_show_every_chunk_once(library: Library, mode: str, diversify: bool) -> None:
    filler = "\n\n".join(f"alpha part{n} " + "filler text " * 40 for n in range(12))
    alike = [reshelve.Document(external_id=f"same{n}", content="alpha, the very same text") for n in range(130)]
    long = [reshelve.Document(external_id=f"long{n}", content=f"word{n} {filler}") for n in range(8)]
    await library.ingest([*alike, *long])
    total = (await library.status()).chunks
    seen: list[tuple[int, int]] = []
    cursor: str | None = None
    while True:
        page = await library.search("alpha text part", mode=mode, top_k=30, cursor=cursor, diversify=diversify)  # pyright: ignore[reportArgumentType]
        seen += [(result.chunk_id, page.index) for result in page.results]
        cursor = page.next
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == total


async def test_in_the_place_of_a_chunk_that_goes_away_comes_the_next(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    await library.ingest([reshelve.Document(external_id=f"d{n}", content=f"alpha {n}") for n in range(30)])
    first = (await library.search("alpha", mode="lexical", top_k=1)).results[0].chunk_id

    async def without_the_first(connection: Any, chunk_ids: list[int]) -> Any:
        return {key: each for key, each in (await passages(connection, chunk_ids)).items() if key != first}

    monkeypatch.setattr(asking, "passages", without_the_first)
    page = await library.search("alpha", mode="lexical", top_k=10)
    assert len({result.chunk_id for result in page.results} - {first}) == 10
    assert page.next is not None


async def test_an_interleaved_search_by_words_leaves_out_the_side_without_words(settings_of: SettingsOf) -> None:
    async with reshelve.connect(settings_of(HASHING)) as library:
        await library.ingest([reshelve.Document(external_id=f"d{n}", content=f"key {n}") for n in range(30)])
    async with reshelve.connect(settings_of(f'{HASHING}[rag.search]\nlanguage = "none"\n')) as library:
        await library.apply()
        await library.rollout(50)
        for user in ("a", "b", "c", "d"):
            found = await library.search("key", mode="lexical", interleave=True, user=user)
            assert (len(found.results), found.interleaved) == (10, False)
        assert (await library.search("key", mode="dense", interleave=True)).interleaved
