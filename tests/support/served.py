"""The HTTP service on a real socket, in the test's own event loop or in a thread."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
from fastapi import FastAPI

from reshelve.api.app import create_app
from reshelve.api.server import Server, address_of, listening_socket
from reshelve.settings import Settings


@asynccontextmanager
async def served(settings: Settings, *, worker: bool = False) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of a service that answers."""
    ready = asyncio.Event()
    server = Server(create_app(settings, worker=worker), on_ready=ready.set)
    with listening_socket("127.0.0.1", 0) as listening:
        task = asyncio.create_task(server.serve(sockets=[listening]))
        waiting = asyncio.create_task(ready.wait())
        try:
            await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task
            async with httpx.AsyncClient(base_url=address_of(listening), timeout=60) as client:
                yield client
        finally:
            waiting.cancel()
            server.should_exit = True
            await task


@contextmanager
def in_a_thread(app: FastAPI) -> Generator[str]:
    """The address of a service that answers."""
    ready = threading.Event()
    server = Server(app, on_ready=ready.set)
    failures: list[BaseException] = []
    with listening_socket("127.0.0.1", 0) as listening:

        def run() -> None:
            try:
                server.run(sockets=[listening])
            except BaseException as failure:
                failures.append(failure)
            finally:
                ready.set()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            assert ready.wait(60)
            if not failures:
                yield address_of(listening)
        finally:
            server.handle_exit(signal.SIGTERM, None)
            thread.join(60)
        if failures:
            raise failures[0]


def start_process(command: str, settings_file: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    """`reshelve serve`, on any port that is free, or `reshelve worker`."""
    port = ("--port", "0") if command == "serve" and "--port" not in options else ()
    return subprocess.Popen(
        [sys.executable, "-m", "reshelve.cli", "--config", str(settings_file), command, *port, *options],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def address_said(process: subprocess.Popen[str]) -> str:
    """Waits for the line that says where the server listens."""
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.fullmatch(r"listening on (http://\S+)\n", line)
    if found is None:
        process.kill()
        raise AssertionError(line + process.stdout.read())
    return found[1]


@contextmanager
def in_a_process(settings_file: Path, *options: str, **environment: str) -> Generator[str]:
    """The address of a `reshelve serve` that answers, and that ends well."""
    with start_process("serve", settings_file, *options, **environment) as process:
        try:
            yield address_said(process)
        finally:
            process.terminate()
            try:
                said, _ = process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
    assert process.returncode == 0, said
