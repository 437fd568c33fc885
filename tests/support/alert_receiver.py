"""An operator's webhook on a real socket, which may refuse or hang."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class AlertReceiver:
    """`answers` are used up from the left, one a request: a status, or None to say nothing; then it is 200."""

    answers: deque[int | None] = field(default_factory=deque)
    received: list[dict[str, Any]] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/alerts"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                headers = dict(
                    line.lower().split(": ", 1) if not line.lower().startswith("authorization") else line.split(": ", 1)
                    for line in head.decode().split("\r\n")[1:]
                    if line
                )
                body = await reader.readexactly(int(headers["content-length"]))
                self.received.append(json.loads(body))
                self.authorizations.append(headers.get("Authorization", ""))
                status = self.answers.popleft() if self.answers else 200
                if status is None:
                    await asyncio.sleep(3600)
                writer.write(f"HTTP/1.1 {status} said\r\ncontent-length: 0\r\n\r\n".encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def receiving() -> AsyncGenerator[AlertReceiver]:
    receiver = AlertReceiver()
    open_now: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_now.add(asyncio.create_task(receiver.serve(reader, writer)))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        for task in open_now:
            task.cancel()
        await asyncio.gather(*open_now, return_exceptions=True)
