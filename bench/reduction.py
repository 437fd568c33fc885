"""What fewer bytes a token cost in nDCG@10, and what they save on the disk.

    python -m bench reduction --collection PATH

PATH is a collection as BEIR lays it out. Each row but the last makes the token vectors at the search, and reduces them
as it says; the last one is an index that stores them, filled by a migration. Everything else is the default: a hybrid
search, the first 30 chunks in a new order.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bench.shelf import octets, opened, server, serving, settings_for
from reshelve.domain.late_interaction import STORED_DIMENSIONS, pack, reduce, unpack
from reshelve.domain.migration import State
from reshelve.domain.models import Vectors
from reshelve.embedders.protocol import Embedder, TokenEmbedder
from reshelve.embedders.rerankers import Rerankers
from reshelve.evaluation.judged import Judged, load_judged_directory
from reshelve.library import Library
from reshelve.stores import tokens

_STORED = "[rag.search]\nlate_interaction = true\n"
_WAYS = [None, 384, 192, 128, STORED_DIMENSIONS, 64, 32]
"""Bytes a token. None: floats of all dimensions."""


class Remembered:
    """Each text goes through the model once; what is kept takes half the room."""

    def __init__(self, model: TokenEmbedder) -> None:
        self._model = model
        self._known: dict[bool, dict[str, NDArray[np.float16]]] = {False: {}, True: {}}
        """By whether it is a query."""
        self.token_space = model.token_space

    async def token_vectors(self, texts: Sequence[str], *, of_query: bool = False) -> list[Vectors]:
        known = self._known[of_query]
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        made = await self._model.token_vectors(missing, of_query=of_query) if missing else []
        known |= {text: vectors.astype(np.float16) for text, vectors in zip(missing, made, strict=True)}
        return [known[text].astype(np.float32) for text in texts]

    def tokens_a_passage(self) -> float:
        return float(np.mean([len(vectors) for vectors in self._known[False].values()]))


class Reduced:
    """Passages as they come back from so many bytes a token, and queries in as many dimensions."""

    def __init__(self, model: Remembered, *, dimensions: int) -> None:
        self._model = model
        self._dimensions = dimensions
        self.token_space = f"{model.token_space}/{dimensions}"

    async def token_vectors(self, texts: Sequence[str], *, of_query: bool = False) -> list[Vectors]:
        found = await self._model.token_vectors(texts, of_query=of_query)
        return await asyncio.to_thread(lambda: [self._reduced(vectors, of_query) for vectors in found])

    def _reduced(self, vectors: Vectors, of_query: bool) -> Vectors:
        if of_query:
            return reduce(vectors, dimensions=self._dimensions)
        return unpack(pack(vectors, dimensions=self._dimensions), dimension=self._dimensions)


class Instead(Rerankers):
    """Asks one embedder of tokens, whatever the index's model is."""

    def __init__(self, embedder: TokenEmbedder, library: Library) -> None:
        super().__init__(library.settings.search)
        self._embedder = embedder

    async def token_embedder(self, embedder: Embedder) -> TokenEmbedder:
        return self._embedder


def run(collection: Path) -> None:
    table = Table("a token", "bytes a chunk", "nDCG@10", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    asyncio.run(_fill(table, collection))
    Console(width=100).print(table)


async def _fill(table: Table, collection: Path) -> None:
    judged = load_judged_directory(collection)
    with server() as running:
        database = running.database("reduction")
        async with opened(settings_for(database, "")) as library:
            print("ingesting ...", flush=True)
            await library.ingest(collection / "corpus.jsonl")
            print("searching ...", flush=True)
            table.add_row("no rerank", "0", f"{await _ndcg(library, judged, rerank=False):.4f}")
            embedder = await library.backends.embedders.of((await serving(library)).model_id)
            model = Remembered(await library.backends.rerankers.token_embedder(embedder))
            for bytes_a_token in _WAYS:
                way = model if bytes_a_token is None else Reduced(model, dimensions=bytes_a_token)
                async with _asking(way, library) as asked:
                    ndcg = await _ndcg(asked, judged)
                size = model.tokens_a_passage() * (bytes_a_token or 4 * embedder.model.dimension)
                name = f"{bytes_a_token} bytes" if bytes_a_token else "as it is, float32"
                table.add_row(name, f"{size:,.0f}", f"{ndcg:.4f}")
        async with opened(settings_for(database, _STORED)) as library:
            print("storing them ...", flush=True)
            migration = await library.apply(cutover=True)
            assert migration.state is State.SOAKING, migration.reason
            size = await octets(library, tokens.table_name(await serving(library))) / (await library.status()).chunks
            ndcg = await _ndcg(library, judged)
            table.add_row(f"stored, {STORED_DIMENSIONS} bytes", f"{size:,.0f}", f"{ndcg:.4f}")


@asynccontextmanager
async def _asking(embedder: TokenEmbedder, library: Library) -> AsyncGenerator[Library]:
    """The same library, which asks another embedder of tokens."""
    instead = Instead(embedder, library)
    yield Library(replace(library.backends, rerankers=instead), worker=False)
    await instead.close()


async def _ndcg(library: Library, judged: Judged, *, rerank: bool = True) -> float:
    evaluation = await library.evaluate(judged, rerank="late_interaction" if rerank else "none")
    return evaluation.means["nDCG@10"]
