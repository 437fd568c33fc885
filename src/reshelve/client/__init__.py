"""A client of the HTTP service, which needs httpx and nothing else: no server, no database, no model."""

from __future__ import annotations

from reshelve.client.clients import AsyncClient, Client
from reshelve.client.results import (
    Answered,
    ChatSession,
    Citation,
    Cleaned,
    EmbeddingsOfModel,
    Feedback,
    Found,
    FoundChunk,
    IndexStatus,
    Message,
    MigrationReport,
    Model,
    Page,
    Refused,
    SearchableModel,
    StoredDocument,
    Written,
)

__all__ = [
    "Answered",
    "AsyncClient",
    "ChatSession",
    "Citation",
    "Cleaned",
    "Client",
    "EmbeddingsOfModel",
    "Feedback",
    "Found",
    "FoundChunk",
    "IndexStatus",
    "Message",
    "MigrationReport",
    "Model",
    "Page",
    "Refused",
    "SearchableModel",
    "StoredDocument",
    "Written",
]
