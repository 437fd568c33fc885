"""The formats that are read, and which one a file is: by its first bytes, then by its name."""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from reshelve.corpus.readers.protocol import Reader
from reshelve.errors import DocumentRefused


class Format(NamedTuple):
    """`apart`: it is read in a child process, for a file can be made to harm its reader."""

    suffixes: tuple[str, ...]
    apart: bool


FORMATS: Mapping[str, Format] = {
    "text": Format((".txt",), apart=False),
    "markdown": Format((".md", ".markdown"), apart=False),
    "jsonl": Format((".jsonl", ".ndjson"), apart=False),
    "csv": Format((".csv", ".tsv"), apart=True),
    "html": Format((".html", ".htm", ".xhtml"), apart=True),
    "docx": Format((".docx",), apart=True),
    "pdf": Format((".pdf",), apart=True),
    "zip": Format((".zip",), apart=True),
    "tar": Format((".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz"), apart=True),
}
ARCHIVES = frozenset({"zip", "tar"})
_SNIFFED_BYTES = 8192
_PDF_WITHIN = 1024
"""Readers of PDF bear that much before the header."""
_TEXTUAL = frozenset({"text", "markdown", "jsonl", "csv", "html"})
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")
_REFUSED = (
    (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        "an Office file of the old kind (DOC, XLS, PPT, MSG), or one with a password",
    ),
    (b"{\\rtf", "a rich text file (RTF)"),
    (b"%!PS", "a PostScript file"),
)
_HTML = re.compile(
    rb"(?:\xef\xbb\xbf)?(?:\s|<!--.{0,4000}?-->|<\?xml[^>]{0,400}\?>)*<(?:!doctype\s+html|html|head|body)\b",
    re.IGNORECASE | re.DOTALL,
)


def reader_of(format: str) -> Reader:
    """The reader of a format that is no archive."""
    from importlib import import_module

    return import_module(f"reshelve.corpus.readers.{format}").read


def format_of(path: Path, *, name: str) -> str:
    """Raises DocumentRefused for what is not read, and OSError."""
    with path.open("rb") as stream:
        head = stream.read(_SNIFFED_BYTES)
    named = _by_name(name)
    found = _by_content(head)
    if found is not None and not (found in _TEXTUAL and named in _TEXTUAL):
        return "docx" if (named, found) == ("docx", "zip") else found
    if named in _TEXTUAL:
        return named
    if named is not None and head.strip():
        raise DocumentRefused(f"it is called {path.suffix or name}, and is none: it does not begin like one")
    kind = (mimetypes.guess_type(name)[0] or "").partition("/")[0]
    if kind not in {"image", "audio", "video", "font"} and _is_text(head):
        return "text"
    raise DocumentRefused("of no known format", advice=f"Known formats: {known()}.")


def _by_content(head: bytes) -> str | None:
    if b"%PDF-" in head[:_PDF_WITHIN]:
        return "pdf"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if head.startswith(_COMPRESSED) or head[257:262] == b"ustar":
        return "tar"
    for mark, kind in _REFUSED:
        if head.startswith(mark):
            raise DocumentRefused(f"it is {kind}, which is not read", advice="Save it as PDF, DOCX or text.")
    return "html" if _HTML.match(head) else None


def _by_name(name: str) -> str | None:
    suffix = Path(name).suffix.lower()
    double = "".join(Path(name).suffixes[-2:]).lower()
    return next((name for name, each in FORMATS.items() if suffix in each.suffixes or double in each.suffixes), None)


def _is_text(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        # The last character may be cut off.
        return error.start >= len(head) - 3 and len(head) == _SNIFFED_BYTES and b"\0" not in head
    return b"\0" not in head


def known() -> str:
    return ", ".join(f"{name} ({' '.join(each.suffixes)})" for name, each in FORMATS.items())
