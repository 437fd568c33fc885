"""Several server processes on one socket. One that dies is replaced; they are told together to stop."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

import structlog

from reshelve.errors import ReshelveError, ServiceError

_PAUSE_SECONDS = 1.0
_SPAWN = multiprocessing.get_context("spawn")
_log = structlog.get_logger(__name__)


class Processes:
    """`begin(listening, ready, *arguments)` runs in every process, and calls `ready` once it can answer."""

    def __init__(
        self, begin: Callable[..., None], arguments: tuple[Any, ...], *, listening: socket.socket, count: int
    ) -> None:
        self._begin = begin
        self._arguments = arguments
        self._listening = listening
        self._count = count
        self._running: dict[SpawnProcess, Connection] = {}
        self._answering: set[SpawnProcess] = set()
        self._announced = False
        self._told = False
        self._woken, self._wake = _SPAWN.Pipe(duplex=False)

    def run(self, *, on_ready: Callable[[], None]) -> None:
        """Until they are told to stop, and have. Raises what kept one of the first from starting."""
        handlers = {sig: signal.signal(sig, self._tell) for sig in (signal.SIGTERM, signal.SIGINT)}
        try:
            for _ in range(self._count):
                self._start()
            while self._running:
                self._look()
                if not self._announced and self._answering >= self._running.keys() and not self._told:
                    self._announced = True
                    on_ready()
        finally:
            for process in self._running:
                process.kill()
            for sig, handler in handlers.items():
                signal.signal(sig, handler)

    def _tell(self, sig: int, _: object) -> None:
        for process in self._running:
            if self._told and sig == signal.SIGINT:
                process.kill()
            elif not self._told and process.pid is not None:
                os.kill(process.pid, signal.SIGTERM)
        if self._told and sig == signal.SIGINT:
            os._exit(128 + sig)
        self._told = True
        self._wake.send_bytes(b".")

    def _start(self) -> None:
        ours, theirs = _SPAWN.Pipe(duplex=False)
        process = _SPAWN.Process(target=_process, args=(self._begin, self._listening, theirs, *self._arguments))
        process.start()
        theirs.close()
        self._running[process] = ours
        if self._told and process.pid is not None:
            # Told while it was being started: it has not heard of it.
            os.kill(process.pid, signal.SIGTERM)

    def _look(self) -> None:
        """Wait for the next thing that one of them does, or that we are told."""
        by_end = {process.sentinel: process for process in self._running}
        by_pipe = {pipe: process for process, pipe in self._running.items() if process not in self._answering}
        events = wait([*by_end, *by_pipe, self._woken])
        if self._woken in events:
            self._woken.recv_bytes()
        # What one said before it ended is heard before that.
        for pipe in [pipe for pipe in by_pipe if pipe in events]:
            self._hear(by_pipe[pipe], pipe)
        for end in [end for end in by_end if end in events]:
            self._ended(by_end[end])

    def _hear(self, process: SpawnProcess, pipe: Connection) -> None:
        try:
            failure: ReshelveError | None = pipe.recv()
        except EOFError:  # it is about to end
            return
        if failure is None:
            self._answering.add(process)
        elif self._announced:
            _log.error("a server process cannot start", error=failure.message)
        else:
            raise failure

    def _ended(self, process: SpawnProcess) -> None:
        self._running.pop(process).close()
        process.join()
        self._answering.discard(process)
        if self._told:
            return
        if not self._announced:
            raise ServiceError("a server process ended before it could answer", advice="Its log lines say why.")
        _log.error("a server process ended, and is replaced", pid=process.pid, exit_code=process.exitcode)
        time.sleep(_PAUSE_SECONDS)
        if not self._told:
            self._start()


def _process(begin: Callable[..., None], listening: socket.socket, told: Connection, *arguments: Any) -> None:
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True, name="parent").start()

    def ready() -> None:
        told.send(None)

    try:
        begin(listening, ready, *arguments)
    except ReshelveError as error:
        told.send(_portable(error))
        sys.exit(1)


def _portable(error: ReshelveError) -> ReshelveError:
    """Some kinds take more than a message to be made again on the other side."""
    try:
        return type(error)(error.message, advice=error.advice)
    except TypeError:
        return ReshelveError(error.message, advice=error.advice)


def _end_with(parent: int) -> None:
    """A parent that was killed tells nobody."""
    while os.getppid() == parent:
        time.sleep(_PAUSE_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
