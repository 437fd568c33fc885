"""Which results were used, said by the application that showed them."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from reshelve.api.answers import answer
from reshelve.api.bodies import MAX_NUMBER, CollectionName, Name
from reshelve.api.service import service_of
from reshelve.operations.feedback import Feedback

router = APIRouter(prefix="/api/v1/feedback", tags=["feedback"])
_MAX_CHUNK = 2**63 - 1


class FeedbackBody(BaseModel):
    """All from a search's answer: its `search_id`, and the `chunk_id` and `index` of the result that was used."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"search_id": "5b1f6c1e-8d53-4c43-9a58-0d3f1a7f6f10", "chunk_id": 7, "index": 1, "user": "ada"},
                {"search_id": "5b1f6c1e-8d53-4c43-9a58-0d3f1a7f6f10", "chunk_id": 7, "index": 2, "interleaved": True},
            ]
        },
    )

    search_id: UUID
    chunk_id: Annotated[int, Field(ge=1, le=_MAX_CHUNK, strict=True)]
    index: Annotated[int, Field(ge=1, le=MAX_NUMBER, strict=True)]
    interleaved: Annotated[bool, Field(strict=True)] = False
    user: Name | None = None
    tenant: Name = ""
    collection: CollectionName | None = None


@router.post("", response_model=Feedback, responses={404: {}})
async def give_feedback(request: Request, body: FeedbackBody) -> Response:
    """This result was used. Said again, it counts once, and the answer is that of the first time."""
    library = service_of(request).of(body.collection)
    kept = await library.feedback(
        body.search_id,
        body.chunk_id,
        index=body.index,
        interleaved=body.interleaved,
        user=body.user,
        tenant=body.tenant,
    )
    return answer(kept)
