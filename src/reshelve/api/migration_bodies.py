"""What the routes of migrations take and answer."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from reshelve.api.bodies import NO_NUL, Body, CollectionName, Name

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
    sql: list[str]
    risks: list[str]


class MigrationAnswer(BaseModel):
    """`percent` of the users are answered by the new index; `gates` is what the last look at the evidence said."""

    model_config = ConfigDict(extra="allow")

    id: int
    tenant: str
    state: str
    from_index: int
    to_index: int | None
    from_model: str
    to_model: str
    rows: int
    rows_done: int
    rate: float
    eta_seconds: float | None
    spent_usd: float
    budget_usd: float | None
    reason: str | None
    percent: float
    schedule: list[dict[str, Any]]
    driven_by: str
    gates: list[dict[str, Any]]
    next_step: str
    journal: list[dict[str, Any]]


class Migrations(BaseModel):
    migrations: list[MigrationAnswer]


class VerificationAnswer(BaseModel):
    model_config = ConfigDict(extra="allow")

    passed: bool
    problems: list[str]
    chunks: int
    entries: int
    repaired: int


class CleanedAnswer(BaseModel):
    """`dropped` is null where the index was gone already, or serves another purpose."""

    migration: int
    dropped: int | None
    rows: int
