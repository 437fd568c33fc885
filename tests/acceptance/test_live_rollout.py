"""The whole road of an operator: `reshelve serve`, live traffic from another process, and a change of the model.

The candidate's model stands behind an endpoint of the test's, which can be made to fail.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

import reshelve
from reshelve.database import embedded
from tests.support.embedding_endpoint import EmbeddingEndpoint, Status
from tests.support.oracle import assert_indexes_equal_source
from tests.support.waiting import until
from tests.support.writers import documents

SECRET = "the-operators-own"
FILE = """
[rag.embedding]
{model}
max_retries = 0
[rag.rollout]
shadow_seconds = 0
shadow_sample = 1.0
check_seconds = 0.5
min_requests = 30
min_shadowed = 10
require_judged = false
min_overlap = 0.0
max_p95_ms = 5000
p95_floor_ms = 5000
[rag.circuit_breaker]
open_seconds = 2
[rag.alerts]
webhook_secret = "the-operators-own"
"""


class Operator:
    """A person with a terminal and curl."""

    def __init__(self, folder: Path, client: httpx.AsyncClient) -> None:
        self._folder = folder
        self._client = client

    async def get(self, path: str) -> dict[str, Any]:
        answer = await self._client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = await self._client.post(path, json=body, headers={"Authorization": f"Bearer {SECRET}"})
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def migration(self, migration_id: int) -> dict[str, Any]:
        return await self.get(f"/api/v1/migrations/{migration_id}")

    async def until(self, migration_id: int, *, percent: float | None = None, state: str | None = None) -> None:
        async def there() -> bool:
            found = await self.migration(migration_id)
            assert found["state"] != "failed", found["reason"]
            return found["percent"] == percent if percent is not None else found["state"] == state

        try:
            await until(there, seconds=90)
        except TimeoutError:
            raise AssertionError(await self.migration(migration_id)) from None

    async def command(self, *words: str) -> str:
        code, said = await ran(self._folder, *words)
        assert code == 0, said
        return said


async def ran(folder: Path, *words: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "reshelve.cli", *words,
        cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode is not None
    return process.returncode, said.decode()


@asynccontextmanager
async def serving(folder: Path) -> AsyncGenerator[str]:
    """The address of `reshelve serve`. It has to end by itself, and well, when it is told to."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "reshelve.cli", "serve", "--port", "0", "--json",
        cwd=folder, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        told = await asyncio.wait_for(process.stdout.readuntil(b"}"), 60)
        yield json.loads(told)["listening"]
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 60) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@asynccontextmanager
async def loaded(url: str) -> AsyncGenerator[dict[str, Any]]:
    """Traffic for as long as the block runs; what it met is there afterwards."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.load", url,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    met: dict[str, Any] = {}
    try:
        yield met
        said, _ = await asyncio.wait_for(process.communicate(b""), 120)
        met.update(json.loads(said))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncGenerator[Path]:
    """A shelf of 200 documents on `hashing-64`."""
    (tmp_path / "rag.toml").write_text(FILE.format(model='model = "hashing-64"'))
    rows = [json.dumps({"_id": one.external_id, "text": one.content}) for one in documents(200)]
    (tmp_path / "documents.jsonl").write_text("\n".join(rows))
    code, said = await ran(tmp_path, "ingest", "documents.jsonl")
    assert code == 0, said
    yield tmp_path
    await asyncio.to_thread(embedded.stop, tmp_path / ".reshelve")


def changed(folder: Path, endpoint: EmbeddingEndpoint) -> None:
    """The one line, and where the model is."""
    model = f'model = "embed-v2"\nprovider = "openai"\nbase_url = "{endpoint.base_url}"\napi_key = "k"'
    (folder / "rag.toml").write_text(FILE.format(model=model))


@pytest.mark.timeout(600)
async def test_a_rollout_under_live_traffic(folder: Path) -> None:
    with EmbeddingEndpoint(dimension=96, remember=False) as endpoint:
        async with serving(folder) as url, httpx.AsyncClient(base_url=url, timeout=60) as client:
            operator = Operator(folder, client)
            async with loaded(url) as met:
                changed(folder, endpoint)
                await _failed_at_fifty(operator, endpoint)
                await _taken_back_by_an_alert(operator)
                await _all_the_way(operator)
        assert (met.get("failed", 0), met["lost"], met.get("lost_at_once", 0), met.get("mixed", 0)) == (0, [], 0, 0), (
            met
        )
        assert met.get("empty", 0) == 0
        assert min(met["serving"], met["candidate"], met["fell_back"], met["writes"]) > 0
        async with reshelve.connect(folder / "rag.toml") as library:
            assert await assert_indexes_equal_source(library) == 2 * (200 + met["writes"])


async def _failed_at_fifty(operator: Operator, endpoint: EmbeddingEndpoint) -> None:
    started = await operator.post("/api/v1/migrations", {"schedule": "10%:1s, 25%:1s, 50%:1h, 100%:1h"})
    number = started["id"]
    await operator.until(number, percent=50)
    endpoint.always = Status(500)
    await operator.until(number, state="rolled_back")
    endpoint.always = None
    found = await operator.migration(number)
    shares = [entry["facts"]["to"] for entry in found["journal"] if entry["event"] == "share"]
    assert shares == [0, 10, 25, 50]
    rolling_back, rolled_back = (
        datetime.fromisoformat(entry["at"])
        for state in ("rolling_back", "rolled_back")
        for entry in found["journal"]
        if entry["after"] == state
    )
    assert (rolled_back - rolling_back).total_seconds() < 10
    assert any(gate["outcome"] == "fail" and gate["safety"] for gate in found["gates"])
    breakers = await operator.get("/api/monitoring/circuit-breaker")
    assert "open" in json.dumps(breakers)
    alerts = await operator._client.get(
        "/api/alerts/webhook", params={"severity": "critical"}, headers={"Authorization": f"Bearer {SECRET}"}
    )
    assert f"migration {number} is rolled back" in alerts.text


async def _taken_back_by_an_alert(operator: Operator) -> None:
    started = await operator.post("/api/v1/migrations", {"schedule": "50%:1h, 100%:1h"})
    number = started["id"]
    await operator.until(number, percent=50)
    assert (await operator.migration(number))["embedded_rows"] == 0
    alert = {"type": "error_rate", "severity": "critical", "value": 0.5, "threshold": 0.1}
    assert (await operator.post("/api/alerts/webhook", alert))["action"] == "rolled_back"
    found = await operator.migration(number)
    assert (found["state"], found["percent"]) == ("rolled_back", 0)


async def _all_the_way(operator: Operator) -> None:
    started = await operator.post("/api/v1/migrations", {"schedule": "25%:1s, 75%:1s, 100%:1h"})
    number = started["id"]
    await operator.until(number, state="soaking")
    found = await operator.migration(number)
    assert (found["percent"], found["embedded_rows"]) == (100, 0)
    for range_ in ("1h", "24h", "7d"):
        dashboard = await operator.get(f"/api/monitoring/dashboard?range={range_}")
        assert dashboard["migration"]["state"] == "soaking"
    assert "soaking" in (await operator._client.get("/dashboard")).text
    status = json.loads(await operator.command("status", "--json"))
    assert status["migration"]["percent"] == 100
    assert "everything that was there is embedded" in await operator.command("status", "--checklist")
