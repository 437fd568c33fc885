"""Evidence that vanishes, is not a number, or is of an index that is not what it was: the rollout stays where it is."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

import reshelve
from reshelve.migrations.engine import Run
from tests.faults.conftest import ROWS, Outsider, Scene
from tests.support.oracle import assert_indexes_equal_source
from tests.support.rollouts import gates, migration_of, moving, reading, rollout_lines, shares, states
from tests.support.waiting import until
from tests.support.writers import documents


async def looked_at(library: reshelve.Library) -> None:
    """The engine goes as far as it may."""
    await Run(backends=library.backends, migration_id=1).go()


@pytest.fixture
async def half_way(scene: Scene) -> AsyncGenerator[reshelve.Library]:
    """At 50 %, with all the evidence that 75 % needs."""
    lines = rollout_lines(schedule='"50%:0s, 75%:1h, 100%:1h"', min_similarity="0.01")
    async with moving(scene.declare("hashing-128", extra=lines)) as library:
        await library.rollout(50)
        async with reading(library) as readers:
            await until(lambda: len(readers.answers) > 200)
        await library.backends.recorder.flush()
        yield library


KEEP = """
    CREATE TABLE kept_figures AS TABLE figures;
    CREATE TABLE kept_migration AS SELECT spent_usd, plan, verification, evidence FROM migrations
"""
RESTORE = """
    TRUNCATE figures; INSERT INTO figures TABLE kept_figures;
    UPDATE migrations SET (spent_usd, plan, verification, evidence) = (TABLE kept_migration);
    ALTER TABLE chunks ENABLE ALWAYS TRIGGER chunks_added
"""
SPOILT: list[tuple[str, dict[str, str]]] = [
    ("DELETE FROM figures", {"error_rate": "0 searches so far", "p95": "0 searches so far", "overlap": "0 searches"}),
    ("DELETE FROM figures WHERE arm = 'candidate'", {"error_rate": "0 searches so far", "similarity": "0 searches"}),
    ("DELETE FROM figures WHERE arm = 'serving'", {"p95_ratio": "0 searches to compare with"}),
    ("DELETE FROM figures WHERE name = 'overlap'", {"overlap": "0 searches were compared"}),
    ("UPDATE figures SET total = 'NaN'", {"overlap": "there is no figure", "similarity": "there is no figure"}),
    ("UPDATE figures SET total = 'Infinity'", {"overlap": "there is no figure", "similarity": "there is no figure"}),
    ("UPDATE migrations SET spent_usd = 'NaN', evidence = '{}'", {"cost": "is not known"}),
    ("UPDATE migrations SET plan = plan - 'cost_usd'", {"cost": "is not known"}),
    ("UPDATE migrations SET verification = NULL", {"verification": "is not verified"}),
    ("ALTER TABLE chunks DISABLE TRIGGER chunks_added", {"verification": "triggers"}),
]


async def test_what_vanishes_or_is_not_a_number_holds(half_way: reshelve.Library, owner: Outsider) -> None:
    await owner.execute(KEEP.encode())
    for statement, reasons in SPOILT:
        await owner.execute(statement.encode())
        await looked_at(half_way)
        migration = await migration_of(half_way)
        assert (migration.state, migration.percent) == ("rolling_out", 50), statement
        said = gates(migration)
        assert {gate for gate, verdict in said.items() if verdict["outcome"] != "pass"} >= reasons.keys(), statement
        assert "fail" not in {verdict["outcome"] for verdict in said.values()}, statement
        for gate, reason in reasons.items():
            assert reason in said[gate]["reason"], statement
        await owner.execute(RESTORE.encode())
    # It was for want of that, and of nothing else.
    await looked_at(half_way)
    migration = await migration_of(half_way)
    assert (migration.state, shares(migration)[-2:]) == ("rolling_out", [50, 75])
    assert await assert_indexes_equal_source(half_way) == 2 * ROWS


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """A few words of every third document, which is what they should find."""
    folder = tmp_path / "judged"
    folder.mkdir()
    asked = documents(ROWS)[::3]
    queries = [{"_id": each.external_id, "text": " ".join(each.content.split()[:4])} for each in asked]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    lines = [f"{each.external_id}\t{each.external_id}\t1" for each in asked]
    (folder / "qrels.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]))
    return folder


def _judging(scene: Scene, judged: Path, model: str) -> Path:
    """By meaning alone: words find the judged documents whatever the model, and however its vectors are damaged."""
    lines = rollout_lines(schedule='"10%:1h, 100%:1h"', judged_queries=json.dumps(str(judged)), require_judged="true")
    return scene.declare(model, extra=f'{lines}\n[rag.search]\nmode = "dense"\n')


DAMAGE = """
    CREATE TABLE undamaged AS SELECT *, row_number() OVER (ORDER BY chunk_id) AS place FROM embeddings_1;
    UPDATE embeddings_1 a SET embedding = b.embedding FROM undamaged u
    JOIN undamaged b ON b.place = u.place % (SELECT count(*) FROM undamaged) + 1 WHERE u.chunk_id = a.chunk_id
"""
MEND = "UPDATE embeddings_1 a SET embedding = b.embedding FROM undamaged b WHERE b.chunk_id = a.chunk_id"


@pytest.mark.parametrize(("model", "outcome"), [("hashing-16", "hold"), ("hashing-512", "pass")])
async def test_a_serving_index_that_is_worse_than_at_the_start(
    scene: Scene, owner: Outsider, judged: Path, model: str, outcome: str
) -> None:
    """To be better than what is damaged is not enough: it must not be worse than what there was."""
    async with moving(_judging(scene, judged, model)) as library:
        await owner.execute(DAMAGE.encode())
        # A new step asks anew.
        await library.rollout(0)
        await looked_at(library)
        migration = await migration_of(library)
        said = gates(migration)["judged_queries"]
        assert said["observed"] > 0.1
        assert "the serving index itself fell from" in said["reason"]
        assert said["outcome"] == outcome
        assert ("the candidate is worse than it was then" in said["reason"]) == (outcome == "hold")
        assert (migration.state, migration.percent) == ("shadowing", 0)
        await owner.execute(MEND.encode())
        assert await assert_indexes_equal_source(library) == 2 * ROWS


async def test_judged_queries_that_vanish(scene: Scene, judged: Path) -> None:
    """They hold the step, with the reason; once they are there again, they are asked."""
    async with moving(_judging(scene, judged, "hashing-512")) as library:
        queries = judged / "queries.jsonl"
        kept = queries.read_text()
        for spoilt in (None, "", kept.splitlines()[0], "{"):
            queries.unlink()
            if spoilt is not None:
                queries.write_text(spoilt)
            await library.rollout(0)
            await looked_at(library)
            migration = await migration_of(library)
            assert states(migration)[-1] == "shadowing"
            assert "the judged queries cannot be asked" in (migration.reason or "")
            queries.write_text(kept)
        await looked_at(library)
        migration = await migration_of(library)
        assert (migration.reason, gates(migration)["judged_queries"]["outcome"]) == (None, "pass")
        assert migration.percent == 0
