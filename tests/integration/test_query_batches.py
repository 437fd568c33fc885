"""Concurrent queries of one model go to it together, over real HTTP; nobody pays for another's query."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator

import numpy as np
import pytest

from reshelve.domain.models import Vectors
from reshelve.embedders.hashing import HashingEmbedder
from reshelve.embedders.opening import open_embedder
from reshelve.embedders.pace import Pace
from reshelve.embedders.protocol import Embedder
from reshelve.embedders.query_batches import QueryBatches
from reshelve.errors import EmbeddingInvalid, EmbeddingRefused, EmbeddingUnavailable
from reshelve.settings import EmbeddingSettings
from tests.support.embedding_endpoint import EmbeddingEndpoint, Status
from tests.support.waiting import until

QUERIES = [f"query number {number}" for number in range(9)]
AN_AGE_SECONDS = 60.0


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Generator[EmbeddingEndpoint]:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with EmbeddingEndpoint(dimension=24) as running:
        yield running


@pytest.fixture
async def embedder(endpoint: EmbeddingEndpoint) -> AsyncGenerator[Embedder]:
    settings = EmbeddingSettings(model="some-model", provider="openai", base_url=endpoint.base_url, max_retries=0)
    opened = await open_embedder(settings)
    endpoint.requests.clear()
    yield opened
    await opened.aclose()


async def begun(endpoint: EmbeddingEndpoint, batches: QueryBatches, embedder: Embedder) -> asyncio.Task[Vectors]:
    """A query that is under way: those that come now have company."""
    endpoint.delay_seconds = 0.1
    task = asyncio.create_task(batches.embed(embedder, "the first"))
    await until(lambda: bool(endpoint.busiest))
    return task


async def test_a_lone_query_goes_at_once(endpoint: EmbeddingEndpoint, embedder: Embedder) -> None:
    batches = QueryBatches(AN_AGE_SECONDS)
    for query in QUERIES[:3]:
        vector = await batches.embed(embedder, query)
        assert vector.shape == (24,)
    assert endpoint.inputs == [[query] for query in QUERIES[:3]]


async def test_who_comes_meanwhile_goes_together(endpoint: EmbeddingEndpoint, embedder: Embedder) -> None:
    batches = QueryBatches(AN_AGE_SECONDS)
    endpoint.busiest = 0
    first = await begun(endpoint, batches, embedder)
    found = await asyncio.gather(*(batches.embed(embedder, query) for query in QUERIES))
    await first
    assert endpoint.inputs == [["the first"], QUERIES]
    assert np.allclose(np.stack(found), (await embedder.embed_queries(QUERIES)).vectors)


async def test_nobody_waits_longer_than_the_window(endpoint: EmbeddingEndpoint, embedder: Embedder) -> None:
    batches = QueryBatches(0.002)
    endpoint.busiest = 0
    first = await begun(endpoint, batches, embedder)
    await asyncio.gather(first, *(batches.embed(embedder, query) for query in QUERIES))
    assert endpoint.inputs == [["the first"], QUERIES]
    assert endpoint.busiest == 2


async def test_models_do_not_wait_for_each_other(endpoint: EmbeddingEndpoint, embedder: Embedder) -> None:
    batches = QueryBatches(AN_AGE_SECONDS)
    endpoint.busiest = 0
    first = await begun(endpoint, batches, embedder)
    assert (await batches.embed(HashingEmbedder(8), "another model's")).shape == (8,)
    assert not first.done()
    await first


async def test_who_goes_away_takes_nobody_along(endpoint: EmbeddingEndpoint, embedder: Embedder) -> None:
    batches = QueryBatches(AN_AGE_SECONDS)
    endpoint.busiest = 0
    first = await begun(endpoint, batches, embedder)
    others = [asyncio.create_task(batches.embed(embedder, query)) for query in QUERIES]
    await asyncio.sleep(0)
    others[0].cancel()
    first.cancel()
    found = await asyncio.gather(*others[1:])
    assert len(found) == len(QUERIES) - 1
    assert endpoint.inputs == [QUERIES[1:]]
    assert others[0].cancelled()
    assert (await batches.embed(embedder, "afterwards")).shape == (24,)


async def test_a_batch_that_nobody_wants_is_given_up(endpoint: EmbeddingEndpoint, embedder: Embedder) -> None:
    pace = Pace()
    batches = QueryBatches(0.001, pace=pace)
    endpoint.busiest = 0
    first = await begun(endpoint, batches, embedder)
    endpoint.delay_seconds = AN_AGE_SECONDS
    others = [asyncio.create_task(batches.embed(embedder, query)) for query in QUERIES]
    await first
    await until(lambda: len(endpoint.connections) > 1 or endpoint.busiest > 1)
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    endpoint.delay_seconds = 0.0
    assert (await batches.embed(embedder, "afterwards")).shape == (24,)
    pace.set(0.5)
    async with pace.working():
        """No query is under way any more."""


@pytest.mark.parametrize("how", ["refuses", "spoils"])
async def test_one_bad_query_fails_only_itself(endpoint: EmbeddingEndpoint, embedder: Embedder, how: str) -> None:
    batches = QueryBatches(AN_AGE_SECONDS)
    endpoint.busiest = 0
    first = await begun(endpoint, batches, embedder)
    setattr(endpoint, how, "number 4")
    found = await asyncio.gather(*(batches.embed(embedder, query) for query in QUERIES), return_exceptions=True)
    await first
    expected = EmbeddingRefused if how == "refuses" else EmbeddingInvalid
    assert [type(each) for each in found if isinstance(each, Exception)] == [expected]
    assert isinstance(found[4], expected)


async def test_an_outage_reaches_everybody(endpoint: EmbeddingEndpoint, embedder: Embedder) -> None:
    batches = QueryBatches(AN_AGE_SECONDS)
    endpoint.busiest = 0
    first = await begun(endpoint, batches, embedder)
    endpoint.always = Status(503)
    found = await asyncio.gather(*(batches.embed(embedder, query) for query in QUERIES), return_exceptions=True)
    await asyncio.gather(first, return_exceptions=True)
    assert all(isinstance(each, EmbeddingUnavailable) for each in found)
    assert len(endpoint.requests) == 2


async def test_the_vectors_are_those_of_the_queries_alone() -> None:
    embedder = HashingEmbedder(64)
    batches = QueryBatches(0.003)
    queries = [f"{query} {'word ' * 1000}" for query in QUERIES]
    found = await asyncio.gather(*(batches.embed(embedder, query) for query in queries))
    alone = [(await embedder.embed_queries([query])).vectors[0] for query in queries]
    assert np.array_equal(np.stack(found), np.stack(alone))
