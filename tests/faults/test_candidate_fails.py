"""The new index fails on every query while half of the users are with it: no reader notices, and it goes back."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from datetime import datetime

import pytest

import reshelve
from reshelve.domain.breaker import BreakerState
from reshelve.domain.migration import State
from tests.faults.conftest import ROWS, Outsider, Scene
from tests.support.embedding_endpoint import EmbeddingEndpoint, Fault, Hang, Hangup, Status, Wrong
from tests.support.oracle import assert_indexes_equal_source
from tests.support.rollouts import (
    conducted,
    gates,
    is_in,
    migration_of,
    moving,
    reading,
    rollout_lines,
    states,
)
from tests.support.waiting import until
from tests.support.writers import documents

FAULTS = {"500": Status(500), "401": Status(401), "hanging": Hang(), "cut-off": Hangup(), "nan": Wrong("nan")}


@pytest.fixture
def endpoint() -> Generator[EmbeddingEndpoint]:
    with EmbeddingEndpoint(dimension=64) as running:
        yield running


@pytest.fixture
async def library(scene: Scene, endpoint: EmbeddingEndpoint) -> AsyncGenerator[reshelve.Library]:
    """At 50 % of a model that the endpoint answers for."""
    lines = f'base_url = "{endpoint.base_url}"\ntimeout_seconds = 1.0'
    rollout = rollout_lines(candidate_timeout_seconds="0.5", min_requests="1000000")
    # Two, so that it opens before the gate has enough failures: five that hang take longer than the gate needs.
    rollout += "\n[rag.circuit_breaker]\nfailures = 2\n"
    async with moving(scene.declare("remote", embedding=lines, extra=rollout)) as opened:
        await opened.rollout(50)
        yield opened


@pytest.mark.parametrize("kind", FAULTS)
async def test_taken_back_by_itself(
    library: reshelve.Library, endpoint: EmbeddingEndpoint, owner: Outsider, kind: str
) -> None:
    """Ten seconds are promised, on a machine that is not busy with other things."""
    fault: Fault = FAULTS[kind]
    candidate = (await migration_of(library)).to_index
    assert candidate is not None
    async with reading(library) as readers, conducted(library):
        await until(lambda: readers.arms == {"serving", "candidate"})
        endpoint.always = fault
        [(began,)] = await (await owner.execute("SELECT extract(epoch FROM clock_timestamp())::float")).fetchall()
        # Writers do not wait for it either.
        await library.ingest(documents(5, seed=2))
        await until(lambda: is_in(library, State.ROLLED_BACK))
    assert library.backends.breakers.states()[candidate].state is not BreakerState.CLOSED
    fell_back = [answer.fell_back for answer in readers.answers if answer.fell_back]
    # It failed, or, where the shadow searches found that out first, it was not asked any more.
    assert fell_back
    assert all(reason.startswith(("the candidate failed", "the candidate's circuit breaker")) for reason in fell_back)
    assert any("circuit breaker is open" in reason for reason in fell_back)
    assert {answer.arm for answer in readers.answers if answer.fell_back} == {"serving"}
    migration = await migration_of(library)
    assert states(migration)[-3:] == ["rolling_out", "rolling_back", "rolled_back"]
    assert gates(migration)["error_rate"]["outcome"] == "fail"
    [end] = [entry["at"] for entry in migration.journal if entry["after"] == "rolled_back"]
    assert isinstance(began, float)
    assert datetime.fromisoformat(end).timestamp() - began < 20
    endpoint.always = None
    assert await assert_indexes_equal_source(library) == 2 * ROWS


async def test_one_that_recovers_is_tried_again(scene: Scene, endpoint: EmbeddingEndpoint) -> None:
    """Without a conductor nobody takes it back: the breaker lets some searches through, and then all of them."""
    lines = f'base_url = "{endpoint.base_url}"\ntimeout_seconds = 1.0'
    rollout = rollout_lines(candidate_timeout_seconds="0.5") + "\n[rag.circuit_breaker]\nopen_seconds = 0.5\n"
    async with moving(scene.declare("remote", embedding=lines, extra=rollout)) as library:
        await library.rollout(50)
        async with reading(library) as readers:
            endpoint.always = Status(500)
            await until(lambda: any("breaker is open" in (answer.fell_back or "") for answer in readers.answers))
            endpoint.always = None
            readers.answers.clear()
            await until(lambda: "candidate" in readers.arms)
            candidate = (await migration_of(library)).to_index
            assert candidate is not None
            await until(lambda: library.backends.breakers.closed(candidate))
        await assert_indexes_equal_source(library)
