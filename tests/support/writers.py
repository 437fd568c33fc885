"""Writers that insert, change and delete at random while something else goes on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import reshelve

_TEXT = "shelf index vector outbox lease query chunk corpus graph recall epoch route tenant model schema barrier"
WORDS = _TEXT.split()


def text(chance: random.Random, *, words: int = 30) -> str:
    return " ".join(chance.choice(WORDS) + str(chance.randrange(1000)) for _ in range(words))


def documents(count: int, *, seed: int = 0) -> list[reshelve.Document]:
    chance = random.Random(seed)
    return [reshelve.Document(external_id=f"d{number}", content=text(chance)) for number in range(count)]


@asynccontextmanager
async def writing(library: reshelve.Library, *, seed: int = 0, pause: float = 0.01) -> AsyncGenerator[None]:
    """Random writes for as long as the block runs; a write that fails fails the block."""
    over = asyncio.Event()
    task = asyncio.create_task(_write(library, random.Random(seed), over, pause))
    try:
        yield
    finally:
        over.set()
        await task


async def _write(library: reshelve.Library, chance: random.Random, over: asyncio.Event, pause: float) -> None:
    while not over.is_set():
        external_id = f"d{chance.randrange(400)}"
        if chance.random() < 0.25:
            await library.delete([external_id], wait=False)
        else:
            await library.ingest(
                reshelve.Document(external_id=external_id, content=text(chance, words=chance.choice((5, 30, 600)))),
                wait=False,
            )
        await asyncio.sleep(pause)
