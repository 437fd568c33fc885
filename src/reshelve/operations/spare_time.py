"""Work that nobody waits for, done beside the live searches and left out before it could hurt them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager

from reshelve.tasks import cancel_and_wait

_BUSY_SEARCHES = 4
"""With so many live searches under way there is no spare time."""


class SpareTime:
    """A bounded queue, worked off one piece at a time while no more than a few searches are under way."""

    def __init__(self, *, places: int) -> None:
        self._queue: asyncio.Queue[Callable[[], Awaitable[None]]] = asyncio.Queue(places)
        self._searches = 0
        self._worker: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        return self._searches > _BUSY_SEARCHES

    @contextmanager
    def searching(self) -> Generator[None]:
        """A live search is under way for as long as the block runs."""
        self._searches += 1
        try:
            yield
        finally:
            self._searches -= 1

    def offer(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Take the work, or leave it. Never waits; whoever offers sees to it that the work does not raise."""
        if self.busy or self._queue.full():
            return False
        self._queue.put_nowait(work)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return True

    async def _work(self) -> None:
        while not self._queue.empty():
            work = self._queue.get_nowait()
            if not self.busy:
                await work()

    async def idle(self) -> None:
        """Until what was taken is done."""
        while self._worker is not None and not self._worker.done():
            await asyncio.wait([self._worker])

    async def close(self) -> None:
        if self._worker is not None:
            await cancel_and_wait(self._worker)
