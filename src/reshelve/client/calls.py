"""The calls: how each is asked for, and what its answer becomes. Nothing is sent here."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from reshelve.client.results import (
    Cleaned,
    EmbeddingsOfModel,
    Feedback,
    Found,
    IndexStatus,
    MigrationReport,
    Model,
    Page,
    SearchableModel,
    StoredDocument,
    Written,
    found,
    made_of,
    page,
    written,
)

_T = TypeVar("_T")
_Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[_T]):
    """One request, which may be sent several times: a write has an idempotency key.

    `timeout_seconds` goes over the client's own, for what takes longer than other calls.
    """

    method: str
    path: str
    read: Callable[[Any], _T]
    params: Mapping[str, Any]
    body: Any = None
    files: Sequence[tuple[str, tuple[str, bytes]]] | None = None
    headers: Mapping[str, str]
    timeout_seconds: float | None = None


def _asked(path: str, read: Callable[[Any], _T], *, method: str = "GET", body: Any = None, **params: Any) -> Call[_T]:
    return Call(method=method, path=path, read=read, params=given(**params), body=body, headers={})


def _write(
    method: str,
    path: str,
    read: Callable[[Any], _T],
    *,
    key: str | None,
    body: Any = None,
    files: Sequence[tuple[str, tuple[str, bytes]]] | None = None,
    **params: Any,
) -> Call[_T]:
    headers = {"Idempotency-Key": key or str(uuid.uuid4())}
    return Call(method=method, path=path, read=read, params=given(**params), body=body, files=files, headers=headers)


def given(**values: Any) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def search(
    query: str,
    *,
    top_k: int = 10,
    filters: Mapping[str, Any] | None = None,
    tenant: str = "",
    user: str | None = None,
    session: str | None = None,
    collection: str | None = None,
    index: int | None = None,
    interleave: bool = False,
    model: str | None = None,
    models: Sequence[str] | None = None,
    aggregation: str | None = None,
    mode: str | None = None,
    rerank: str | None = None,
    offset: int | None = None,
    cursor: str | None = None,
    min_score: float | None = None,
    diversify: bool | None = None,
    highlight: bool | None = None,
    explain: bool | None = None,
) -> Call[Found]:
    """The best chunks, best first. `user` and `session` keep who asks on one side of a rollout.

    `filters` says which documents may be found, by their metadata, like {"year": {"$gte": 2020}}. `mode` is dense,
    lexical or hybrid; `rerank` is none, late_interaction or cross_encoder. The next page is asked for by
    `cursor=found.next`.
    """
    body = given(
        query=query,
        top_k=top_k,
        filters=dict(filters) if filters is not None else None,
        tenant=tenant,
        user=user,
        session=session,
        collection=collection,
        index=index,
        interleave=interleave,
        model=model,
        models=list(models) if models is not None else None,
        aggregation=aggregation,
        mode=mode,
        rerank=rerank,
        offset=offset,
        cursor=cursor,
        min_score=min_score,
        diversify=diversify,
        highlight=highlight,
        explain=explain,
    )
    return _asked("/api/v1/search", found, method="POST", body=body)


def add(
    documents: _Body | Sequence[_Body],
    *,
    tenant: str = "",
    collection: str | None = None,
    wait: bool = False,
    key: str | None = None,
) -> Call[Written]:
    """Add or change documents ({"id", "title", "text", "metadata", "format"}), one or up to a thousand.

    `wait`: return once searches find them. `key` is the idempotency key; one is made otherwise.
    """
    body = dict(documents) if isinstance(documents, Mapping) else [dict(each) for each in documents]
    place = "/api/v1/documents"
    return _write("POST", place, written, key=key, body=body, tenant=tenant, collection=collection, wait=wait)


def add_files(
    paths: Sequence[Path | str],
    *,
    format: str | None = None,
    tenant: str = "",
    collection: str | None = None,
    wait: bool = False,
    key: str | None = None,
) -> Call[Written]:
    """Send files: text, Markdown or JSON lines. They are read at once."""
    files = [("files", (Path(path).name, Path(path).read_bytes())) for path in paths]
    return _write(
        "POST",
        "/api/v1/documents/files",
        written,
        key=key,
        files=files,
        tenant=tenant,
        collection=collection,
        wait=wait,
        format=format,
    )


def replace(
    id: str,
    document: _Body,
    *,
    tenant: str = "",
    collection: str | None = None,
    wait: bool = False,
    key: str | None = None,
) -> Call[Written]:
    """Put this ({"title", "text", "metadata", "format"}) in the document's place, or add it."""
    place = _document(id)
    return _write("PUT", place, written, key=key, body=dict(document), tenant=tenant, collection=collection, wait=wait)


def delete(
    id: str, *, tenant: str = "", collection: str | None = None, wait: bool = False, key: str | None = None
) -> Call[int]:
    """Raises NotFoundError for a document that is not there."""

    def deleted(document: _Body) -> int:
        return document["deleted"]

    return _write("DELETE", _document(id), deleted, key=key, tenant=tenant, collection=collection, wait=wait)


def document(id: str, *, tenant: str = "", collection: str | None = None) -> Call[StoredDocument]:
    def read(answer: _Body) -> StoredDocument:
        return made_of(StoredDocument, answer)

    return _asked(_document(id), read, tenant=tenant, collection=collection)


def list_documents(*, after: str = "", limit: int = 50, tenant: str = "", collection: str | None = None) -> Call[Page]:
    """A page in the order of the ids, without the texts; ask for the next one by `after=page.next`."""
    return _asked("/api/v1/documents", page, after=after, limit=limit, tenant=tenant, collection=collection)


def models() -> Call[list[Model]]:
    def read(answer: _Body) -> list[Model]:
        return [made_of(Model, each) for each in answer["models"]]

    return _asked("/api/v1/models", read)


def searchable_models(*, tenant: str = "", collection: str | None = None) -> Call[list[SearchableModel]]:
    """The models that a search may name: those that have an index in the collection."""

    def read(answer: _Body) -> list[SearchableModel]:
        return [made_of(SearchableModel, each) for each in answer["models"]]

    return _asked("/api/v1/models/search", read, tenant=tenant, collection=collection)


def embeddings(id: str, *, tenant: str = "", collection: str | None = None) -> Call[list[EmbeddingsOfModel]]:
    """How many of the document's chunks each index has embedded."""

    def read(answer: _Body) -> list[EmbeddingsOfModel]:
        return [made_of(EmbeddingsOfModel, each) for each in answer["embeddings"]]

    return _asked(f"{_document(id)}/embeddings", read, tenant=tenant, collection=collection)


def update_embeddings(
    id: str, model: str, *, tenant: str = "", collection: str | None = None, key: str | None = None
) -> Call[EmbeddingsOfModel]:
    """Embed the document again, for the index of this model."""

    def read(answer: _Body) -> EmbeddingsOfModel:
        return made_of(EmbeddingsOfModel, answer)

    place = f"{_document(id)}/embeddings"
    return _write("PUT", place, read, key=key, model=model, tenant=tenant, collection=collection)


def feedback(
    search_id: str,
    chunk_id: int,
    *,
    index: int,
    interleaved: bool = False,
    user: str | None = None,
    tenant: str = "",
    collection: str | None = None,
) -> Call[Feedback]:
    """This result was used. Said again, it counts once."""

    def read(answer: _Body) -> Feedback:
        return made_of(Feedback, answer)

    body = given(
        search_id=search_id,
        chunk_id=chunk_id,
        index=index,
        interleaved=interleaved,
        user=user,
        tenant=tenant,
        collection=collection,
    )
    return _asked("/api/v1/feedback", read, method="POST", body=body)


def collections() -> Call[list[str]]:
    def read(answer: _Body) -> list[str]:
        return answer["collections"]

    return _asked("/api/v1/collections", read)


def indexes(*, collection: str | None = None) -> Call[list[IndexStatus]]:
    def read(answer: _Body) -> list[IndexStatus]:
        return [made_of(IndexStatus, each) for each in answer["indexes"]]

    return _asked("/api/v1/indexes", read, collection=collection)


def health() -> Call[dict[str, Any]]:
    """Raises ServiceUnavailable where searches cannot be answered."""
    return _asked("/health", dict[str, Any])


def ready() -> Call[bool]:
    """True; raises ServiceUnavailable until searches can be answered, and once the service is about to stop."""

    def read(answer: _Body) -> bool:
        return answer["ready"]

    return _asked("/ready", read)


def plan(*, tenant: str = "", collection: str | None = None) -> Call[dict[str, Any]]:
    """What would change if the service's settings file were applied, and what that costs."""
    return _asked("/api/v1/migrations/plan", dict[str, Any], method="POST", tenant=tenant, collection=collection)


def start_migration(
    *,
    schedule: str | None = None,
    max_rate: float | None = None,
    budget_usd: float | None = None,
    tenant: str = "",
    collection: str | None = None,
    key: str | None = None,
) -> Call[MigrationReport]:
    """Start what the service's settings file asks for. Returns at once: the service carries it out."""
    body = given(schedule=schedule, max_rate=max_rate, budget_usd=budget_usd, tenant=tenant, collection=collection)
    return _write("POST", "/api/v1/migrations", _report, key=key, body=body)


def migrations(*, collection: str | None = None) -> Call[list[MigrationReport]]:
    def read(answer: _Body) -> list[MigrationReport]:
        return [_report(each) for each in answer["migrations"]]

    return _asked("/api/v1/migrations", read, collection=collection)


def migration(id: int) -> Call[MigrationReport]:
    return _asked(f"/api/v1/migrations/{id}", _report)


def pause(id: int, *, reason: str | None = None, key: str | None = None) -> Call[MigrationReport]:
    return _write("POST", f"/api/v1/migrations/{id}/pause", _report, key=key, body=given(reason=reason))


def resume(id: int, *, budget_usd: float | None = None, key: str | None = None) -> Call[MigrationReport]:
    return _write("POST", f"/api/v1/migrations/{id}/resume", _report, key=key, body=given(budget_usd=budget_usd))


def rollout(id: int, percent: float, *, key: str | None = None) -> Call[MigrationReport]:
    """Give the new index this share of the users. Raises GateHeld where a safety gate has failed."""
    return _write("PUT", f"/api/v1/migrations/{id}/share", _report, key=key, body={"percent": percent})


def cutover(id: int, *, key: str | None = None) -> Call[MigrationReport]:
    return _write("POST", f"/api/v1/migrations/{id}/cutover", _report, key=key)


def rollback(id: int, *, key: str | None = None) -> Call[MigrationReport]:
    return _write("POST", f"/api/v1/migrations/{id}/rollback", _report, key=key)


def verify(id: int, *, key: str | None = None) -> Call[dict[str, Any]]:
    return _write("POST", f"/api/v1/migrations/{id}/verify", dict[str, Any], key=key)


def cleanup(id: int, *, skip_soak: bool = False, key: str | None = None) -> Call[Cleaned]:
    def read(answer: _Body) -> Cleaned:
        return made_of(Cleaned, answer)

    return _write("POST", f"/api/v1/migrations/{id}/cleanup", read, key=key, body={"skip_soak": skip_soak})


def _document(id: str) -> str:
    return f"/api/v1/documents/{quote(id)}"


def _report(answer: _Body) -> MigrationReport:
    return made_of(MigrationReport, answer)
