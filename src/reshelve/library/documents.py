"""Documents in and out."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from reshelve.domain.documents import Document
from reshelve.domain.indexes import IndexState
from reshelve.errors import DocumentRefused, NotFoundError
from reshelve.library.part import Part

if TYPE_CHECKING:
    from reshelve.corpus.chunkers import Chunker
    from reshelve.corpus.ingest import IngestReport
    from reshelve.corpus.stored import StoredDocument
    from reshelve.database.catalog import RegisteredChunking
    from reshelve.indexing.building import OnBuild
    from reshelve.indexing.feeding import Feeder
    from reshelve.settings import ReadingSettings

Source = (
    str
    | Path
    | Document
    | Mapping[str, Any]
    | Iterable[Document | DocumentRefused | Mapping[str, Any]]
    | AsyncIterable[Document | DocumentRefused]
)


class Documents(Part):
    _feeder: Feeder | None
    _chunkers: dict[int, Chunker]

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

        Takes a file, archive, folder or pattern, one document, or any iterable of documents or mappings ({"_id",
        "title", "text", ...}).
        What cannot be taken is in the report, by line, and stops nothing. With `wait` the call returns once searches
        find what was written, and an index that has grown large has its graph: `on_left` is told how many changes are
        still to be taken in, `on_build` how far the graph is.
        """
        from reshelve.corpus.ingest import ingest
        from reshelve.indexing.building import build_large

        collection_id = await self._ensure_collection()
        report = await ingest(
            self.backends.database,
            _documents(documents, format=format, settings=self.settings.reading),
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

    async def searchable(self, xid: int | None) -> None:
        """Return once searches find what was written up to this transaction (`IngestReport.xid`)."""
        await self._applied(await self._collection_id(), xid, wait=True)

    async def document(self, external_id: str, *, tenant: str = "") -> StoredDocument:
        """Raises NotFoundError."""
        from reshelve.corpus.stored import find_document

        collection_id = await self._collection_id()
        async with self.backends.database.service() as connection:
            found = await find_document(connection, external_id, collection_id=collection_id, tenant=tenant)
        if found is None:
            raise NotFoundError(f"no document {external_id!r:.100}")
        return found

    async def list_documents(self, *, tenant: str = "", after: str = "", limit: int = 50) -> list[StoredDocument]:
        """The next documents after this id, in the order of their ids, without their texts."""
        from reshelve.corpus.stored import list_documents

        collection_id = await self._collection_id()
        async with self.backends.database.service() as connection:
            return await list_documents(
                connection, collection_id=collection_id, tenant=tenant, after=after, limit=limit
            )

    async def has_documents(self, *, tenant: str) -> bool:
        """Whether the tenant owns a document."""
        from reshelve.corpus.stored import has_documents

        collection_id = await self._collection_id()
        async with self.backends.database.service() as connection:
            return await has_documents(connection, collection_id=collection_id, tenant=tenant)

    async def collections(self) -> list[str]:
        """The names of all collections of the database."""
        from reshelve.database.catalog import collection_names

        async with self.backends.database.service() as connection:
            return await collection_names(connection)

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
        from reshelve.database import routes

        async with self.backends.database.service() as connection:
            return (await routes.get_route(connection, self.settings.collection)).collection_id

    async def _ensure_collection(self) -> int:
        """The collection, with a first index as the settings declare it. Later settings do not change it: plan does."""
        from reshelve.database import catalog, routes
        from reshelve.migrations.declaration import declared, register

        async with self.backends.database.service() as connection:
            route = await routes.find_route(connection, self.settings.collection)
        if route is not None:
            return route.collection_id
        async with declared(self.settings) as (declaration, embedder):
            async with self.backends.database.owner() as connection:
                collection_id = await catalog.ensure_collection(connection, self.settings.collection)
            index = await register(
                self.backends, declaration, embedder, collection_id=collection_id, state=IndexState.READY
            )
            async with self.backends.database.owner() as connection:
                await routes.create_route(connection, collection_id=collection_id, index_id=index.id)
        return collection_id


def _documents(
    source: Source, *, format: str | None, settings: ReadingSettings
) -> Iterable[Document | DocumentRefused] | AsyncIterable[Document | DocumentRefused]:
    from reshelve.corpus.readers import read_documents

    if isinstance(source, str | Path):
        return read_documents(Path(source), format=format, settings=settings)
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
