"""What the tools answer: as much as a model needs, because each word of it costs the model's context."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class FoundChunk(BaseModel):
    document_id: str
    title: str
    content: str
    score: float
    start: int
    metadata: dict[str, Any]


class SearchResults(BaseModel):
    """Best first."""

    results: list[FoundChunk]
    search_id: str
    model: str


class CitedPassage(BaseModel):
    """Passage `number` of the answer, which is written [number] there."""

    number: int
    document_id: str
    title: str
    content: str


class CitedAnswer(BaseModel):
    """`abstained`: the documents do not hold an answer."""

    answer: str
    abstained: bool
    answered_by: str
    citations: list[CitedPassage]


class DocumentPart(BaseModel):
    """`text` begins at character `start` of `characters`; `next_start` is where the rest begins, null at the end."""

    id: str
    title: str
    text: str
    start: int
    characters: int
    next_start: int | None
    metadata: dict[str, Any]


class CollectionNames(BaseModel):
    collections: list[str]
    default: str


class MigrationState(BaseModel):
    """Of the collection's last migration; `state` is null where there was none."""

    collection: str
    model: str
    state: str | None
    from_model: str | None
    to_model: str | None
    percent: float | None
    rows: int | None
    rows_done: int | None
    reason: str | None
    next_step: str | None
