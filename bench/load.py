"""Load from a process of its own: `python -m bench.load HOST PORT CLIENTS REQUESTS RATE WRITERS`.

It begins at a line on standard input, and ends once that is closed and so many requests were answered. RATE is
searches a second over all clients (0: as fast as they come). Then it prints what it saw, as JSON.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import uvloop

from bench.service import Address, Wire
from bench.shelf import queries, texts

_USERS = 2000
_WRITE_SECONDS = 0.2
_DOCUMENTS_A_WRITER = 100


@dataclass(frozen=True, slots=True)
class Search:
    """`began` is in seconds since the epoch. `mixed`: another model's query, or a result of another index."""

    began: float
    milliseconds: float
    status: int
    model: str | None
    mixed: bool


@dataclass(slots=True)
class Seen:
    """`kept` says of each document that was written which text the service has taken last; None for a deleted one."""

    searches: list[Search] = field(default_factory=list)
    kept: dict[str, str | None] = field(default_factory=dict)
    writes: int = 0
    failed_writes: int = 0


class Load:
    """The process, while it runs."""

    def __init__(self, address: Address, *, clients: int, requests: int, rate: float = 0.0, writers: int = 0) -> None:
        arguments = [address.host, address.port, clients, requests, rate, writers]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.load", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def begin(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def end(self) -> Seen:
        found, _ = self._process.communicate(timeout=900)
        seen: dict[str, Any] = json.loads(found)
        seen["searches"] = [Search(**each) for each in seen["searches"]]
        return Seen(**seen)


@dataclass(slots=True)
class _Run:
    address: Address
    requests: int
    rate: float
    seen: Seen = field(default_factory=Seen)
    over: threading.Event = field(default_factory=threading.Event)

    def ends(self) -> bool:
        return self.over.is_set() and len(self.seen.searches) >= self.requests

    async def search(self, number: int, clients: int) -> None:
        wire = await Wire.open(self.address)
        asked = itertools.cycle(queries(500, seed=number))
        pause = clients / self.rate if self.rate else 0.0
        due = time.perf_counter() + pause * number / clients
        for turn in itertools.count():
            if self.ends():
                return
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            due = max(due + pause, time.perf_counter())
            body = {"query": next(asked), "user": f"user {(turn * clients + number) % _USERS}"}
            began, clock = time.time(), time.perf_counter()
            try:
                status, answer = await wire.ask("POST", "/api/v1/search", body)
            except (OSError, EOFError):
                status, answer = 0, b"{}"
                wire = await Wire.open(self.address)
            milliseconds = (time.perf_counter() - clock) * 1000
            model, mixed = _told(answer) if self.rate and status == 200 else (None, False)
            self.seen.searches.append(Search(began, milliseconds, status, model, mixed))

    async def write(self, number: int) -> None:
        wire = await Wire.open(self.address)
        chance = random.Random(number)
        drawn = itertools.cycle(texts(500, characters=400, seed=100 + number))
        while not self.ends():
            await asyncio.sleep(_WRITE_SECONDS)
            name = f"written-{number}-{chance.randrange(_DOCUMENTS_A_WRITER)}"
            path = f"/api/v1/documents/{name}"
            if chance.random() < 0.2 and self.seen.kept.get(name) is not None:
                text, status = None, (await wire.ask("DELETE", path))[0]
            else:
                text = next(drawn)
                status = (await wire.ask("PUT", path, {"text": text}))[0]
            self.seen.writes += 1
            if status == 200:
                self.seen.kept[name] = text
            else:
                self.seen.failed_writes += 1


def _told(answer: bytes) -> tuple[str, bool]:
    found = json.loads(answer)
    models = {found["query_model"], *(result["model"] for result in found["results"])}
    return found["model"], models != {found["model"]} or any(
        result["index"] != found["index"] for result in found["results"]
    )


async def main(host: str, port: int, clients: int, requests: int, rate: float, writers: int) -> None:
    run = _Run(Address(host, port), requests, rate)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)

    def wait_for_the_end() -> None:
        sys.stdin.read()
        run.over.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    searching = (run.search(number, clients) for number in range(clients))
    await asyncio.gather(*searching, *(run.write(number) for number in range(writers)))
    print(json.dumps(asdict(run.seen)))


if __name__ == "__main__":
    uvloop.run(
        main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]), int(sys.argv[6]))
    )
