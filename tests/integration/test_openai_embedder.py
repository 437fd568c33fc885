"""The client of OpenAI-compatible endpoints, against a real one on a local socket that misbehaves on demand."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from email.utils import formatdate

import numpy as np
import pytest
from pydantic import SecretStr

from reshelve.embedders.canary import canary, check_canary
from reshelve.embedders.opening import open_embedder, reopen_embedder
from reshelve.embedders.protocol import Embedder
from reshelve.errors import (
    EmbeddingInvalid,
    EmbeddingRefused,
    EmbeddingUnavailable,
    MixedSpacesError,
    ModelChangedError,
    ModelError,
    NotFoundError,
    ReshelveError,
    SettingsError,
)
from reshelve.settings import EmbeddingSettings
from tests.support.embedding_endpoint import EmbeddingEndpoint, Hang, Hangup, Status, Wrong

TEXTS = [f"text number {number}" for number in range(10)]

Open = Callable[..., Awaitable[Embedder]]


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Generator[EmbeddingEndpoint]:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with EmbeddingEndpoint(dimension=24) as running:
        yield running


@pytest.fixture
async def open_it(endpoint: EmbeddingEndpoint) -> AsyncGenerator[Open]:
    """Opens the endpoint's model and forgets the requests that this took."""
    opened: list[Embedder] = []

    async def open_one(*, dimensions: int | None = None, **changes: object) -> Embedder:
        values = {
            "model": "some-model",
            "provider": "openai",
            "base_url": endpoint.base_url,
            "max_retries": 3,
            **changes,
        }
        opened.append(await open_embedder(EmbeddingSettings.model_validate(values), dimensions=dimensions))
        endpoint.requests.clear()
        return opened[-1]

    yield open_one
    for embedder in opened:
        await embedder.aclose()


async def test_asks_for_base64_in_batches_by_count(endpoint: EmbeddingEndpoint, open_it: Open) -> None:
    embedder = await open_it(batch_size=4)
    await embedder.embed_documents(TEXTS)
    assert sorted(map(len, endpoint.inputs)) == [2, 4, 4]
    assert sorted(itertools.chain(*endpoint.inputs)) == TEXTS
    assert all(request.body["encoding_format"] == "base64" for request in endpoint.requests)
    assert all("dimensions" not in request.body for request in endpoint.requests)


async def test_batches_by_tokens_and_never_sends_an_empty_text(endpoint: EmbeddingEndpoint, open_it: Open) -> None:
    embedder = await open_it(batch_tokens=256)
    texts = ["word " * 100, "", "word " * 100, "word " * 100, "word " * 300]
    found = await embedder.embed_documents(texts)
    assert sorted(map(len, endpoint.inputs)) == [1, 1, 3]
    assert found.vectors.shape == (5, 24)


async def test_cuts_a_text_to_what_the_model_takes(endpoint: EmbeddingEndpoint, open_it: Open) -> None:
    embedder = await open_it()
    await embedder.embed_documents(["word " * 20_000])
    assert len(endpoint.inputs[0][0].split()) == embedder.max_tokens


async def test_takes_floats_any_order_and_no_usage(endpoint: EmbeddingEndpoint, open_it: Open) -> None:
    embedder = await open_it(batch_size=5)
    expected = await embedder.embed_documents(TEXTS)
    endpoint.only_floats = endpoint.shuffled = True
    endpoint.counts_tokens = False
    found = await embedder.embed_documents(TEXTS)
    assert np.array_equal(found.vectors, expected.vectors)
    assert found.tokens >= 3 * len(TEXTS)


async def test_keeps_to_the_concurrency(endpoint: EmbeddingEndpoint, open_it: Open) -> None:
    embedder = await open_it(batch_size=1, concurrency=3)
    endpoint.busiest = 0
    endpoint.delay_seconds = 0.02
    await asyncio.gather(embedder.embed_documents(TEXTS), embedder.embed_documents(TEXTS))
    assert endpoint.busiest == 3


async def test_a_query_does_not_wait_behind_documents(endpoint: EmbeddingEndpoint, open_it: Open) -> None:
    embedder = await open_it(batch_size=1, concurrency=1)
    endpoint.delay_seconds = 0.05
    documents = asyncio.create_task(embedder.embed_documents(TEXTS * 10))
    await asyncio.sleep(0.01)
    await embedder.embed_queries(["now"])
    assert not documents.done()
    assert len(endpoint.requests) < 20
    documents.cancel()
    with pytest.raises(asyncio.CancelledError):
        await documents


@pytest.mark.parametrize(
    "fault",
    [Status(429, headers={"retry-after": "0"}), Status(500), Status(503), Hangup()],
    ids=["429", "500", "503", "hangup"],
)
async def test_goes_on_after_a_passing_fault(endpoint: EmbeddingEndpoint, open_it: Open, fault: object) -> None:
    embedder = await open_it()
    expected = await embedder.embed_documents(TEXTS)
    endpoint.faults.extend([fault, fault])  # pyright: ignore[reportArgumentType]
    found = await embedder.embed_documents(TEXTS)
    assert np.array_equal(found.vectors, expected.vectors)
    assert len(endpoint.requests) == 4


@pytest.mark.parametrize("form", ["seconds", "milliseconds", "date"])
async def test_waits_as_long_as_it_is_told(endpoint: EmbeddingEndpoint, open_it: Open, form: str) -> None:
    # A date has whole seconds only: two seconds ahead is at least one second of waiting.
    headers = {
        "seconds": {"retry-after": "1"},
        "milliseconds": {"retry-after-ms": "1000"},
        "date": {"retry-after": formatdate(time.time() + 2, usegmt=True)},
    }[form]
    embedder = await open_it()
    endpoint.faults.append(Status(429, headers=headers))
    began = time.monotonic()
    await embedder.embed_documents(TEXTS)
    assert 0.9 <= time.monotonic() - began < 5


async def test_gives_up_at_once_when_the_wait_is_long(endpoint: EmbeddingEndpoint, open_it: Open) -> None:
    embedder = await open_it()
    endpoint.always = Status(429, headers={"retry-after": "3600"})
    with pytest.raises(EmbeddingUnavailable, match="3600 s"):
        await embedder.embed_documents(TEXTS)
    assert len(endpoint.requests) == 1


async def test_gives_up_after_max_retries(endpoint: EmbeddingEndpoint, open_it: Open) -> None:
    embedder = await open_it(max_retries=2)
    endpoint.always = Status(500, "overloaded")
    with pytest.raises(EmbeddingUnavailable, match=r"failed 3 times.*overloaded") as caught:
        await embedder.embed_documents(TEXTS)
    assert caught.value.retryable
    assert len(endpoint.requests) == 3


async def test_does_not_wait_for_an_endpoint_that_hangs(endpoint: EmbeddingEndpoint, open_it: Open) -> None:
    embedder = await open_it(timeout_seconds=0.3, max_retries=1)
    expected = await embedder.embed_documents(TEXTS)
    endpoint.faults.append(Hang())
    assert np.array_equal((await embedder.embed_documents(TEXTS)).vectors, expected.vectors)
    endpoint.always = Hang()
    with pytest.raises(EmbeddingUnavailable):
        await embedder.embed_documents(TEXTS)


async def test_nobody_listens(endpoint: EmbeddingEndpoint, open_it: Open) -> None:
    embedder = await open_it()
    model = embedder.model
    closed = EmbeddingSettings(max_retries=1)
    unreachable = await reopen_embedder(model, location="http://127.0.0.1:9/v1", settings=closed)
    with pytest.raises(EmbeddingUnavailable, match=r"127\.0\.0\.1:9"):
        await unreachable.embed_queries(["anyone?"])
    await unreachable.aclose()


@pytest.mark.parametrize("how", ["nan", "infinite", "zero", "few", "twice", "garbage"])
async def test_asks_once_more_for_a_wrong_answer(endpoint: EmbeddingEndpoint, open_it: Open, how: str) -> None:
    embedder = await open_it()
    endpoint.faults.append(Wrong(how))
    await embedder.embed_documents(TEXTS)
    endpoint.requests.clear()
    endpoint.always = Wrong(how)
    with pytest.raises(EmbeddingInvalid):
        await embedder.embed_documents(TEXTS)
    assert len(endpoint.requests) == 2


async def test_refuses_another_dimension(endpoint: EmbeddingEndpoint, open_it: Open) -> None:
    embedder = await open_it()
    endpoint.always = Wrong("dimension")
    with pytest.raises(MixedSpacesError, match=r"25 dimensions.*24"):
        await embedder.embed_documents(TEXTS)
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (Status(400, "maximum context length is 8192 tokens"), EmbeddingRefused, "maximum context length.*\n.*chunk"),
        (Status(413, "batch size 64 > 32"), EmbeddingRefused, "batch size 64 > 32\n.*batch_size"),
        (Status(401, "Incorrect API key"), EmbeddingRefused, "Incorrect API key\n.*OPENAI_API_KEY"),
        (Status(403, "no access"), EmbeddingRefused, "OPENAI_API_KEY"),
        (Status(404, "model not found"), NotFoundError, "some-model.*model not found"),
        (Status(429, "You exceeded your quota", "insufficient_quota"), EmbeddingUnavailable, "quota\n.*billing"),
    ],
)
async def test_does_not_repeat_what_will_never_do(
    endpoint: EmbeddingEndpoint, open_it: Open, fault: Status, error: type[ReshelveError], words: str
) -> None:
    embedder = await open_it()
    endpoint.always = fault
    with pytest.raises(error, match=words):
        await embedder.embed_documents(TEXTS)
    assert len(endpoint.requests) == 1


async def test_one_failed_batch_stops_the_others(endpoint: EmbeddingEndpoint, open_it: Open) -> None:
    embedder = await open_it(batch_size=1, concurrency=1)
    endpoint.faults.append(Status(400))
    with pytest.raises(EmbeddingRefused):
        await embedder.embed_documents(TEXTS * 10)
    assert len(endpoint.requests) < 5


async def test_sends_the_key(endpoint: EmbeddingEndpoint, open_it: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint.key = "sk-right"
    with pytest.raises(EmbeddingRefused, match="OPENAI_API_KEY"):
        await open_it()
    await open_it(api_key=SecretStr("sk-right"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-right")
    await open_it()


async def test_openai_itself_needs_a_key(endpoint: EmbeddingEndpoint) -> None:
    with pytest.raises(SettingsError, match="OPENAI_API_KEY"):
        await open_embedder(EmbeddingSettings(model="text-embedding-3-small"))


async def test_knows_dimensions_and_prices_without_asking(endpoint: EmbeddingEndpoint, open_it: Open) -> None:
    for name, dimension, price in (
        ("text-embedding-3-small", 1536, 0.02),
        ("text-embedding-3-large", 3072, 0.13),
        ("text-embedding-ada-002", 1536, 0.10),
    ):
        endpoint.always = Hang()
        model = (await open_it(model=name, provider="auto")).model
        assert (model.dimension, model.price_per_million_tokens) == (dimension, price)
    assert (await open_it(model="text-embedding-3-small", price_per_million_tokens=7.0)).model.cost_usd(500_000) == 3.5


async def test_dimensions_are_sent_only_when_asked_for(endpoint: EmbeddingEndpoint, open_it: Open) -> None:
    full = await open_it(model="text-embedding-3-small")
    short = await open_it(model="text-embedding-3-small", dimensions=256)
    assert short.model.fingerprint != full.model.fingerprint
    again = await reopen_embedder(short.model, location=short.location, settings=EmbeddingSettings())
    for embedder in (full, short, again):
        await embedder.embed_queries(["one"])
    await again.aclose()
    assert [request.body.get("dimensions") for request in endpoint.requests] == [None, 256, 256]


@pytest.mark.parametrize(("name", "dimensions"), [("text-embedding-ada-002", 512), ("text-embedding-3-small", 2000)])
async def test_a_known_model_refuses_a_wrong_dimension(open_it: Open, name: str, dimensions: int) -> None:
    with pytest.raises(ModelError, match=rf"1536 dimensions, not {dimensions}"):
        await open_it(model=name, dimensions=dimensions)


async def test_finds_out_the_dimension_of_an_unknown_model(endpoint: EmbeddingEndpoint, open_it: Open) -> None:
    assert (await open_it()).model.dimension == 24
    assert (await open_it(dimensions=24)).model.revision == ""
    assert (await open_it(dimensions=16)).model.dimension == 16


async def test_the_canary_shows_another_model_behind_the_name(endpoint: EmbeddingEndpoint, open_it: Open) -> None:
    embedder = await open_it()
    stored = await canary(embedder)
    assert stored.shape == (1, 24)
    check_canary(stored, await canary(embedder))
    endpoint.generation += 1
    with pytest.raises(ModelChangedError, match="cosine"):
        check_canary(stored, await canary(embedder))
