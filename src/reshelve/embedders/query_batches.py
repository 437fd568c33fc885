"""Queries that come at the same time, embedded together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from reshelve.domain.models import Vectors
from reshelve.embedders.pace import Pace
from reshelve.embedders.protocol import Embedder
from reshelve.errors import EmbeddingInvalid, EmbeddingRefused


@dataclass(slots=True, eq=False)
class _Waiting:
    query: str
    vector: asyncio.Future[Vectors]


@dataclass(slots=True)
class _Line:
    """The queries of one embedder: how many batches are under way, and who waits for the next one."""

    under_way: int = 0
    waiting: list[_Waiting] = field(default_factory=list[_Waiting])
    window: asyncio.TimerHandle | None = None


class QueryBatches:
    """A lone query goes at once. While one is under way, others wait until it ends, or for `window_seconds`.

    A batch whose callers have all gone away is cancelled. Documents give way to queries: `pace` is told of them.
    """

    def __init__(self, window_seconds: float, *, pace: Pace | None = None) -> None:
        self._window_seconds = window_seconds
        self._pace = pace or Pace()
        self._lines: dict[Embedder, _Line] = {}

    async def embed(self, embedder: Embedder, query: str) -> Vectors:
        """The query's vector, shape (dimension,). Raises what the embedder raises for this query."""
        line = self._lines.setdefault(embedder, _Line())
        if line.under_way:
            return await self._with_others(embedder, line, query)
        self._begin(line)
        try:
            return (await embedder.embed_queries([query])).vectors[0]
        finally:
            self._end(embedder, line)

    async def _with_others(self, embedder: Embedder, line: _Line, query: str) -> Vectors:
        loop = asyncio.get_running_loop()
        mine = _Waiting(query, loop.create_future())
        line.waiting.append(mine)
        if line.window is None:
            line.window = loop.call_later(self._window_seconds, self._send, embedder, line)
        return await mine.vector

    def _begin(self, line: _Line) -> None:
        line.under_way += 1
        self._pace.query_began()

    def _end(self, embedder: Embedder, line: _Line) -> None:
        line.under_way -= 1
        self._pace.query_ended()
        self._send(embedder, line)
        if not line.under_way:
            self._lines.pop(embedder, None)

    def _send(self, embedder: Embedder, line: _Line) -> None:
        if line.window is not None:
            line.window.cancel()
            line.window = None
        batch = [each for each in line.waiting if not each.vector.done()]
        line.waiting = []
        if not batch:
            return
        self._begin(line)
        task = asyncio.create_task(_fill(embedder, batch))
        task.add_done_callback(lambda _: self._end(embedder, line))
        for each in batch:
            each.vector.add_done_callback(lambda _: _end_if_unwanted(task, batch))


def _end_if_unwanted(task: asyncio.Task[None], batch: Sequence[_Waiting]) -> None:
    if all(each.vector.cancelled() for each in batch):
        task.cancel()


async def _fill(embedder: Embedder, batch: Sequence[_Waiting]) -> None:
    """Every query of the batch gets its vector, or the error that met it. Never raises but for a cancellation."""
    try:
        vectors = (await embedder.embed_queries([each.query for each in batch])).vectors
    except (EmbeddingRefused, EmbeddingInvalid) as error:
        if len(batch) > 1:
            await asyncio.gather(*(_fill(embedder, [each]) for each in batch))
        else:
            _fail(batch, error)
    except asyncio.CancelledError:
        for each in batch:
            each.vector.cancel()
        raise
    except Exception as error:  # the callers raise it
        _fail(batch, error)
    else:
        for each, vector in zip(batch, vectors, strict=True):
            if not each.vector.done():
                each.vector.set_result(vector)


def _fail(batch: Sequence[_Waiting], error: Exception) -> None:
    for each in batch:
        if not each.vector.done():
            each.vector.set_exception(error)
