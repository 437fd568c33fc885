"""Small work that is done again and again in the background, and outlives the database's failures."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from reshelve.errors import ReshelveError
from reshelve.tasks import cancel_and_wait

_LAST_SECONDS = 5.0
_log = structlog.get_logger(__name__)


class Repeating:
    """`work` every `seconds`, once it is started; a failure is logged when it begins, and tried again like all else."""

    def __init__(self, name: str, work: Callable[[], Awaitable[None]], *, seconds: float) -> None:
        self._name = name
        self._work = work
        self._seconds = seconds
        self._failing = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Ends it, and does the work a last time, as far as that goes."""
        if self._task is not None:
            await cancel_and_wait(self._task)
            self._task = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_SECONDS):
                    await self.once()

    async def once(self) -> None:
        try:
            await self._work()
        except Exception as error:  # whatever it is, the next time may be better
            if not self._failing:
                expected = isinstance(error, ReshelveError)
                _log.warning(f"{self._name} failed", error=str(error), exc_info=not expected)
            self._failing = True
        else:
            self._failing = False

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._seconds)
            await self.once()
