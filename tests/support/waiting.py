"""Waiting for something that another task or process brings about."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


async def until(condition: Callable[[], bool | Awaitable[bool]], *, seconds: float = 90.0) -> None:
    """Raises TimeoutError when it does not come true."""
    async with asyncio.timeout(seconds):
        while True:
            now = condition()
            if now if isinstance(now, bool) else await now:
                return
            await asyncio.sleep(0.01)
