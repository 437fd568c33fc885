"""Two sides next to each other: search results, baselines, and what users preferred."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest

import reshelve
from reshelve.errors import InputError, NotFoundError
from reshelve.settings import Settings
from tests.support.served import served

MakeSettings = Callable[[str], Settings]
ANIMALS = ["cat", "dog", "horse", "cow", "goat", "duck", "goose", "sheep", "pig", "hen"]
# By meaning alone: by words, the worse model finds as much as the better one.
ANALYTICS = (
    '[rag.search]\nmode = "dense"\n[rag.monitoring]\nquery_analytics = true\n[rag.rollout]\nshadow_sample = 0.0\n'
)


@pytest.fixture
async def library(settings_of: MakeSettings) -> AsyncGenerator[reshelve.Library]:
    """A document an animal; hashing-2, which confuses them, serves one half, and hashing-512 is the candidate."""
    texts = [
        reshelve.Document(external_id=name, title=name.title(), content=f"The {name} is in the {name} house.")
        for name in ANIMALS
    ]
    async with reshelve.connect(settings_of('[rag.embedding]\nmodel = "hashing-2"')) as opened:
        await opened.ingest(texts)
    async with reshelve.connect(settings_of('[rag.embedding]\nmodel = "hashing-512"\n' + ANALYTICS)) as opened:
        await opened.apply()
        await opened.rollout(50)
        yield opened


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    folder = tmp_path / "judged"
    folder.mkdir()
    (folder / "queries.jsonl").write_text(
        "".join(f'{{"_id": "{name}", "text": "where is the {name}?"}}\n' for name in ANIMALS)
    )
    (folder / "qrels.tsv").write_text("".join(f"{name}\t{name}\t1\n" for name in ANIMALS))
    return folder


async def requests(library: reshelve.Library) -> int:
    await library.backends.recorder.flush()
    return sum(int(arm.figures["requests"] or 0) for arm in (await library.dashboard()).arms)


async def test_both_sides_are_asked_the_same(library: reshelve.Library) -> None:
    before = await requests(library)
    found = await library.compare(["where is the cat?", "the goose"], top_k=3)
    assert (found.index_a, found.model_a, found.index_b, found.model_b) == (1, "hashing-2", 2, "hashing-512")
    assert [each.query for each in found.queries] == ["where is the cat?", "the goose"]
    cat = found.queries[0]
    assert next(row.document_id for row in cat.rows if row.rank_b == 1) == "cat"
    for side in ("rank_a", "rank_b"):
        assert sorted(rank for row in cat.rows if (rank := getattr(row, side)) is not None) == [1, 2, 3]
    assert cat.overlap == len([row for row in cat.rows if row.rank_a and row.rank_b]) / 3
    turned = await library.compare(["where is the cat?"], top_k=3, indexes=(2, 1))
    assert (turned.model_a, turned.overlap, turned.rbo) == ("hashing-512", cat.overlap, pytest.approx(cat.rbo))
    same = await library.compare(["the pig"], indexes=(2, 2))
    assert (same.overlap, same.rbo) == (1.0, pytest.approx(1.0))
    # A comparison is no live search.
    assert await requests(library) == before


async def test_recent_queries_are_compared_where_they_are_kept(
    library: reshelve.Library, settings_of: MakeSettings
) -> None:
    with pytest.raises(InputError) as nothing:
        await library.compare(recent=5)
    assert "They are kept from the next search on" in nothing.value.advice
    for query in ("the cow", "the hen", "the cow", "the dog"):
        await library.search(query, user="u")
    await library.backends.recorder.flush()
    assert [each.query for each in (await library.compare(recent=2)).queries] == ["the dog", "the cow"]
    async with reshelve.connect(settings_of('[rag.embedding]\nmodel = "hashing-512"'), worker=False) as without:
        async with without.backends.database.owner() as connection:
            await connection.execute("DELETE FROM recent_queries")
        with pytest.raises(InputError) as nothing:
            await without.compare(recent=5)
        assert "rag.monitoring.query_analytics" in nothing.value.advice
        assert "FF_ENABLE_QUERY_ANALYTICS" in nothing.value.advice


async def test_a_comparison_needs_two_sides_and_a_query(library: reshelve.Library) -> None:
    with pytest.raises(InputError, match="no query"):
        await library.compare()
    with pytest.raises(NotFoundError):
        await library.compare(["x"], indexes=(1, 99))
    await library.rollback()
    with pytest.raises(InputError, match="no candidate"):
        await library.compare(["x"])


async def test_a_baseline_says_what_got_worse(library: reshelve.Library, judged: Path) -> None:
    """First the candidate serves everybody; then it is taken back, to what finds almost nothing."""
    await library.cutover()
    for name in ANIMALS:
        await library.search(f"the {name}", user=name)
    await library.backends.recorder.flush()
    kept = await library.baseline_save("good", judged=judged, range="1h")
    assert (kept.index, kept.requests, kept.replaced) == (2, 10, False)
    assert kept.quality is not None
    assert kept.quality.means["nDCG@10"] > 0.9
    assert kept.quality.scores["nDCG@10"].keys() == set(ANIMALS)
    same = await library.baseline_compare()
    assert (same.baseline.name, same.worse) == ("good", [])
    assert {change.change for change in same.figures} <= {"same", "unknown"}
    assert {paired.difference for paired in same.quality} == {0.0}

    await library.rollback()
    after = await library.baseline_compare("good")
    assert (after.now.index, after.baseline.index) == (1, 2)
    assert {"nDCG@10", "RR"} <= set(after.worse)
    ndcg = next(paired for paired in after.quality if paired.metric == "nDCG@10")
    assert ndcg.low <= ndcg.difference <= ndcg.high < 0
    assert next(change for change in after.figures if change.name == "similarity").change == "unknown"
    back = after.as_dict()
    assert back["worse"] == after.worse

    again = await library.baseline_save("good")
    assert (again.replaced, again.index, again.quality) == (True, 1, None)
    assert (await library.baseline_compare("good")).quality == []


async def test_a_baseline_is_named_and_its_range_known(library: reshelve.Library) -> None:
    with pytest.raises(NotFoundError, match="no baseline"):
        await library.baseline_compare()
    with pytest.raises(NotFoundError, match="'other'"):
        await library.baseline_compare("other")
    with pytest.raises(InputError, match="range"):
        await library.baseline_save(range="2h")
    with pytest.raises(InputError, match=r"qrels\.tsv"):
        await library.baseline_save(judged=Path("/nowhere"))


async def test_what_was_used_is_counted_by_side(library: reshelve.Library) -> None:
    nobody = await library.feedback_tally()
    assert [(arm.arm, arm.index, arm.used) for arm in nobody.arms] == [("serving", 1, 0), ("candidate", 2, 0)]
    assert (nobody.e_value, nobody.preferred, nobody.ties) == (pytest.approx(1.0), None, 0)
    for number in range(12):
        found = await library.search(f"the {ANIMALS[number % 10]}", user="u", interleave=True)
        used = next(result for result in found.results if result.index == 2)
        kept = await library.feedback(found.search_id, used.chunk_id, index=2, interleaved=found.interleaved, user="u")
        assert kept == await library.feedback(found.search_id, used.chunk_id, index=2, interleaved=True)
    drawn = await library.search("the cow", user="u", interleave=True)
    for index in (1, 2):
        used = next(result for result in drawn.results if result.index == index)
        await library.feedback(drawn.search_id, used.chunk_id, index=index, interleaved=True)
    tally = await library.feedback_tally()
    assert [(arm.used, arm.searches, arm.wins) for arm in tally.arms] == [(1, 1, 0), (13, 13, 12)]
    assert (tally.ties, tally.preferred) == (1, "candidate")
    assert tally.e_value is not None
    assert tally.e_value > 100
    assert [arm.used for arm in (await library.feedback_tally(tenant="other")).arms] == [0, 0]


async def test_feedback_over_http(library: reshelve.Library) -> None:
    found = await library.search("the pig", user="u")
    told = {"search_id": found.search_id, "chunk_id": found.results[0].chunk_id, "index": found.index, "user": "u"}
    async with served(library.settings) as client:
        first = (await client.post("/api/v1/feedback", json=told)).raise_for_status().json()
        assert (first["chunk_id"], first["index"], first["interleaved"]) == (told["chunk_id"], told["index"], False)
        assert (await client.post("/api/v1/feedback", json=told)).json() == first
        for missing in ({"chunk_id": 10**12}, {"index": 99}, {"tenant": "other"}, {"collection": "other"}):
            assert (await client.post("/api/v1/feedback", json={**told, **missing})).status_code == 404
        for wrong in ({"search_id": "x"}, {"chunk_id": "1"}, {"index": 0}, {"more": 1}, {"chunk_id": 2**63}):
            assert (await client.post("/api/v1/feedback", json={**told, **wrong})).status_code == 422
    with pytest.raises(InputError, match="search id"):
        await library.feedback("x", 1, index=1)
    with pytest.raises(NotFoundError, match="chunk"):
        await library.feedback(uuid.uuid4(), 10**12, index=1)
