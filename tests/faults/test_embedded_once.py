"""A text that has a vector is not embedded again: what reaches the provider is counted at the provider."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import dataclass, field, replace

import pytest

import reshelve
from reshelve.domain.migration import State
from reshelve.embedders.canary import CANARY
from reshelve.migrations.engine import Happening
from tests.faults.conftest import Declare
from tests.support.embedding_endpoint import EmbeddingEndpoint, Hangup
from tests.support.oracle import assert_indexes_equal_source
from tests.support.program import run_program
from tests.support.writers import documents, writing

SAMPLE = 4
Lines = Callable[..., str]


@pytest.fixture
def endpoint() -> Generator[EmbeddingEndpoint]:
    with EmbeddingEndpoint(dimension=64) as running:
        yield running


@pytest.fixture
def remote(endpoint: EmbeddingEndpoint) -> Lines:
    def lines(**settings: int) -> str:
        more = "\n".join(f"{name} = {value}" for name, value in settings.items())
        return f'base_url = "{endpoint.base_url}"\n{more}'

    return lines


@pytest.fixture
async def library(declare: Declare, remote: Lines) -> AsyncGenerator[reshelve.Library]:
    """Serves the endpoint's model."""
    async with reshelve.connect(declare("remote", embedding=remote())) as opened:
        yield opened


def embedded(endpoint: EmbeddingEndpoint) -> Counter[str]:
    return Counter(text for texts in endpoint.inputs for text in texts if text not in (CANARY, "dimension"))


@dataclass
class _CountBetweenPlanAndProof:
    """The plan measures the model on some texts, and the proof embeds a sample again. What comes between is counted."""

    endpoint: EmbeddingEndpoint
    seen: Counter[str] = field(default_factory=Counter)

    def __call__(self, event: Happening) -> None:
        if event.state is State.PLANNED:
            self.endpoint.requests.clear()
        elif event.state is State.VERIFYING and event.doing.startswith("drain"):
            self.seen = embedded(self.endpoint)


async def test_across_documents_and_batches(library: reshelve.Library, endpoint: EmbeddingEndpoint) -> None:
    """Two documents of one text, in one batch, in two batches, and at once."""
    originals = documents(30)
    copies = [replace(each, external_id=f"copy {each.external_id}") for each in originals]
    await library.ingest([*originals, *copies[:10]])
    await library.ingest(copies[10:20], tenant="another")
    await library.ingest(copies[20:])
    counts = embedded(endpoint)
    assert set(counts.values()) == {1}
    assert len(counts) == 30
    assert await assert_indexes_equal_source(library) == 60


async def test_a_text_that_goes_and_comes_back(library: reshelve.Library, endpoint: EmbeddingEndpoint) -> None:
    await library.ingest(documents(30))
    endpoint.requests.clear()
    await library.delete([f"d{number}" for number in range(30)])
    assert await assert_indexes_equal_source(library) == 0
    await library.ingest(documents(30))
    assert not embedded(endpoint)
    assert await assert_indexes_equal_source(library) == 30


async def test_requests_that_came_in_before_one_that_failed(
    declare: Declare, remote: Lines, endpoint: EmbeddingEndpoint
) -> None:
    lines = remote(batch_size=8, max_retries=0, concurrency=1)
    async with reshelve.connect(declare("remote", embedding=lines)) as library:
        await library.ingest(documents(1))
        endpoint.requests.clear()
        endpoint.faults.extend([None, None, Hangup(), None, Hangup()])
        await library.ingest(documents(60))
    sent = enumerate(endpoint.inputs)
    answered = Counter(text for number, texts in sent if number not in (2, 4) for text in texts)
    del answered[CANARY]
    assert set(answered.values()) == {1}
    assert len(answered) == 59


@pytest.mark.parametrize("place", ["prepare.after_keeping:2", "apply.after_target_write:2", "apply.before_commit:2"])
async def test_after_a_kill(declare: Declare, remote: Lines, endpoint: EmbeddingEndpoint, place: str) -> None:
    """What was answered before the kill is kept, whether or not it was written."""
    async with reshelve.connect(declare()) as library:
        await library.ingest(documents(160))
    target = declare("remote", embedding=remote(), migration=f"workers = 1\nsample_rows = {SAMPLE}")
    assert await run_program(target, "apply", crash_at=place) == -9
    done = embedded(endpoint)
    endpoint.requests.clear()
    assert await run_program(target, "apply") == 0
    # The plan tries the model on 64 texts, twice on two of them; the proof takes a sample.
    again = embedded(endpoint)
    assert len(done) >= 80
    async with reshelve.connect(target) as library:
        migration = (await library.status()).migration
        assert migration is not None
        assert migration.embedded_rows + migration.reused_rows == 160
        assert migration.reused_rows >= 40
        assert sum(again.values()) <= 160 - 80 + SAMPLE
        assert await assert_indexes_equal_source(library) == 320


GRAPHS = {
    "hnsw": {"extra": "[rag.vector_storage.hnsw]\nm = 8"},
    "metric": {"storage": 'metric = "l2"'},
    "store": {"backend": "mock"},
}


@pytest.mark.parametrize("change", GRAPHS)
async def test_the_same_vectors_in_another_index(
    declare: Declare, remote: Lines, endpoint: EmbeddingEndpoint, change: str
) -> None:
    """Nothing is embedded before the proof takes its sample, and nothing on the way back."""
    async with reshelve.connect(declare("remote", embedding=remote())) as library:
        await library.ingest(documents(100))
    file = declare("remote", embedding=remote(), migration=f"sample_rows = {SAMPLE}", **GRAPHS[change])
    async with reshelve.connect(file) as library:
        plan = await library.plan()
        assert (plan.rows, plan.reused_rows, plan.tokens) == (100, 100, 0)
        count = _CountBetweenPlanAndProof(endpoint)
        migration = await library.apply(on_event=count)
        assert not count.seen
        assert (migration.embedded_rows, migration.reused_rows) == (0, 100)
        await library.cutover()
        endpoint.requests.clear()
        await library.rollback()
        assert embedded(endpoint).total() == 0
        assert await assert_indexes_equal_source(library) == 200


async def test_writes_while_two_indexes_of_one_model_are_fed(
    declare: Declare, remote: Lines, endpoint: EmbeddingEndpoint
) -> None:
    async with reshelve.connect(declare("remote", embedding=remote())) as library:
        await library.ingest(documents(50))
    async with reshelve.connect(declare("remote", embedding=remote(), **GRAPHS["hnsw"])) as library:
        await library.apply()
        endpoint.requests.clear()
        for seed in range(1, 6):
            await library.ingest(documents(50, seed=seed))
        counts = embedded(endpoint)
        assert (len(counts), counts.total()) == (250, 250)
        assert await assert_indexes_equal_source(library) == 100


@pytest.mark.parametrize("model", ["remote", "hashing-64"])
async def test_another_chunking_under_writes(
    declare: Declare, remote: Lines, endpoint: EmbeddingEndpoint, model: str
) -> None:
    """Documents are cut anew while writers change them. A piece that comes out the same keeps its vector."""
    embedding = remote() if model == "remote" else ""
    short = [replace(each, external_id=f"short {each.external_id}") for each in documents(60, seed=4)]
    long = [
        reshelve.Document(
            external_id=f"long {number}", content="\n\n".join(each.content for each in documents(12, seed=number))
        )
        for number in range(100, 110)
    ]
    async with reshelve.connect(declare(model, embedding=embedding)) as library:
        await library.ingest([*short, *long])
    cut = "[rag.chunking]\nchunk_size = 100\nmax_chunk_size = 120"
    async with reshelve.connect(declare(model, embedding=embedding, extra=cut)) as library:
        before = (await library.status()).chunks
        count = _CountBetweenPlanAndProof(endpoint)
        async with writing(library):
            assert (await library.apply(on_event=count)).state is State.VERIFYING
            assert (await library.cutover()).state is State.SOAKING
        assert (await library.status()).chunks > before
        await assert_indexes_equal_source(library)
        assert (await library.cleanup(skip_soak=True)).dropped == 1
        await assert_indexes_equal_source(library)
    if model == "remote":
        assert set(count.seen.values()) == {1}
        assert not {each.content for each in short} & count.seen.keys()
