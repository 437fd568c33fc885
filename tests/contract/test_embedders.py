"""The embedder protocol's suite, on every provider: two real models, the lexical one, and an endpoint on a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator

import numpy as np
import pytest
import pytest_asyncio

from reshelve.domain.models import Vectors
from reshelve.embedders.canary import canary, check_canary
from reshelve.embedders.opening import open_embedder, reopen_embedder
from reshelve.embedders.protocol import Embedder
from reshelve.errors import EmbeddingRefused, ModelChangedError, ModelError
from reshelve.settings import EmbeddingSettings
from tests.support.embedding_endpoint import EmbeddingEndpoint
from tests.support.tiny_bert import write_tiny_bert

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROVIDERS = ["hashing", "minilm", "bert-directory", "openai"]
TEXTS = [
    "A library is reshelved while its readers keep borrowing.",
    "x",
    "Büchereien ordnen ihre Regale neu, während gelesen wird. " * 12,
    "図書館は開いたまま棚を並べ替える。",
    "المكتبة تعيد ترتيب رفوفها",
    "UPPER and lower, 42 times! 🙂",
    "index " * 300,
    "one two three",
]

Open = Callable[..., Awaitable[Embedder]]


@pytest.fixture(scope="module")
def endpoint() -> Generator[EmbeddingEndpoint]:
    with EmbeddingEndpoint(dimension=96) as running:
        yield running


@pytest.fixture(scope="module")
def settings_of(
    endpoint: EmbeddingEndpoint, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], EmbeddingSettings]:
    directory = write_tiny_bert(tmp_path_factory.mktemp("models") / "tiny-bert")
    known = {
        "hashing": EmbeddingSettings(model="hashing-96"),
        "minilm": EmbeddingSettings(model="minilm-l6-v2"),
        "bert-directory": EmbeddingSettings(model=str(directory)),
        "openai": EmbeddingSettings(model="some-model", base_url=endpoint.base_url, batch_size=3, max_retries=0),
    }
    return known.__getitem__


@pytest.fixture(scope="module", params=PROVIDERS)
def settings(request: pytest.FixtureRequest, settings_of: Callable[[str], EmbeddingSettings]) -> EmbeddingSettings:
    return settings_of(request.param)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def embedder(settings: EmbeddingSettings) -> AsyncGenerator[Embedder]:
    opened = await open_embedder(settings)
    yield opened
    await opened.aclose()


def assert_close(found: Vectors, expected: Vectors) -> None:
    assert found.shape == expected.shape
    assert (found * expected).sum(axis=1).min() >= 0.999


async def test_makes_one_unit_vector_a_text_and_counts_tokens(embedder: Embedder) -> None:
    found = await embedder.embed_documents(TEXTS)
    assert found.vectors.shape == (len(TEXTS), embedder.model.dimension)
    assert found.vectors.dtype == np.float32
    assert np.linalg.norm(found.vectors, axis=1) == pytest.approx(1.0, abs=1e-3)
    assert found.tokens >= len(TEXTS)
    assert embedder.max_tokens > 8
    assert len(embedder.tokenizer.encode("three plain words", add_special_tokens=False)) == 3


async def test_keeps_the_order_and_does_not_depend_on_the_batch(embedder: Embedder) -> None:
    together = (await embedder.embed_documents(TEXTS)).vectors
    alone = [(await embedder.embed_documents([text])).vectors for text in TEXTS]
    assert_close(together, np.concatenate(alone))
    assert_close((await embedder.embed_documents(TEXTS[::-1])).vectors, together[::-1])


async def test_answers_the_same_twice(embedder: Embedder) -> None:
    first, second = await embedder.embed_documents(TEXTS), await embedder.embed_documents(TEXTS)
    assert np.array_equal(first.vectors, second.vectors)
    assert first.tokens == second.tokens


async def test_no_texts_are_no_vectors(embedder: Embedder) -> None:
    for embed in (embedder.embed_documents, embedder.embed_queries):
        found = await embed([])
        assert found.vectors.shape == (0, embedder.model.dimension)
        assert found.tokens == 0


async def test_empty_blank_and_control_characters_have_a_vector(embedder: Embedder) -> None:
    texts = ["", " \n\t ", "\x00", "\u200b", "the of and"]
    vectors = (await embedder.embed_documents(texts)).vectors
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-3)


async def test_cuts_a_text_that_is_too_long(embedder: Embedder) -> None:
    long = "many words " * 100_000
    found = await embedder.embed_documents([long, "short"])
    assert np.isfinite(found.vectors).all()
    if embedder.max_tokens < 100_000:
        assert found.tokens < 200_000
        longer = await embedder.embed_documents([long + "and more"])
        assert_close(longer.vectors, found.vectors[:1])


async def test_refuses_what_is_not_unicode(embedder: Embedder) -> None:
    with pytest.raises(EmbeddingRefused, match="surrogate"):
        await embedder.embed_documents(["fine", "broken \ud800"])


async def test_may_be_called_from_many_tasks(embedder: Embedder) -> None:
    expected = (await embedder.embed_documents(TEXTS)).vectors
    calls = [embedder.embed_queries([text]) for text in TEXTS] + [embedder.embed_documents(TEXTS) for _ in range(6)]
    found = await asyncio.gather(*calls)
    assert_close(np.concatenate([answer.vectors for answer in found[: len(TEXTS)]]), expected)
    for answer in found[len(TEXTS) :]:
        assert_close(answer.vectors, expected)


async def test_prefixes_go_before_queries_and_documents(embedder: Embedder, settings: EmbeddingSettings) -> None:
    prefixes = {"query_prefix": "search_query: ", "document_prefix": "search_document: "}
    other = await open_embedder(settings.model_copy(update=prefixes))
    assert other.model.fingerprint != embedder.model.fingerprint
    plain = (await embedder.embed_documents(["search_query: shelf", "search_document: shelf"])).vectors
    assert_close((await other.embed_queries(["shelf"])).vectors, plain[:1])
    assert_close((await other.embed_documents(["shelf"])).vectors, plain[1:])
    await other.aclose()


async def test_is_opened_again_as_the_same_space(embedder: Embedder, settings: EmbeddingSettings) -> None:
    elsewhere = settings.model_copy(update={"model": "hashing-8", "query_prefix": "other: ", "base_url": None})
    again = await reopen_embedder(embedder.model, location=embedder.location, settings=elsewhere)
    assert again.model == embedder.model
    assert again.model.fingerprint == embedder.model.fingerprint
    assert again.location == embedder.location
    check_canary(await canary(embedder), await canary(again))
    await again.aclose()
    await again.aclose()


async def test_refuses_a_dimension_that_it_does_not_have(
    settings: EmbeddingSettings, endpoint: EmbeddingEndpoint
) -> None:
    endpoint.shortens = False
    try:
        with pytest.raises((ModelError, EmbeddingRefused), match=r"dimensions"):
            await open_embedder(settings, dimensions=33)
    finally:
        endpoint.shortens = True


async def test_no_two_models_share_a_space(settings_of: Callable[[str], EmbeddingSettings]) -> None:
    opened = [await open_embedder(settings_of(name)) for name in PROVIDERS]
    assert len({embedder.model.fingerprint for embedder in opened}) == len(PROVIDERS)
    with pytest.raises(ModelChangedError, match="384"):
        check_canary(await canary(opened[0]), await canary(opened[1]))
    with pytest.raises(ModelChangedError, match="cosine"):
        check_canary(await canary(opened[0]), await canary(opened[3]))
    for embedder in opened:
        await embedder.aclose()
