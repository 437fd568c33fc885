"""--budget-usd: the migration is paused before the cap is passed, whatever the plan believed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Generator

import pytest

import reshelve
from reshelve.domain.migration import State
from reshelve.library import Connecting
from tests.faults.conftest import ROWS, Declare, Outsider, Scene
from tests.support.embedding_endpoint import EmbeddingEndpoint
from tests.support.oracle import assert_indexes_equal_source
from tests.support.writers import documents, writing

PRICE = 1000.0
Connect = Callable[..., Connecting]


@pytest.fixture
def endpoint() -> Generator[EmbeddingEndpoint]:
    with EmbeddingEndpoint(dimension=64) as running:
        yield running


@pytest.fixture
def connect(declare: Declare, endpoint: EmbeddingEndpoint) -> Connect:
    def open_library(**lines: str) -> Connecting:
        embedding = f'base_url = "{endpoint.base_url}"\nprice_per_million_tokens = {PRICE}\nbatch_size = 16'
        return reshelve.connect(declare("remote", embedding=embedding, **lines))

    return open_library


def _cost(texts: list[str]) -> float:
    """In dollars, by the endpoint's own count of tokens."""
    return sum(1 + len(text) // 4 for text in texts) * PRICE / 1e6


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
async def test_paused_before_the_cap(scene: Scene, connect: Connect, share: float) -> None:
    cost = _cost([each.content for each in documents(ROWS)])
    async with connect() as library:
        paused = await library.apply(budget_usd=share * cost)
        assert paused.state is State.PAUSED
        assert paused.reason is not None
        assert "spend cap" in paused.reason
        assert share * cost * 0.7 - 0.02 * cost < paused.spent_usd <= share * cost
        # Both are fed while it is paused, and the cap holds for that too.
        await library.ingest(documents(40, seed=3))
        await asyncio.sleep(0.3)
        assert (await library.search("shelf")).model == "hashing-64"
        status = await library.status()
        assert status.migration is not None
        assert status.migration.spent_usd <= share * cost
        assert (await library.apply()).state is State.PAUSED
        done = await library.resume(budget_usd=3 * cost)
        assert (done.state, done.reason) == (State.VERIFYING, None)
        assert await assert_indexes_equal_source(library) == 2 * ROWS


async def test_a_plan_that_was_far_too_low(scene: Scene, connect: Connect, owner: Outsider) -> None:
    cost = _cost([each.content for each in documents(ROWS)])
    async with connect() as library:
        await library.apply(limit=10)
        await owner.execute("UPDATE migrations SET plan = plan || %s", (json.dumps({"cost_usd": 1e-9, "tokens": 1}),))
        async with writing(scene.library):
            paused = await library.apply(budget_usd=cost / 2)
        assert paused.state is State.PAUSED
        assert paused.spent_usd <= cost / 2
        assert (await library.apply(budget_usd=100 * cost)).state is State.VERIFYING
        await assert_indexes_equal_source(library)


async def test_texts_that_cost_more_and_more(connect: Connect, declare: Declare) -> None:
    """What the first ones cost says little of the last ones."""
    texts = ["word " * (4 + number) for number in range(0, 180, 2)]
    async with reshelve.connect(declare()) as library:
        await library.ingest([{"_id": str(number), "text": text} for number, text in enumerate(texts)])
    cost = _cost([text.strip() for text in texts])
    async with connect() as library:
        paused = await library.apply(budget_usd=0.6 * cost)
        assert paused.state is State.PAUSED
        assert 0.4 * cost < paused.spent_usd <= 0.6 * cost
        assert (await library.apply(budget_usd=3 * cost)).state is State.VERIFYING
        await assert_indexes_equal_source(library)


async def test_documents_that_are_cut_anew(connect: Connect) -> None:
    """Their pieces reach the new index by the outbox, and count all the same."""
    async with connect() as library:
        await library.ingest(documents(60))
    async with connect(extra="[rag.chunking]\nchunk_size = 30\nmax_chunk_size = 40") as library:
        cost = _cost([each.content for each in documents(60)])
        paused = await library.apply(budget_usd=cost / 2)
        assert paused.state is State.PAUSED
        assert paused.spent_usd <= cost / 2
        assert (await library.apply(budget_usd=10 * cost)).state is State.VERIFYING
        await assert_indexes_equal_source(library)
