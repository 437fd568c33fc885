"""One document's embeddings: what each index has of them, and made anew."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi import Path as InPath
from starlette.responses import Response

from reshelve.api.answers import IdempotencyKey, answer, once
from reshelve.api.bodies import DocumentId, EmbeddingsAnswer, EmbeddingsOfModel, ModelParams, TenantParams
from reshelve.api.problems import FieldRefused
from reshelve.api.service import service_of
from reshelve.errors import NoIndexForModel

router = APIRouter(prefix="/api/v1/documents", tags=["documents"], responses={404: {}})
Id = Annotated[DocumentId, InPath(description="The owner's own id; it may hold slashes.")]


@router.get("/{document_id:path}/embeddings", response_model=EmbeddingsAnswer)
async def get_embeddings(request: Request, document_id: Id, params: Annotated[TenantParams, Query()]) -> Response:
    """How many of the document's chunks each index has embedded."""
    found = await service_of(request).of(params.collection).embeddings(document_id, tenant=params.tenant)
    return answer({"document_id": document_id, "embeddings": [each.as_dict() for each in found]})


@router.put("/{document_id:path}/embeddings", response_model=EmbeddingsOfModel)
async def update_embeddings(
    request: Request, document_id: Id, params: Annotated[ModelParams, Query()], idempotency_key: IdempotencyKey = None
) -> Response:
    """Embed the document again, for the index of this model."""

    async def act() -> dict[str, Any]:
        library = service_of(request).of(params.collection)
        try:
            made = await library.update_embeddings(document_id, model=params.model, tenant=params.tenant)
        except NoIndexForModel as error:
            raise FieldRefused(error, field="model") from error
        return made.as_dict()

    return await once(request, idempotency_key, act)
