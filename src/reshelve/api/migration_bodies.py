"""What the routes of migrations take and answer."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from reshelve.api.bodies import NO_NUL, Body, CollectionName, Name
from reshelve.migrations.status import MigrationStatus

_Amount = Annotated[float, Field(gt=0)]


class StartBody(Body):
    """`schedule` goes over the settings' one ("10%:72h, 25%:72h, 100%:48h"; "" is none: a person takes the steps)."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"schedule": "10%:1h, 100%:1h", "budget_usd": 20.0}]})

    collection: CollectionName | None = None
    tenant: Name = ""
    schedule: Annotated[str, Field(max_length=1000)] | None = None
    max_rate: _Amount | None = Field(default=None, description="At most so many rows a second.")
    budget_usd: _Amount | None = Field(default=None, description="Pause before it has spent more than this.")


class PauseBody(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "the evening is busy"}]})

    reason: Annotated[str, Field(max_length=1000, pattern=NO_NUL)] = "asked for"


class ResumeBody(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"budget_usd": 40.0}]})

    budget_usd: _Amount | None = None


class ShareBody(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"percent": 25.0}]})

    percent: float = Field(ge=0, le=100)


class CleanupBody(Body):
    """`skip_soak` ends the soak now, and with it the way back."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"skip_soak": False}]})

    skip_soak: bool = False


class PlanAnswer(BaseModel):
    """`rows` chunks, of which `reused_rows` have their vector already; tokens and cost are for the others."""

    model_config = ConfigDict(extra="allow")

    needed: bool
    collection: str
    changes: list[dict[str, Any]]
    actions: list[dict[str, Any]]
    rows: int
    reused_rows: int
    tokens: int
    cost_usd: float
    seconds: float
    disk_bytes: int
    token_vector_bytes: int
    sql: list[str]
    risks: list[str]


class Migrations(BaseModel):
    migrations: list[MigrationStatus]
