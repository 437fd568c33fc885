"""The collections, and how one of them is."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from reshelve.api.answers import answer
from reshelve.api.bodies import CollectionName, Collections
from reshelve.api.service import service_of
from reshelve.migrations.status import Status

router = APIRouter(prefix="/api/v1/collections", tags=["collections"])


@router.get("", response_model=Collections)
async def list_collections(request: Request) -> Response:
    return answer({"collections": await service_of(request).library.collections()})


@router.get("/{name}", response_model=Status, responses={404: {}})
async def get_collection(request: Request, name: Annotated[CollectionName, Path(examples=["default"])]) -> Response:
    """Its size, its indexes with their lag, and the last migration."""
    return answer(await service_of(request).of(name).status())
