"""An older program meets what a newer one wrote, and the reverse: a clear refusal, or it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import reshelve
from reshelve.database import schema
from reshelve.domain.migration import ENGINE_VERSION, State
from reshelve.errors import SchemaError, TransitionRefused
from reshelve.migrations import records
from reshelve.migrations.emergency import react
from reshelve.migrations.rollout import set_share
from tests.conftest import Server
from tests.faults.conftest import ROWS, Outsider, Scene
from tests.support.oracle import assert_indexes_equal_source
from tests.support.rollouts import conducted, is_in, migration_of, moving, reading, rollout_lines
from tests.support.waiting import until
from tests.support.writers import documents, writing

VERBS: dict[str, Callable[[reshelve.Library], Awaitable[object]]] = {
    "apply": lambda library: library.apply(),
    "start": lambda library: library.start(schedule="100%:1h"),
    "rollout": lambda library: library.rollout(60),
    "schedule": lambda library: library.rollout(schedule="75%:1h, 100%:1h"),
    "pause": lambda library: library.pause(),
    "resume": lambda library: library.resume(),
    "verify": lambda library: library.verify(),
    "cutover": lambda library: library.cutover(),
    "rollback": lambda library: library.rollback(),
    "cleanup": lambda library: library.cleanup(skip_soak=True),
    "status": lambda library: library.status(),
    "foresee": lambda library: library.foresee(),
}
WRITTEN = "SELECT (SELECT array_agg(m::text) FROM migrations m), (SELECT array_agg(r::text) FROM routes r), " + (
    "(SELECT count(*) FROM migration_journal), (SELECT array_agg(i::text) FROM indexes i)"
)


@pytest.fixture
async def half_way(scene: Scene) -> AsyncGenerator[reshelve.Library]:
    async with moving(scene.declare("hashing-128", extra=rollout_lines())) as library:
        await library.rollout(50)
        yield library


async def _written(owner: Outsider) -> Any:
    return await (await owner.execute(WRITTEN.encode())).fetchone()


@pytest.mark.parametrize("state", ["rolling_out", "paused", "reranking"])
async def test_what_a_newer_engine_wrote_is_left_alone(
    scene: Scene, half_way: reshelve.Library, owner: Outsider, state: str
) -> None:
    """Also where it is in a state that only the newer one knows. The searches go on, and so do other migrations."""
    other = scene.library.of("other")
    await other.ingest(documents(30), wait=False)
    await owner.execute("UPDATE migrations SET engine_version = 99, state = %s, resume_state = 'rolling_out'", (state,))
    before = await _written(owner)
    async with reading(half_way) as readers:
        for verb, call in VERBS.items():
            with pytest.raises(SchemaError, match="engine 99") as refused:
                await call(half_way)
            assert "newer program" in refused.value.advice, verb
        await react(half_way.backends, type="latency", severity="critical", value=2, threshold=1, collection="default")
        assert await _written(owner) == before
        elsewhere = half_way.of("other")
        await elsewhere.start()
        async with conducted(half_way):
            await until(lambda: is_in(elsewhere, State.VERIFYING))
        await until(lambda: readers.arms == {"serving", "candidate"})
    [(version, unchanged)] = await (
        await owner.execute("SELECT engine_version, state FROM migrations WHERE id = 1")
    ).fetchall()
    assert (version, unchanged) == (99, state)


async def test_a_newer_engine_that_comes_in_between(half_way: reshelve.Library, owner: Outsider) -> None:
    """After this one has read the row, and before it writes."""
    async with half_way.backends.database.owner() as connection:
        read = await records.get(connection, 1)
        await owner.execute("UPDATE migrations SET engine_version = 99")
        before = await _written(owner)
        with pytest.raises(TransitionRefused):
            await records.transition(connection, read, State.PAUSED)
    with pytest.raises(TransitionRefused):
        await set_share(half_way.backends, read, 75)
    assert await _written(owner) == before


AS_OF_ENGINE_1 = """
    UPDATE migrations SET engine_version = 1, steps = NULL, step_since = NULL, evidence = '{}';
    UPDATE routes SET candidate_index_id = NULL, previous_index_id = NULL, share = 0, salt = ''
"""


async def test_an_older_engines_proof_is_gone_on_with(scene: Scene, owner: Outsider) -> None:
    async with moving(scene.declare("hashing-128", extra=rollout_lines())) as library:
        await owner.execute(AS_OF_ENGINE_1.encode())
        async with reading(library) as readers, conducted(library):
            migration = await library.rollout(50)
            assert (migration.state, migration.engine_version) == (State.ROLLING_OUT, ENGINE_VERSION)
            await until(lambda: readers.arms == {"serving", "candidate"})
            assert (await library.cutover()).state is State.SOAKING
            assert (await library.rollback()).state is State.ROLLED_BACK
        assert await assert_indexes_equal_source(library) == 2 * ROWS


async def test_an_older_engines_soak_is_taken_back(scene: Scene, owner: Outsider) -> None:
    await _cut_over(scene)
    await owner.execute(AS_OF_ENGINE_1.encode())
    await _assert_the_soak_goes_on(scene)


async def test_an_older_engines_soak_ends(scene: Scene, owner: Outsider) -> None:
    await _cut_over(scene)
    await owner.execute(AS_OF_ENGINE_1.encode())
    async with reshelve.connect(scene.target) as library, reading(library), conducted(library):
        await owner.execute("UPDATE migrations SET soaking_since = soaking_since - interval '49 hours'")
        await until(lambda: is_in(library, State.COMPLETED))
        assert (await library.cleanup()).dropped == 1
        assert (await library.search("shelf")).model == "hashing-128"
    assert await assert_indexes_equal_source(scene.library) == ROWS


async def _cut_over(scene: Scene) -> None:
    async with reshelve.connect(scene.target) as library:
        assert (await library.apply(cutover=True)).state is State.SOAKING


async def _assert_the_soak_goes_on(scene: Scene) -> None:
    """Both indexes are fed, readers stay with the new one, and the way back is open."""
    async with reshelve.connect(scene.target) as library:
        async with writing(library), reading(library) as readers, conducted(library):
            await until(lambda: len(readers.answers) > 30)
            migration = await migration_of(library)
            assert (migration.state, migration.cleaned) == ("soaking", False)
        assert {answer.model for answer in readers.answers} == {"hashing-128"}
        before = (await migration_of(library)).embedded_rows
        assert (await library.rollback()).state is State.ROLLED_BACK
        assert (await migration_of(library)).embedded_rows == before
        assert (await library.search("shelf")).model == "hashing-64"
        await assert_indexes_equal_source(library)


DOWNGRADE = """
    DROP FUNCTION documents_changed, chunks_changed, corpus_truncated, corpus_changed CASCADE;
    DROP TABLE corpus_versions;
    DROP INDEX documents_by_metadata;
    DROP TABLE lexical_postings_1_english, lexical_passages_1_english, lexical_totals_1_english;
    DROP INDEX indexes_once;
    ALTER TABLE indexes DROP COLUMN language, DROP COLUMN token_space;
    CREATE UNIQUE INDEX indexes_once
        ON indexes (collection_id, chunking_id, model_id, backend, metric, m, ef_construction) WHERE state <> 'dropped';
    DROP VIEW embedding_migration_status;
    DROP TABLE figures, circuit_breakers, recent_queries, feedback, alerts, baselines, idempotency_keys;
    ALTER TABLE routes DROP CONSTRAINT routes_pkey, DROP COLUMN tenant, DROP COLUMN candidate_index_id,
        DROP COLUMN previous_index_id, DROP COLUMN share, DROP COLUMN salt, DROP COLUMN sticky_by,
        ADD PRIMARY KEY (collection_id), ALTER COLUMN epoch SET DEFAULT 1;
    DROP SEQUENCE route_epochs;
    ALTER TABLE migrations DROP COLUMN steps, DROP COLUMN driven_by, DROP COLUMN step_since, DROP COLUMN evidence;
    CREATE VIEW embedding_migration_status AS
    SELECT m.id, c.name AS collection, m.state, sm.model_name AS from_model, tm.model_name AS to_model,
           m.embedded_rows, m.reused_rows, m.spent_usd, m.reason, m.created_at, m.changed_at
    FROM migrations m JOIN collections c ON c.id = m.collection_id JOIN indexes s ON s.id = m.source_index_id
    JOIN embedding_models sm ON sm.id = s.model_id LEFT JOIN indexes t ON t.id = m.target_index_id
    LEFT JOIN embedding_models tm ON tm.id = t.model_id;
    ALTER TABLE documents DROP COLUMN sections;
    ALTER TABLE chunks DROP COLUMN place;
    ALTER TABLE chunkings DROP COLUMN min_chunk_size, DROP COLUMN csv_chunk_tokens, DROP COLUMN csv_chunk_max_tokens,
        DROP COLUMN pdf_chunk_tokens, DROP COLUMN pdf_chunk_max_tokens;
    UPDATE migrations SET engine_version = 1;
    UPDATE alembic_version SET version_num = '0001'
"""
COLUMNS = """
    SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns
    WHERE table_schema = 'reshelve' AND table_name NOT LIKE 'embeddings_%' ORDER BY table_name, column_name
"""


@pytest.fixture
def first_revision(server: Server) -> Generator[str]:
    """The address of a database at revision 0001."""
    address = make_conninfo(server.owner, dbname="first_revision")
    with psycopg.connect(server.owner, autocommit=True) as connection:
        connection.execute("CREATE DATABASE first_revision")
    schema.upgrade(address, target="0001")
    yield address
    with psycopg.connect(server.owner, autocommit=True) as connection:
        connection.execute("DROP DATABASE first_revision WITH (FORCE)")


async def test_an_older_schema_in_the_middle_of_a_soak_is_upgraded(
    scene: Scene, owner: Outsider, first_revision: str
) -> None:
    await _cut_over(scene)
    await scene.library.close()
    await owner.execute(DOWNGRADE.encode())
    ours = await (await owner.execute(COLUMNS.encode())).fetchall()
    async with await psycopg.AsyncConnection.connect(first_revision) as connection:
        assert ours == await (await connection.execute(COLUMNS.encode())).fetchall()
    await _assert_the_soak_goes_on(scene)
    address = owner.info.dsn
    assert await asyncio.to_thread(schema.current_revision, address) == schema.head()
