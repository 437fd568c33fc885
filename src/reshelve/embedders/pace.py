"""How much of its time this process gives to embedding documents while people search."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager

import numpy as np

from reshelve.domain.models import Embedded
from reshelve.domain.throttle import LEAST_DUTY
from reshelve.embedders.batches import batches_in_order
from reshelve.embedders.protocol import Embedder

_TEXTS_A_PIECE = 8
_CHARACTERS_A_PIECE = 4000
"""About 1,000 tokens: one batch of a model that runs here, so one core, for some 50 ms."""
_GIVE_WAY_SECONDS = 0.25
"""The longest that a piece waits for queries: there may always be one."""
_LONGEST_REST_SECONDS = 5.0
"""Also after a piece that waited long for an endpoint."""


class Pace:
    """A duty cycle of 0.02 to 1, shared by all tasks of this process that fill indexes.

    Nobody searches: there is nothing to keep, and work goes on as it comes. While searches are live it is done in
    small pieces, one at a time; each lets the queries that are being embedded go first, and rests in proportion.
    """

    def __init__(self) -> None:
        self._duty = 1.0
        self._unhindered = asyncio.Event()
        self._unhindered.set()
        self._turn = asyncio.Lock()
        self._queries = 0
        self._no_query = asyncio.Event()
        self._no_query.set()

    @property
    def duty(self) -> float:
        return self._duty

    @property
    def careful(self) -> bool:
        """Searches are live: take little at a time."""
        return not self._unhindered.is_set()

    def set(self, duty: float | None) -> None:
        """None: nobody is in the way. Whoever rests then goes on at once."""
        self._duty = 1.0 if duty is None else min(1.0, max(LEAST_DUTY, duty))
        if duty is None:
            self._unhindered.set()
        else:
            self._unhindered.clear()

    def query_began(self) -> None:
        self._queries += 1
        self._no_query.clear()

    def query_ended(self) -> None:
        self._queries -= 1
        if not self._queries:
            self._no_query.set()

    async def embed_documents(self, embedder: Embedder, texts: Sequence[str]) -> Embedded:
        """What the embedder makes of them. One that runs elsewhere gets them whole: only the rests are this pace's."""
        here = embedder.model.provider != "openai"
        found: list[Embedded] = []
        for piece in self._pieces(texts) if here else [range(len(texts))]:
            async with self.working(alone=here):
                found.append(await embedder.embed_documents(texts[piece.start : piece.stop]))
        if len(found) == 1:
            return found[0]
        return Embedded(np.concatenate([each.vectors for each in found]), sum(each.tokens for each in found))

    def _pieces(self, texts: Sequence[str]) -> Iterator[range]:
        """Neighbours that are embedded in one go. Asked for as they are used: the pace may change between two."""
        place = 0
        while self.careful and place < len(texts):
            some = [len(text) for text in texts[place : place + _TEXTS_A_PIECE]]
            piece = next(batches_in_order(some, count=_TEXTS_A_PIECE, weight=_CHARACTERS_A_PIECE))
            yield range(place, place + len(piece))
            place += len(piece)
        if place < len(texts) or not texts:
            yield range(place, len(texts))

    @asynccontextmanager
    async def working(self, *, alone: bool = True) -> AsyncGenerator[None]:
        """Around one piece of work; `alone`: while no other one runs in this process. Not to be nested."""
        if not self.careful:
            yield
            return
        async with self._turn if alone else contextlib.nullcontext():
            await _at_most(_GIVE_WAY_SECONDS, self._no_query)
            began = time.monotonic()
            yield
            worked = time.monotonic() - began
            await _at_most(min(worked * (1 / self._duty - 1), _LONGEST_REST_SECONDS), self._unhindered)


async def _at_most(seconds: float, event: asyncio.Event) -> None:
    """Until the event, or so long."""
    if seconds <= 0 or event.is_set():
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
