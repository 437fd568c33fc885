"""The account that the embedded server runs under, and the files and folders that belong to it.

PostgreSQL refuses to run as root. Started by root it gets a uid of its own that no other program has, and not even a
name; started by anyone else it runs as that user.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import stat
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from reshelve.errors import DatabaseUnsuitable

# systemd's range for dynamic users: distributions keep it free of accounts
PRIVATE_UIDS = range(61184, 65520)
PORT = 5432
# sun_path holds 108 bytes on Linux and 104 elsewhere, with the final NUL
LONGEST_SOCKET_PATH = 107 if sys.platform == "linux" else 103
EXTERNAL_SERVER_ADVICE = "Or set RESHELVE_DATABASE_URL to use a PostgreSQL server of your own."


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """`switched`: not the account of this process, which is root."""

    uid: int
    gid: int
    switched: bool


def server_account(data: Path) -> Account:
    """The account for the data folder `data`: its owner, if it is there. DatabaseUnsuitable if we may not use it.

    The folder's owner is also what remembers the private uid, when the folder is moved and its hash changes.
    """
    try:
        found = data.lstat()
    except FileNotFoundError:
        found = None
    if os.geteuid() != 0:
        return _own_account(data, found)
    if found is not None and found.st_uid != 0:
        return Account(uid=found.st_uid, gid=found.st_gid, switched=True)
    uid = private_uid(data)
    return Account(uid=uid, gid=uid, switched=True)


def _own_account(data: Path, found: os.stat_result | None) -> Account:
    uid = os.geteuid()
    if found is not None and found.st_uid != uid:
        raise DatabaseUnsuitable(
            f"The database in {data} belongs to {account_name(found.st_uid) or f'uid {found.st_uid}'}",
            advice="Run as that user or as root, or set another database.directory in rag.toml.",
        )
    if account_name(uid) is None:
        raise DatabaseUnsuitable(
            f"The embedded PostgreSQL needs a user name, and uid {uid} has none in /etc/passwd",
            advice=f"Add an entry for uid {uid} to /etc/passwd. {EXTERNAL_SERVER_ADVICE}",
        )
    return Account(uid=uid, gid=os.getegid(), switched=False)


def private_uid(path: Path) -> int:
    """A uid of PRIVATE_UIDS without an account, chosen by the path."""
    first = int.from_bytes(hashlib.sha256(os.fsencode(path)).digest()[:8], "big") % len(PRIVATE_UIDS)
    for step in range(len(PRIVATE_UIDS)):
        uid = PRIVATE_UIDS[(first + step) % len(PRIVATE_UIDS)]
        if account_name(uid) is None:
            return uid
    raise DatabaseUnsuitable("No free uid is left for the embedded PostgreSQL", advice=EXTERNAL_SERVER_ADVICE)


def account_name(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def named_account(account: Account) -> Account:
    """`initdb` asks for the name of its account, so where that is a private uid it runs as `nobody`."""
    if not account.switched:
        return account
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise DatabaseUnsuitable(
            "The embedded PostgreSQL cannot be set up by root: there is no user `nobody`",
            advice=f"Add it (useradd -r nobody), or run as an ordinary user. {EXTERNAL_SERVER_ADVICE}",
        ) from None
    return Account(uid=nobody.pw_uid, gid=nobody.pw_gid, switched=True)


@contextmanager
def opened_folder(path: Path) -> Generator[int]:
    """A descriptor of the folder itself, never of what a link there points to."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield folder
    finally:
        os.close(folder)


@contextmanager
def private_file(path: Path, flags: int, account: Account) -> Generator[int]:
    """A descriptor of the file, made for the account alone if it was not there."""
    file = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        if account.switched and os.fstat(file).st_uid == 0:
            os.fchown(file, account.uid, account.gid)
        yield file
    finally:
        os.close(file)


def private_folder(path: Path, account: Account) -> None:
    """Make `path` a folder of `account` that is closed to others. DatabaseUnsuitable if it is somebody else's."""
    path.mkdir(mode=0o700, exist_ok=True)
    with opened_folder(path) as folder:
        found = os.fstat(folder)
        if found.st_uid == 0 and account.switched:
            os.fchown(folder, account.uid, account.gid)
        elif found.st_uid != account.uid:
            raise DatabaseUnsuitable(
                f"{path} belongs to uid {found.st_uid}, not to the database's account (uid {account.uid})",
                advice="Remove that folder if it is a leftover, or set another database.directory in rag.toml.",
            )
        if stat.S_IMODE(found.st_mode) != 0o700:
            os.fchmod(folder, 0o700)


def socket_folder(directory: Path, account: Account) -> Path:
    """`directory`/run, or, where a socket's path in it would be too long, a folder under the system's temporary one.

    libpq reads a comma in a host as the end of its name.
    """
    mark = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    short = f"reshelve-{account.uid}-{mark}"
    for folder in (directory / "run", Path(tempfile.gettempdir()) / short, Path("/tmp") / short):
        if len(os.fsencode(folder / f".s.PGSQL.{PORT}")) <= LONGEST_SOCKET_PATH and "," not in str(folder):
            return folder
    raise DatabaseUnsuitable("No folder is left for the database's socket", advice="Set TMPDIR to a shorter path.")
