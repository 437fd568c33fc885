"""The Python API against a real server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import reshelve
from reshelve.domain.migration import State
from reshelve.errors import InputError, MigrationError, NotFoundError
from reshelve.settings import Settings
from tests.support.oracle import assert_indexes_equal_source
from tests.support.writers import documents


async def test_the_whole_road(settings_of: Callable[[str], Settings]) -> None:
    async with reshelve.connect(settings_of('[rag.embedding]\nmodel = "hashing-64"')) as library:
        await library.ingest(documents(50))
        assert not (await library.plan()).needed
        with pytest.raises(MigrationError, match="nothing to do"):
            await library.apply()
    async with reshelve.connect(settings_of('[rag.embedding]\nmodel = "hashing-128"')) as library:
        plan = await library.plan()
        assert [change.what for change in plan.changes][:2] == ["model", "dimension"]
        assert plan.rows == 50
        migration = await library.apply()
        assert migration.state is State.VERIFYING
        assert migration.embedded_rows == 50
        assert (await library.search("shelf")).model == "hashing-64"
        assert (await library.cutover()).state is State.SOAKING
        assert (await library.search("shelf")).model == "hashing-128"
        assert (await library.rollback()).state is State.ROLLED_BACK
        assert (await library.search("shelf")).model == "hashing-64"
        kinds = [action.kind for action in (await library.plan()).actions]
        assert "FillRanges" not in kinds
        assert "BuildIndex" not in kinds
        again = await library.apply(cutover=True)
        assert (again.state, again.embedded_rows) == (State.SOAKING, 0)
        assert (await library.cleanup(skip_soak=True)).rows == 50
        assert await assert_indexes_equal_source(library) == 50


async def test_requests_that_cannot_be_answered(library: reshelve.Library) -> None:
    with pytest.raises(NotFoundError, match="no collection"):
        await library.search("anything")
    await library.ingest(documents(3))
    for query, top_k in (("", 10), ("  \n", 10), ("x", 0), ("x", 100_000), ("x\0y", 5), ("x" * 30_000, 5)):
        with pytest.raises(InputError):
            await library.search(query, top_k=top_k)
    # What the types forbid, and only Python lets through.
    wrong: list[dict[str, Any]] = [{"mode": "foo"}, {"rerank": "foo"}, {"aggregation": "foo"}, {"top_k": "3"}]
    for options in [*wrong, {"top_k": 2.5}, {"offset": None}, {"min_score": "a"}, {"query": 5}]:
        with pytest.raises(InputError):
            await library.search(**{"query": "x", **options})
    for asking in (library.ask("x", style="foo"), library.chat("s", "x", user="u", style="foo")):  # pyright: ignore[reportArgumentType]
        with pytest.raises(InputError, match="style"):
            await asking
    with pytest.raises(NotFoundError):
        await library.search("x", index=99)
    with pytest.raises(NotFoundError, match="no migration"):
        await library.cutover()
