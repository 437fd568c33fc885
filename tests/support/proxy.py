"""A proxy between programs and PostgreSQL's Unix socket, that loses connections when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

from reshelve.settings import Settings

SOCKET = ".s.PGSQL.5432"
_COMMIT = b"COMMIT\0"
_CHUNK = 1 << 16


def parameter(value: str) -> str:
    """A text as a query's parameter, on the wire: behind its length. The query's own words are not meant."""
    return chr(len(value)) + value


@dataclass(eq=False)
class _Passage:
    """One client's connection and the server's, and what the client said in the transaction that is open."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    said: bytearray = field(default_factory=bytearray)
    answer_is_lost: bool = False

    def cut(self) -> None:
        self.client.transport.abort()
        self.server.transport.abort()


@dataclass
class Proxy:
    """`arm` waits for the COMMIT of a transaction in which the markers were sent: texts of queries or parameters."""

    server: Path
    losses: int = 0
    _markers: list[bytes] = field(default_factory=list)
    _forwards: bool = False
    _everything: bool = False
    _open: set[_Passage] = field(default_factory=set)

    def arm(self, *markers: str, forwards: bool, everything: bool = False) -> None:
        """Lose the connection of the next such COMMIT, after it was forwarded or before; or all that are open."""
        self._markers = [marker.encode() for marker in markers]
        self._forwards, self._everything = forwards, everything

    def cut_all(self) -> None:
        for passage in list(self._open):
            passage.cut()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, server = await asyncio.open_unix_connection(str(self.server / SOCKET))
        passage = _Passage(writer, server)
        self._open.add(passage)
        try:
            await asyncio.gather(self._requests(reader, passage), self._answers(upstream, passage))
        except ConnectionError:
            pass
        finally:
            passage.cut()
            self._open.discard(passage)

    async def _requests(self, reader: asyncio.StreamReader, passage: _Passage) -> None:
        while data := await reader.read(_CHUNK):
            passage.said += data
            if _COMMIT in data:
                if self._markers and all(marker in passage.said for marker in self._markers):
                    self._markers = []
                    if not self._forwards:
                        self._lose(passage)
                        return
                    passage.answer_is_lost = True
                passage.said.clear()
            passage.server.write(data)
            await passage.server.drain()
        passage.cut()

    async def _answers(self, reader: asyncio.StreamReader, passage: _Passage) -> None:
        while data := await reader.read(_CHUNK):
            if passage.answer_is_lost:
                self._lose(passage)
                return
            passage.client.write(data)
            await passage.client.drain()
        passage.cut()

    def _lose(self, passage: _Passage) -> None:
        self.losses += 1
        passage.cut()
        if self._everything:
            self.cut_all()


@asynccontextmanager
async def proxied(server: Path, folder: Path) -> AsyncGenerator[Proxy]:
    """Listens in `folder` for as long as the block runs: `host=<folder>` instead of the server's."""
    proxy = Proxy(server)
    listener = await asyncio.start_unix_server(proxy.accept, str(folder / SOCKET))
    try:
        yield proxy
    finally:
        listener.close()
        proxy.cut_all()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(listener.wait_closed(), 2)


@asynccontextmanager
async def wired(settings: Settings) -> AsyncGenerator[tuple[Proxy, Settings]]:
    """A proxy before the server of these settings, and the settings that go through it."""
    table = settings.database
    assert table.url is not None
    assert table.service_url is not None
    server = Path(str(conninfo_to_dict(table.url.get_secret_value())["host"]))
    # Short, because the address of a Unix socket has room for 107 bytes.
    with tempfile.TemporaryDirectory(prefix="proxy") as folder:
        owner, service = (
            SecretStr(make_conninfo(url.get_secret_value(), host=folder)) for url in (table.url, table.service_url)
        )
        through = table.model_copy(update={"url": owner, "service_url": service})
        async with proxied(server, Path(folder)) as proxy:
            yield proxy, settings.model_copy(update={"database": through})
