"""The embedding provider fails in every way it can, in the middle of a migration to it.

What passes is waited out. What lasts ends in a state and a reason that a person can read, and never in a wrong row.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator

import pytest

import reshelve
from reshelve.domain.migration import State
from reshelve.errors import (
    EmbeddingInvalid,
    EmbeddingRefused,
    EmbeddingUnavailable,
    GateHeld,
    MixedSpacesError,
    ModelChangedError,
    ReshelveError,
)
from reshelve.migrations import backfill, engine
from reshelve.migrations.engine import Happening
from reshelve.migrations.records import Migration
from tests.faults.conftest import ROWS, Scene
from tests.support.embedding_endpoint import EmbeddingEndpoint, Fault, Hang, Hangup, Status, Wrong
from tests.support.oracle import assert_indexes_equal_source
from tests.support.writers import documents, writing


@pytest.fixture
def endpoint() -> Generator[EmbeddingEndpoint]:
    with EmbeddingEndpoint(dimension=64) as running:
        running.shuffled = True
        yield running


@pytest.fixture
async def library(scene: Scene, endpoint: EmbeddingEndpoint) -> AsyncGenerator[reshelve.Library]:
    """Serves `hashing-64`, and declares the endpoint's model. The endpoint answers out of order."""
    lines = f'base_url = "{endpoint.base_url}"\ntimeout_seconds = 0.4\nmax_retries = 1\nbatch_size = 16'
    async with reshelve.connect(scene.declare("remote", embedding=lines)) as opened:
        yield opened


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many second chances as ever, and far shorter waits between them."""
    for module in (backfill, engine):
        monkeypatch.setattr(module, "_PATIENCE", 1)
        monkeypatch.setattr(module, "_SECOND_CHANCES", 1)


async def _apply(library: reshelve.Library, spoil: Callable[[], object]) -> Migration:
    """Fill one range, then `spoil` the endpoint, then go on."""
    await library.apply(limit=40)

    def listen(event: Happening) -> None:
        if event.state is State.BACKFILLING and event.rows is None:
            spoil()

    return await library.apply(on_event=listen)


async def _assert_done(library: reshelve.Library) -> None:
    status = await library.status()
    assert status.migration is not None
    assert status.migration.state == State.VERIFYING
    assert status.migration.verification is not None
    assert status.migration.verification["passed"]
    assert [index.refused for index in status.indexes] == [0, 0]
    await assert_indexes_equal_source(library)


PASSING: dict[str, list[Fault]] = {
    "limited": [Status(429, headers={"Retry-After": "0.05"})] * 4 + [Status(429)] * 4,
    "down": [Status(500), Status(503), Hangup(), Hangup(), Status(500)],
    "hanging": [Hang()] * 4,
    "not-numbers": [Wrong("nan")] * 4 + [Wrong("infinite")] * 2,
    "zero": [Wrong("zero")] * 5,
    "another-dimension": [Wrong("dimension")] * 3,
    "another-count": [Wrong("few")] * 3 + [Wrong("twice")] * 3 + [Wrong("garbage")] * 3,
}


@pytest.mark.parametrize("kind", PASSING)
async def test_a_fault_that_passes(
    scene: Scene, library: reshelve.Library, endpoint: EmbeddingEndpoint, kind: str
) -> None:
    faults = PASSING[kind].copy()
    async with writing(scene.library):
        migration = await _apply(library, lambda: (endpoint.faults.extend(faults), faults.clear()))
    assert not endpoint.faults
    assert migration.reason is None
    await _assert_done(library)


LASTING: dict[str, tuple[Fault, type[ReshelveError], str]] = {
    "key": (Status(401, "Incorrect API key provided"), EmbeddingRefused, "refused the key"),
    "not-a-number": (Wrong("nan"), EmbeddingInvalid, "NaN"),
    "another-dimension": (Wrong("dimension"), MixedSpacesError, "dimension mismatch"),
    "garbage": (Wrong("garbage"), EmbeddingInvalid, "no embeddings"),
}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", LASTING)
async def test_a_fault_that_lasts(library: reshelve.Library, endpoint: EmbeddingEndpoint, kind: str) -> None:
    """`failed`, with the reason. Nothing is parked, because no text is to blame."""
    fault, error, reason = LASTING[kind]
    with pytest.raises(error, match=reason):
        await _apply(library, lambda: setattr(endpoint, "always", fault))
    status = await library.status()
    assert status.migration is not None
    assert (status.migration.state, status.migration.rows_done) == ("failed", 40)
    assert status.migration.reason is not None
    assert reason in status.migration.reason
    assert status.indexes[1].refused == 0
    await library.ingest(documents(3, seed=7), wait=False)
    assert (await library.search("shelf")).model == "hashing-64"
    endpoint.always = None
    await library.resume()
    await _assert_done(library)


@pytest.mark.usefixtures("impatient")
async def test_an_outage_that_lasts(library: reshelve.Library, endpoint: EmbeddingEndpoint) -> None:
    """The run ends, and says so meanwhile; the migration keeps its state, for whoever runs it again."""
    with pytest.raises(EmbeddingUnavailable, match="503 overloaded"):
        await _apply(library, lambda: setattr(endpoint, "always", Status(503, "overloaded")))
    status = await library.status()
    assert status.migration is not None
    assert (status.migration.state, status.migration.rows_done) == ("backfilling", 40)
    assert status.migration.reason is not None
    assert "503 overloaded" in status.migration.reason
    endpoint.always = None
    assert (await library.apply()).reason is None
    await _assert_done(library)


async def test_a_text_that_is_refused(library: reshelve.Library, endpoint: EmbeddingEndpoint) -> None:
    """It is parked and named; the rest goes in; nobody cuts over without it."""
    endpoint.refuses = "unmentionable"
    await library.ingest(reshelve.Document(external_id="bad", content="an unmentionable word"))
    migration = await library.apply()
    assert migration.state is State.VERIFYING
    assert migration.reason == "1 chunks have no vector (1 of them refused by the model)"
    assert migration.verification is not None
    [named] = migration.verification["named"]
    assert "refused by the model" in named
    assert "content filter" in named
    status = await library.status()
    assert [(index.entries, index.refused) for index in status.indexes] == [(ROWS + 1, 0), (ROWS, 1)]
    with pytest.raises(GateHeld, match="no vector"):
        await library.cutover()
    assert (await library.search("unmentionable")).results[0].document_id == "bad"
    endpoint.refuses = None
    assert (await library.cutover()).state is State.SOAKING
    assert await assert_indexes_equal_source(library) == 2 * (ROWS + 1)


async def test_a_text_that_is_refused_and_taken_out(library: reshelve.Library, endpoint: EmbeddingEndpoint) -> None:
    """A text that always gets a wrong answer is parked like one that is refused, and forgotten with its document."""
    endpoint.spoils = "unmentionable"
    await library.ingest(reshelve.Document(external_id="bad", content="an unmentionable word"))
    migration = await library.apply()
    assert migration.reason == "1 chunks have no vector (1 of them refused by the model)"
    await library.delete(["bad"])
    assert (await library.cutover()).state is State.SOAKING
    await _assert_nothing_refused(library)
    assert await assert_indexes_equal_source(library) == 2 * ROWS


async def _assert_nothing_refused(library: reshelve.Library) -> None:
    assert [index.refused for index in (await library.status()).indexes] == [0, 0]


@pytest.mark.usefixtures("impatient")
async def test_another_model_behind_the_same_name(
    scene: Scene, library: reshelve.Library, endpoint: EmbeddingEndpoint
) -> None:
    """It is noticed in the very answer: no vector of the other model gets in, not of the backfill nor of a writer."""
    with pytest.raises(ModelChangedError, match="changed behind its name"):
        await _apply(library, lambda: setattr(endpoint, "generation", 1))
    await library.ingest(documents(30, seed=3), wait=False)
    status = await library.status()
    assert status.migration is not None
    assert status.migration.state == "failed"
    # Some of the 40 may have left with their documents by now; none came in.
    assert status.indexes[1].entries <= 40
    endpoint.generation = 0
    async with writing(scene.library):
        await library.resume()
    await _assert_done(library)


@pytest.mark.usefixtures("impatient")
async def test_another_model_after_the_proof(library: reshelve.Library, endpoint: EmbeddingEndpoint) -> None:
    await library.apply()
    endpoint.generation = 1
    with pytest.raises(GateHeld, match="embedded again"):
        await library.cutover()
    assert (await library.search("shelf")).model == "hashing-64"
    endpoint.generation = 0
    assert (await library.cutover()).state is State.SOAKING
    await assert_indexes_equal_source(library)
