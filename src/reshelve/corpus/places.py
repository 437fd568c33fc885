"""Where in a document something stands: its page or row, and the headings above it."""

from __future__ import annotations

from bisect import bisect_right

from reshelve.corpus.headings import HeadingPaths
from reshelve.domain.documents import Document, Place

MARKDOWN = frozenset({"markdown", "html", "docx"})
"""The formats whose content is Markdown."""


class Places:
    """The places of one document."""

    def __init__(self, document: Document) -> None:
        self._starts = [section.start for section in document.sections]
        self._numbers = [section.number for section in document.sections]
        self._rows = document.format == "csv"
        self._headings = HeadingPaths(document.content) if document.format in MARKDOWN else None

    def of(self, start: int, end: int) -> Place:
        """The place of a slice that is not empty."""
        headings = tuple(self._headings.at(start)) if self._headings is not None else ()
        first, last = self._number_at(start), self._number_at(end - 1)
        last = None if last == first else last
        if self._rows:
            return Place(row=first, last_row=last, headings=headings)
        return Place(page=first, last_page=last, headings=headings)

    def _number_at(self, place: int) -> int | None:
        found = bisect_right(self._starts, place)
        return self._numbers[found - 1] if found else None
