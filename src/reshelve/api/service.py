"""What the routes work with: the open library, and whether the service is about to stop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, cast

from starlette.requests import Request

from reshelve.errors import ReshelveError, ServiceUnavailable
from reshelve.settings import Settings

if TYPE_CHECKING:
    from reshelve.library import Library

_PATIENCE_SECONDS = 5.0
_NEW_MODEL_SECONDS = 2.0


class Service:
    """One process of the service. `declared` reads the settings again: a migration follows the file as it is now."""

    def __init__(self, settings: Settings, *, worker: bool, declared: Callable[[], Settings] | None = None) -> None:
        self.settings = settings
        self.worker = worker
        self.draining = False
        self.started_at = time.time()
        self._declared = declared
        self._library: Library | None = None
        self._open = AsyncExitStack()
        self._warm = False

    async def open(self) -> None:
        """Once; raises what the opening of the library raises."""
        from reshelve.worker import at_work

        if self._library is None:
            self._library = await self._open.enter_async_context(at_work(self.settings, worker=self.worker))

    async def close(self) -> None:
        self._library = None
        await self._open.aclose()

    async def __aenter__(self) -> Service:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def library(self) -> Library:
        if self._library is None:
            raise ServiceUnavailable("the service is not open", advice="Try again in a moment.")
        return self._library

    def of(self, collection: str | None) -> Library:
        """The library, as of this collection (None: the one that the settings name)."""
        library = self.library
        return library if collection in (None, library.settings.collection) else library.of(collection)

    async def declared(self, collection: str | None) -> Library:
        """The library with the settings as their file is by now: what migrations are planned by."""
        if self._declared is None:
            return self.of(collection)
        settings = await asyncio.to_thread(self._declared)
        return self.library.of(collection or settings.collection, settings=settings)

    async def check_ready(self) -> None:
        """Raises ServiceUnavailable until a search can be answered, and once the service is about to stop."""
        if self.draining:
            raise ServiceUnavailable("the service is about to stop")
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._look()
        except TimeoutError as error:
            raise ServiceUnavailable(f"no answer within {_PATIENCE_SECONDS:g} s") from error
        except ReshelveError as error:
            raise ServiceUnavailable(error.message, advice=error.advice) from error

    async def _look(self) -> None:
        from reshelve.database.routes import find_route

        backends = self.library.backends
        async with backends.database.service() as connection:
            route = await find_route(connection, self.settings.collection)
        if route is not None and not self._warm:
            await backends.embedders.of(route.old.model_id)
            if route.new is not None:
                # Where the new one's model does not open, the old index answers for it.
                with contextlib.suppress(ReshelveError, TimeoutError):
                    async with asyncio.timeout(_NEW_MODEL_SECONDS):
                        await backends.embedders.of(route.new.model_id)
            self._warm = True


def service_of(request: Request) -> Service:
    return cast("Service", request.app.state.service)
