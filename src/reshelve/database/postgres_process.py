"""Running the programs of PostgreSQL under the account they belong to."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from reshelve.database.postgres_account import EXTERNAL_SERVER_ADVICE, Account
from reshelve.errors import DatabaseUnsuitable


def run_to_end(argv: Sequence[str], *, account: Account, reach: Sequence[Path], feed: str = "") -> None:
    """Run a program as `account`, with `feed` on its stdin. DatabaseUnsuitable with its last words if it fails."""
    done = subprocess.run(
        _launcher(argv, account=account, reach=reach, log=None),
        input=feed,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise _not_started(argv[0], done.stdout)


def run_daemon(argv: Sequence[str], *, account: Account, reach: Sequence[Path], log: int, lock: int) -> None:
    """Start a daemon that outlives this process, writes to the descriptor `log`, and keeps `lock` open for its life."""
    done = subprocess.run(
        _launcher(argv, account=account, reach=reach, log=log),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        pass_fds=(log, lock),
        check=False,
    )
    if done.returncode != 0:
        raise _not_started(argv[0], done.stdout)


def _launcher(argv: Sequence[str], *, account: Account, reach: Sequence[Path], log: int | None) -> list[str]:
    spec = {
        "argv": list(argv),
        # nothing of the caller's: PGDATA, PGPORT and their like would change what the server does
        "environment": {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C"},
        "account": [account.uid, account.gid] if account.switched else None,
        "reach": [str(path) for path in reach],
        "log": log,
    }
    return [sys.executable, "-I", "-S", str(Path(__file__).with_name("postgres_launch.py")), json.dumps(spec)]


def _not_started(program: str, output: str) -> DatabaseUnsuitable:
    words = "\n".join(output.strip().splitlines()[-15:])
    return DatabaseUnsuitable(
        f"{Path(program).name} of the embedded PostgreSQL failed:\n{words}",
        advice=f"Correct what it says, or run as an ordinary user. {EXTERNAL_SERVER_ADVICE}",
    )
