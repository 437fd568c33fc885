"""`reshelve serve` as a process of its own, and the plainest client that speaks to it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int


@contextmanager
def served(config: Path) -> Generator[Address]:
    """The service on these settings, once it listens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "reshelve.cli", "--config", str(config), "serve", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        url = urlsplit(process.stdout.readline().strip().removeprefix("listening on "))
        assert url.hostname is not None
        assert url.port is not None
        yield Address(url.hostname, url.port)
    finally:
        process.terminate()
        process.wait(60)


def config_file(folder: Path, database: tuple[str, str], text: str) -> Path:
    """A settings file with these lines, on this database."""
    file = folder / "rag.toml"
    owner, service = database
    file.write_text(f'[rag.database]\nurl = "{owner}"\nservice_url = "{service}"\n{text}', encoding="utf-8")
    return file


class Wire:
    """One connection that is kept, and one request at a time: HTTP/1.1 with nothing in it that could cost time."""

    def __init__(self, address: Address, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._head = f"Host: {address.host}\r\nContent-Type: application/json\r\n"
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, address: Address) -> Wire:
        return cls(address, *await asyncio.open_connection(address.host, address.port, limit=2**22))

    async def ask(self, method: str, path: str, document: object = None) -> tuple[int, bytes]:
        """Status and body. Raises OSError or EOFError where no answer comes."""
        body = b"" if document is None else json.dumps(document).encode()
        head = f"{method} {path} HTTP/1.1\r\n{self._head}Content-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        place = answer.lower().index(b"content-length:") + 15
        length = int(answer[place : answer.index(b"\r", place)])
        return int(answer[9:12]), await self._reader.readexactly(length)

    async def demand(self, method: str, path: str, document: object = None) -> dict[str, Any]:
        """The answer's document. Raises RuntimeError for any but a 2xx."""
        status, body = await self.ask(method, path, document)
        if status >= 300:
            raise RuntimeError(f"{method} {path}: {status} {body.decode()}")
        return json.loads(body)

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()
