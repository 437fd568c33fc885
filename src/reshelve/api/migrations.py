"""Migrations: planned by the settings file as it is now, carried out by the service, steered by people."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi import Path as InPath
from starlette.responses import Response

from reshelve.api.answers import IdempotencyKey, answer, once
from reshelve.api.bodies import MAX_NUMBER, CollectionParams, TenantParams
from reshelve.api.migration_bodies import (
    CleanupBody,
    Migrations,
    PauseBody,
    PlanAnswer,
    ResumeBody,
    ShareBody,
    StartBody,
)
from reshelve.api.problems import FieldRefused
from reshelve.api.service import service_of
from reshelve.database.catalog import collection_name
from reshelve.errors import InputError, TransitionRefused
from reshelve.library import Library
from reshelve.migrations import records
from reshelve.migrations.cleanup import Cleaned
from reshelve.migrations.status import MigrationStatus
from reshelve.migrations.verify import Verification

router = APIRouter(prefix="/api/v1/migrations", tags=["migrations"], responses={404: {}})
Id = Annotated[int, InPath(ge=1, le=MAX_NUMBER, examples=[1])]


@router.post("/plan", response_model=PlanAnswer)
async def plan_migration(request: Request, params: Annotated[TenantParams, Query()]) -> Response:
    """What would change if the settings file were applied as it is now, and what that costs. Writes nothing."""
    library = await service_of(request).declared(params.collection)
    plan = await library.plan(tenant=params.tenant)
    return answer({"needed": plan.needed, **plan.as_dict()})


@router.post("", response_model=MigrationStatus, responses={409: {}})
async def start_migration(request: Request, body: StartBody, idempotency_key: IdempotencyKey = None) -> Response:
    """Start what the settings file asks for, or go on with it. Answers at once: the service carries it out."""

    async def act() -> MigrationStatus:
        library = await service_of(request).declared(body.collection)
        try:
            started = await library.start(
                schedule=body.schedule, max_rate=body.max_rate, budget_usd=body.budget_usd, tenant=body.tenant
            )
        except InputError as error:
            raise FieldRefused(error, field="schedule") from error
        return await library.migration(started.id)

    return await once(request, idempotency_key, act)


@router.get("", response_model=Migrations)
async def list_migrations(request: Request, params: Annotated[CollectionParams, Query()]) -> Response:
    """All of the collection and of its tenants, the newest first, without their journals."""
    found = await service_of(request).of(params.collection).migrations()
    return answer({"migrations": found})


@router.get("/{migration_id}", response_model=MigrationStatus)
async def get_migration(request: Request, migration_id: Id) -> Response:
    """Its state, progress, spend, gates and journal."""
    library, _ = await _found(request, migration_id)
    return answer(await library.migration(migration_id))


@router.post("/{migration_id}/pause", response_model=MigrationStatus, responses={409: {}})
async def pause_migration(
    request: Request, migration_id: Id, body: PauseBody | None = None, idempotency_key: IdempotencyKey = None
) -> Response:
    """Stop the backfill after the ranges in flight. Both indexes stay fed."""

    async def act() -> MigrationStatus:
        library, tenant = await _latest(request, migration_id)
        await library.pause(reason=(body or PauseBody()).reason, tenant=tenant)
        return await library.migration(migration_id)

    return await once(request, idempotency_key, act)


@router.post("/{migration_id}/resume", response_model=MigrationStatus, responses={409: {}})
async def resume_migration(
    request: Request, migration_id: Id, body: ResumeBody | None = None, idempotency_key: IdempotencyKey = None
) -> Response:
    """Go on with a paused or failed migration. Answers at once: the service carries it out."""

    async def act() -> MigrationStatus:
        library, tenant = await _latest(request, migration_id)
        await library.resume(budget_usd=(body or ResumeBody()).budget_usd, tenant=tenant, wait=False)
        return await library.migration(migration_id)

    return await once(request, idempotency_key, act)


@router.put("/{migration_id}/share", response_model=MigrationStatus, responses={409: {}})
async def set_share(
    request: Request, migration_id: Id, body: ShareBody, idempotency_key: IdempotencyKey = None
) -> Response:
    """Give the new index this share of the users; 100 is the cutover. Refused where a safety gate has failed."""

    async def act() -> MigrationStatus:
        library, tenant = await _latest(request, migration_id)
        await library.rollout(body.percent, tenant=tenant)
        return await library.migration(migration_id)

    return await once(request, idempotency_key, act)


@router.post("/{migration_id}/cutover", response_model=MigrationStatus, responses={409: {}})
async def cut_over(request: Request, migration_id: Id, idempotency_key: IdempotencyKey = None) -> Response:
    """Verify once more, and give all searches to the new index."""

    async def act() -> MigrationStatus:
        library, tenant = await _latest(request, migration_id)
        await library.cutover(tenant=tenant)
        return await library.migration(migration_id)

    return await once(request, idempotency_key, act)


@router.post("/{migration_id}/rollback", response_model=MigrationStatus, responses={409: {}})
async def roll_back(request: Request, migration_id: Id, idempotency_key: IdempotencyKey = None) -> Response:
    """Take it back: the old index, which was fed all along, answers again."""

    async def act() -> MigrationStatus:
        library, tenant = await _latest(request, migration_id)
        await library.rollback(tenant=tenant)
        return await library.migration(migration_id)

    return await once(request, idempotency_key, act)


@router.post("/{migration_id}/verify", response_model=Verification, responses={409: {}})
async def verify_migration(request: Request, migration_id: Id, idempotency_key: IdempotencyKey = None) -> Response:
    """Compare the new index with the corpus, and mend what differs."""

    async def act() -> Verification:
        library, tenant = await _latest(request, migration_id)
        return await library.verify(tenant=tenant)

    return await once(request, idempotency_key, act)


@router.post("/{migration_id}/cleanup", response_model=Cleaned, responses={409: {}})
async def clean_up(
    request: Request, migration_id: Id, body: CleanupBody | None = None, idempotency_key: IdempotencyKey = None
) -> Response:
    """Drop the index that it left behind. Refused while somebody reads it, and while the soak goes on."""

    async def act() -> Cleaned:
        library, tenant = await _latest(request, migration_id)
        return await library.cleanup(skip_soak=(body or CleanupBody()).skip_soak, tenant=tenant)

    return await once(request, idempotency_key, act)


async def _found(request: Request, migration_id: int) -> tuple[Library, records.Migration]:
    service = service_of(request)
    async with service.library.backends.database.service() as connection:
        migration = await records.get(connection, migration_id)
        collection = await collection_name(connection, migration.collection_id)
    return service.of(collection), migration


async def _latest(request: Request, migration_id: int) -> tuple[Library, str]:
    """The library and the tenant of a migration that has none after it: what the verbs are about."""
    library, migration = await _found(request, migration_id)
    async with library.backends.database.service() as connection:
        latest = await records.require_latest(connection, migration.collection_id, migration.tenant)
    if latest.id != migration_id:
        raise TransitionRefused(
            f"migration {migration_id} is {migration.state}, and migration {latest.id} came after it",
            advice=f"Ask for migration {latest.id}.",
        )
    return library, migration.tenant
