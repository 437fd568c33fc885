"""Searches by meaning, by words and both ways, over texts whose words are as frequent as those of a language."""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import AsyncGenerator, Iterator, Sequence

from bench.figures import Figure
from bench.shelf import Server, octets, opened, put_in, serving, settings_for
from reshelve.domain.migration import State
from reshelve.library import Library
from reshelve.retrieval.asking import Mode
from reshelve.stores import lexical, word_checks

ROWS = 86_000
SEARCHES = 200
_WORDS_A_TEXT = 150
_WORDS_A_QUERY = 10
_VOCABULARY = 60_000
_MODES: tuple[Mode, ...] = ("dense", "lexical", "hybrid")


async def run(server: Server) -> AsyncGenerator[list[Figure]]:
    yield await measure(server, rows=ROWS)


async def measure(server: Server, *, rows: int) -> list[Figure]:
    database = server.database("hybrid")
    dense = '[rag.search]\nlanguage = "none"\n[rag.embedding]\nmodel = "hashing-384"\n'
    async with opened(settings_for(database, dense)) as library:
        await put_in(library, rows, fed=False, source=texts(seed=1))
    # The graph finds less among vectors that are made of drawn words: that is not what is measured here.
    both = '[rag.migration]\nmin_ann_recall = 0.0\n[rag.embedding]\nmodel = "hashing-384"\n'
    async with opened(settings_for(database, both)) as library:
        began = time.perf_counter()
        migration = await library.apply(cutover=True)
        seconds = time.perf_counter() - began
        assert migration.state is State.SOAKING, migration.reason
        index = await serving(library)
        times = {mode: await _times(library, mode) for mode in _MODES}
        size = await octets(library, *lexical.table_names(index))
    name = f"search, {rows:,} passages of {_WORDS_A_TEXT} words"
    p50 = {mode: statistics.median(times[mode]) for mode in _MODES}
    return [
        Figure(name=f"{name}: by meaning, p50", value=p50["dense"], unit="ms"),
        Figure(
            name="  by words, p50",
            value=p50["lexical"],
            unit="ms",
            beside="by meaning",
            raw=p50["dense"],
            target="<= 10 ms",
            met=p50["lexical"] <= 10,
        ),
        Figure(
            name="  both ways, p50",
            value=p50["hybrid"],
            unit="ms",
            beside="by meaning",
            raw=p50["dense"],
            target="<= 20 ms",
            met=p50["hybrid"] <= 20,
        ),
        Figure(name="  both ways, p95", value=statistics.quantiles(times["hybrid"], n=20)[18], unit="ms"),
        Figure(name="  embedded, written, built and verified", value=rows / seconds, unit="rows/s"),
        Figure(name="  bytes of words a passage", value=size / rows, unit="B"),
    ]


async def million(server: Server) -> AsyncGenerator[list[Figure]]:
    """By words alone, among many: what is read and scored grows with the postings of the query's words."""
    yield await _by_words(server, rows=1_000_000)


async def _by_words(server: Server, *, rows: int) -> list[Figure]:
    database = server.database("words")
    async with opened(settings_for(database, '[rag.embedding]\nmodel = "hashing-384"\n'), worker=False) as library:
        await put_in(library, rows, fed=False, source=texts(seed=1))
        index = await serving(library)
        began = time.perf_counter()
        async with library.backends.database.owner() as connection:
            for low in range(1, rows, 1000):
                await lexical.add_range(connection, index, lo=low, hi=low + 999)
                if low % 64_000 == 1:
                    await lexical.fold(connection, index)
            await lexical.tidy(connection, index)
        written = time.perf_counter() - began
        times = await _times(library, "lexical")
        began = time.perf_counter()
        async with library.backends.database.owner() as connection, connection.transaction():
            damaged = await word_checks.wrong(connection, index, sample=1000, most=10)
        verified = time.perf_counter() - began
        assert not damaged
        size = await octets(library, *lexical.table_names(index))
    name = f"search by words, {rows:,} passages of {_WORDS_A_TEXT} words"
    return [
        Figure(name=f"{name}, p50", value=statistics.median(times), unit="ms"),
        Figure(name="  p95", value=statistics.quantiles(times, n=20)[18], unit="ms"),
        Figure(name="  words written", value=rows / written, unit="rows/s"),
        Figure(name="  all of them verified", value=verified, unit="s"),
        Figure(name="  bytes of words a passage", value=size / rows, unit="B"),
    ]


async def _times(library: Library, mode: Mode) -> list[float]:
    """Milliseconds of whole searches, embedding included, one after the other; the first twenty left out."""
    found: list[float] = []
    for query in queries(SEARCHES + 20):
        began = time.perf_counter()
        await library.search(query, mode=mode)
        found.append((time.perf_counter() - began) * 1000)
    return found[20:]


def texts(*, seed: int) -> Iterator[str]:
    """Words drawn by Zipf's law with Mandelbrot's correction: the commonest ones are in a fifth of the texts."""
    draw = random.Random(seed)
    vocabulary, weights = _language()
    while True:
        yield " ".join(draw.choices(vocabulary, cum_weights=weights, k=_WORDS_A_TEXT))


def queries(count: int) -> Iterator[str]:
    draw = random.Random("queries")
    vocabulary, weights = _language()
    return (" ".join(draw.choices(vocabulary, cum_weights=weights, k=_WORDS_A_QUERY)) for _ in range(count))


def _language() -> tuple[Sequence[str], Sequence[float]]:
    draw = random.Random(7)
    vocabulary = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(4, 11))) for _ in range(_VOCABULARY)]
    return vocabulary, list(itertools.accumulate((rank + 60) ** -1.0 for rank in range(_VOCABULARY)))
