"""The Python API: one object with the verbs of the command line.

async with reshelve.connect() as library:
    await library.ingest("documents/")
    found = await library.search("what is a covering index?")
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from reshelve.domain.documents import Document
from reshelve.domain.indexes import IndexState, Scope
from reshelve.errors import DocumentRefused
from reshelve.settings import Settings, load_settings

if TYPE_CHECKING:
    from reshelve.backends import Backends
    from reshelve.corpus.chunkers import Chunker
    from reshelve.corpus.ingest import IngestReport
    from reshelve.database.catalog import RegisteredChunking
    from reshelve.domain.migration import Action
    from reshelve.evaluation.judged import Judged
    from reshelve.evaluation.runs import Evaluation
    from reshelve.indexing.building import OnBuild
    from reshelve.indexing.feeding import Feeder
    from reshelve.migrations.cleanup import Cleaned
    from reshelve.migrations.engine import Listener
    from reshelve.migrations.plan import Plan
    from reshelve.migrations.records import Migration
    from reshelve.migrations.status import Status
    from reshelve.migrations.verify import Verification
    from reshelve.retrieval.search import SearchResponse

Source = (
    str
    | Path
    | Document
    | Mapping[str, Any]
    | Iterable[Document | DocumentRefused | Mapping[str, Any]]
    | AsyncIterable[Document | DocumentRefused]
)


def connect(settings: Settings | str | os.PathLike[str] | None = None, *, worker: bool = True) -> Connecting:
    """Open the collection that the settings name: `async with reshelve.connect() as library`, or `await` it.

    `settings` is a Settings, the path of a settings file, or None for what `load_settings` finds. An embedded server
    is started if none runs, and the schema brought up to date. With `worker` the object feeds the indexes in the
    background for as long as it is open; without, another process has to.
    """
    return Connecting(settings if isinstance(settings, Settings) else load_settings(settings), worker=worker)


class Connecting:
    """What `connect` returns: awaitable, and an async context manager."""

    def __init__(self, settings: Settings, *, worker: bool) -> None:
        self._settings = settings
        self._worker = worker
        self._library: Library | None = None

    def __await__(self) -> Generator[Any, None, Library]:
        return self._open().__await__()

    async def _open(self) -> Library:
        from reshelve.opening import open_backends

        return Library(await open_backends(self._settings), worker=self._worker)

    async def __aenter__(self) -> Library:
        self._library = await self._open()
        return self._library

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._library is not None:
            await self._library.close()


class Library:
    """An open collection. Safe to use from several tasks at once."""

    def __init__(self, backends: Backends, *, worker: bool) -> None:
        from reshelve.indexing.feeding import Feeder

        self.backends = backends
        self.settings = backends.settings
        self._feeder: Feeder | None = Feeder(backends) if worker else None
        self._chunkers: dict[int, Chunker] = {}
        if self._feeder is not None:
            self._feeder.start()

    async def close(self) -> None:
        from reshelve.opening import close_backends

        if self._feeder is not None:
            await self._feeder.stop()
        await close_backends(self.backends)

    async def __aenter__(self) -> Library:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # Documents --------------------------------------------------------------------------------------------------

    async def ingest(
        self,
        documents: Source,
        *,
        tenant: str = "",
        format: str | None = None,
        wait: bool = True,
        on_progress: Callable[[IngestReport], None] | None = None,
        on_left: Callable[[int], None] | None = None,
        on_build: OnBuild | None = None,
    ) -> IngestReport:
        """Add, change or leave documents by their external id. Makes the collection at the first call.

        Takes a file or folder, one document, or any iterable of documents or mappings ({"_id", "title", "text", ...}).
        What cannot be taken is in the report, by line, and stops nothing. With `wait` the call returns once searches
        find what was written, and an index that has grown large has its graph: `on_left` is told how many changes are
        still to be taken in, `on_build` how far the graph is.
        """
        from reshelve.corpus.ingest import ingest
        from reshelve.indexing.building import build_large

        collection_id = await self._ensure_collection()
        report = await ingest(
            self.backends.database,
            _documents(documents, format=format),
            collection_id=collection_id,
            tenant=tenant,
            chunker_of=self._chunker_of,
            on_progress=on_progress,
        )
        await self._applied(collection_id, report.xid, wait=wait, on_left=on_left)
        if wait and report.chunks_added:
            await build_large(self.backends, collection_id, **({"on_build": on_build} if on_build else {}))
        return report

    async def delete(self, external_ids: Sequence[str], *, tenant: str = "", wait: bool = True) -> int:
        """Delete documents by their external ids; returns how many there were."""
        from reshelve.corpus.ingest import delete

        collection_id = await self._collection_id()
        deleted, xid = await delete(self.backends.database, external_ids, collection_id=collection_id, tenant=tenant)
        await self._applied(collection_id, xid, wait=wait)
        return deleted

    async def _applied(
        self,
        collection_id: int,
        xid: int | None,
        *,
        wait: bool,
        on_left: Callable[[int], None] | None = None,
    ) -> None:
        from reshelve.indexing.draining import wait_for_write

        if xid is None:
            return
        if self._feeder is not None:
            self._feeder.wake()
        if wait:
            await wait_for_write(self.backends, collection_id=collection_id, xid=xid, on_left=on_left)

    async def _chunker_of(self, chunking: RegisteredChunking) -> Chunker:
        from reshelve.migrations.declaration import chunker_of

        if chunking.id not in self._chunkers:
            self._chunkers[chunking.id] = await chunker_of(self.backends, chunking)
        return self._chunkers[chunking.id]

    async def _collection_id(self) -> int:
        from reshelve.database import catalog

        async with self.backends.database.service() as connection:
            return (await catalog.get_route(connection, self.settings.collection)).collection_id

    async def _ensure_collection(self) -> int:
        """The collection, with a first index as the settings declare it. Later settings do not change it: plan does."""
        from reshelve.database import catalog
        from reshelve.migrations.declaration import declared, register

        async with self.backends.database.service() as connection:
            route = await catalog.find_route(connection, self.settings.collection)
        if route is not None:
            return route.collection_id
        async with declared(self.settings) as (declaration, embedder):
            async with self.backends.database.owner() as connection:
                collection_id = await catalog.ensure_collection(connection, self.settings.collection)
            index = await register(
                self.backends, declaration, embedder, collection_id=collection_id, state=IndexState.READY
            )
            async with self.backends.database.owner() as connection:
                await catalog.create_route(connection, collection_id=collection_id, index_id=index.id)
        return collection_id

    # Search -----------------------------------------------------------------------------------------------------

    async def search(
        self,
        query: str,
        *,
        top_k: int = 10,
        tenant: str = "",
        metadata: dict[str, Any] | None = None,
        index: int | None = None,
        exact: bool = False,
    ) -> SearchResponse:
        """The nearest chunks, best first, each with its document, score, index and model.

        `metadata` asks for equality on top-level fields; `index` asks one index instead of the route's; `exact`
        compares with every vector.
        """
        from reshelve.retrieval.search import search

        return await search(
            self.backends,
            query,
            collection=self.settings.collection,
            top_k=top_k,
            scope=Scope(tenant=tenant, metadata=metadata),
            index_id=index,
            exact=exact,
        )

    async def models(self) -> list[dict[str, Any]]:
        """Every registered embedding model."""
        from reshelve.database import catalog

        async with self.backends.database.service() as connection:
            return await catalog.list_models(connection)

    async def evaluate(
        self,
        judged: Judged,
        *,
        index: int | None = None,
        tenant: str = "",
        depth: int = 100,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Evaluation:
        """nDCG@10, recall@10 and @100, and MRR of the serving index, or of one index, on judged queries."""
        from reshelve.evaluation.runs import evaluate
        from reshelve.retrieval.search import search_documents

        async def documents(query: str, wanted: int) -> list[tuple[str, float]]:
            return await search_documents(
                self.backends,
                query,
                collection=self.settings.collection,
                documents=wanted,
                tenant=tenant,
                index_id=index,
            )

        name = f"index {index}" if index is not None else "serving index"
        return await evaluate(name, documents, judged, depth=depth, on_progress=on_progress)

    async def ann_recall(self, *, index: int | None = None) -> float | None:
        """recall@10 of an index's graph (the serving one's) against its exact search. None for an empty index."""
        from reshelve.database import catalog
        from reshelve.migrations.verify import ann_recall

        async with self.backends.database.service() as connection:
            route = await catalog.get_route(connection, self.settings.collection)
            wanted = route.serving if index is None else await catalog.get_index(connection, index)
        return await ann_recall(self.backends, wanted)

    # Migration --------------------------------------------------------------------------------------------------

    async def plan(self) -> Plan:
        """What would change if the settings were applied, and what it costs. Writes nothing."""
        from reshelve.migrations import steering

        return await steering.plan(self.backends)

    async def apply(
        self,
        *,
        limit: int | None = None,
        max_rate: float | None = None,
        budget_usd: float | None = None,
        cutover: bool = False,
        on_event: Listener | None = None,
    ) -> Migration:
        """Start the migration that the settings ask for, or go on with the active one, up to the proof.

        `limit` ends this run after so many rows, `max_rate` is rows a second, `budget_usd` pauses the migration before
        its spend gets over it. With `cutover` the switch follows the proof. Raises NothingToDo, or TransitionRefused
        when the settings ask for something else than the active migration does.
        """
        from reshelve.migrations import steering

        return await steering.apply(
            self.backends, limit=limit, max_rate=max_rate, budget_usd=budget_usd, cutover=cutover, on_event=on_event
        )

    async def foresee(self, *, cutover: bool = False) -> list[Action]:
        """The actions that `apply` would take now, up to the next place where a person decides. Writes nothing."""
        from reshelve.migrations import steering

        return await steering.foresee(self.backends, cutover=cutover)

    async def resume(self, *, budget_usd: float | None = None, on_event: Listener | None = None) -> Migration:
        """Go on with a paused or failed migration, whatever the settings say by now."""
        from reshelve.migrations import steering

        return await steering.resume(self.backends, budget_usd=budget_usd, on_event=on_event)

    async def pause(self, *, reason: str = "asked for") -> Migration:
        """Stop the backfill after the ranges in flight. Both indexes stay fed."""
        from reshelve.migrations import steering

        return await steering.pause(self.backends, reason=reason)

    async def verify(self, *, index: int | None = None) -> Verification:
        """Compare an index with the corpus and mend what differs: the migration's target, or the serving index."""
        from reshelve.migrations import steering

        return await steering.verify(self.backends, index=index)

    async def cutover(self, *, on_event: Listener | None = None) -> Migration:
        """Verify once more, and give the searches to the new index. Raises GateHeld where the proof fails."""
        from reshelve.migrations import steering

        return await steering.cutover(self.backends, on_event=on_event)

    async def rollback(self, *, on_event: Listener | None = None) -> Migration:
        """Take the migration back. Nothing is lost and nothing embedded again: the old index was fed all along."""
        from reshelve.migrations import steering

        return await steering.rollback(self.backends, on_event=on_event)

    async def cleanup(self, *, skip_soak: bool = False) -> Cleaned:
        """Drop the index that the migration left behind. Refused while anybody reads it, or the soak goes on."""
        from reshelve.migrations import steering

        return await steering.cleanup(self.backends, skip_soak=skip_soak)

    async def status(self) -> Status:
        """The route, the indexes with their lag, the migration with progress, rate, ETA and spend."""
        from reshelve.migrations.status import read_status

        return await read_status(self.backends, collection=self.settings.collection)


def _documents(
    source: Source, *, format: str | None
) -> Iterable[Document | DocumentRefused] | AsyncIterable[Document | DocumentRefused]:
    from reshelve.corpus.readers import read_documents

    if isinstance(source, str | Path):
        return read_documents(Path(source), format=format)
    if isinstance(source, Document):
        return [source]
    if isinstance(source, AsyncIterable):
        return source
    if isinstance(source, Mapping):
        return _each([cast("Mapping[str, Any]", source)])
    return _each(source)


def _each(rows: Iterable[Document | DocumentRefused | Mapping[str, Any]]) -> Iterator[Document | DocumentRefused]:
    from reshelve.corpus.readers import from_mapping

    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            yield row
            continue
        try:
            yield from_mapping(row, line=number)
        except DocumentRefused as refused:
            yield refused
