"""Plain text in UTF-8: one document."""

from __future__ import annotations

import os
from collections.abc import Iterator

from reshelve.corpus.checks import MAX_DOCUMENT_BYTES, MIB, check_document
from reshelve.corpus.readers.protocol import Source
from reshelve.domain.documents import Document
from reshelve.errors import DocumentRefused


def read(source: Source) -> Iterator[Document]:
    yield whole(source, format="text", title=source.stem, text=text_of(source))


def text_of(source: Source) -> str:
    """The file's text with `\\n` for line breaks. Raises DocumentRefused; one that is too long is not read first."""
    with source.path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        content = stream.read(MAX_DOCUMENT_BYTES + 4)
    if len(content) > MAX_DOCUMENT_BYTES + 3:  # a byte order mark does not count
        found, most = max(size, len(content)) / MIB, MAX_DOCUMENT_BYTES // MIB
        advice = "Divide it into several documents."
        raise DocumentRefused(f"the file is {found:.1f} MB long; at most {most} MB can be stored", advice=advice)
    refuse_binary(content)
    return decoded(content, at=0).removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def whole(source: Source, *, format: str, title: str, text: str) -> Document:
    document = Document(external_id=source.name, title=title, content=text, format=format)
    if not text.strip():
        raise DocumentRefused("the file is empty")
    check_document(document)
    return document


def refuse_binary(start: bytes) -> None:
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DocumentRefused("the file is UTF-16", advice="Save it as UTF-8.")
    if b"\0" in start:
        raise DocumentRefused(f"the file is binary: NUL at byte {start.index(0)}")


def decoded(content: bytes, *, at: int) -> str:
    """`at` is where the content begins in its file."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise DocumentRefused(
            f"invalid UTF-8 at byte {at + error.start} of the file (0x{content[error.start]:02x})",
            advice="Save the file as UTF-8.",
        ) from None
