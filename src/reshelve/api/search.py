"""Search: the hot path. Its answer is written straight to JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from reshelve.api.answers import answer
from reshelve.api.bodies import SearchAnswer, SearchBody
from reshelve.api.problems import FieldRefused
from reshelve.api.service import service_of
from reshelve.errors import NoIndexForModel, NotFoundError

if TYPE_CHECKING:
    from reshelve.library import Library
    from reshelve.retrieval.search import SearchResponse

router = APIRouter(prefix="/api/v1", tags=["search"])


@router.post("/search", response_model=SearchAnswer, responses={404: {}})
async def search(request: Request, body: SearchBody) -> Response:
    """The nearest chunks, best first, each with its document, score, index and model."""
    library = service_of(request).of(body.collection)
    try:
        found = await library.search(
            body.query,
            top_k=body.top_k,
            tenant=body.tenant,
            metadata=body.filters,
            index=body.index,
            user=body.user,
            session=body.session,
            interleave=body.interleave,
            models=body.models or ([body.model] if body.model is not None else ()),
            aggregation=body.aggregation,
        )
    except NoIndexForModel as error:
        raise FieldRefused(error, field="model" if body.model is not None else "models") from error
    if not found.results and body.tenant:
        await refuse_unknown_tenant(library, body.tenant)
    return answer(_document(found))


async def refuse_unknown_tenant(library: Library, tenant: str) -> None:
    """Asked only where nothing was found, so that a search that finds something does not pay for it."""
    if not await library.has_documents(tenant=tenant):
        error = NotFoundError(
            f"no tenant {tenant!r:.100}: it owns no document", advice="Put its documents in, or leave `tenant` out."
        )
        raise FieldRefused(error, field="tenant")


def _document(found: SearchResponse) -> dict[str, Any]:
    return {
        "results": [
            {
                "document_id": result.document_id,
                "title": result.title,
                "chunk_id": result.chunk_id,
                "content": result.content,
                "start": result.start,
                "end": result.end,
                "score": result.score,
                "metadata": result.metadata,
                "index": result.index,
                "model": result.model,
            }
            for result in found.results
        ],
        "index": found.index,
        "model": found.model,
        "query_model": found.query_model,
        "epoch": found.epoch,
        "search_id": found.search_id,
        "arm": found.arm,
        "fell_back": found.fell_back,
        "interleaved": found.interleaved,
        "embed_ms": found.embed_ms,
        "search_ms": found.search_ms,
        "total_ms": found.total_ms,
    }
