"""The Python API: one object with the verbs of the command line.

async with reshelve.connect() as library:
    await library.ingest("documents/")
    found = await library.search("what is a covering index?")
"""

from __future__ import annotations

import os
from collections.abc import Generator
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from reshelve.library.answers import Answers
from reshelve.library.chats import Chats
from reshelve.library.migrations import Migrations
from reshelve.library.searches import Searches
from reshelve.library.watching import Watching
from reshelve.settings import Settings, load_settings

if TYPE_CHECKING:
    from reshelve.backends import Backends
    from reshelve.corpus.chunkers import Chunker
    from reshelve.indexing.feeding import Feeder


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


class Library(Chats, Answers, Watching, Searches, Migrations):
    """An open collection. Safe to use from several tasks at once."""

    def __init__(self, backends: Backends, *, worker: bool) -> None:
        from reshelve.indexing.feeding import Feeder

        self.backends = backends
        self.settings = backends.settings
        self._feeder: Feeder | None = Feeder(backends) if worker else None
        self._chunkers: dict[int, Chunker] = {}
        if self._feeder is not None:
            self._feeder.start()

    def of(self, collection: str, *, settings: Settings | None = None) -> Library:
        """The same library, as of another collection, or by other settings. Shares all that is open; never closed."""
        chosen = (settings or self.settings).model_copy(update={"collection": collection})
        view = Library(replace(self.backends, settings=chosen), worker=False)
        view._feeder, view._chunkers = self._feeder, self._chunkers
        return view

    @property
    def _messages(self) -> Library:
        return self.of(self.settings.chat.collection)

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
