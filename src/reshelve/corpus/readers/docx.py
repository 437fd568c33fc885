"""Word documents (DOCX): made HTML of, and read as that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from zipfile import BadZipFile

from reshelve.corpus.readers.html import document_of
from reshelve.corpus.readers.protocol import Source
from reshelve.domain.documents import Document
from reshelve.errors import DocumentRefused

_STYLES = "p[style-name='Title'] => h1:fresh"


def read(source: Source) -> Iterator[Document]:
    """Raises DocumentRefused."""
    import mammoth  # pyright: ignore[reportMissingTypeStubs]

    try:
        with source.path.open("rb") as stream:
            convert: Any = mammoth.convert_to_html  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            html: str = convert(stream, convert_image=_no_image, style_map=_STYLES).value
    except (OSError, MemoryError):
        raise
    except BadZipFile:
        raise DocumentRefused("the Word document is damaged: its archive cannot be read") from None
    except Exception as error:  # mammoth has no errors of its own: whatever a part that is missing or wrong leads to
        raise DocumentRefused(f"the Word document is damaged: {type(error).__name__}: {error!s:.200}") from error
    yield document_of(html, source=source, format="docx")


def _no_image(image: Any) -> list[Any]:
    return []
