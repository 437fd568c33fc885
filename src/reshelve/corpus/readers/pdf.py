"""PDF: the text of each page, in the order of the pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from reshelve.corpus.checks import check_document
from reshelve.corpus.readers.decoding import cleaned, refuse_large
from reshelve.corpus.readers.protocol import Source
from reshelve.domain.documents import Document, Section
from reshelve.errors import DocumentRefused

_PASSWORD, _SECURITY = 4, 5
"""FPDF_ERR_PASSWORD and FPDF_ERR_SECURITY of fpdfview.h."""
_HYPHEN = re.compile("[\x02\ufffe\xad]\\s?\n?")
"""PDFium's mark for a hyphen that only the line's end asked for, with that end."""
_GOES_ON = re.compile(r"(?<=[^\n.!?:])\n(?=[a-zß-öø-ÿ])")
"""A line's end in the middle of a sentence: the next one begins with a small letter."""
_MADE_BY = re.compile(r"^Microsoft (Word|Excel|PowerPoint) - ")
_BETWEEN_PAGES = "\n\n"


def read(source: Source) -> Iterator[Document]:
    """One document, with a section for each page that has text. An empty password is tried: an owner's hinders nobody.

    Raises DocumentRefused: a password is asked for, the file is damaged, or there is no text in it.
    """
    import pypdfium2  # pyright: ignore[reportMissingTypeStubs]

    try:
        pdf = pypdfium2.PdfDocument(source.path)
    except pypdfium2.PdfiumError as error:
        raise _refusal(getattr(error, "err_code", None)) from None
    try:
        count = len(pdf)
        texts, damaged = _texts(pdf, count)
        said = _said(pdf)
    finally:
        pdf.close()
    content, sections = _joined(texts)
    if not content:
        raise _textless(count, damaged)
    metadata: dict[str, Any] = {"pages": count}
    if author := said.get("Author"):
        metadata["author"] = author
    document = Document(
        external_id=source.name,
        title=_MADE_BY.sub("", said.get("Title", "")) or source.stem,
        content=content,
        metadata=metadata,
        format="pdf",
        sections=sections,
    )
    check_document(document)
    yield document


def _refusal(code: int | None) -> DocumentRefused:
    if code == _PASSWORD:
        return DocumentRefused(
            "the PDF asks for a password to be opened", advice="Save it without one, then ingest it again."
        )
    if code == _SECURITY:
        return DocumentRefused("the PDF is encrypted in a way that is not known")
    return DocumentRefused("the PDF is damaged: no pages can be found in it")


def _texts(pdf: Any, count: int) -> tuple[list[str], int]:
    """The text of each page, "" for one that cannot be read, and how many those are."""
    import pypdfium2  # pyright: ignore[reportMissingTypeStubs]

    texts: list[str] = []
    characters = damaged = 0
    for number in range(count):
        try:
            page = pdf[number]
            content = page.get_textpage()
            text: str = content.get_text_bounded()
            content.close()
            page.close()
        except pypdfium2.PdfiumError:
            text, damaged = "", damaged + 1
        text = _GOES_ON.sub(" ", cleaned(_HYPHEN.sub("", text.replace("\r\n", "\n")))).strip()
        characters += len(text)
        refuse_large(characters)
        texts.append(text)
    return texts, damaged


def _said(pdf: Any) -> dict[str, str]:
    """What the file says about itself, as one line each."""
    found: dict[str, str] = {}
    for name in ("Title", "Author"):
        value = " ".join(cleaned(pdf.get_metadata_value(name) or "").split())
        if value and value.lower() not in {"untitled", "untitled document", "title", "unknown"}:
            found[name] = value[:1000]
    return found


def _joined(texts: list[str]) -> tuple[str, tuple[Section, ...]]:
    parts: list[str] = []
    sections: list[Section] = []
    at = 0
    for number, text in enumerate(texts, 1):
        if not text:
            continue
        sections.append(Section(at, number))
        parts.append(text)
        at += len(text) + len(_BETWEEN_PAGES)
    return _BETWEEN_PAGES.join(parts), tuple(sections)


def _textless(count: int, damaged: int) -> DocumentRefused:
    if damaged == count:
        return DocumentRefused("the PDF is damaged: none of its pages can be read")
    pages = "its only page holds" if count == 1 else f"its {count:,} pages hold"
    return DocumentRefused(
        f"the PDF has no text: {pages} pictures, drawings or nothing",
        advice="Run a text recognition (OCR) over it first.",
    )
