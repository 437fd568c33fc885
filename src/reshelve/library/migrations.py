"""The verbs of a migration. `tenant` asks for the migration of a single tenant's searches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reshelve.library.part import Part

if TYPE_CHECKING:
    from reshelve.domain.migration import Action
    from reshelve.migrations.checklist import Check
    from reshelve.migrations.cleanup import Cleaned
    from reshelve.migrations.engine import Listener
    from reshelve.migrations.plan import Plan
    from reshelve.migrations.records import Migration
    from reshelve.migrations.status import MigrationStatus, Status
    from reshelve.migrations.verify import Verification


class Migrations(Part):
    async def plan(self, *, tenant: str = "") -> Plan:
        """What would change if the settings were applied, and what it costs. Writes nothing."""
        from reshelve.migrations import steering

        return await steering.plan(self.backends, tenant=tenant)

    async def apply(
        self,
        *,
        limit: int | None = None,
        max_rate: float | None = None,
        budget_usd: float | None = None,
        cutover: bool = False,
        category: str | None = None,
        tenant: str = "",
        on_event: Listener | None = None,
    ) -> Migration:
        """Start the migration that the settings ask for, or go on with the active one, up to the proof.

        `limit` ends this run after so many rows, `max_rate` is rows a second, `budget_usd` pauses the migration before
        its spend gets over it. With `cutover` the switch follows the proof. `category` ends this run once the documents
        with that `metadata.category` are in. Raises NothingToDo, or TransitionRefused when the settings ask for
        something else than the active migration does.
        """
        from reshelve.migrations import steering

        return await steering.apply(
            self.backends,
            limit=limit,
            max_rate=max_rate,
            budget_usd=budget_usd,
            cutover=cutover,
            category=category,
            tenant=tenant,
            on_event=on_event,
        )

    async def start(
        self,
        *,
        schedule: str | None = None,
        max_rate: float | None = None,
        budget_usd: float | None = None,
        tenant: str = "",
    ) -> Migration:
        """Write down that the service is to carry the migration out (`reshelve serve` or `worker` does), and return.

        `schedule` goes over the settings' one; "" is none: then a person takes the steps. A paused or failed migration
        goes on.
        """
        from reshelve.migrations import steering

        steps = None if schedule is None else steering.read_schedule(schedule)
        return await steering.start(self.backends, tenant=tenant, steps=steps, max_rate=max_rate, budget_usd=budget_usd)

    async def rollout(
        self,
        percent: float | None = None,
        *,
        schedule: str | None = None,
        tenant: str = "",
        on_event: Listener | None = None,
    ) -> Migration:
        """Give the new index a share of the users (0: it is only shadowed; 100: the switch), or follow a schedule.

        Raises GateHeld where a safety gate has failed, TransitionRefused before the proof and after the switch. What
        is merely unproven does not keep a person from a step.
        """
        from reshelve.migrations import steering

        steps = None if schedule is None else steering.read_schedule(schedule)
        return await steering.rollout(self.backends, percent=percent, steps=steps, tenant=tenant, on_event=on_event)

    async def foresee(self, *, cutover: bool = False, tenant: str = "") -> list[Action]:
        """The actions that `apply` would take now, up to the next place where a person decides. Writes nothing."""
        from reshelve.migrations import steering

        return await steering.foresee(self.backends, cutover=cutover, tenant=tenant)

    async def resume(
        self,
        *,
        budget_usd: float | None = None,
        tenant: str = "",
        wait: bool = True,
        on_event: Listener | None = None,
    ) -> Migration:
        """Go on with a paused or failed migration, by its own settings; without `wait` the service does."""
        from reshelve.migrations import steering

        return await steering.resume(self.backends, budget_usd=budget_usd, tenant=tenant, wait=wait, on_event=on_event)

    async def pause(self, *, reason: str = "asked for", tenant: str = "") -> Migration:
        """Stop the backfill after the ranges in flight. Both indexes stay fed."""
        from reshelve.migrations import steering

        return await steering.pause(self.backends, reason=reason, tenant=tenant)

    async def verify(self, *, index: int | None = None, tenant: str = "") -> Verification:
        """Compare an index with the corpus and mend what differs: the migration's target, or the serving index."""
        from reshelve.migrations import steering

        return await steering.verify(self.backends, index=index, tenant=tenant)

    async def cutover(self, *, tenant: str = "", on_event: Listener | None = None) -> Migration:
        """Verify once more, and give the searches to the new index. Raises GateHeld where the proof fails."""
        from reshelve.migrations import steering

        return await steering.cutover(self.backends, tenant=tenant, on_event=on_event)

    async def rollback(self, *, tenant: str = "", on_event: Listener | None = None) -> Migration:
        """Take the migration back. Nothing is lost and nothing embedded again: the old index was fed all along."""
        from reshelve.migrations import steering

        return await steering.rollback(self.backends, tenant=tenant, on_event=on_event)

    async def cleanup(self, *, skip_soak: bool = False, tenant: str = "") -> Cleaned:
        """Drop the index that the migration left behind. Refused while anybody reads it, or the soak goes on."""
        from reshelve.migrations import steering

        return await steering.cleanup(self.backends, skip_soak=skip_soak, tenant=tenant)

    async def status(self, *, tenant: str = "") -> Status:
        """The route, the indexes with their lag, the migration with progress, rate, ETA and spend, and the flags."""
        from reshelve.migrations.status import read_status

        return await read_status(self.backends, collection=self.settings.collection, tenant=tenant)

    async def migrations(self) -> list[MigrationStatus]:
        """Every migration of the collection and of its tenants, the newest first, without their journals."""
        from reshelve.migrations.status import list_migrations

        return await list_migrations(self.backends, collection=self.settings.collection)

    async def migration(self, migration_id: int) -> MigrationStatus:
        """One migration with its journal. Raises NotFoundError for one that is not this collection's."""
        from reshelve.migrations.status import read_migration

        return await read_migration(self.backends, migration_id, collection=self.settings.collection)

    async def checklist(self, *, tenant: str = "") -> list[Check]:
        """What is proven of the latest migration, and what is not."""
        from reshelve.migrations.checklist import read_checklist

        return await read_checklist(self.backends, collection=self.settings.collection, tenant=tenant)
