"""A program of the user's, run as a process of its own so that it can be killed: `python -m tests.support.program`.

Arguments: a settings file, then verbs of the library to call one after the other (`rollback?`: if that is allowed;
`rollout=50`: with an argument). `work` does the background work, and never ends by itself.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

import reshelve
from reshelve.errors import ReshelveError
from reshelve.migrations.conductor import Conductor
from tests.support.waiting import until

ANYWAY = "?"
"""After a verb: it may be refused, and the next one follows."""
VERBS = ("apply", "resume", "cutover", "rollback", "cleanup", "verify", "rollout", "work")


async def main(settings_file: str, *verbs: str) -> None:
    async with reshelve.connect(settings_file) as library:
        for verb in verbs:
            name, _, argument = verb.removesuffix(ANYWAY).partition("=")
            assert name in VERBS, verb
            try:
                if name == "work":
                    Conductor(library.backends).start()
                    await asyncio.Event().wait()
                await getattr(library, name)(*map(float, filter(None, [argument])))
            except ReshelveError:
                if not verb.endswith(ANYWAY):
                    raise


@asynccontextmanager
async def program(
    settings_file: Path, *verbs: str, crash_at: str | None = None, stop_at: str | None = None
) -> AsyncGenerator[asyncio.subprocess.Process]:
    """The running process. It is killed at the end of the block, if it has not ended by then."""
    places = {"RESHELVE_CRASH_AT": crash_at, "RESHELVE_STOP_AT": stop_at}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.program",
        str(settings_file),
        *verbs,
        env={**os.environ, **{name: place for name, place in places.items() if place is not None}},
        cwd=Path.cwd(),
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def run_program(settings_file: Path, *verbs: str, crash_at: str | None = None) -> int:
    """Returns the exit code; -9 for a process that killed itself at the crash point."""
    async with program(settings_file, *verbs, crash_at=crash_at) as process:
        return await asyncio.wait_for(process.wait(), 120)


async def stopped(process: asyncio.subprocess.Process) -> None:
    """Return once it has come to the place where it stops itself."""
    await until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
