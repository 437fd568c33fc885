"""Search: the hot path. Its answer is written straight to JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from starlette.responses import Response

from reshelve.api.answers import answer
from reshelve.api.bodies import SearchBody
from reshelve.api.problems import FieldRefused
from reshelve.api.service import service_of
from reshelve.errors import NoIndexForModel, NotFoundError
from reshelve.retrieval.requests import SearchResponse

if TYPE_CHECKING:
    from reshelve.library import Library

router = APIRouter(prefix="/api/v1", tags=["search"])


@router.post("/search", response_model=SearchResponse, responses={404: {}})
async def search(request: Request, body: SearchBody) -> Response:
    """The best chunks, best first, each with its document, score, index and model."""
    library = service_of(request).of(body.collection)
    try:
        found = await library.search(
            body.query,
            top_k=body.top_k,
            tenant=body.tenant,
            filters=body.filters,
            index=body.index,
            user=body.user,
            session=body.session,
            interleave=body.interleave,
            models=body.models or ([body.model] if body.model is not None else ()),
            aggregation=body.aggregation,
            mode=body.mode,
            rerank=body.rerank,
            offset=body.offset,
            cursor=body.cursor,
            min_score=body.min_score,
            diversify=body.diversify,
            highlight=body.highlight,
            explain=body.explain,
        )
    except NoIndexForModel as error:
        raise FieldRefused(error, field="model" if body.model is not None else "models") from error
    if not found.results and body.tenant:
        await refuse_unknown_tenant(library, body.tenant)
    return answer(found)


async def refuse_unknown_tenant(library: Library, tenant: str) -> None:
    """Asked only where nothing was found, so that a search that finds something does not pay for it."""
    if not await library.has_documents(tenant=tenant):
        error = NotFoundError(
            f"no tenant {tenant!r:.100}: it owns no document", advice="Put its documents in, or leave `tenant` out."
        )
        raise FieldRefused(error, field="tenant")
