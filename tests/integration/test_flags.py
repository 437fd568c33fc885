"""The FF_ variables go over the file, and say so; what they fix, the schedule leaves alone."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

import reshelve
from reshelve.domain.figures import ArmFigures
from reshelve.domain.routes import Arm
from reshelve.errors import InputError
from reshelve.migrations.conductor import Conductor
from reshelve.operations.figures import read_figures
from reshelve.settings import FLAGS, Settings
from tests.support.waiting import until
from tests.support.writers import documents

SettingsOf = Callable[[str], Settings]
USERS = [f"user-{number}" for number in range(20)]
ROLLOUT = """
[rag.embedding]
model = "hashing-128"
[rag.rollout]
shadow_seconds = 0
shadow_sample = 0.0
check_seconds = 0.1
min_requests = 20
min_shadowed = 0
require_judged = false
"""
SCHEDULE = 'schedule = "50%:0s, 100%:0s"\n'


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in FLAGS:
        monkeypatch.delenv(variable, raising=False)


@asynccontextmanager
async def moving(settings_of: SettingsOf, *, more: str = "") -> AsyncGenerator[reshelve.Library]:
    """Verified; the flags are those of the moment. With a schedule the service is at work on it."""
    async with reshelve.connect(settings_of('[rag.embedding]\nmodel = "hashing-64"')) as library:
        await library.ingest(documents(20))
    async with reshelve.connect(settings_of(ROLLOUT + more)) as library:
        await library.apply()
        yield library


@asynccontextmanager
async def conducted(library: reshelve.Library) -> AsyncGenerator[None]:
    conductor = Conductor(library.backends)
    conductor.start()
    try:
        yield
    finally:
        await conductor.stop()


async def arms(library: reshelve.Library) -> set[str]:
    return {(await library.search("a shelf", user=user)).arm for user in USERS}


async def figures(library: reshelve.Library) -> dict[tuple[int, Arm], ArmFigures]:
    await library.backends.spare_time.idle()
    await library.backends.recorder.flush()
    async with library.backends.database.service() as connection:
        return await read_figures(connection, collection_id=1, tenant=None)


async def gate(library: reshelve.Library, name: str) -> dict[str, Any] | None:
    migration = (await library.status()).migration
    assert migration is not None
    return next((verdict for verdict in migration.gates if verdict["gate"] == name), None)


async def test_the_status_says_where_each_flag_came_from(
    settings_of: SettingsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FF_NEW_EMBEDDINGS_PERCENTAGE", "12.5")
    monkeypatch.setenv("FF_ENABLE_QUERY_ANALYTICS", "On")
    file = "[rag.rollout]\nparallel = true\npercentage = 70.0\n[rag.monitoring]\nquery_analytics = false\n"
    async with reshelve.connect(settings_of(file + '[rag.embedding]\nmodel = "hashing-64"\n')) as library:
        await library.ingest(documents(1))
        flags = {flag.variable: flag for flag in (await library.status()).flags}
        assert flags.keys() == FLAGS.keys()
        assert {variable: flag.value for variable, flag in flags.items()} == {
            "FF_ENABLE_GRADUAL_MIGRATION": True,
            "FF_NEW_EMBEDDINGS_PERCENTAGE": 12.5,
            "FF_USE_PARALLEL_RAG": True,
            "FF_ENABLE_PERFORMANCE_LOGGING": False,
            "FF_ENABLE_QUERY_ANALYTICS": True,
        }
        percentage = flags["FF_NEW_EMBEDDINGS_PERCENTAGE"]
        assert (percentage.setting, percentage.source) == ("rollout.percentage", "FF_NEW_EMBEDDINGS_PERCENTAGE")
        assert flags["FF_USE_PARALLEL_RAG"].source.endswith("rag.toml")
        assert flags["FF_ENABLE_QUERY_ANALYTICS"].source == "FF_ENABLE_QUERY_ANALYTICS"
        assert flags["FF_ENABLE_GRADUAL_MIGRATION"].source == "default"


@pytest.mark.parametrize(("percentage", "arm"), [("0", "serving"), ("100", "candidate")])
async def test_a_fixed_percentage_decides_even_in_the_soak(
    settings_of: SettingsOf, monkeypatch: pytest.MonkeyPatch, percentage: str, arm: str
) -> None:
    monkeypatch.setenv("FF_NEW_EMBEDDINGS_PERCENTAGE", percentage)
    async with moving(settings_of) as library:
        assert await arms(library) == {"serving"}, "there is no candidate yet"
        await library.rollout(50)
        assert await arms(library) == {arm}
        await library.cutover()
        assert await arms(library) == {arm}
        if percentage == "0":
            # Nobody knows the new index, and nobody meets it.
            assert (await library.search("a shelf", interleave=True)).interleaved is False
        await library.rollback()
        assert await arms(library) == {"serving"}


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("FF_NEW_EMBEDDINGS_PERCENTAGE", "30", "rollout.percentage is set by FF_NEW_EMBEDDINGS_PERCENTAGE"),
        ("FF_ENABLE_GRADUAL_MIGRATION", "false", "rollout.enabled is set by FF_ENABLE_GRADUAL_MIGRATION"),
    ],
)
async def test_the_schedule_holds_and_says_why(
    settings_of: SettingsOf, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, named: str
) -> None:
    monkeypatch.setenv(variable, value)
    async with moving(settings_of, more=SCHEDULE) as library, conducted(library):

        async def told() -> bool:
            verdict = await gate(library, "settings")
            return verdict is not None and (verdict["outcome"], named in verdict["reason"]) == ("hold", True)

        await until(told)
        seen = await arms(library)
        assert seen == ({"serving", "candidate"} if variable == "FF_NEW_EMBEDDINGS_PERCENTAGE" else {"serving"})
        migration = (await library.status()).migration
        assert migration is not None
        assert (migration.state, migration.percent) == ("shadowing", 0)
        assert any(entry["event"] == "gates" and named in str(entry["facts"]) for entry in migration.journal)


async def test_without_a_flag_no_gate_speaks_of_settings(settings_of: SettingsOf) -> None:
    async with moving(settings_of, more=SCHEDULE) as library, conducted(library):

        async def looked() -> bool:
            return await gate(library, "error_rate") is not None

        await until(looked)
        assert await gate(library, "settings") is None


async def test_the_soak_does_not_end_while_searches_are_kept_from_the_new_index(
    settings_of: SettingsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end would give it all of them."""
    async with moving(settings_of, more="[rag.migration]\nsoak_hours = 0.0\n") as library:
        monkeypatch.setenv("FF_NEW_EMBEDDINGS_PERCENTAGE", "0")
        kept = library.of("default", settings=settings_of(ROLLOUT + "[rag.migration]\nsoak_hours = 0.0\n"))
        assert (await kept.cutover()).state == "soaking"
        assert await arms(kept) == {"serving"}
        monkeypatch.setenv("FF_NEW_EMBEDDINGS_PERCENTAGE", "100")
        free = library.of("default", settings=settings_of(ROLLOUT + "[rag.migration]\nsoak_hours = 0.0\n"))
        assert (await free.apply()).state == "completed"
        assert await arms(kept) == {"serving"}, "the only index there is"
        assert (await kept.search("a shelf")).model == "hashing-128"


async def test_parallel_shadows_every_search(settings_of: SettingsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FF_USE_PARALLEL_RAG", "true")
    async with moving(settings_of) as library:
        await library.rollout(0)
        for user in USERS:
            await library.search("a shelf", user=user)
            await library.backends.spare_time.idle()
        shadowed = (await figures(library))[2, Arm.CANDIDATE]
        assert (shadowed.requests, shadowed.shadowed, shadowed.compared) == (0, len(USERS), len(USERS))
        assert shadowed.overlap is not None
        monkeypatch.setenv("FF_ENABLE_GRADUAL_MIGRATION", "false")
        off = library.of("default", settings=settings_of(ROLLOUT))
        await off.search("a shelf")
        assert (await figures(library))[2, Arm.CANDIDATE].shadowed == len(USERS)


async def test_performance_logging_logs_every_search_with_its_times(
    settings_of: SettingsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with moving(settings_of) as library:
        with capture_logs() as silent:
            await library.search("a shelf")
        monkeypatch.setenv("FF_ENABLE_PERFORMANCE_LOGGING", "yes")
        logging = library.of("default", settings=settings_of(ROLLOUT))
        with capture_logs() as logged:
            found = await logging.search("a shelf")
    assert [line for line in silent if line["event"] == "search"] == []
    [line] = [line for line in logged if line["event"] == "search"]
    assert (line["search_id"], line["index"], line["arm"], line["results"]) == (found.search_id, 1, "serving", 10)
    assert min(line["embed_ms"], line["search_ms"], line["total_ms"]) >= 0
    assert "a shelf" not in str(line), "what people look for is theirs"


async def test_query_analytics_keeps_the_queries(settings_of: SettingsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    async with moving(settings_of) as library:
        await library.search("not kept")
        monkeypatch.setenv("FF_ENABLE_QUERY_ANALYTICS", "1")
        keeping = library.of("default", settings=settings_of(ROLLOUT))
        await library.backends.recorder.flush()
        await keeping.rollout(0)
        with pytest.raises(InputError, match="no recent query is kept"):
            await keeping.compare(recent=10)
        for query in ("a shelf", "another shelf"):
            await keeping.search(query)
        # Who names an index or a model is no user of the service.
        await keeping.search("by index", index=1)
        await keeping.search("by model", models=["hashing-64"])
        await library.backends.recorder.flush()
        compared = await keeping.compare(recent=10)
    assert {each["query"] for each in compared.as_dict()["queries"]} == {"a shelf", "another shelf"}
