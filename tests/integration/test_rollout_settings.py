"""Every setting of [rag.rollout] and [rag.circuit_breaker] has an effect.

Those of the road itself are shown elsewhere: `schedule` in test_rollout, `sticky_by` in test_tenants, `enabled`,
`percentage` and `parallel` in test_flags.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

import reshelve
from reshelve.database.pools import Connection
from reshelve.domain.breaker import BreakerState
from reshelve.domain.figures import ArmFigures, bin_of
from reshelve.domain.migration import State
from reshelve.domain.routes import Arm
from reshelve.migrations import conductor, records
from reshelve.migrations.conductor import Conductor
from reshelve.migrations.evidence import look
from reshelve.operations.figures import read_figures
from reshelve.settings import Settings
from tests.support.rollouts import migration_of
from tests.support.waiting import until
from tests.support.writers import documents

SettingsOf = Callable[[str], Settings]
TARGET = '[rag.embedding]\nmodel = "hashing-128"\n'
USERS = [f"user-{number}" for number in range(20)]
LENIENT = {
    "shadow_seconds": "0",
    "shadow_sample": "0.0",
    "min_requests": "20",
    "min_shadowed": "5",
    "max_error_rate": "0.05",
    "require_judged": "false",
}


def rollout(more: str = "", **settings: str) -> str:
    lines = "\n".join(f"{name} = {value}" for name, value in {**LENIENT, **settings}.items())
    return f"{TARGET}[rag.rollout]\n{lines}\n{more}"


@asynccontextmanager
async def moving(
    settings_of: SettingsOf, more: str = "", *, worker: bool = True, **settings: str
) -> AsyncGenerator[reshelve.Library]:
    """A library on hashing-64 whose migration to hashing-128 is verified."""
    async with reshelve.connect(settings_of('[rag.embedding]\nmodel = "hashing-64"')) as library:
        await library.ingest(documents(30))
    async with reshelve.connect(settings_of(rollout(more, **settings)), worker=worker) as library:
        await library.apply()
        yield library


async def figures(library: reshelve.Library) -> dict[tuple[int, Arm], ArmFigures]:
    await library.backends.recorder.flush()
    async with library.backends.database.service() as connection:
        return await read_figures(connection, collection_id=1, tenant="")


# The gates ------------------------------------------------------------------------------------------------------

_SEARCHED = """
    INSERT INTO figures (collection_id, tenant, index_id, arm, name, at, seconds, bin, count, total)
    SELECT 1, '', index_id, arm, name, clock_timestamp(), 10, bin, count, total FROM (VALUES
        (1, 'serving', 'request', %(fast)s, 300, 3000), (2, 'candidate', 'request', %(slow)s, 300, 6000),
        (2, 'candidate', 'error', 0, 2, 0), (2, 'candidate', 'overlap', 0, 200, 100),
        (2, 'candidate', 'similarity', 0, 300, 150)
    ) AS v (index_id, arm, name, bin, count, total)
"""
_JUDGED = {"difference": -0.01, "low": -0.015, "high": -0.005, "serving_now": 0.5, "candidate": 0.49, "queries": 50}


@pytest.fixture
async def half_way(settings_of: SettingsOf) -> AsyncGenerator[reshelve.Library]:
    """At 50 %, with figures of both sides, a write that nobody feeds, judged queries, and more spent than planned."""
    async with moving(settings_of, worker=False) as library:
        await library.rollout(50)
        await library.ingest({"_id": "late", "text": "a late word"}, wait=False)
        async with library.backends.database.owner() as owner:
            await owner.execute(_SEARCHED, {"fast": bin_of(10), "slow": bin_of(20)})
            await owner.execute(
                "UPDATE migrations SET plan = plan || '{\"cost_usd\": 1.0}', "
                "evidence = evidence || '{\"spent_at_proof_usd\": 1.1}'"
            )
            await records.add_evidence(owner, 1, {"judged": _JUDGED})
        yield library


GATES = [
    ({"min_requests": "301"}, {"error_rate": "hold", "p95": "hold", "p95_ratio": "hold"}),
    ({"min_shadowed": "201"}, {"overlap": "hold"}),
    ({"min_overlap": "0.6"}, {"overlap": "hold"}),
    ({"max_error_rate": "0.005"}, {"error_rate": "hold"}),
    ({"max_p95_ms": "15.0"}, {"p95": "fail"}),
    ({"p95_floor_ms": "1.0"}, {"p95_ratio": "fail"}),
    ({"p95_floor_ms": "1.0", "max_p95_ratio": "3.0"}, {}),
    ({"max_lag_seconds": "0.000001"}, {"freshness": "hold"}),
    ({"max_quality_loss": "0.012"}, {"judged_queries": "hold"}),
    ({"max_cost_ratio": "1.05"}, {"cost": "hold"}),
    ({"min_similarity": "0.4"}, {"similarity": "pass"}),
    ({"min_similarity": "0.6"}, {"similarity": "hold"}),
]


async def test_each_limit_is_its_gates(half_way: reshelve.Library, settings_of: SettingsOf) -> None:
    async with half_way.backends.database.owner() as owner:
        lenient = await _gates(owner, half_way)
        assert set(lenient.values()) == {"pass"}
        assert "similarity" not in lenient
        for changed, expected in GATES:
            view = half_way.of("default", settings=settings_of(rollout(**changed)))
            assert await _gates(owner, view) == {**lenient, **expected}, changed
        await owner.execute("UPDATE migrations SET evidence = evidence - 'judged'")
        assert "judged_queries" not in await _gates(owner, half_way)
        asking = half_way.of("default", settings=settings_of(rollout(require_judged="true")))
        assert (await _gates(owner, asking))["judged_queries"] == "hold"


async def _gates(connection: Connection, library: reshelve.Library) -> dict[str, str]:
    seen = await look(library.backends, connection, await records.get(connection, 1))
    return dict(seen.outcomes)


# The road -------------------------------------------------------------------------------------------------------


async def test_the_judged_queries_are_asked_before_each_step(settings_of: SettingsOf, tmp_path: Path) -> None:
    corpus = documents(30)
    lines = [json.dumps({"_id": each.external_id, "text": each.content[:60]}) for each in corpus]
    folder = tmp_path / "judged"
    folder.mkdir()
    (folder / "queries.jsonl").write_text("\n".join(lines))
    (folder / "qrels.tsv").write_text("\n".join(f"{each.external_id}\t{each.external_id}\t1" for each in corpus))
    more = {
        "judged_queries": '"judged"',
        "require_judged": "true",
        "schedule": '"50%:0s, 100%:1h"',
        "max_quality_loss": "0.5",
        "check_seconds": "0.1",
        "min_shadowed": "0",
        "shadow_sample": "1.0",
    }
    async with moving(settings_of, **more) as library:
        assert "ask both indexes the judged queries" in [
            each.describe() for each in await library.foresee(cutover=False)
        ]
        service = Conductor(library.backends)
        service.start()
        try:

            async def half_way() -> bool:
                for user in USERS:
                    await library.search("shelf", user=user)
                return (await migration_of(library)).percent >= 50

            await until(half_way, seconds=60)
        finally:
            await service.stop()
        migration = (await library.status()).migration
        assert migration is not None
        asked = [entry["facts"]["judged"] for entry in migration.journal if "judged" in entry["facts"]]
        assert {each["queries"] for each in asked} == {30}
        assert asked[0]["serving_now"] == pytest.approx(asked[0]["serving_at_start"])
        assert asked[0]["serving_now"] > 0.5


async def test_a_dry_run_shows_the_schedule(settings_of: SettingsOf) -> None:
    async with reshelve.connect(settings_of('[rag.embedding]\nmodel = "hashing-64"')) as library:
        await library.ingest(documents(30))
    settings = settings_of(rollout(schedule='"10%:1h, 50%:1h, 100%:1h"', shadow_seconds="60.0"))
    climb = ["give 10 % of the users to the new index", "give 50 % of the users to the new index"]
    async with reshelve.connect(settings) as library:

        async def foreseen(*, cutover: bool = False) -> list[str]:
            return [action.describe() for action in await library.foresee(cutover=cutover)]

        planned = await foreseen()
        assert [each for each in planned if "% of the users" in each] == climb
        assert planned[-1].startswith("soak")
        at_once = await foreseen(cutover=True)
        assert not set(climb) & set(at_once)
        assert at_once[-2:] == planned[-2:]
        await library.start()
        assert await foreseen() == planned
        assert await foreseen(cutover=True) == at_once
        assert (await library.apply()).state is State.SHADOWING
        assert await foreseen() == ["hold: this step is not over yet", *climb, *planned[-3:]]


async def test_it_is_only_shadowed_for_so_long(settings_of: SettingsOf) -> None:
    patient = {"schedule": '"50%:1h, 100%:1h"', "shadow_seconds": "3600.0"}
    async with moving(settings_of, **patient) as library:
        async with library.backends.database.owner() as owner:
            await owner.execute(
                _SEARCHED.replace("'candidate', 'request'", "'candidate', 'shadow'"), {"fast": 60, "slow": 60}
            )
        assert (await library.apply()).state is State.SHADOWING
        soon = library.of("default", settings=settings_of(rollout(**{**patient, "shadow_seconds": "0"})))
        assert (await soon.apply()).state is State.ROLLING_OUT
        assert (await migration_of(soon)).percent == 50


@pytest.mark.parametrize(("sample", "shadowed"), [("0.0", 0), ("1.0", len(USERS))])
async def test_a_sample_is_shadowed(settings_of: SettingsOf, sample: str, shadowed: int) -> None:
    async with moving(settings_of, shadow_sample=sample) as library:
        await library.rollout(0)
        for user in USERS:
            await library.search("a shelf", user=user)
            await library.backends.spare_time.idle()
        assert (await figures(library)).get((2, Arm.CANDIDATE), ArmFigures()).shadowed == shadowed


@asynccontextmanager
async def stuck(library: reshelve.Library) -> AsyncGenerator[None]:
    """Nobody can read the candidate's table for as long as the block runs."""
    async with library.backends.database.alone() as connection, connection.transaction():
        await connection.execute("LOCK TABLE embeddings_2 IN ACCESS EXCLUSIVE MODE")
        yield


async def test_so_many_shadow_searches_wait(settings_of: SettingsOf) -> None:
    async with moving(settings_of, shadow_sample="1.0", shadow_queue="3", candidate_timeout_seconds="60.0") as library:
        await library.rollout(0)
        async with stuck(library):
            for user in USERS:
                await library.search("a shelf", user=user)
        await library.backends.spare_time.idle()
        # One is under way.
        assert (await figures(library))[2, Arm.CANDIDATE].shadowed == 1 + 3


async def test_a_candidate_that_does_not_answer_in_time_is_answered_for(settings_of: SettingsOf) -> None:
    async with moving(settings_of, candidate_timeout_seconds="0.2") as library:
        await library.rollout(99.9999)
        async with stuck(library):
            found = await library.search("a shelf", user="ada")
        assert (found.arm, found.model) == ("serving", "hashing-64")
        assert found.fell_back == "the candidate failed: no answer within 0.2 s"
        assert (await library.search("a shelf", user="ada")).arm == "candidate"
        counted = (await figures(library))[2, Arm.CANDIDATE]
        assert (counted.requests, counted.errors, counted.fallbacks) == (2, 1, 1)


async def test_the_service_looks_so_often(settings_of: SettingsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0.01)

    monkeypatch.setattr(conductor, "asyncio", SimpleNamespace(sleep=sleep, create_task=asyncio.create_task))
    async with reshelve.connect(settings_of("[rag.rollout]\ncheck_seconds = 1.25\n"), worker=False) as library:
        service = Conductor(library.backends)
        service.start()
        await until(lambda: len(slept) > 1)
        await service.stop()
    assert set(slept) == {1.25}


# The circuit breaker --------------------------------------------------------------------------------------------


async def _rename(library: reshelve.Library, before: str, after: str) -> None:
    """Without its column every search of the candidate fails, and every one of the other index works."""
    async with library.backends.database.owner() as owner:
        await owner.execute(f"ALTER TABLE embeddings_2 RENAME COLUMN {before} TO {after}".encode())


@pytest.mark.parametrize(("failures", "open_seconds", "trials"), [(2, 30.0, 1), (4, 90.0, 3)])
async def test_the_breaker_opens_and_closes_as_it_is_set(
    settings_of: SettingsOf, monkeypatch: pytest.MonkeyPatch, failures: int, open_seconds: float, trials: int
) -> None:
    more = f"[rag.circuit_breaker]\nfailures = {failures}\nopen_seconds = {open_seconds}\ntrials = {trials}\n"
    async with moving(settings_of, more) as library:
        now, breakers = 0.0, library.backends.breakers
        monkeypatch.setattr(breakers, "_clock", lambda: now)

        async def asked() -> str | None:
            return (await library.search("a shelf", user="ada")).fell_back

        await library.rollout(99.9999)
        await _rename(library, "embedding", "away")
        told = [await asked() for _ in range(failures + 1)]
        assert ["circuit breaker is open" in (each or "") for each in told] == [False] * failures + [True]
        await _rename(library, "away", "embedding")
        now = open_seconds - 0.1
        assert "circuit breaker is open" in (await asked() or "")
        now = open_seconds
        for number in range(1, trials + 1):
            assert await asked() is None
            expected = BreakerState.CLOSED if number == trials else BreakerState.HALF_OPEN
            assert breakers.states()[2].state is expected
