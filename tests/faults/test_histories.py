"""Random histories of writes, steps and crashes. Whatever happened, every live index equals the source in the end."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import reshelve
from reshelve.errors import ReshelveError
from tests.conftest import Server
from tests.support.oracle import assert_indexes_equal_source
from tests.support.program import run_program

_numbers = itertools.count(1)

TARGETS = {
    "small": '[rag.embedding]\nmodel = "hashing-32"',
    "large": '[rag.embedding]\nmodel = "hashing-48"',
    "finer": '[rag.embedding]\nmodel = "hashing-32"\n[rag.chunking]\nchunk_size = 12\nmax_chunk_size = 16',
    "flatter": '[rag.embedding]\nmodel = "hashing-48"\n[rag.vector_storage]\nmetric = "l2"\nhnsw.m = 8',
}
PLACES = [
    "register.before_record",
    "register.after_commit",
    "transition.backfilling",
    "enumerate.after_cursor",
    "claim.before_commit:2",
    "apply.after_read:2",
    "apply.half_written",
    "apply.after_target_write:2",
    "apply.before_commit",
    "apply.after_commit",
    "transition.building",
    "transition.verifying",
    "switch.before_commit",
    "switch.after_commit",
    "rollback.before_switch",
]


@dataclass(frozen=True)
class Write:
    """External ids `first`, `first + step`, … get this text; an empty one deletes them."""

    first: int
    step: int
    text: str


@dataclass(frozen=True)
class Step:
    """A verb of the library, with its arguments."""

    verb: str
    arguments: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Declare:
    target: str


@dataclass(frozen=True)
class Crash:
    """A program of its own goes these steps towards the target, where they are allowed, and dies at the place."""

    target: str
    verbs: tuple[str, ...]
    place: str


IDS = 60
words = st.lists(
    st.sampled_from(["shelf", "index", "vector", "outbox", "lease", "query", "chunk"]), min_size=1, max_size=40
)
writes = st.builds(
    Write,
    st.integers(0, IDS - 1),
    st.integers(1, 20),
    st.one_of(st.just(""), words.map(" ".join), words.map(" ".join)),
)
steps = st.one_of(
    st.builds(Step, st.just("apply"), st.fixed_dictionaries({}, optional={"limit": st.integers(1, 50)})),
    st.builds(Step, st.just("apply"), st.just({"cutover": True})),
    st.sampled_from([Step(verb) for verb in ("pause", "resume", "cutover", "rollback", "cleanup", "verify")]),
    st.just(Step("cleanup", {"skip_soak": True})),
)
crashes = st.builds(
    Crash,
    st.sampled_from(sorted(TARGETS)),
    st.sampled_from(
        [("apply?",), ("rollback?", "apply?", "cutover?"), ("apply?", "cutover?", "rollback?", "cleanup?")]
    ),
    st.sampled_from(PLACES),
)
histories = st.tuples(
    st.sampled_from(sorted(TARGETS.keys() - {"small"})).map(Declare),
    st.lists(
        st.one_of(writes, writes, steps, steps, steps, crashes, st.sampled_from(sorted(TARGETS)).map(Declare)),
        min_size=6,
        max_size=14,
    ),
).map(lambda parts: [parts[0], *parts[1]])


@dataclass
class History:
    """What was written, for comparing, and the means to go on."""

    file: Path
    urls: tuple[str, str]
    library: reshelve.Library | None = None
    documents: dict[str, str] = field(default_factory=dict[str, str])

    async def open(self, target: str) -> reshelve.Library:
        await self.close()
        self.file.write_text(
            f'[rag.database]\nurl = "{self.urls[0]}"\nservice_url = "{self.urls[1]}"\n{TARGETS[target]}\n'
            "[rag.migration]\nlease_seconds = 0.5\nrange_rows = 10\nsample_rows = 8\n"
        )
        self.library = await reshelve.connect(self.file)
        return self.library

    async def close(self) -> None:
        if self.library is not None:
            await self.library.close()
            self.library = None


async def _write(history: History, library: reshelve.Library, write: Write) -> None:
    ids = [f"d{number}" for number in range(write.first, IDS, write.step)]
    if not write.text:
        await library.delete(ids, wait=False)
        history.documents = {key: value for key, value in history.documents.items() if key not in ids}
        return
    texts = {external_id: f"{write.text} {external_id}" for external_id in ids}
    await library.ingest([{"_id": key, "text": value} for key, value in texts.items()], wait=False)
    history.documents |= texts


async def _standing(library: reshelve.Library) -> tuple[object, ...]:
    """What a refused step must leave alone."""
    status = await library.status()
    state = (status.migration.id, status.migration.state, status.migration.to_index) if status.migration else None
    return state, status.epoch, [(index.id, index.serving) for index in status.indexes]


async def _step(library: reshelve.Library, step: Step) -> None:
    before = await _standing(library)
    try:
        await getattr(library, step.verb)(**step.arguments)
    except ReshelveError:
        assert await _standing(library) == before


async def _assert_served(history: History, library: reshelve.Library) -> None:
    """A reader gets an answer at every moment, made of documents that are there, by the model of the index."""
    found = await library.search("shelf", top_k=5)
    assert found.query_model == found.model
    assert {result.document_id for result in found.results} <= history.documents.keys()


async def _live(history: History, operations: list[object]) -> None:
    library = await history.open("small")
    await _write(history, library, Write(0, 1, "shelf"))
    for operation in operations:
        match operation:
            case Write():
                await _write(history, library, operation)
            case Step():
                await _step(library, operation)
            case Declare(target):
                library = await history.open(target)
            case Crash(target, verbs, place):
                library = await history.open(target)
                assert await run_program(history.file, *verbs, crash_at=place) in (-9, 0)
            case _:
                raise AssertionError(operation)
        await _assert_served(history, library)
    await assert_indexes_equal_source(library)
    for index in (await library.status()).indexes:
        assert (await library.verify(index=index.id)).passed
    assert await _stored(history) == history.documents


async def _stored(history: History) -> dict[str, str]:
    async with await psycopg.AsyncConnection.connect(history.urls[0]) as connection:
        cursor = await connection.execute("SELECT external_id, content FROM reshelve.documents")
        return {row[0]: row[1] for row in await cursor.fetchall()}


@asynccontextmanager
async def _database(server: Server) -> AsyncGenerator[tuple[str, str]]:
    name = f"history_{os.getpid()}_{next(_numbers)}"
    async with await psycopg.AsyncConnection.connect(server.owner, autocommit=True) as connection:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE template_reshelve".encode())
        await connection.execute(f"ALTER DATABASE {name} SET search_path = reshelve, public".encode())
        yield server.database(name)
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.mark.timeout(600)
@settings(
    max_examples=int(os.environ.get("RESHELVE_HISTORIES", "15")),
    deadline=None,
    phases=[Phase.generate],
    database=None,
    derandomize="RESHELVE_HISTORIES" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(operations=histories)
def test_every_live_index_equals_the_source(server: Server, tmp_path: Path, operations: list[object]) -> None:
    async def live() -> None:
        async with _database(server) as urls:
            history = History(tmp_path / "rag.toml", urls)
            try:
                async with asyncio.timeout(90):
                    await _live(history, operations)
            finally:
                await history.close()

    asyncio.run(live())
