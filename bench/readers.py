"""Readers in a process of their own: `python -m bench.readers OWNER SERVICE READERS`.

They search without a pause until standard input is closed; then every search is printed, as JSON.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

from bench.shelf import opened, queries, settings_for
from reshelve.errors import ReshelveError
from reshelve.library import Library


@dataclass(frozen=True, slots=True)
class Search:
    """`began` is in seconds since the epoch; `model` is None for a search that failed."""

    began: float
    milliseconds: float
    model: str | None

    @property
    def ended(self) -> float:
        return self.began + self.milliseconds / 1000


class Readers:
    """The process, while it runs."""

    def __init__(self, database: tuple[str, str], *, readers: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.readers", *database, str(readers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def stop(self) -> list[Search]:
        found, _ = self._process.communicate(timeout=60)
        return [Search(*each) for each in json.loads(found)]


async def _read(library: Library, chance: int, done: list[Search], over: threading.Event) -> None:
    asked = itertools.cycle(queries(200, seed=chance))
    while not over.is_set():
        began, clock = time.time(), time.perf_counter()
        try:
            model = (await library.search(next(asked))).model
        except ReshelveError:
            model = None
        done.append(Search(began, (time.perf_counter() - clock) * 1000, model))


async def main(owner: str, service: str, readers: int) -> None:
    over = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        over.set()

    done: list[Search] = []
    async with opened(settings_for((owner, service), ""), worker=False) as library:
        for query in queries(20, seed=0):
            await library.search(query)
        print("ready", flush=True)
        threading.Thread(target=wait_for_the_end, daemon=True).start()
        await asyncio.gather(*(_read(library, number, done, over) for number in range(readers)))
    print(json.dumps([(each.began, each.milliseconds, each.model) for each in done]))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
