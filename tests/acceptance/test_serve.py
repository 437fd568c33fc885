"""`reshelve serve` and `reshelve worker` as processes: they begin, they stop gracefully, and they are replaced."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest

from reshelve.api.server import listening_socket
from tests.support.embedding_endpoint import EmbeddingEndpoint
from tests.support.served import address_said, in_a_process, start_process
from tests.support.waiting import until

DOOR = {"id": "door", "text": "The key hangs behind the blue pot."}
SEARCH, DOCUMENTS = "/api/v1/search", "/api/v1/documents"


@pytest.fixture
def settings_file(database_urls: tuple[str, str], tmp_path: Path) -> Callable[..., Path]:
    def write(*, embedding: str = 'model = "hashing-64"', more: str = "") -> Path:
        owner, service = (json.dumps(url) for url in database_urls)
        database = f"[rag.database]\nurl = {owner}\nservice_url = {service}\n"
        (tmp_path / "rag.toml").write_text(f"[rag.embedding]\n{embedding}\n{database}{more}\n")
        return tmp_path / "rag.toml"

    return write


@pytest.fixture
def blocked(database_urls: tuple[str, str]) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Within it, searches do not get on."""

    @contextlib.contextmanager
    def block() -> Generator[None]:
        with psycopg.connect(database_urls[0]) as connection:
            connection.execute("LOCK TABLE reshelve.documents IN ACCESS EXCLUSIVE MODE")
            yield

    return block


def wait_until(condition: Callable[[], bool]) -> None:
    asyncio.run(until(condition))


def waiting_searches(url: str) -> int:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ).fetchone()
    return row[0] if row else 0


def search(url: str) -> int:
    return httpx.post(url + SEARCH, json={"query": "blue pot"}, timeout=60).status_code


def answers(url: str, path: str = "/ready") -> int | None:
    """None where nobody listens."""
    try:
        return httpx.get(url + path, timeout=10).status_code
    except httpx.TransportError:
        return None


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = process.communicate(timeout=60)
    return process.returncode, said


@pytest.mark.parametrize("workers", ["1", "2"])
def test_requests_in_flight_are_finished(
    settings_file: Callable[..., Path],
    blocked: Callable[[], contextlib.AbstractContextManager[None]],
    database_urls: tuple[str, str],
    workers: str,
) -> None:
    file = settings_file(more="[rag.server]\ndrain_seconds = 1.0\n")
    with start_process("serve", file, "--workers", workers) as process, ThreadPoolExecutor(5) as pool:
        try:
            url = address_said(process)
            assert httpx.post(url + DOCUMENTS, params={"wait": True}, json=DOOR, timeout=60).json()["added"] == 1
            assert search(url) == 200
            with blocked():
                asked = [pool.submit(search, url) for _ in range(5)]
                wait_until(lambda: waiting_searches(database_urls[0]) >= 5)
                process.terminate()
                wait_until(lambda: answers(url) == 503)
                wait_until(lambda: answers(url) is None)
                assert process.poll() is None
            assert [each.result() for each in asked] == [200] * 5
            assert ended(process) == (0, "")
        finally:
            process.kill()


def test_leases_are_given_back(settings_file: Callable[..., Path], database_urls: tuple[str, str]) -> None:
    with EmbeddingEndpoint(dimension=64) as endpoint:
        embedding = f'model = "m"\nprovider = "openai"\napi_key = "k"\nbase_url = "{endpoint.base_url}"'
        with start_process("serve", settings_file(embedding=embedding)) as process:
            try:
                url = address_said(process)
                httpx.post(url + DOCUMENTS, params={"wait": True}, json=DOOR, timeout=60).raise_for_status()
                endpoint.delay_seconds = 3600
                before = len(endpoint.requests)
                httpx.post(url + DOCUMENTS, json={"id": "b", "text": "moss"}, timeout=60).raise_for_status()
                wait_until(lambda: endpoint.busiest > 0 and leased(database_urls[0]) == (1, 1))
                assert len(endpoint.requests) == before
                process.terminate()
                assert ended(process) == (0, "")
            finally:
                process.kill()
        assert leased(database_urls[0]) == (1, 0)


def leased(url: str) -> tuple[int, int]:
    """Changes that wait, and those of them that somebody is at work on."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute("SELECT count(*), count(lease) FROM reshelve.index_queue").fetchone()
    assert row is not None
    return row[0], row[1]


def test_a_process_that_dies_is_replaced(settings_file: Callable[..., Path]) -> None:
    with start_process("serve", settings_file(), "--workers", "2") as process:
        try:
            url = address_said(process)
            assert httpx.post(url + DOCUMENTS, params={"wait": True}, json=DOOR, timeout=60).json()["added"] == 1
            first = set(servers(process))
            assert len(first) == 2
            first.pop().kill()
            wait_until(lambda: len(set(servers(process)) - first) == 1)
            assert search(url) == 200
            running = servers(process)
            process.terminate()
            code, said = ended(process)
            assert code == 0, said
            assert "ended, and is replaced" in said
            assert not any(each.is_running() for each in running)
        finally:
            process.kill()


def servers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The server processes below it, without multiprocessing's own helper."""
    found: list[psutil.Process] = []
    for child in psutil.Process(process.pid).children():
        # One that has died is a zombie until its parent has looked.
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [child] if "spawn_main" in " ".join(child.cmdline()) else []
    return found


def test_servers_end_with_a_parent_that_was_killed(settings_file: Callable[..., Path]) -> None:
    with start_process("serve", settings_file(), "--workers", "2") as process:
        url = address_said(process)
        process.kill()
        wait_until(lambda: answers(url) is None)


def test_the_second_ctrl_c_ends_it_at_once(
    settings_file: Callable[..., Path],
    blocked: Callable[[], contextlib.AbstractContextManager[None]],
    database_urls: tuple[str, str],
) -> None:
    with start_process("serve", settings_file()) as process, ThreadPoolExecutor(1) as pool:
        try:
            url = address_said(process)
            httpx.post(url + DOCUMENTS, params={"wait": True}, json=DOOR, timeout=60).raise_for_status()
            with blocked():
                asked = pool.submit(search, url)
                wait_until(lambda: waiting_searches(database_urls[0]) >= 1)
                process.send_signal(signal.SIGINT)
                wait_until(lambda: answers(url) is None)
                assert process.poll() is None
                process.send_signal(signal.SIGINT)
                assert ended(process) == (130, "")
            with pytest.raises(httpx.TransportError):
                asked.result()
        finally:
            process.kill()


def test_a_worker_feeds_for_servers_that_do_not(settings_file: Callable[..., Path]) -> None:
    file = settings_file()
    with in_a_process(file, "--no-worker") as url, ThreadPoolExecutor(1) as pool:
        assert httpx.post(url + DOCUMENTS, json={"id": "a", "text": "fern"}, timeout=60).json()["added"] == 1
        waited = pool.submit(httpx.post, url + DOCUMENTS, params={"wait": True}, json=DOOR, timeout=60)
        index = httpx.get(url + "/api/v1/indexes").json()["indexes"][0]
        assert index["entries"] == 0
        with start_process("worker", file) as worker:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "at work\n"
            assert waited.result().json()["added"] == 1
            worker.terminate()
            assert ended(worker) == (0, "")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_keeps_it_from_starting_is_said(settings_file: Callable[..., Path], workers: str) -> None:
    file = settings_file()
    with listening_socket("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        code, said = ended(start_process("serve", file, "--port", port, "--workers", workers))
        assert (code, f"cannot listen on 127.0.0.1, port {port}" in said) == (1, True)
    missing = file.with_name("missing.toml")
    missing.write_text('[rag.database]\nurl = "host=127.0.0.1 port=9 dbname=none"\n')
    code, said = ended(start_process("serve", missing, "--workers", workers, "--json"))
    assert code == 1
    assert json.loads(said)["error"]["code"] == "database_unavailable"
