"""Documents, and the pieces of them that are embedded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID


def content_hash(text: str) -> UUID:
    """128-bit BLAKE2b of the UTF-8 text, as a UUID because PostgreSQL stores and compares those in 16 bytes."""
    return UUID(bytes=hashlib.blake2b(text.encode(), digest_size=16).digest())


class Section(NamedTuple):
    """A page of a PDF or a row of a table: where it begins in the content (code points), and its number, from 1."""

    start: int
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What was put in. `external_id` is the owner's key: a second document with it replaces the first.

    `format` says how the content is built: "text", "markdown", "html" and "docx" (Markdown, made of them), "pdf" and
    "csv" (`sections` are its pages or rows, in order).
    """

    external_id: str
    content: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    format: str = "text"
    sections: tuple[Section, ...] = ()

    @property
    def hash(self) -> UUID:
        """Changes with anything a search could notice."""
        seen: list[Any] = [self.title, self.content, self.format, self.metadata]
        if self.sections:
            seen.append(self.sections)
        return content_hash(json.dumps(seen, sort_keys=True, ensure_ascii=False))


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A chunk before it has an id: what is embedded, and where it stands in the document (code points)."""

    content: str
    start: int
    end: int
    token_count: int

    @property
    def hash(self) -> UUID:
        return content_hash(self.content)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunking:
    """How documents are cut. Sizes count tokens of the tokenizer named by `tokenizer` (a hash of its definition)."""

    strategy: str
    chunk_size: int
    max_chunk_size: int
    overlap: int
    tokenizer: str

    @property
    def fingerprint(self) -> str:
        identity = [self.strategy, self.chunk_size, self.max_chunk_size, self.overlap, self.tokenizer]
        return hashlib.blake2b(json.dumps(identity).encode(), digest_size=16).hexdigest()
