"""`apply --detach`: the same command in a session of its own, so that no closed terminal ends it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

from reshelve.cli.session import Answer, Session
from reshelve.errors import MigrationError

_FIRST_LOOK_SECONDS = 1.5


async def detach_apply(
    session: Session,
    *,
    limit: int | None,
    max_rate: float | None,
    budget_usd: float | None,
    cutover: bool,
    tenant: str,
) -> Answer:
    """Raises MigrationError, with what it said, when the process ends at once with an error."""
    settings = session.settings
    command = [sys.executable, "-m", "reshelve.cli"]
    if session.options.config is not None:
        command += ["--config", str(session.options.config.resolve())]
    command += ["--verbose"] if session.options.verbose else []
    command += ["--debug"] if session.options.debug else []
    command.append("apply")
    for name, value in (("--limit", limit), ("--max-rate", max_rate), ("--budget-usd", budget_usd)):
        command += [] if value is None else [name, str(value)]
    command += ["--cutover"] if cutover else []
    command += ["--tenant", tenant] if tenant else []
    log = Path(settings.database.directory) / "apply.log"
    return await asyncio.to_thread(_start, command, log)


def _start(command: list[str], log: Path) -> Answer:
    log.parent.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    with log.open("ab") as file:
        written = file.tell()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)
    code = _ended_at_once(process)
    if code:
        with log.open("rb") as file:
            file.seek(written)
            said = file.read().decode(errors="replace").strip()
        raise MigrationError(f"apply ended at once, with exit code {code}: {said}", advice=f"Its log is {log}.")
    return Answer(
        document={"pid": process.pid, "log": str(log), "watch": "reshelve status --watch"},
        lines=[
            f"apply runs as process {process.pid}; its log is {log}",
            "Watch it: reshelve status --watch     Stop it: reshelve pause",
        ],
    )


def _ended_at_once(process: subprocess.Popen[bytes]) -> int | None:
    """The exit code, if it ended within a moment."""
    deadline = time.monotonic() + _FIRST_LOOK_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return process.returncode
