"""Ending background tasks for certain."""

from __future__ import annotations

import asyncio
from typing import Any

_PATIENCE_SECONDS = 1.0


async def cancel_and_wait(*tasks: asyncio.Task[Any]) -> None:
    """Cancel the tasks and wait until they have ended, whatever they made of it.

    One that is being cancelled already is left to put its things away. Asked again every second, because one request
    may be lost: a database query that is cancelled can end in the database's own error, which a loop that outlives
    errors takes for one of those.
    """
    pending = {task for task in tasks if not task.done()}
    for task in pending:
        if not task.cancelling():
            task.cancel()
    while pending:
        _, pending = await asyncio.wait(pending, timeout=_PATIENCE_SECONDS)
        for task in pending:
            task.cancel()
    for task in tasks:
        if not task.cancelled():
            task.exception()
