"""What operators watch: figures, comparisons, baselines, what users preferred."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from reshelve.errors import InputError
from reshelve.library.searches import Searches

if TYPE_CHECKING:
    from pathlib import Path
    from uuid import UUID

    from reshelve.domain.routes import Route
    from reshelve.evaluation.baselines import Baseline, BaselineComparison
    from reshelve.evaluation.side_by_side import SideBySide
    from reshelve.migrations.dashboard import Dashboard
    from reshelve.operations.feedback import Feedback, Tally

OnProgress = Callable[[int, int], None]


class Watching(Searches):
    async def dashboard(self, *, range: str = "24h", tenant: str | None = None) -> Dashboard:
        """Both sides' figures of the last hour ("1h"), day ("24h") or week ("7d") against their thresholds.

        With the migration, its gates, lag, circuit breakers, alerts, and series for charts. `tenant` None: everybody.
        """
        from reshelve.migrations.dashboard import read_dashboard

        return await read_dashboard(self.backends, collection=self.settings.collection, tenant=tenant, range=range)

    async def compare(
        self,
        queries: Sequence[str] = (),
        *,
        recent: int | None = None,
        top_k: int = 10,
        tenant: str = "",
        indexes: tuple[int, int] | None = None,
    ) -> SideBySide:
        """Ask both sides of a rollout, or two indexes, the same queries: the given ones, and `recent` last live ones.

        Raises InputError where there is no second side, and where no recent query was kept.
        """
        from reshelve.evaluation.side_by_side import compare, recent_queries

        asked = list(queries)
        if recent is not None:
            route = await self._route(tenant)
            async with self.backends.database.service() as connection:
                kept = await recent_queries(connection, collection_id=route.collection_id, tenant=tenant, limit=recent)
            if not kept and not asked:
                raise InputError("no recent query is kept", advice=self._how_to_keep_queries())
            asked += kept
        return await compare(
            self.backends,
            asked,
            collection=self.settings.collection,
            top_k=top_k,
            tenant=tenant,
            indexes=indexes,
        )

    async def _route(self, tenant: str | None = "") -> Route:
        from reshelve.database import routes

        async with self.backends.database.service() as connection:
            return await routes.get_route(connection, self.settings.collection, tenant)

    def _how_to_keep_queries(self) -> str:
        if self.settings.monitoring.query_analytics:
            return "They are kept from the next search on that goes by the route."
        return (
            "Queries are kept where rag.monitoring.query_analytics is true, or FF_ENABLE_QUERY_ANALYTICS=true, "
            "for the process that answers the searches."
        )

    async def baseline_save(
        self,
        name: str = "default",
        *,
        judged: Path | None = None,
        range: str = "24h",
        on_progress: OnProgress | None = None,
    ) -> Baseline:
        """Keep the serving index's figures, and its scores on judged queries (a folder), under a name.

        One of the same name is replaced.
        """
        from reshelve.evaluation import baselines

        found = await self._measure(name, judged=judged, range=range, on_progress=on_progress)
        route = await self._route()
        async with self.backends.database.owner() as connection:
            return await baselines.save(connection, route.collection_id, found)

    async def baseline_compare(
        self,
        name: str | None = None,
        *,
        judged: Path | None = None,
        range: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> BaselineComparison:
        """The serving index now against a baseline (None: the latest), over the same range and judged queries."""
        from pathlib import Path

        from reshelve.evaluation import baselines
        from reshelve.migrations.dashboard import RANGES

        route = await self._route()
        async with self.backends.database.service() as connection:
            before = await baselines.load(connection, route.collection_id, name)
        if judged is None and before.quality is not None:
            judged = Path(before.quality.judged)
        if range is None:
            range = next((word for word, seconds in RANGES.items() if seconds == before.seconds), "24h")
        now = await self._measure(before.name, judged=judged, range=range, on_progress=on_progress)
        return baselines.compare(before, now)

    async def _measure(self, name: str, *, judged: Path | None, range: str, on_progress: OnProgress | None) -> Baseline:
        from reshelve.evaluation import baselines
        from reshelve.evaluation.judged import load_judged_directory
        from reshelve.migrations.dashboard import seconds_of

        seconds = seconds_of(range)
        route = await self._route()
        scored = None
        if judged is not None:
            queries = load_judged_directory(judged)
            scored = await self.evaluate(queries, index=route.serving.id, on_progress=on_progress)
        async with self.backends.database.service() as connection:
            return await baselines.measure(
                connection,
                route,
                name=name,
                seconds=seconds,
                judged=str(judged.resolve()) if judged is not None else None,
                scored=scored,
            )

    async def feedback(
        self,
        search_id: UUID | str,
        chunk_id: int,
        *,
        index: int,
        interleaved: bool = False,
        user: str | None = None,
        tenant: str = "",
    ) -> Feedback:
        """A result of a search was used: its chunk and its index, from the search's answer. Said again, it counts once.

        Raises NotFoundError for a chunk or an index that is not there.
        """
        from uuid import UUID

        from reshelve.operations import feedback

        try:
            known = search_id if isinstance(search_id, UUID) else UUID(search_id)
        except ValueError:
            advice = "Give the search_id of a search's answer."
            raise InputError(f"{search_id!r} is no search id", advice=advice) from None
        route = await self._route(tenant)
        async with self.backends.database.service() as connection:
            return await feedback.record(
                connection,
                collection_id=route.collection_id,
                tenant=tenant,
                search_id=known,
                chunk_id=chunk_id,
                index_id=index,
                interleaved=interleaved,
                unit=user,
            )

    async def feedback_tally(self, *, tenant: str | None = None) -> Tally:
        """What was used of each side, and whether users prefer one: a test that may be looked at at any time."""
        from reshelve.operations import feedback

        route = await self._route(tenant)
        async with self.backends.database.service() as connection:
            return await feedback.tally(connection, route, tenant=tenant)
