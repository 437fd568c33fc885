"""What operators watch, as JSON: both sides' figures against thresholds, and the circuit breakers."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from reshelve.api.answers import answer
from reshelve.api.bodies import CollectionParams, Name
from reshelve.api.service import service_of
from reshelve.database import routes
from reshelve.domain.routes import Arm, Route
from reshelve.migrations.dashboard import BreakerReport, Dashboard, Range, breaker_reports

router = APIRouter(prefix="/api/monitoring", tags=["monitoring"])


class DashboardParams(CollectionParams):
    """`tenant`: whose searches; those of all together, if it is not given. `range`: how far back the figures go."""

    model_config = ConfigDict(extra="forbid")

    range: Range = Field(default="24h", examples=["1h"])
    tenant: Name | None = Field(default=None, examples=[""])


class ProcessBreaker(BaseModel):
    process: str
    state: Literal["closed", "open", "half_open"]
    failures: int
    reason: str | None
    since: datetime
    seen_at: datetime


class ArmBreakers(BaseModel):
    """`state` is the worst of the processes. A process that has not asked the candidate yet is not named."""

    arm: Arm
    index: int
    model: str
    state: Literal["closed", "open", "half_open"]
    processes: list[ProcessBreaker]


class BreakerLimits(BaseModel):
    failures: int
    open_seconds: float
    trials: int


class CircuitBreakers(BaseModel):
    collection: str
    settings: BreakerLimits
    arms: list[ArmBreakers]


@router.get("/dashboard", response_model=Dashboard, responses={404: {}})
async def dashboard(request: Request, params: Annotated[DashboardParams, Query()]) -> Response:
    """By side: times, errors, similarity, overlap, each against its threshold; with the migration and its gates."""
    library = service_of(request).of(params.collection)
    seen = await library.dashboard(range=params.range, tenant=params.tenant)
    return answer(seen)


@router.get("/circuit-breaker", response_model=CircuitBreakers, responses={404: {}})
async def circuit_breaker(request: Request, params: Annotated[CollectionParams, Query()]) -> Response:
    """Whether searches are kept from a failing candidate: by side and process. The serving side is never cut off."""
    library = service_of(request).of(params.collection)
    async with library.backends.database.service() as connection:
        route = await routes.get_route(connection, library.settings.collection)
        reports = await breaker_reports(connection, route)
    return answer(
        {
            "collection": library.settings.collection,
            "settings": library.settings.circuit_breaker.model_dump(),
            "arms": _by_arm(route, reports),
        }
    )


def _by_arm(route: Route, reports: list[BreakerReport]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for arm, index in route.sides:
        own = [report for report in reports if report.index == index.id and arm is Arm.CANDIDATE]
        states = {report.state for report in own}
        names = ("process", "state", "failures", "reason", "since", "seen_at")
        found.append(
            {
                "arm": arm,
                "index": index.id,
                "model": index.model.name,
                "state": next((state for state in ("open", "half_open") if state in states), "closed"),
                "processes": [{name: getattr(report, name) for name in names} for report in own],
            }
        )
    return found
