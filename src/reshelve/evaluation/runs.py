"""Ask an index every judged query, and score what it answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from reshelve.errors import InputError
from reshelve.evaluation.judged import Judged
from reshelve.evaluation.metrics import means, score_run

SearchDocuments = Callable[[str, int], Awaitable[Sequence[tuple[str, float]]]]
"""(query text, number of documents) -> (external document id, score), best first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What one index scored. `scores` is metric -> query id -> value; `seconds` is the time all searches took."""

    name: str
    queries: int
    means: dict[str, float]
    scores: dict[str, dict[str, float]]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the values of each query."""
        return {"name": self.name, "queries": self.queries, "means": self.means, "seconds": self.seconds}


async def evaluate(
    name: str,
    search: SearchDocuments,
    judged: Judged,
    *,
    depth: int = 100,
    concurrency: int = 4,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Run every judged query through `search` and score the order of its answers.

    The order counts, not the scores: a document that comes twice counts where it came first. `on_progress` hears
    (queries done, queries in all). The first error of a search ends the run and is raised as it is.
    """
    run: dict[str, dict[str, float]] = {}
    waiting = iter(judged.queries.items())

    async def work() -> None:
        for query, text in waiting:
            found = await search(text, depth)
            documents = list(dict.fromkeys(document for document, _ in found))[:depth]
            run[query] = {document: float(depth - rank) for rank, document in enumerate(documents)}
            if on_progress is not None:
                on_progress(len(run), len(judged.queries))

    started = time.perf_counter()
    tasks = [asyncio.create_task(work()) for _ in range(max(1, min(concurrency, len(judged.queries))))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    seconds = time.perf_counter() - started
    scores = await asyncio.to_thread(score_run, run, judged)
    return Evaluation(name=name, queries=len(judged.queries), means=means(scores), scores=scores, seconds=seconds)


def recall_against_exact(approximate: Sequence[Sequence[int]], exact: Sequence[Sequence[int]]) -> float:
    """Mean share of the exact ids that the approximate search found, in [0, 1]; row i of both is query i.

    A query to which exact search finds nothing is left out. Raises InputError where the rows differ in number or
    where no query is left.
    """
    if len(approximate) != len(exact):
        raise InputError(f"{len(approximate)} approximate answers cannot be held against {len(exact)} exact ones")
    shares = [
        len(set(found) & set(wanted)) / len(set(wanted))
        for found, wanted in zip(approximate, exact, strict=True)
        if wanted
    ]
    if not shares:
        raise InputError("exact search found nothing for any query, so there is no recall to measure")
    return sum(shares) / len(shares)
