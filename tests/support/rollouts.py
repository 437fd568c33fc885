"""A rollout under live searches, for tests that break something meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import reshelve
from reshelve.domain.migration import State
from reshelve.errors import DatabaseUnavailable
from reshelve.migrations.conductor import Conductor
from reshelve.migrations.status import MigrationStatus
from reshelve.retrieval.requests import SearchResponse

USERS = [f"user-{number}" for number in range(40)]
_USABLE: dict[str, str] = {
    "shadow_seconds": "0",
    "shadow_sample": "1.0",
    "check_seconds": "0.1",
    "min_requests": "20",
    "min_shadowed": "5",
    "require_judged": "false",
    "min_overlap": "0.0",
    # The machine that the tests run on may be busy: what is slow is not what they are about.
    "max_p95_ms": "60000.0",
    "p95_floor_ms": "60000.0",
    "candidate_timeout_seconds": "30.0",
}


def rollout_lines(**changed: str) -> str:
    """The `[rag.rollout]` table of a rollout whose gates little evidence opens."""
    return "\n".join(["[rag.rollout]", *(f"{name} = {value}" for name, value in (_USABLE | changed).items())])


@asynccontextmanager
async def moving(file: Path) -> AsyncGenerator[reshelve.Library]:
    """A library whose migration to what the file asks for is verified."""
    async with reshelve.connect(file) as library:
        assert (await library.apply()).state in (State.VERIFYING, State.SHADOWING)
        yield library


@asynccontextmanager
async def conducted(*libraries: reshelve.Library) -> AsyncGenerator[None]:
    """With a conductor each."""
    conductors = [Conductor(library.backends) for library in libraries]
    for conductor in conductors:
        conductor.start()
    try:
        yield
    finally:
        for conductor in conductors:
            await conductor.stop()


class Readers:
    """`answers` so far; `failed` counts searches that a database that was away did not answer."""

    def __init__(self, library: reshelve.Library) -> None:
        self._library = library
        self._over = asyncio.Event()
        self.answers: list[SearchResponse] = []
        self.database_may_be_away = False
        self.failed = 0

    async def read(self) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            away = self.database_may_be_away
            try:
                answer = await self._library.search(f"shelf {number}", user=USERS[number % len(USERS)])
            except DatabaseUnavailable:
                assert away or self.database_may_be_away
                self.failed += 1
                continue
            assert answer.results
            # Never a query of one model, and a passage of another's index.
            assert answer.model == answer.query_model
            assert {result.model for result in answer.results} == {answer.model}
            assert {result.index for result in answer.results} == {answer.index}
            self.answers.append(answer)
            await asyncio.sleep(0.005)

    def end(self) -> None:
        self._over.set()

    @property
    def arms(self) -> set[str]:
        return {answer.arm for answer in self.answers}


@asynccontextmanager
async def reading(library: reshelve.Library, *, readers: int = 2) -> AsyncGenerator[Readers]:
    """Searches of forty users, for as long as the block runs; one that fails, or mixes two models, fails the block."""
    seen = Readers(library)
    tasks = [asyncio.create_task(seen.read()) for _ in range(readers)]
    try:
        yield seen
    finally:
        seen.end()
        await asyncio.gather(*tasks)


async def migration_of(library: reshelve.Library) -> MigrationStatus:
    status = (await library.status()).migration
    assert status is not None
    return status


async def is_in(library: reshelve.Library, state: State) -> bool:
    return (await migration_of(library)).state == state


def states(migration: MigrationStatus) -> list[str]:
    """Those it has entered, in order."""
    return [entry["after"] for entry in migration.journal if entry["event"] == "transition"]


def shares(migration: MigrationStatus) -> list[float]:
    """Those it was given, in order."""
    return [entry["facts"]["to"] for entry in migration.journal if entry["event"] == "share"]


def gates(migration: MigrationStatus) -> dict[str, dict[str, Any]]:
    """What each gate said last."""
    return {verdict["gate"]: verdict for verdict in migration.gates}
