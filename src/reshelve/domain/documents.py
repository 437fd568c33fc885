"""Documents, and the pieces of them that are embedded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
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
class Place:
    """Where in its document a chunk stands, as a person would say it. Numbers are from 1; None where there are none.

    `page` and `row` are where it begins, `last_page` and `last_row` where it ends, if that is elsewhere. `headings` are
    those above its beginning, the outermost first.
    """

    page: int | None = None
    last_page: int | None = None
    row: int | None = None
    last_row: int | None = None
    headings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Only what is there."""
        return {name: list(value) if name == "headings" else value for name, value in asdict(self).items() if value}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Place:
        known: dict[str, Any] = {**stored, "headings": tuple(stored.get("headings", ()))}
        return cls(**known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A chunk before it has an id: what is embedded, and where it stands in the document (code points)."""

    content: str
    start: int
    end: int
    token_count: int
    place: Place = Place()

    @property
    def hash(self) -> UUID:
        return content_hash(self.content)


FURTHER_CHUNKING = (
    "min_chunk_size",
    "csv_chunk_tokens",
    "csv_chunk_max_tokens",
    "pdf_chunk_tokens",
    "pdf_chunk_max_tokens",
)
"""The parameters of a `Chunking` that may be left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunking:
    """How documents are cut. Sizes count tokens of the tokenizer named by `tokenizer` (a hash of its definition).

    Tables and PDF may have sizes of their own; None is the size of all others.
    """

    strategy: str
    chunk_size: int
    max_chunk_size: int
    overlap: int
    tokenizer: str
    min_chunk_size: int = 0
    csv_chunk_tokens: int | None = None
    csv_chunk_max_tokens: int | None = None
    pdf_chunk_tokens: int | None = None
    pdf_chunk_max_tokens: int | None = None

    def sizes(self, format: str) -> tuple[int, int]:
        """Tokens that a chunk of such a document aims for, and that none exceeds."""
        own = {
            "csv": (self.csv_chunk_tokens, self.csv_chunk_max_tokens),
            "pdf": (self.pdf_chunk_tokens, self.pdf_chunk_max_tokens),
        }
        wanted, most = own.get(format, (None, None))
        most = self.max_chunk_size if most is None else most
        return min(self.chunk_size if wanted is None else wanted, most), most

    @property
    def fingerprint(self) -> str:
        """What has its default is left out: so chunkings keep the fingerprint that they had before there was more."""
        identity: list[Any] = [self.strategy, self.chunk_size, self.max_chunk_size, self.overlap, self.tokenizer]
        further = {name: getattr(self, name) for name in FURTHER_CHUNKING if getattr(self, name)}
        if further:
            identity.append(further)
        return hashlib.blake2b(json.dumps(identity).encode(), digest_size=16).hexdigest()
