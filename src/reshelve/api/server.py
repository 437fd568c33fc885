"""The server: one process, or several on one socket. It stops gracefully, and at once when it is told twice."""

from __future__ import annotations

import math
import os
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from reshelve.api.service import Service
from reshelve.errors import InputError

_KEEP_ALIVE_SECONDS = 75
"""Longer than clients keep their idle connections: whoever closes first loses no request."""
_BACKLOG = 2048


class Server(uvicorn.Server):
    """Told to stop, it first lets `/ready` say so for `drain_seconds`, and then finishes what is in flight."""

    def __init__(self, app: FastAPI, *, on_ready: Callable[[], None]) -> None:
        self._service: Service = app.state.service
        self._on_ready = on_ready
        self._leave_at: float | None = None
        settings = self._service.settings.server
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http="httptools",
                ws="none",
                lifespan="on",
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=math.ceil(settings.stop_seconds),
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # Here, and not in the lifespan, where the server would make one of its own errors of ours.
        await self._service.open()
        await super().startup(sockets)
        self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._leave_at is not None and sig == signal.SIGINT:
            os._exit(128 + sig)
        if self._leave_at is None:
            self._service.draining = True
            self._leave_at = time.monotonic() + self._service.settings.server.drain_seconds

    async def on_tick(self, counter: int) -> bool:
        if self._leave_at is not None and time.monotonic() >= self._leave_at:
            self.should_exit = True
        return await super().on_tick(counter)


def listening_socket(host: str, port: int) -> socket.socket:
    """Raises InputError where the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else str(error)
        raise InputError(
            f"cannot listen on {host}, port {port}: {reason}",
            advice="End the program that has the port, or choose another: --port, or rag.server.port.",
        ) from error


def address_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
