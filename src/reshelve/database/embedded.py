"""The embedded PostgreSQL server: a daemon of its own, shared by all processes that use one directory.

    <directory>/postgres        the data
    <directory>/run             the socket; a folder under the system's temporary one where that path would be too long
    <directory>/postgres.log    what the server says
    <directory>/postgres.lock   held by whoever starts the server, then by the server while a process of it lives

It listens on no network. Nothing outside the directory is changed, except for that temporary folder.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reshelve.database.postgres_account import (
    EXTERNAL_SERVER_ADVICE,
    PORT,
    Account,
    opened_folder,
    private_file,
    private_folder,
    server_account,
    socket_folder,
)
from reshelve.database.postgres_cluster import (
    DATABASE,
    OWNER,
    SERVICE,
    create_cluster,
    hand_over,
    installation,
    write_configuration,
)
from reshelve.database.postgres_process import run_daemon
from reshelve.errors import DatabaseUnavailable, DatabaseUnsuitable

_POLL_SECONDS = 0.01
_SILENCE_SECONDS = 90.0
_RECOVERY_SECONDS = 1800.0
_STOP_SECONDS = 120.0
_LOG_BYTES = 16 * 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAddress:
    """Connection strings: `owner` owns the schema, `service` has the rights that the schema grants it."""

    owner: str
    service: str


def start(directory: Path) -> ServerAddress:
    """Start the server if it does not run, wait until it answers, and return its address. Blocks.

    Any number of processes may call it at once. Raises DatabaseUnsuitable where the server cannot run, and
    DatabaseUnavailable with the end of its log if it does not come up.
    """
    with _usable(directory) as resolved:
        return _start(resolved)


def running(directory: Path) -> ServerAddress | None:
    """The address of the server, if it runs and answers. Raises DatabaseUnsuitable if it is another user's."""
    with _usable(directory) as resolved:
        server_account(resolved / "postgres")
        address, state = _ask(resolved)
        return address if state == "answers" else None


def stop(directory: Path) -> bool:
    """Shut the server down, ending its connections, and wait for it. False if none ran.

    Raises DatabaseUnavailable if it does not end.
    """
    with _usable(directory) as resolved:
        return _stop(resolved) if resolved.is_dir() else False


@contextmanager
def _usable(directory: Path) -> Generator[Path]:
    try:
        yield directory.expanduser().resolve()
    except OSError as error:
        advice = "Set database.directory in rag.toml to a folder of your own on a local disk."
        if os.geteuid() == 0 and error.errno in (errno.EPERM, errno.EINVAL):
            advice = (
                "Root may not give files to another account here (a container without CAP_CHOWN, a user namespace, "
                "or a network disk), and PostgreSQL does not run as root: run as an ordinary user."
            )
        raise DatabaseUnsuitable(
            f"The embedded PostgreSQL cannot be used in {directory}: {error}",
            advice=f"{advice} {EXTERNAL_SERVER_ADVICE}",
        ) from error


def _stop(directory: Path) -> bool:
    account = server_account(directory / "postgres")
    if _is_free(directory, account):
        return False
    told: int | None = None
    deadline = time.monotonic() + _STOP_SECONDS
    while time.monotonic() < deadline:
        postmaster = _postmaster(directory)
        if postmaster is not None and told is None and not _is_not_the_postmaster(postmaster[0], directory):
            told = postmaster[0]
            with suppress(ProcessLookupError):
                os.kill(told, signal.SIGINT)
        someone_started_it_again = told is not None and postmaster is not None and postmaster[0] != told
        if someone_started_it_again or _is_free(directory, account):
            return True
        time.sleep(_POLL_SECONDS)
    raise DatabaseUnavailable(
        f"The embedded PostgreSQL in {directory} did not end within {_STOP_SECONDS:.0f} s",
        advice=f"See {directory / 'postgres.log'}. If it runs in another container, stop it there.",
    )


def _start(directory: Path) -> ServerAddress:
    # a private account has to get through, and this is our own folder
    directory.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    account = server_account(directory / "postgres")
    log_start: int | None = None
    begin = time.monotonic()
    limit = _SILENCE_SECONDS
    while time.monotonic() - begin < limit:
        address, state = _ask(directory)
        if address is not None and state == "answers":
            if log_start is not None:
                _update_extension(address)
            return address
        limit = _RECOVERY_SECONDS if state == "is starting" else _SILENCE_SECONDS
        with _lock(directory, account) as lock:
            if lock is not None and log_start is not None:
                raise _unavailable(directory, "did not start", log_start)
            if lock is not None and _ask(directory)[1] == "is silent":
                log_start = _launch(directory, account=account, lock=lock)
        time.sleep(_POLL_SECONDS)
    raise _unavailable(
        directory,
        f"does not answer for {limit:.0f} s",
        log_start or 0,
        advice="Stop it, and it is started anew: reshelve down.",
    )


def _launch(directory: Path, *, account: Account, lock: int) -> int:
    """Start the daemon, making its data first if there is none; the position in the log where its words begin."""
    data, sockets = directory / "postgres", socket_folder(directory, account)
    using = installation(data)
    if not data.is_dir():
        create_cluster(data, using=using, account=account)
    elif data.stat().st_uid != account.uid:
        with opened_folder(directory) as inside:  # root's own, as after a copy by root
            hand_over(account, name=data.name, inside=inside)
    private_folder(data, account)
    private_folder(sockets, account)
    _clear_leftovers(directory, sockets)
    write_configuration(data, using=using, account=account)
    with _log(directory, account) as log:
        position = os.lseek(log, 0, os.SEEK_END)
        # on the command line, where no setting made later goes over them
        fixed = {
            "listen_addresses": "",
            "port": str(PORT),
            "unix_socket_directories": '"' + str(sockets).replace('"', '""') + '"',
            "unix_socket_permissions": "0700",
            "hba_file": str(data / "pg_hba.conf"),
            "ident_file": str(data / "pg_ident.conf"),
            "logging_collector": "off",
        }
        run_daemon(
            [using.program("postgres"), "-D", str(data), *(f"--{name}={value}" for name, value in fixed.items())],
            account=account,
            reach=[*using.needed_paths, data, sockets],
            log=log,
            lock=lock,
        )
    return position


def _clear_leftovers(directory: Path, sockets: Path) -> None:
    """Remove the lock files of a server that crashed, which PostgreSQL would believe if their pid is in use again.

    We hold the lock, so none of this server's processes lives.
    """
    postmaster = _postmaster(directory)
    if postmaster is not None and _is_not_the_postmaster(postmaster[0], directory):
        (directory / "postgres" / "postmaster.pid").unlink(missing_ok=True)
    for name in (f".s.PGSQL.{PORT}", f".s.PGSQL.{PORT}.lock"):
        (sockets / name).unlink(missing_ok=True)


def _ask(directory: Path) -> tuple[ServerAddress | None, Literal["answers", "is starting", "is silent"]]:
    from psycopg import pq
    from psycopg.conninfo import make_conninfo

    postmaster = _postmaster(directory)
    if postmaster is None:
        return None, "is silent"
    place = make_conninfo(host=postmaster[1], port=PORT, dbname=DATABASE)
    address = ServerAddress(owner=make_conninfo(place, user=OWNER), service=make_conninfo(place, user=SERVICE))
    answer = pq.PGconn.ping(make_conninfo(address.owner, connect_timeout=5).encode())
    if answer == pq.Ping.OK:
        return address, "answers"
    return None, "is starting" if answer == pq.Ping.REJECT else "is silent"


def _postmaster(directory: Path) -> tuple[int, str] | None:
    """Process id and socket folder from postmaster.pid (lines 1 and 5), also one that a crash left behind."""
    try:
        lines = (directory / "postgres" / "postmaster.pid").read_text().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return None
    complete = len(lines) >= 5 and lines[0].isdigit() and lines[4] != ""
    return (int(lines[0]), lines[4]) if complete else None


def _is_not_the_postmaster(pid: int, directory: Path) -> bool:
    """True only if that is known: nothing, another program, or a dead process that nobody has waited for.

    A postmaster works in its data folder.
    """
    if not Path("/proc/self/cwd").exists():
        return False
    try:
        return not Path(f"/proc/{pid}/cwd").samefile(directory / "postgres")
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _update_extension(address: ServerAddress) -> None:
    """A newer wheel may bring a newer pgvector."""
    import psycopg

    try:
        with psycopg.connect(address.owner, autocommit=True) as connection:
            connection.execute("SET client_min_messages = warning")
            connection.execute("ALTER EXTENSION vector UPDATE")
    except psycopg.Error as error:
        raise DatabaseUnavailable(f"The embedded PostgreSQL does not answer as it should: {error}") from error


@contextmanager
def _lock(directory: Path, account: Account) -> Generator[int | None]:
    """The lock's descriptor, or None if somebody holds it. A daemon that inherits the descriptor goes on holding it."""
    with private_file(directory / "postgres.lock", os.O_RDWR, account) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield file


def _is_free(directory: Path, account: Account) -> bool:
    with _lock(directory, account) as lock:
        return lock is not None


@contextmanager
def _log(directory: Path, account: Account) -> Generator[int]:
    path = directory / "postgres.log"
    with suppress(FileNotFoundError):
        if path.lstat().st_size > _LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))
    with private_file(path, os.O_WRONLY | os.O_APPEND, account) as file:
        yield file


def _unavailable(directory: Path, what: str, position: int, *, advice: str = "") -> DatabaseUnavailable:
    """With the words of the log from `position` on."""
    log = directory / "postgres.log"
    words = ""
    with suppress(OSError), log.open("rb") as file:
        file.seek(position)
        words = file.read()[-4000:].decode(errors="replace").strip()
    return DatabaseUnavailable(
        f"The embedded PostgreSQL in {directory} {what}:\n{words or 'it said nothing'}",
        advice=" ".join(filter(None, (advice, f"The whole log is {log}.", EXTERNAL_SERVER_ADVICE))),
    )
