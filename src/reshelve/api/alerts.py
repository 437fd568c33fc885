"""Alerts of other programs come in here; a critical one takes a rollout back."""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from reshelve.api.answers import answer
from reshelve.api.bodies import CollectionName
from reshelve.api.service import service_of
from reshelve.errors import ServiceUnavailable
from reshelve.migrations.emergency import Reaction, react
from reshelve.operations.alerts import Alert, Severity, list_alerts

router = APIRouter(prefix="/api/alerts", tags=["alerts"])
_bearer = HTTPBearer(auto_error=False, description="rag.alerts.webhook_secret")
_Given = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]


def _check(request: Request, given: HTTPAuthorizationCredentials | None) -> bool:
    """Whether a secret is configured. Raises 401 where another one, or none, was given."""
    secret = service_of(request).settings.alerts.webhook_secret
    if secret is None or not secret.get_secret_value():
        return False
    told = given.credentials if given is not None else ""
    if not hmac.compare_digest(told.encode("utf-8", "replace"), secret.get_secret_value().encode()):
        detail = "the bearer token is missing" if given is None else "the bearer token is not the right one"
        raise HTTPException(401, detail, headers={"WWW-Authenticate": "Bearer"})
    return True


async def authorised(request: Request, given: _Given = None) -> None:
    """Nobody may roll back without the secret; so there has to be one."""
    if not _check(request, given):
        raise ServiceUnavailable(
            "this service takes no alerts: it has no secret to know their sender by",
            advice="Set rag.alerts.webhook_secret, or ALERT_WEBHOOK_SECRET, and start the service again.",
        )


async def authorised_if_secret(request: Request, given: _Given = None) -> None:
    _check(request, given)


class AlertBody(BaseModel):
    """`severity` "critical" rolls back what is being rolled out, in `collection`, or in all of them without one."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        json_schema_extra={
            "examples": [{"type": "error_rate", "severity": "critical", "value": 0.5, "threshold": 0.1}]
        },
    )

    type: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\u0000]*$")]
    severity: Severity
    value: float
    threshold: float
    message: Annotated[str, Field(max_length=10_000, pattern=r"^[^\u0000]*$")] = ""
    collection: CollectionName | None = None


class AlertParams(BaseModel):
    model_config = ConfigDict(extra="forbid")

    severity: Severity | None = Field(default=None, examples=["error"])
    limit: int = Field(default=50, ge=1, le=1000, examples=[10])


class Alerts(BaseModel):
    alerts: list[Alert]


_REFUSALS: dict[int | str, dict[str, str]] = {401: {"description": "The bearer token is missing or wrong"}}


@router.post("/webhook", response_model=Reaction, responses={**_REFUSALS, 404: {}}, dependencies=[Depends(authorised)])
async def take_alert(request: Request, body: AlertBody) -> Response:
    """Keep an alert; a critical one rolls back, and may come any number of times. Says what was done."""
    reaction = await react(
        service_of(request).library.backends,
        type=body.type,
        severity=body.severity,
        value=body.value,
        threshold=body.threshold,
        message=body.message,
        collection=body.collection,
    )
    return answer(reaction)


@router.get("/webhook", response_model=Alerts, responses={**_REFUSALS}, dependencies=[Depends(authorised_if_secret)])
async def show_alerts(request: Request, params: Annotated[AlertParams, Query()]) -> Response:
    """The latest alerts, newest first: those that came in, and those of the gates and migrations."""
    async with service_of(request).library.backends.database.service() as connection:
        found = await list_alerts(connection, severity=params.severity, limit=params.limit)
    return answer({"alerts": found})
