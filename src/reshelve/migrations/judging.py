"""Judged queries, asked of both indexes of a migration."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from reshelve.backends import Backends
from reshelve.errors import TransitionRefused
from reshelve.evaluation.judged import Judged, load_judged_directory
from reshelve.evaluation.paired import paired_difference
from reshelve.evaluation.runs import Evaluation, evaluate
from reshelve.migrations import records
from reshelve.migrations.records import Migration
from reshelve.retrieval.search import search_documents

METRIC = "nDCG@10"
_TWO_SIDED = 0.90
"""Its bounds are one-sided ones at 0.95."""
_DEPTH = 10
_LOOK_EVERY = 20
"""Queries."""


async def judged_queries(backends: Backends) -> Judged | None:
    """What the settings name; None where they name nothing. Raises InputError for files that will not do."""
    folder = backends.settings.rollout.judged_queries
    return None if folder is None else await asyncio.to_thread(load_judged_directory, Path(folder))


async def score(backends: Backends, migration: Migration, index_id: int, judged: Judged) -> Evaluation:
    """One query at a time: readers come first. Raises TransitionRefused once the migration is somewhere else."""
    asked = 0

    async def documents(query: str, wanted: int) -> list[tuple[str, float]]:
        nonlocal asked
        asked += 1
        if asked % _LOOK_EVERY == 0:
            async with backends.database.owner() as connection:
                now = await records.get(connection, migration.id)
            if now.state is not migration.state:
                raise TransitionRefused(f"migration {migration.id} is {now.state} by now")
        return await search_documents(
            backends,
            query,
            collection=backends.settings.collection,
            documents=wanted,
            tenant=migration.tenant,
            index_id=index_id,
        )

    return await evaluate(f"index {index_id}", documents, judged, depth=_DEPTH, concurrency=1)


async def score_at_start(backends: Backends, migration: Migration) -> dict[str, Any]:
    """What the serving index is worth before anything changes; empty without judged queries."""
    judged = await judged_queries(backends)
    if judged is None:
        return {}
    found = await score(backends, migration, migration.source_index_id, judged)
    return {"serving_at_start": found.means[METRIC]}


async def judge(backends: Backends, migration: Migration) -> dict[str, Any]:
    """Both indexes on the same queries: the difference candidate − serving of nDCG@10, with one-sided bounds."""
    judged = await judged_queries(backends)
    assert judged is not None
    assert migration.target_index_id is not None
    serving = await score(backends, migration, migration.source_index_id, judged)
    candidate = await score(backends, migration, migration.target_index_id, judged)
    found = await asyncio.to_thread(
        paired_difference, METRIC, serving.scores[METRIC], candidate.scores[METRIC], confidence=_TWO_SIDED
    )
    return {
        "judged": {
            "metric": METRIC,
            "difference": found.difference,
            "low": found.low,
            "high": found.high,
            "serving_now": found.before,
            "candidate": found.after,
            "serving_at_start": migration.evidence.get("serving_at_start"),
            "queries": found.queries,
            "step": str(migration.step_since),
        }
    }
