"""What a reader is: one file's bytes in, documents out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from reshelve.domain.documents import Document
from reshelve.errors import DocumentRefused
from reshelve.settings import ReadingSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file to read. `name` is its path below what the caller named: the id of its document, or the start of it."""

    path: Path
    name: str
    settings: ReadingSettings

    @property
    def stem(self) -> str:
        """What the file is called, without folders and suffix."""
        return Path(self.name).stem or self.name


class Reader(Protocol):
    """Yields the documents of one file as they are read, and a refusal for each row that cannot be one.

    Raises DocumentRefused where the file as a whole cannot be read, and OSError.
    """

    def __call__(self, source: Source, /) -> Iterator[Document | DocumentRefused]: ...
