"""What a person decides about a migration: pause, resume, verify, cutover, rollback, cleanup."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from reshelve.cli.migration import GO_ON, let_searches_go_first, listener, migration_answer
from reshelve.cli.options import BudgetOption, IndexOption, JsonOption, OnlyTenantOption
from reshelve.cli.session import HELD, OK, Answer, Session, perform
from reshelve.cli.status_view import proof_lines
from reshelve.cli.words import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from reshelve.migrations.status import MigrationStatus


def register(app: typer.Typer) -> None:
    for command in (pause, resume, verify, rollout, cutover, rollback, cleanup):
        app.command()(command)


def pause(context: typer.Context, tenant: OnlyTenantOption = "", as_json: JsonOption = False) -> None:
    """Stop the backfill after the ranges in flight, or a rollout where it is. Both indexes stay fed."""

    async def work(session: Session) -> Answer:
        async with session.library() as library:
            await library.pause(tenant=tenant)
            # Asked for, and so no failure.
            paused = await migration_answer(library, tenant=tenant)
        return Answer(document=paused.document, lines=paused.lines)

    perform(context, work, as_json=as_json)


def resume(
    context: typer.Context,
    budget_usd: BudgetOption = None,
    tenant: OnlyTenantOption = "",
    as_json: JsonOption = False,
) -> None:
    """Go on with a paused or failed migration. Whatever the settings say by now."""

    async def work(session: Session) -> Answer:
        async with session.library(worker=True) as library:
            with session.progress() as progress:
                let_searches_go_first()
                await library.resume(budget_usd=budget_usd, tenant=tenant, on_event=listener(progress))
            return await migration_answer(library, tenant=tenant)

    perform(context, work, as_json=as_json, after_ctrl_c=GO_ON)


def verify(context: typer.Context, index: IndexOption = None, as_json: JsonOption = False) -> None:
    """Compare an index with the corpus, and mend it. The migration's new index, or else the serving one."""

    async def work(session: Session) -> Answer:
        async with session.library() as library:
            with session.progress() as progress:
                progress.show("verifying", doing="counts, checksums, vectors, a sample, recall")
                proof = await library.verify(index=index)
        return Answer(
            document=proof.as_dict(), lines=list(proof_lines(proof.as_dict())), code=OK if proof.passed else HELD
        )

    perform(context, work, as_json=as_json, after_ctrl_c="What was mended stays mended: run reshelve verify again.")


def rollout(
    context: typer.Context,
    percent: Annotated[
        float | None, typer.Argument(min=0, max=100, help="The share of the users that the new index answers.")
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            "--schedule",
            metavar="STEPS",
            help='The steps from here on, like "10%:72h, 50%:72h, 100%:48h"; "" for none.',
        ),
    ] = None,
    tenant: OnlyTenantOption = "",
    as_json: JsonOption = False,
) -> None:
    """Give the new index a share of the users. 0 only shadows it, 100 switches; --schedule lets the service climb.

    A safety gate that failed refuses the step. What is merely unproven is shown, and left to you.
    """
    if percent is None and schedule is None:
        raise typer.BadParameter("give a percentage, or --schedule", param_hint="PERCENT")

    async def work(session: Session) -> Answer:
        async with session.library() as library:
            with session.progress() as progress:
                await library.rollout(percent, schedule=schedule, tenant=tenant, on_event=listener(progress))
            return await migration_answer(library, tenant=tenant)

    perform(context, work, as_json=as_json, after_ctrl_c="See reshelve status: the share was set, or it was not.")


def cutover(context: typer.Context, tenant: OnlyTenantOption = "", as_json: JsonOption = False) -> None:
    """Verify again, then give the searches to the new index."""

    async def work(session: Session) -> Answer:
        async with session.library() as library:
            with session.progress() as progress:
                await library.cutover(tenant=tenant, on_event=listener(progress))
            found = await migration_answer(library, tenant=tenant)
            migration: MigrationStatus = found.document["migration"]
        lines = [_switched(migration, migration.to_index, migration.to_model), *found.lines]
        return Answer(document=found.document, lines=lines, code=found.code)

    perform(context, work, as_json=as_json, after_ctrl_c="See reshelve status: it is switched entirely, or not at all.")


def rollback(context: typer.Context, tenant: OnlyTenantOption = "", as_json: JsonOption = False) -> None:
    """Give the searches back to the old index. Nothing is lost, and nothing embedded again."""

    async def work(session: Session) -> Answer:
        async with session.library() as library:
            with session.progress() as progress:
                await library.rollback(tenant=tenant, on_event=listener(progress))
            found = await migration_answer(library, tenant=tenant)
            migration: MigrationStatus = found.document["migration"]
        lines = [_switched(migration, migration.from_index, migration.from_model), *found.lines]
        return Answer(document=found.document, lines=lines, code=found.code)

    perform(context, work, as_json=as_json, after_ctrl_c="`reshelve rollback` goes on with it.")


def _switched(migration: MigrationStatus, index: int | None, model: str) -> RenderableType:
    from rich.text import Text

    switches = [entry for entry in migration.journal if entry["event"] == "switched"]
    took = f"; the switch took {switches[-1]['facts']['switch_ms']:.1f} ms" if switches else ""
    return Text(f"Index {index} ({model}) answers{took}.", "bold green")


def cleanup(
    context: typer.Context,
    skip_soak: Annotated[bool, typer.Option("--skip-soak", help="End the soak now: the way back is gone.")] = False,
    tenant: OnlyTenantOption = "",
    as_json: JsonOption = False,
) -> None:
    """Drop the index that the migration left behind. Refused while it is read, or the soak goes on."""

    async def work(session: Session) -> Answer:
        async with session.library() as library:
            cleaned = await library.cleanup(skip_soak=skip_soak, tenant=tenant)
        said = "There was nothing to drop."
        if cleaned.dropped is not None:
            said = f"Dropped index {cleaned.dropped}: {counted(cleaned.rows, 'row')}."
        return Answer(
            document={"migration": cleaned.migration, "dropped": cleaned.dropped, "rows": cleaned.rows}, lines=[said]
        )

    perform(context, work, as_json=as_json)
