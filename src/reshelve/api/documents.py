"""Documents in, out, and away."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, File, Query, Request, UploadFile
from fastapi import Path as InPath
from starlette.responses import Response

from reshelve.api.answers import IdempotencyKey, answer, once
from reshelve.api.bodies import (
    MAX_ID_BYTES,
    Deleted,
    DocumentBodies,
    DocumentBody,
    DocumentContent,
    DocumentId,
    DocumentPage,
    ListParams,
    TenantParams,
    UploadParams,
    WriteParams,
    Written,
)
from reshelve.api.problems import FieldRefused
from reshelve.api.service import service_of
from reshelve.corpus.readers import read_documents
from reshelve.corpus.stored import StoredDocument
from reshelve.domain.documents import Document
from reshelve.errors import DocumentRefused, InputError, NotFoundError

if TYPE_CHECKING:
    from reshelve.corpus.ingest import IngestReport
    from reshelve.library import Library
    from reshelve.settings import ReadingSettings

router = APIRouter(prefix="/api/v1/documents", tags=["documents"])
Id = Annotated[DocumentId, InPath(description="The owner's own id; it may hold slashes.")]


@router.post("", response_model=Written)
async def add_documents(
    request: Request,
    body: DocumentBodies,
    params: Annotated[WriteParams, Query()],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Add, change or leave documents by their ids: one, or up to a thousand. Makes the collection at the first call."""
    documents = [_document(each) for each in (body if isinstance(body, list) else [body])]

    async def act() -> dict[str, Any]:
        library = service_of(request).of(params.collection)
        return await _written(library, documents, params, alone=not isinstance(body, list))

    return await once(request, idempotency_key, act)


@router.post("/files", response_model=Written)
async def add_files(
    request: Request,
    files: Annotated[
        list[UploadFile], File(min_length=1, max_length=100, description="Of any format that is read, and archives.")
    ],
    params: Annotated[UploadParams, Query()],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Add the documents of files and archives. A file's name is its document's id; JSON lines bring their own."""
    contents = [(_file_name(file), await file.read()) for file in files]
    digest = hashlib.sha256()
    for name, content in contents:
        digest.update(b"%d %d " % (len(name.encode()), len(content)) + name.encode() + content)

    async def act() -> dict[str, Any]:
        library = service_of(request).of(params.collection)
        documents = await asyncio.to_thread(_read, contents, params.format, library.settings.reading)
        return await _written(library, documents, params, alone=len(documents) == 1)

    return await once(request, idempotency_key, act, content=digest.digest())


@router.get("", response_model=DocumentPage)
async def list_documents(request: Request, params: Annotated[ListParams, Query()]) -> Response:
    """The documents in the order of their ids, page by page, without their texts."""
    library = service_of(request).of(params.collection)
    found = await library.list_documents(tenant=params.tenant, after=params.after, limit=params.limit + 1)
    page, more = found[: params.limit], len(found) > params.limit
    return answer({"documents": page, "next": page[-1].id if more else None})


@router.get("/{document_id:path}", response_model=StoredDocument, responses={404: {}})
async def get_document(request: Request, document_id: Id, params: Annotated[TenantParams, Query()]) -> Response:
    found = await service_of(request).of(params.collection).document(document_id, tenant=params.tenant)
    return answer(found)


@router.put("/{document_id:path}", response_model=Written)
async def replace_document(
    request: Request,
    document_id: Id,
    body: DocumentContent,
    params: Annotated[WriteParams, Query()],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Put this in the document's place, or add it."""
    document = _document(DocumentBody.model_construct(id=document_id, **dict(body)))

    async def act() -> dict[str, Any]:
        return await _written(service_of(request).of(params.collection), [document], params, alone=True)

    return await once(request, idempotency_key, act)


@router.delete("/{document_id:path}", response_model=Deleted, responses={404: {}})
async def delete_document(
    request: Request, document_id: Id, params: Annotated[WriteParams, Query()], idempotency_key: IdempotencyKey = None
) -> Response:
    async def act() -> dict[str, Any]:
        library = service_of(request).of(params.collection)
        deleted = await library.delete([document_id], tenant=params.tenant, wait=params.wait)
        if not deleted:
            raise FieldRefused(NotFoundError(f"no document {document_id!r:.100}"), field="document_id")
        return {"deleted": deleted}

    return await once(request, idempotency_key, act)


def _document(body: DocumentBody) -> Document:
    return Document(
        external_id=body.id, title=body.title, content=body.text, metadata=body.metadata, format=body.format
    )


async def _written(
    library: Library, documents: Iterable[Document | DocumentRefused], params: WriteParams, *, alone: bool
) -> dict[str, Any]:
    """Where one document was sent alone, its refusal is an error."""
    report = await library.ingest(documents, tenant=params.tenant, wait=False)
    if alone and report.refused:
        raise InputError(report.refused[0].reason)
    if params.wait:
        await library.searchable(report.xid)
    return _report(report)


def _report(report: IngestReport) -> dict[str, Any]:
    return {
        "added": report.added,
        "updated": report.updated,
        "unchanged": report.unchanged,
        "chunks_added": report.chunks_added,
        "chunks_removed": report.chunks_removed,
        "refused_count": report.refused_count,
        "refused": [{"line": each.line, "id": each.external_id, "reason": each.reason} for each in report.refused],
    }


def _file_name(file: UploadFile) -> str:
    name = Path(file.filename or "").name
    if name in ("", "..") or "\0" in name or len(name.encode("utf-8", "replace")) > min(MAX_ID_BYTES, 255):
        raise FieldRefused(InputError("a file has no name that can be an id", advice="Name it."), field="files")
    return name


def _read(
    contents: Iterable[tuple[str, bytes]], format: str | None, settings: ReadingSettings
) -> list[Document | DocumentRefused]:
    documents: list[Document | DocumentRefused] = []
    for name, content in contents:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(content)
            try:
                documents += (_placed(each, name) for each in read_documents(path, format=format, settings=settings))
            except InputError as error:
                shown = InputError(error.message.replace(str(path), name), advice=error.advice)
                raise FieldRefused(shown, field="files") from error
    return documents


def _placed(item: Document | DocumentRefused, name: str) -> Document | DocumentRefused:
    if isinstance(item, DocumentRefused):
        place = f"{name}/{item.message}" if item.file else f"{name}: {item.message}"
        return DocumentRefused(place, line=item.line, advice=item.advice)
    return item
