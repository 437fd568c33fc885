"""The registered embedding models, and those that a search may name."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from reshelve.api.answers import answer
from reshelve.api.bodies import Models, SearchableModels, TenantParams
from reshelve.api.service import service_of

router = APIRouter(prefix="/api/v1/models", tags=["models"])


@router.get("", response_model=Models)
async def list_models(request: Request) -> Response:
    return answer({"models": await service_of(request).library.models()})


@router.get("/search", response_model=SearchableModels, responses={404: {}})
async def list_searchable_models(request: Request, params: Annotated[TenantParams, Query()]) -> Response:
    """The models that a search may name: those that have an index in the collection."""
    found = await service_of(request).of(params.collection).searchable_models(tenant=params.tenant)
    return answer({"models": found})
