"""The engine only loops: load the row, gather facts, ask `next_action`, take that step, and ask again."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import structlog

from reshelve.backends import Backends
from reshelve.crash_points import crash_point
from reshelve.database import catalog
from reshelve.domain.indexes import Index, IndexState
from reshelve.domain.migration import (
    Action,
    Advance,
    AwaitCutover,
    AwaitOldTransactions,
    BuildIndex,
    EnumerateRanges,
    Facts,
    FillRanges,
    Halt,
    Hold,
    Judge,
    RegisterTarget,
    RollBack,
    SetShare,
    Soak,
    State,
    SwitchBack,
    Verify,
    foresee,
    next_action,
    stops,
)
from reshelve.errors import (
    BudgetReached,
    EmbeddingInvalid,
    InputError,
    MixedSpacesError,
    ReshelveError,
    TransitionRefused,
)
from reshelve.indexing.building import BuildProgress, build_index
from reshelve.indexing.outbox import older_than, snapshot_xmax
from reshelve.indexing.ranges import Progress, enumerate_some, progress
from reshelve.migrations import records
from reshelve.migrations.backfill import Backfill
from reshelve.migrations.control import Control
from reshelve.migrations.cutover import complete, cut_over, switch_back
from reshelve.migrations.declaration import Declaration, opened, register
from reshelve.migrations.evidence import SPENT_AT_PROOF, Look, remember
from reshelve.migrations.judging import judge, score_at_start
from reshelve.migrations.records import Migration
from reshelve.migrations.rollout import rollout_facts, set_share
from reshelve.migrations.verify import verify_index
from reshelve.migrations.withdrawal import withdraw_by_itself
from reshelve.operations.alerts import Severity, Source, raise_alert

_LEAST_RANGE_ROWS = 50
_PATIENCE = 8
"""So many passing faults in a row, and then the run ends; the migration keeps its state."""
_SECOND_CHANCES = 3
"""So often a step may get a wrong answer, which may be right the next time, before the migration is `failed`."""
_log = structlog.get_logger(__name__)


def _patience(error: ReshelveError) -> int:
    if error.retryable:
        return _PATIENCE
    return _SECOND_CHANCES if isinstance(error, EmbeddingInvalid | MixedSpacesError) else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """What a watcher is told: the state, the action under way, and how far it is (0..1) where that is known."""

    state: State
    doing: str
    share: float | None = None
    rows: int | None = None
    of_rows: int | None = None


Listener = Callable[[Happening], None]


def _silent(_: Happening) -> None:
    return


@dataclass(slots=True, kw_only=True)
class Run:
    """One controller's run of one migration."""

    backends: Backends
    migration_id: int
    cutover_wanted: bool = False
    row_limit: int | None = None
    patience_seconds: float = 0.0
    """For so long another controller is waited for."""
    listener: Listener = _silent
    rows_done: int = field(default=0, init=False)
    _proved: bool = field(default=False, init=False)
    _stumbles: int = field(default=0, init=False)
    _looked: Look | None = field(default=None, init=False)

    async def go(self) -> Migration:
        """Until the next step is a person's, or the row limit, the budget or a pause ends the run.

        A fault that will not pass makes the migration `failed`, with the reason, and is raised again.
        """
        control = Control(self.backends, self.migration_id, patience_seconds=self.patience_seconds)
        try:
            while True:
                try:
                    await control.hold()
                    rested = await self._step()
                except ReshelveError as error:
                    if self._stumbles >= _patience(error):
                        raise
                    # Whether the step was done is not assumed: the next look at the row tells.
                    self._stumbles += 1
                    _log.warning("a step failed, and is looked at again", error=error.message, times=self._stumbles)
                    await asyncio.sleep(min(0.1 * 2**self._stumbles, 10))
                else:
                    if rested is not None:
                        return rested
                    self._stumbles = 0
        finally:
            await control.close()

    async def _step(self) -> Migration | None:
        """Take the next step; the migration, if there is none to take now."""
        migration = await self._load()
        facts = await self._facts(migration)
        await self._remember_look(migration)
        action = next_action(migration.state, facts)
        if stops(action):
            return await self._rest(migration, action)
        self.listener(Happening(state=migration.state, doing=action.describe()))
        try:
            await self._take(migration, action)
        except TransitionRefused:
            # Somebody paused it or rolled it back under our hands: the row says what now.
            if (await self._load()).state is migration.state:
                raise
        except BudgetReached as error:
            with contextlib.suppress(TransitionRefused):
                await records.move(self.backends.database, migration, State.PAUSED, reason=str(error))
        except ReshelveError as error:
            if isinstance(action, Judge) and isinstance(error, InputError):
                # No evidence, and so no step; nothing is broken.
                await self._note(migration, f"the judged queries cannot be asked: {error.message}")
                return await self._rest(migration, Hold(error.message))
            if not error.retryable and self._stumbles >= _patience(error):
                await self._fail(error)
            raise
        return None

    async def foresee(self) -> list[Action]:
        """What `go` would do from here on, if each step succeeds. Writes nothing."""
        migration = await self._load()
        facts = await self._facts(migration)
        if not facts.ranges_enumerated:
            facts = replace(facts, rows_left=migration.plan.get("rows", 0))
        resting = migration.state in (State.PAUSED, State.FAILED)
        return list(foresee(records.resume_state(migration) if resting else migration.state, facts))

    async def _load(self) -> Migration:
        async with self.backends.database.owner() as connection:
            return await records.get(connection, self.migration_id)

    async def _target(self, migration: Migration) -> Index:
        assert migration.target_index_id is not None
        async with self.backends.database.owner() as connection:
            return await catalog.get_index(connection, migration.target_index_id)

    async def _facts(self, migration: Migration) -> Facts:
        if migration.target_index_id is None:
            async with self.backends.database.owner() as connection:
                rollout = await rollout_facts(self.backends, connection, migration)
            return Facts(cutover_wanted=self.cutover_wanted, steps_left=rollout.steps_left, judging=rollout.judging)
        target = await self._target(migration)
        async with self.backends.database.owner() as connection:
            done = await progress(connection, target.id)
            fill = await catalog.fill_state(connection, target.id)
            ended = fill.registered_xid is not None and await older_than(connection, fill.registered_xid)
            built = await self.backends.stores.of(target).built(connection, target)
            rollout = await rollout_facts(self.backends, connection, migration)
        self._looked = rollout.look
        proof = self._proof(migration, switching=rollout.ready_to_switch)
        return Facts(
            target_registered=True,
            older_transactions_ended=fill.enumerated or ended,
            ranges_enumerated=fill.enumerated,
            rows_left=done.left,
            target_built=built,
            repaired=0 if proof is not None else None,
            verified=proof,
            cutover_wanted=self.cutover_wanted,
            soak_over=rollout.soak_over,
            budget_reached=migration.budget_usd is not None and migration.spent_usd >= migration.budget_usd,
            limit_reached=self.row_limit is not None and self.rows_done >= self.row_limit,
            steps_left=rollout.steps_left,
            step_over=rollout.step_over,
            judging=rollout.judging,
            judged=rollout.judged,
            held=rollout.held,
            breach=rollout.breach,
        )

    def _proof(self, migration: Migration, *, switching: bool) -> bool | None:
        """The last verification's verdict. A failed one is tried again, and a switch wants one of this very run."""
        if migration.verification is None:
            return None
        passed = bool(migration.verification["passed"])
        return passed if self._proved or (passed and not self.cutover_wanted and not switching) else None

    async def _remember_look(self, migration: Migration) -> None:
        if self._looked is None:
            return
        async with self.backends.database.owner() as connection:
            changed = await remember(connection, migration, self._looked)
            if changed and ("circuit_breaker", "hold") in self._looked.outcomes and migration.evidence.get("verdicts"):
                said = f"the new index of migration {migration.id} fails, and the old one answers for it"
                await self._alert(connection, migration, "breaker", "circuit_breaker", "error", said)

    async def _take(self, migration: Migration, action: Action) -> None:
        match action:
            case Advance(State.SOAKING):
                await cut_over(self.backends, migration)
            case Advance(State.COMPLETED):
                await complete(self.backends, migration)
            case Advance(State.SHADOWING):
                await set_share(self.backends, migration, 0)
            case SetShare(percent):
                verdicts = self._looked.as_dicts() if self._looked is not None else []
                await set_share(self.backends, migration, percent, facts={"verdicts": verdicts})
            case Judge():
                await self._keep(migration, await judge(self.backends, migration))
                await self._note(migration, None)
            case RollBack():
                assert self._looked is not None
                await withdraw_by_itself(self.backends, migration, self._looked)
            case Advance(to):
                async with self.backends.database.owner() as connection:
                    await records.transition(connection, migration, to)
            case RegisterTarget():
                await self._register(migration)
            case AwaitOldTransactions():
                await self._await_old_transactions(await self._target(migration))
            case EnumerateRanges():
                await self._enumerate(migration, await self._target(migration))
            case FillRanges():
                await self._fill(await self._target(migration))
            case BuildIndex():
                await self._build(await self._target(migration))
            case Verify():
                await self._verify(migration, await self._target(migration))
            case SwitchBack():
                await switch_back(self.backends, migration)
            case _:
                raise TransitionRefused(f"there is no step for {action.kind}")

    async def _keep(self, migration: Migration, evidence: dict[str, object]) -> None:
        async with self.backends.database.owner() as connection, connection.transaction():
            await records.add_evidence(connection, migration.id, evidence)
            await records.journal(connection, migration.id, "evidence", facts=evidence)

    async def _note(self, migration: Migration, trouble: str | None) -> None:
        async with self.backends.database.owner() as connection:
            await records.note_trouble(connection, migration.id, migration.state, trouble)

    async def _alert(
        self,
        connection: catalog.Connection,
        migration: Migration,
        source: Source,
        type: str,
        severity: Severity,
        message: str,
    ) -> None:
        await raise_alert(
            connection,
            collection_id=migration.collection_id,
            source=source,
            type=type,
            severity=severity,
            message=message,
        )

    async def _register(self, migration: Migration) -> None:
        at_start = await score_at_start(self.backends, migration)
        if at_start:
            await self._keep(migration, at_start)
        declaration = Declaration.from_dict(migration.target)
        embedder = await opened(declaration, self.backends.settings)

        async def record(connection: catalog.Connection, index: Index) -> None:
            crash_point("register.before_record")
            await records.set_target(connection, migration, index.id)

        try:
            await register(
                self.backends,
                declaration,
                embedder,
                collection_id=migration.collection_id,
                state=IndexState.FILLING,
                record=record,
            )
        finally:
            await embedder.aclose()
        crash_point("register.after_commit")

    async def _await_old_transactions(self, target: Index) -> None:
        async with self.backends.database.owner() as connection:
            # Read after the registration's commit: transactions from here on know the index.
            await catalog.set_registered_xid(connection, target.id, await snapshot_xmax(connection))
        await asyncio.sleep(0.02)

    async def _enumerate(self, migration: Migration, target: Index) -> None:
        """Ranges of about a second each, by the plan's probe: progress is seen, and little is lost with a worker."""
        most = self.backends.settings.migration.range_rows
        probed = round(migration.plan.get("probe_rows_per_second") or most)
        rows = max(min(probed, most), min(_LEAST_RANGE_ROWS, most))
        async with self.backends.database.owner() as connection:
            while await enumerate_some(connection, target, rows=rows):
                pass

    async def _fill(self, target: Index) -> None:
        def tell(now: Progress) -> None:
            self.listener(
                Happening(
                    state=State.BACKFILLING,
                    doing="backfill",
                    share=now.done / now.rows if now.rows else 1.0,
                    rows=now.done,
                    of_rows=now.rows,
                )
            )

        allowed = None if self.row_limit is None else self.row_limit - self.rows_done
        backfill = Backfill(self.backends, self.migration_id, target, allowed, tell)
        try:
            await backfill.run()
        finally:
            self.rows_done += backfill.rows_done

    async def _build(self, target: Index) -> None:
        def tell(now: BuildProgress) -> None:
            share = now.rows / now.of_rows if now.of_rows else None
            doing = f"build: {now.phase}"
            self.listener(Happening(state=State.BUILDING, doing=doing, share=share, rows=now.rows, of_rows=now.of_rows))

        await build_index(self.backends, target, on_build=tell)

    async def _verify(self, migration: Migration, target: Index) -> None:
        started = time.perf_counter()
        proof = await verify_index(self.backends, target)
        facts = {**proof.as_dict(), "seconds": time.perf_counter() - started}
        async with self.backends.database.owner() as connection, connection.transaction():
            await records.set_verification(connection, migration, facts)
            if proof.passed:
                await catalog.set_index_state(connection, target.id, IndexState.READY)
                spent = migration.evidence.get(SPENT_AT_PROOF, (await records.get(connection, migration.id)).spent_usd)
                await records.add_evidence(connection, migration.id, {SPENT_AT_PROOF: spent})
            elif migration.driven_by == "service":
                said = f"migration {migration.id} is not proven: {'; '.join(proof.problems)}"
                await self._alert(connection, migration, "migration", "verification", "error", said)
        self._proved = True

    async def _fail(self, error: ReshelveError) -> None:
        migration = await self._load()
        with contextlib.suppress(TransitionRefused):
            async with self.backends.database.owner() as connection:
                await records.transition(connection, migration, State.FAILED, reason=str(error))
                said = f"migration {migration.id} failed: {error.message}"
                await self._alert(connection, migration, "migration", "failed", "error", said)

    async def _rest(self, migration: Migration, action: Action) -> Migration:
        """What a run leaves behind: a budget that ran out pauses the migration, with the reason."""
        if isinstance(action, Halt) and migration.state is State.BACKFILLING and "cap" in action.reason:
            async with self.backends.database.owner() as connection:
                await records.transition(connection, migration, State.PAUSED, reason=action.reason)
        elif isinstance(action, AwaitCutover | Soak | Hold):
            self.listener(Happening(state=migration.state, doing=action.describe()))
        return await self._load()
