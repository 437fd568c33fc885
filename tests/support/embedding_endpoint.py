"""An OpenAI-compatible /v1/embeddings on a real socket: keep-alive, base64 and floats, and able to misbehave on demand.

In a test it runs on a thread; a benchmark starts it as a process (`python -m tests.support.embedding_endpoint`), which
prints its base URL and answers until its standard input is closed. Vectors are drawn once a model: a text always gets
the same one of 4,096 unit vectors, so that answering costs no more than putting the bytes together.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import sys
import threading
import zlib
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np

_VECTORS = 4096
_DIMENSIONS = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072, "text-embedding-ada-002": 1536}


@dataclass(frozen=True, slots=True)
class Status:
    """An error answer in OpenAI's form."""

    status: int
    message: str = "said the endpoint"
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


class Hang:
    """No answer, until the client gives up."""


class Hangup:
    """The connection is closed without an answer."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """A good answer but for one thing: nan, infinite, zero, dimension, few, twice, or garbage."""

    how: str


Fault = Status | Hang | Hangup | Wrong
Answer = tuple[int, dict[str, str], bytes | AsyncIterator[bytes]]


@dataclass(frozen=True, slots=True)
class Request:
    body: dict[str, Any]
    authorization: str


class EmbeddingEndpoint:
    """`faults` are used up from the left, one a request; None is a good answer. The other fields hold until changed."""

    path = "/v1/embeddings"

    def __init__(self, *, dimension: int = 384, key: str | None = None, remember: bool = True) -> None:
        self.dimension = dimension
        self.key = key
        self.faults: deque[Fault | None] = deque()
        self.always: Fault | None = None
        self.shuffled = False
        self.only_floats = False
        self.counts_tokens = True
        self.shortens = True
        self.generation = 0
        """Another number is another model behind the same name."""
        self.refuses: str | None = None
        """A text that holds this is refused, and the others of its request with it."""
        self.spoils: str | None = None
        """A text that holds this gets a zero vector."""
        self.delay_seconds = 0.0
        self.requests: list[Request] = []
        self.busiest = 0
        self.connections: set[asyncio.Transport] = set()
        self._remember = remember
        self._open = 0
        self._pools: dict[tuple[str, int, int], tuple[np.ndarray, list[str]]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._started = threading.Event()
        self._port = 0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def inputs(self) -> list[list[str]]:
        return [request.body["input"] for request in self.requests]

    def __enter__(self) -> EmbeddingEndpoint:
        self._thread.start()
        self._started.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(self._loop.create_server(lambda: _Connection(self), "127.0.0.1", 0))
        self._port = server.sockets[0].getsockname()[1]
        self._started.set()
        self._loop.run_forever()
        server.close()
        for transport in list(self.connections):
            transport.abort()
        pending = asyncio.all_tasks(self._loop)
        for task in pending:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        self._loop.close()

    async def answer(self, path: str, headers: dict[str, str], body: bytes) -> Answer | None:
        """Status, headers and body, whole or in pieces; None closes the connection."""
        self._open += 1
        self.busiest = max(self.busiest, self._open)
        try:
            if self.delay_seconds:
                await asyncio.sleep(self.delay_seconds)
            return await self._answer(path, headers, body)
        finally:
            self._open -= 1

    async def _answer(self, path: str, headers: dict[str, str], body: bytes) -> Answer | None:
        request: dict[str, Any] = json.loads(body)
        authorization = headers.get("authorization", "")
        if self._remember:
            self.requests.append(Request(request, authorization))
        fault = self.faults.popleft() if self.faults else self.always
        match fault:
            case Hang():
                await asyncio.sleep(3600)
            case Hangup():
                return None
            case Status():
                return _error(fault)
            case _:
                pass
        refusal = self._refusal(path, authorization, request)
        if refusal is not None:
            return _error(refusal)
        return self._good(request, fault.how if isinstance(fault, Wrong) else "")

    def _good(self, request: dict[str, Any], wrong: str) -> Answer:
        return 200, {}, self._embeddings(request, wrong)

    def _refusal(self, path: str, authorization: str, request: dict[str, Any]) -> Status | None:
        if path != self.path:
            return Status(404, f"Unknown path {path}")
        if self.key is not None and authorization != f"Bearer {self.key}":
            return Status(401, "Incorrect API key provided", "invalid_api_key")
        return self._refused_input(request)

    def _refused_input(self, request: dict[str, Any]) -> Status | None:
        if not request["input"] or "" in request["input"]:
            return Status(400, "input cannot be an empty string")
        if self.refuses is not None and any(self.refuses in text for text in request["input"]):
            return Status(400, "The input was rejected by the content filter.", "content_filter")
        if "dimensions" in request and not self.shortens:
            return Status(400, "This model does not support specifying dimensions.")
        return None

    def _embeddings(self, request: dict[str, Any], wrong: str) -> bytes:
        if wrong == "garbage":
            return b"<html>Bad gateway</html>"
        texts: list[str] = request["input"]
        own = _DIMENSIONS.get(request["model"], self.dimension)
        dimension = request.get("dimensions", own) + (1 if wrong == "dimension" else 0)
        vectors, encoded = self._pool(request["model"], dimension)
        places = [zlib.crc32(text.encode()) % _VECTORS for text in texts]
        if request.get("encoding_format") == "base64" and not self.only_floats:
            items = [f'"{encoded[place]}"' for place in places]
        else:
            items = [json.dumps(vectors[place].tolist()) for place in places]
        if wrong in {"nan", "zero", "infinite"}:
            value = {"nan": np.nan, "zero": 0.0, "infinite": np.inf}[wrong]
            spoilt = np.full(dimension, value, "<f4").tobytes()
            items[-1] = f'"{base64.b64encode(spoilt).decode()}"'
        zeros = f'"{base64.b64encode(bytes(4 * dimension)).decode()}"'
        if self.spoils is not None:
            items = [zeros if self.spoils in text else item for text, item in zip(texts, items, strict=True)]
        order = list(range(len(items) - 1 if wrong == "few" else len(items)))
        if self.shuffled:
            order = order[::2] + order[1::2]
        data = ",".join(
            f'{{"object":"embedding","index":{0 if wrong == "twice" else number},"embedding":{items[number]}}}'
            for number in order
        )
        count = sum(1 + len(text) // 4 for text in texts)
        usage = f',"usage":{{"prompt_tokens":{count},"total_tokens":{count}}}' if self.counts_tokens else ""
        return f'{{"object":"list","data":[{data}],"model":{json.dumps(request["model"])}{usage}}}'.encode()

    def _pool(self, model: str, dimension: int) -> tuple[np.ndarray, list[str]]:
        key = (model, dimension, self.generation)
        if key not in self._pools:
            drawn = np.random.default_rng(zlib.crc32(repr(key).encode())).standard_normal((_VECTORS, dimension))
            unit = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype("<f4")
            self._pools[key] = unit, [base64.b64encode(row.tobytes()).decode() for row in unit]
        return self._pools[key]


def _error(fault: Status) -> Answer:
    error = {"message": fault.message, "type": "error", "param": None, "code": fault.code}
    return fault.status, fault.headers, json.dumps({"error": error}).encode()


class _Connection(asyncio.Protocol):
    """HTTP/1.1 as far as a client that sends Content-Length needs it."""

    def __init__(self, endpoint: EmbeddingEndpoint) -> None:
        self._endpoint = endpoint
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._work: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._endpoint.connections.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._endpoint.connections.discard(self._transport)
        if self._work is not None:
            self._work.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        first, *lines = self._received[:end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        if len(self._received) < end + 4 + length:
            return
        body = bytes(self._received[end + 4 : end + 4 + length])
        del self._received[: end + 4 + length]
        self._work = asyncio.get_running_loop().create_task(self._answer(first.split(" ")[1], headers, body))

    async def _answer(self, path: str, headers: dict[str, str], body: bytes) -> None:
        answer = await self._endpoint.answer(path, headers, body)
        if self._transport is None or self._transport.is_closing():
            return
        if answer is None:
            self._transport.close()
            return
        status, more, content = answer
        if not isinstance(content, bytes):
            await self._stream(content)
            return
        lines = [f"HTTP/1.1 {status} .", "content-type: application/json", f"content-length: {len(content)}"]
        lines += [f"{name}: {value}" for name, value in more.items()]
        self._transport.write("\r\n".join([*lines, "", ""]).encode() + content)

    async def _stream(self, pieces: AsyncIterator[bytes]) -> None:
        """In chunks. An empty piece closes the connection in the middle."""
        assert self._transport is not None
        self._transport.write(
            b"HTTP/1.1 200 .\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        async for piece in pieces:
            if not piece:
                self._transport.close()
                return
            self._transport.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        self._transport.write(b"0\r\n\r\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dimension", type=int, default=384)
    with EmbeddingEndpoint(dimension=parser.parse_args().dimension, remember=False) as endpoint:
        print(endpoint.base_url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
