"""Markdown: one document, called by its first heading."""

from __future__ import annotations

from collections.abc import Iterator

from reshelve.corpus.headings import first_heading
from reshelve.corpus.readers.protocol import Source
from reshelve.corpus.readers.text import text_of, whole
from reshelve.domain.documents import Document


def read(source: Source) -> Iterator[Document]:
    text = text_of(source)
    yield whole(source, format="markdown", title=first_heading(text) or source.stem, text=text)
