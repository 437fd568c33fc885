"""One of a rollout's two models fails or is slow: the way back, a writer who waits, a service that starts."""

from __future__ import annotations

from collections.abc import Callable, Generator

import pytest

import reshelve
from reshelve.domain.migration import State
from reshelve.indexing import draining
from reshelve.migrations import cutover
from reshelve.settings import Settings
from tests.support.embedding_endpoint import EmbeddingEndpoint, Fault, Hang, Status
from tests.support.served import served
from tests.support.waiting import until
from tests.support.writers import documents

MakeSettings = Callable[[str], Settings]
HASHING = '[rag.embedding]\nmodel = "hashing-64"\n'


@pytest.fixture
def endpoint() -> Generator[EmbeddingEndpoint]:
    with EmbeddingEndpoint(dimension=64) as running:
        yield running


def remote(endpoint: EmbeddingEndpoint) -> str:
    return (
        f'[rag.embedding]\nmodel = "remote"\nprovider = "openai"\nbase_url = "{endpoint.base_url}"\n'
        'api_key = "none"\nbatch_size = 16\nmax_retries = 50\ntimeout_seconds = 600.0\n'
        "[rag.rollout]\nshadow_sample = 0.0\n"
    )


@pytest.mark.parametrize("fault", [Hang(), Status(401)], ids=["hangs", "refuses"])
async def test_the_way_back_does_not_wait_for_the_old_model(
    settings_of: MakeSettings, endpoint: EmbeddingEndpoint, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    monkeypatch.setattr(cutover, "_ROLLBACK_PATIENCE_SECONDS", 0.2)
    async with reshelve.connect(settings_of(remote(endpoint))) as library:
        await library.ingest(documents(20))
    back_to = remote(endpoint).replace('model = "remote"\nprovider = "openai"\n', 'model = "hashing-64"\n')
    async with reshelve.connect(settings_of(back_to)) as library:
        await library.apply(cutover=True)
    endpoint.always = fault
    # Nobody else feeds: the rollback takes the change up itself.
    async with reshelve.connect(settings_of(back_to), worker=False) as library:
        await library.ingest({"_id": "late", "text": "written while the old model fails"}, wait=False)
        assert (await library.rollback()).state is State.ROLLED_BACK
        migration = (await library.status()).migration
        assert migration is not None
        assert "rolling back behind" in [entry["event"] for entry in migration.journal]


async def test_a_write_waits_for_a_new_index_that_is_slow_but_takes_it_in(
    settings_of: MakeSettings, endpoint: EmbeddingEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draining, "_NEW_INDEX_PATIENCE_SECONDS", 2.5)
    async with reshelve.connect(settings_of(HASHING)) as library:
        await library.ingest(documents(5))
    async with reshelve.connect(settings_of(remote(endpoint))) as library:
        await library.apply(cutover=True)
        endpoint.delay_seconds = 0.3
        await library.ingest(documents(1000))
        behind = {index.model: index.lag_changes for index in (await library.status()).indexes}
        assert behind == {"hashing-64": 0, "remote": 0}


async def test_a_service_is_ready_without_the_new_model(settings_of: MakeSettings, endpoint: EmbeddingEndpoint) -> None:
    async with reshelve.connect(settings_of(HASHING)) as library:
        await library.ingest(documents(20))
    settings = settings_of(remote(endpoint))
    async with reshelve.connect(settings) as library:
        await library.apply()
        await library.rollout(50)
    endpoint.always = Hang()
    async with served(settings) as client:

        async def ready() -> bool:
            return (await client.get("/ready")).is_success

        await until(ready)
        found = await client.post("/api/v1/search", json={"query": "a shelf"})
        assert found.raise_for_status().json()["model"] == "hashing-64"
