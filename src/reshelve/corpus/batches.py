"""A stream of documents in batches, each checked, hashed and free of double ids."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field

from reshelve.corpus.checks import check_document
from reshelve.corpus.rows import Candidate
from reshelve.domain.documents import Document
from reshelve.errors import DocumentRefused

BATCH_CHARACTERS = 16 * 1024**2
"""A batch ends with the document that reaches this: a few huge documents must not fill the memory."""


@dataclass(slots=True)
class Batch:
    """`candidates` by external id, and what was refused on the way, each with its external id if that is known."""

    candidates: dict[str, Candidate] = field(default_factory=dict[str, Candidate])
    refused: list[tuple[DocumentRefused, str | None]] = field(default_factory=list[tuple[DocumentRefused, str | None]])
    characters: int = 0

    def add(self, item: Document | DocumentRefused) -> None:
        if isinstance(item, DocumentRefused):
            self.refused.append((item, None))
            return
        try:
            check_document(item)
        except DocumentRefused as refusal:
            self.refused.append((refusal, item.external_id))
            return
        metadata = json.dumps(item.metadata, ensure_ascii=False)
        self.candidates[item.external_id] = Candidate(document=item, hash=item.hash, metadata=metadata)
        self.characters += len(item.content)


@dataclass(slots=True)
class _Grouping:
    """Takes one item after the other and gives the batches that are full."""

    rows: int
    batch: Batch = field(default_factory=Batch)

    def add(self, item: Document | DocumentRefused) -> Iterator[Batch]:
        if isinstance(item, Document) and item.external_id in self.batch.candidates:
            # The later one wins, as it does when they are further apart.
            yield from self.rest()
        self.batch.add(item)
        full = len(self.batch.candidates) + len(self.batch.refused) >= self.rows
        if full or self.batch.characters >= BATCH_CHARACTERS:
            yield from self.rest()

    def rest(self) -> Iterator[Batch]:
        batch, self.batch = self.batch, Batch()
        if batch.candidates or batch.refused:
            yield batch


async def batches_of(
    documents: Iterable[Document | DocumentRefused] | AsyncIterable[Document | DocumentRefused], *, rows: int
) -> AsyncIterator[Batch]:
    """Batches of at most `rows` items. A plain iterable is read in a thread: it may wait for a disk."""
    grouping = _Grouping(rows)
    if isinstance(documents, AsyncIterable):
        async for item in documents:
            for batch in grouping.add(item):
                yield batch
        for batch in grouping.rest():
            yield batch
        return
    batches = _batches_of(documents, grouping)
    while (batch := await asyncio.to_thread(next, batches, None)) is not None:
        yield batch


def _batches_of(documents: Iterable[Document | DocumentRefused], grouping: _Grouping) -> Iterator[Batch]:
    for item in documents:
        yield from grouping.add(item)
    yield from grouping.rest()
