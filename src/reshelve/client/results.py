"""What the service answers, as plain dataclasses. What a newer service adds is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPlace:
    """Pages of a PDF or rows of a table, from 1 (the last where it differs); the headings above, outermost first."""

    page: int | None = None
    last_page: int | None = None
    row: int | None = None
    last_row: int | None = None
    headings: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundChunk:
    """`start` and `end` are code points of the document's text."""

    document_id: str
    title: str
    chunk_id: int
    content: str
    start: int
    end: int
    score: float
    metadata: dict[str, Any]
    index: int
    model: str
    place: FoundPlace = FoundPlace()
    legs: dict[str, dict[str, float]] | None = None
    highlights: list[list[int]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Best first. `next` is the cursor of the next page; None: there is none.

    `arm` is the side of a rollout that answered; `fell_back` says why the candidate did not.
    """

    results: list[FoundChunk]
    index: int
    model: str
    query_model: str | None
    epoch: int
    mode: str
    search_id: str
    arm: str
    fell_back: str | None
    interleaved: bool
    cached: bool = False
    embed_ms: float
    search_ms: float
    legs_ms: dict[str, float]
    total_ms: float
    next: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Citation:
    """Passage `number`, from 1. `start` and `end` are code points of the document's text."""

    number: int
    document_id: str
    title: str
    chunk_id: int
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """`answered_by` is "llm" (`llm` names it), "extractive" or "local"; `abstained`: the passages hold no answer.

    The fields of the search are None where none was made, for small talk.
    """

    answer: str
    abstained: bool
    answered_by: str
    llm: str | None
    style: str
    summary: bool
    citations: list[Citation]
    dropped_citations: int
    passages: list[FoundChunk]
    search_id: str | None
    index: int | None
    model: str | None
    epoch: int | None
    arm: str | None
    fell_back: str | None
    search_ms: float
    answer_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """Of a chat. `role` is "user" or "assistant"; the time is ISO 8601, in UTC."""

    id: str
    session: str
    role: str
    content: str
    created_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatSession:
    session: str
    messages: int
    began_at: str
    last_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    line: int | None
    id: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What became of the documents."""

    added: int
    updated: int
    unchanged: int
    chunks_added: int
    chunks_removed: int
    refused_count: int
    refused: list[Refused]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDocument:
    """`text` is None in a page. The times are ISO 8601, in UTC."""

    id: str
    title: str
    text: str | None
    metadata: dict[str, Any]
    format: str
    characters: int
    chunks: int
    created_at: str
    updated_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """`next` is the `after` of the next page; None on the last one."""

    documents: list[StoredDocument]
    next: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    model: str
    provider: str
    dimension: int
    fingerprint: str
    price_per_million_tokens: float
    indexes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchableModel:
    """`role` is its index's part in the route: serving, candidate, previous, or standby."""

    model: str
    provider: str
    dimension: int
    index: int
    role: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingsOfModel:
    """What one index has of a document: `embedded` of its `chunks`."""

    index: int
    model: str
    dimension: int
    state: str
    chunks: int
    embedded: int
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """Result `chunk_id` of search `search_id`, found by index `index`, was used."""

    id: int
    search_id: str
    chunk_id: int
    index: int
    interleaved: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexStatus:
    id: int
    model: str
    dimension: int
    state: str
    serving: bool
    entries: int
    built: bool
    lag_changes: int
    lag_seconds: float
    refused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationReport:
    """`percent` of the users are answered by the new index; `gates` is what the last look at the evidence said."""

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
    verification: dict[str, Any] | None
    percent: float
    schedule: list[dict[str, Any]]
    driven_by: str
    gates: list[dict[str, Any]]
    cleaned: bool
    next_step: str
    journal: list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaned:
    """`dropped` is None where the index was gone already, or serves another purpose."""

    migration: int
    dropped: int | None
    rows: int


def made_of(kind: type[_T], document: Mapping[str, Any], **inner: Any) -> _T:
    """The dataclass `kind` from its fields in the document; `inner` goes over them."""
    known = {each.name for each in fields(kind)}  # pyright: ignore[reportArgumentType]
    return kind(**{**{name: value for name, value in document.items() if name in known}, **inner})


def found(document: Mapping[str, Any]) -> Found:
    return made_of(Found, document, results=[_chunk(each) for each in document["results"]])


def _chunk(document: Mapping[str, Any]) -> FoundChunk:
    return made_of(FoundChunk, document, place=made_of(FoundPlace, document.get("place") or {}))


def answered(document: Mapping[str, Any]) -> Answered:
    return made_of(
        Answered,
        document,
        citations=[made_of(Citation, each) for each in document["citations"]],
        passages=[made_of(FoundChunk, each) for each in document["passages"]],
    )


def written(document: Mapping[str, Any]) -> Written:
    return made_of(Written, document, refused=[made_of(Refused, each) for each in document["refused"]])


def page(document: Mapping[str, Any]) -> Page:
    return Page(documents=[made_of(StoredDocument, each) for each in document["documents"]], next=document["next"])
