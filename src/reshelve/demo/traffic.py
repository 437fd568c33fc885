"""Readers and writers in a process of their own, as an application would be: `python -m reshelve.demo.traffic`.

Arguments: the settings file and a JSONL file of documents to write. Each search and each write is one JSON line on
standard output. A closed standard input ends the traffic; then every document written is looked for once more.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import reshelve
from reshelve.corpus.readers import read_documents
from reshelve.domain.documents import Document
from reshelve.errors import ReshelveError
from reshelve.evaluation.judged import load_judged_directory

READERS = 2
USERS = 200
_PAUSE_BETWEEN_SEARCHES_SECONDS = 0.05
_PAUSE_BETWEEN_WRITES_SECONDS = 0.15
_QUERY_CHARACTERS = 400

Tell = Callable[[dict[str, Any]], None]


def _print(event: dict[str, Any]) -> None:
    print(json.dumps(event), flush=True)


@dataclass(slots=True)
class Traffic:
    """`expected` is what each document that the writer touched should say by now; None for a deleted one."""

    library: reshelve.Library
    queries: list[str]
    arrivals: list[Document]
    tell: Tell
    over: asyncio.Event
    expected: dict[str, Document | None] = field(default_factory=dict[str, Document | None])

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for seed in range(READERS):
                tasks.create_task(self._read(random.Random(seed)))
            tasks.create_task(self._write())
        for external_id in self.expected:
            self.tell({"event": "checked", "as_written": await self._as_written(external_id)})

    async def _read(self, chance: random.Random) -> None:
        while not self.over.is_set():
            started = time.monotonic()
            event: dict[str, Any] = {"event": "search", "failed": False}
            try:
                user = f"user-{chance.randrange(USERS)}"
                found = await self.library.search(chance.choice(self.queries), top_k=10, user=user)
                models = {found.model, *(result.model for result in found.results)}
                event |= {"mixed": models != {found.query_model}, "empty": not found.results, "model": found.model}
            except ReshelveError as error:
                event |= {"failed": True, "mixed": False, "error": error.message}
            self.tell({**event, "at": time.monotonic(), "ms": (time.monotonic() - started) * 1000})
            await asyncio.sleep(_PAUSE_BETWEEN_SEARCHES_SECONDS)

    async def _write(self) -> None:
        """Insert each arrival; change it a little later; delete every third. Each write is looked for at once."""
        for round_number in itertools.count(1):
            for number, document in enumerate(self.arrivals):
                if self.over.is_set():
                    return
                text = f"Revision {round_number} of this record. {document.content}"
                written = Document(external_id=document.external_id, title=document.title, content=text)
                if self.expected.get(document.external_id) is not None and (number + round_number) % 3 == 0:
                    await self.library.delete([document.external_id])
                    kind, self.expected[document.external_id] = "deleted", None
                else:
                    report = await self.library.ingest(written)
                    kind = "inserted" if report.added else "updated"
                    self.expected[document.external_id] = written
                as_written = await self._as_written(document.external_id)
                self.tell({"event": "write", "kind": kind, "as_written": as_written, "at": time.monotonic()})
                await asyncio.sleep(_PAUSE_BETWEEN_WRITES_SECONDS)

    async def _as_written(self, external_id: str) -> bool:
        """A search for the document's own words finds its latest text, or nothing of it once it is deleted.

        An exact search: the question is whether the write is there, not whether the graph happens to lead to it.
        """
        original = next(document for document in self.arrivals if document.external_id == external_id)
        wanted = self.expected[external_id]
        query = f"{original.title} {(wanted or original).content}"[:_QUERY_CHARACTERS]
        found = await self.library.search(query, top_k=20, exact=True)
        texts = [result.content for result in found.results if result.document_id == external_id]
        if wanted is None:
            return not texts
        return any(wanted.content[:40] in text for text in texts)


async def _main(settings_file: str, arrivals_file: str, data: str) -> None:
    over = asyncio.Event()
    arrivals = [row for row in read_documents(Path(arrivals_file)) if isinstance(row, Document)]
    queries = list(load_judged_directory(Path(data)).queries.values())
    async with reshelve.connect(settings_file) as library:
        await library.search(queries[0])
        _print({"event": "ready", "at": time.monotonic()})
        traffic = Traffic(library, queries, arrivals, _print, over)
        running = asyncio.create_task(traffic.run())
        await asyncio.to_thread(sys.stdin.read)
        over.set()
        await running


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:4]))
