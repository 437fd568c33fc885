"""The dashboard as JSON and as a page, and the circuit breakers: what is said is what happened."""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest

import reshelve
from reshelve.domain.routes import Arm
from reshelve.operations.alerts import raise_alert
from reshelve.operations.recording import Place
from reshelve.settings import Settings
from tests.support.served import served
from tests.support.writers import documents

MakeSettings = Callable[[str], Settings]
ROLLOUT = """
[rag.rollout]
shadow_sample = 1.0
min_requests = 5
min_shadowed = 5
require_judged = false
[rag.circuit_breaker]
failures = 2
"""
VOID = {"meta", "br"}


async def figures(client: httpx.AsyncClient, **params: str) -> dict[str, Any]:
    return (await client.get("/api/monitoring/dashboard", params=params)).raise_for_status().json()


@pytest.fixture
async def rolling(settings_of: MakeSettings) -> Settings:
    """Settings of a collection whose users are halved between hashing-64 and hashing-128; 40 of them searched."""
    async with reshelve.connect(settings_of('[rag.embedding]\nmodel = "hashing-64"')) as library:
        await library.ingest(documents(30))
    settings = settings_of('[rag.embedding]\nmodel = "hashing-128"\n' + ROLLOUT)
    async with reshelve.connect(settings) as library:
        await library.apply()
        await library.rollout(50)
        for number in range(40):
            await library.search("shelf index vector", user=f"u{number}")
        await library.backends.spare_time.idle()
    return settings


async def test_both_sides_stand_against_their_thresholds(rolling: Settings) -> None:
    async with served(rolling) as client:
        seen = await figures(client, range="1h")
        serving, candidate = seen["arms"]
        assert [(side["arm"], side["model"], side["now"]) for side in seen["arms"]] == [
            ("serving", "hashing-64", True),
            ("candidate", "hashing-128", True),
        ]
        assert serving["figures"]["requests"] + candidate["figures"]["requests"] == 40
        assert min(serving["figures"]["requests"], candidate["figures"]["requests"]) > 5
        assert candidate["figures"]["error_rate"] == 0
        assert 0 < candidate["figures"]["cache_hit_rate"] <= 1
        assert 0 < candidate["figures"]["p50_ms"] <= candidate["figures"]["p95_ms"] <= candidate["figures"]["p99_ms"]
        assert 0 < candidate["figures"]["similarity"] <= 1
        assert 0 <= candidate["figures"]["overlap"] <= 1
        checks = {(one["figure"], one["kind"], one["limit"]): one["outcome"] for one in candidate["checks"]}
        assert checks["mean_ms", "target", 800.0] == checks["p95_ms", "target", 1200.0] == "ok"
        assert checks["error_rate", "target", 0.001] == "ok"
        assert checks["cache_hit_rate", "target", 0.7] in ("ok", "breach")
        assert checks["p95_ms", "gate", 800.0] == checks["error_rate", "gate", 0.001] == "ok"
        assert ("similarity", "target", 0.7) in checks
        assert {one["kind"] for one in serving["checks"]} == {"target"}
        migration = seen["migration"]
        assert (migration["state"], migration["percent"], migration["reached"]) == ("rolling_out", 50.0, "rolling_out")
        assert [lag["changes"] for lag in seen["lag"]] == [0, 0]
        assert sum(point["requests"] for series in seen["series"] for point in series["points"]) == 40
        for longer in ("24h", "7d"):
            assert (await figures(client, range=longer))["arms"][0]["figures"]["requests"] == serving["figures"][
                "requests"
            ]
        # A tenant without a route of its own shares everybody's.
        assert (await figures(client, tenant="a", range="1h"))["arms"][0]["figures"] == serving["figures"]


async def test_what_is_over_a_threshold_is_said(rolling: Settings) -> None:
    async with reshelve.connect(rolling, worker=False) as library:
        backends = library.backends
        slow = Place(1, "", 2, Arm.CANDIDATE)
        for _ in range(200):
            backends.recorder.search(slow, milliseconds=5000.0, error=True)
        await backends.recorder.flush()
        seen = await library.dashboard(range="1h")
        assert {words.split(" is ")[0] for words in seen.breaches} == {
            "candidate (index 2): mean_ms",
            "candidate (index 2): p95_ms",
            "candidate (index 2): error_rate",
        }
        # A target that decides nothing is missed in silence.
        assert any(one.outcome == "breach" and not one.decides for one in seen.arms[1].checks)


async def test_wrong_questions_are_refused(rolling: Settings) -> None:
    async with served(rolling) as client:
        for address in ("/api/monitoring/dashboard", "/dashboard"):
            for wrong in ("range=2h", "more=1", "collection=%20"):
                assert (await client.get(f"{address}?{wrong}")).status_code == 422
            assert (await client.get(f"{address}?collection=nowhere")).status_code == 404
        assert (await client.get("/api/monitoring/circuit-breaker?collection=nowhere")).status_code == 404


async def test_the_circuit_breaker_is_shown_by_arm_and_process(rolling: Settings) -> None:
    async with reshelve.connect(rolling, worker=False) as library, served(rolling) as client:
        shown = (await client.get("/api/monitoring/circuit-breaker")).raise_for_status().json()
        assert shown["settings"] == {"failures": 2, "open_seconds": 60.0, "trials": 3}
        for _ in range(2):
            assert library.backends.breakers.allows(2)
            library.backends.breakers.failed(2, "it is gone")
        await library.backends.breakers.flush()
        serving, candidate = (await client.get("/api/monitoring/circuit-breaker")).json()["arms"]
        assert (serving["arm"], serving["state"], serving["processes"]) == ("serving", "closed", [])
        assert (candidate["arm"], candidate["index"], candidate["state"]) == ("candidate", 2, "open")
        (process,) = candidate["processes"]
        assert (process["state"], process["failures"], process["reason"]) == ("open", 2, "it is gone")


class _Page(HTMLParser):
    """Raises where tags do not match, and keeps the texts."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.texts: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href") and tag != "a"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(" ".join(data.split()))


def read(html: str) -> _Page:
    page = _Page()
    page.feed(html)
    page.close()
    assert page.open == []
    return page


async def test_the_page_shows_the_same_figures(rolling: Settings) -> None:
    evil = "</td><script>alert(1)</script>"
    library = await reshelve.connect(rolling, worker=False)
    async with library, library.backends.database.service() as connection:
        await raise_alert(connection, source="gate", type="rollback", severity="critical", message=evil)
    async with served(rolling) as client:
        seen = await figures(client, range="1h")
        answer = await client.get("/dashboard", params={"range": "1h"})
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["cache-control"] == "no-store"
        page = read(answer.text)
        assert "script" not in page.seen
        assert page.fetched == []
        assert {"svg", "path", "table", "meta"} <= page.seen
        assert '<meta http-equiv="refresh"' in answer.text
        for side in seen["arms"]:
            assert str(side["figures"]["requests"]) in page.texts
            assert f"index {side['index']}" in page.texts
        assert "rolling out" in page.texts
        assert any(text.startswith("50 % of the users are answered by index 2") for text in page.texts)
        assert evil in page.texts
        assert all(verdict["reason"] in page.texts for verdict in seen["migration"]["verdicts"])


async def test_an_empty_collection_has_a_page_too(settings_of: MakeSettings) -> None:
    settings = settings_of('[rag.embedding]\nmodel = "hashing-64"')
    async with reshelve.connect(settings) as library:
        await library.ingest(documents(1))
    async with served(settings) as client:
        for range in ("1h", "24h", "7d"):
            page = read((await client.get("/dashboard", params={"range": range, "tenant": '"><b>'})).text)
            assert "svg" not in page.seen
            assert "No gate is breached." in page.texts
            assert 'for "><b>' in page.texts
        seen = await figures(client)
        assert (seen["range"], seen["migration"], seen["series"]) == ("24h", None, [])
        assert {one["outcome"] for one in seen["arms"][0]["checks"]} == {"no data"}
        assert "NaN" not in json.dumps(seen)
