"""A program of the user's, run as a process of its own so that it can be killed: `python -m tests.support.program`.

Arguments: a settings file, then verbs of the library to call one after the other (`rollback?`: if that is allowed).
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import reshelve
from reshelve.errors import ReshelveError

ANYWAY = "?"
"""After a verb: it may be refused, and the next one follows."""
VERBS = ("apply", "resume", "cutover", "rollback", "cleanup", "verify")


async def main(settings_file: str, *verbs: str) -> None:
    async with reshelve.connect(settings_file) as library:
        for verb in verbs:
            name = verb.removesuffix(ANYWAY)
            assert name in VERBS, verb
            try:
                await getattr(library, name)()
            except ReshelveError:
                if not verb.endswith(ANYWAY):
                    raise


async def run_program(settings_file: Path, *verbs: str, crash_at: str | None = None) -> int:
    """Returns the exit code; -9 for a process that killed itself at the crash point."""
    environment = {**os.environ, **({"RESHELVE_CRASH_AT": crash_at} if crash_at else {})}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.program",
        str(settings_file),
        *verbs,
        env=environment,
        cwd=Path.cwd(),
    )
    try:
        return await asyncio.wait_for(process.wait(), 120)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
