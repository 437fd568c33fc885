"""The indexes of a collection."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from reshelve.api.answers import answer
from reshelve.api.bodies import CollectionParams, Indexes
from reshelve.api.service import service_of

router = APIRouter(prefix="/api/v1/indexes", tags=["indexes"])


@router.get("", response_model=Indexes, responses={404: {}})
async def list_indexes(request: Request, params: Annotated[CollectionParams, Query()]) -> Response:
    """Every index that is fed, with its entries and how far it is behind."""
    status = await service_of(request).of(params.collection).status()
    return answer({"indexes": status.indexes})
