"""Reshelve: change a live RAG collection's embedding model while it serves."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reshelve.client import AsyncClient, Client
    from reshelve.domain.documents import Document
    from reshelve.errors import ReshelveError
    from reshelve.library import Connecting, Library, connect
    from reshelve.settings import Settings, load_settings

__all__ = [
    "AsyncClient",
    "Client",
    "Connecting",
    "Document",
    "Library",
    "ReshelveError",
    "Settings",
    "connect",
    "load_settings",
]
__version__ = "0.1.0"

_HOMES = {
    "AsyncClient": "reshelve.client",
    "Client": "reshelve.client",
    "Connecting": "reshelve.library",
    "Document": "reshelve.domain.documents",
    "Library": "reshelve.library",
    "ReshelveError": "reshelve.errors",
    "Settings": "reshelve.settings",
    "connect": "reshelve.library",
    "load_settings": "reshelve.settings",
}


def __getattr__(name: str) -> Any:
    # `reshelve --help` imports this package, and must not pay for what it does not use.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
