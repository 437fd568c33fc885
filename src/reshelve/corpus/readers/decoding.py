"""Bytes to text: the encoding is said by the file, or UTF-8, or found."""

from __future__ import annotations

import codecs
import re

from reshelve.corpus.checks import MAX_DOCUMENT_BYTES, MIB
from reshelve.errors import DocumentRefused

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_COMMON = "cp1252"
_UNSTORABLE = re.compile("[\0\ud800-\udfff\ufffe\uffff]")
_NO_TEXT = re.compile("[\x01-\x08\x0b\x0e-\x1f\x7f]")


def encoding_of(sample: bytes, *, declared: str | None = None) -> str:
    """The encoding of the text that begins with `sample`: its byte order mark, `declared`, UTF-8, or the likeliest.

    Raises DocumentRefused where it looks like no text in any encoding.
    """
    for mark, name in _BYTE_ORDER_MARKS:
        if sample.startswith(mark):
            return name
    if declared is not None and _decodes(sample, declared):
        return declared
    if _decodes(sample, "utf-8") and b"\0" not in sample:
        return "utf-8"
    from charset_normalizer import from_bytes

    matches = from_bytes(sample)
    best = matches.best()
    if best is None:
        raise DocumentRefused("the file is binary, or text in no known encoding", advice="Save it as UTF-8.")
    for match in matches:
        # Of those that fit as well, the one that most such files are in.
        as_good = match.chaos <= best.chaos and match.coherence >= best.coherence
        if as_good and _COMMON in match.could_be_from_charset:
            return _COMMON
    return best.encoding


def _decodes(sample: bytes, encoding: str) -> bool:
    """The sample may end in the middle of a character."""
    try:
        codecs.getincrementaldecoder(encoding)().decode(sample)
    except (LookupError, ValueError):
        return False
    return True


def refuse_large(characters: int) -> None:
    """A text with more characters than bytes may be stored needs no counting."""
    if characters > MAX_DOCUMENT_BYTES:
        found, most = characters / MIB, MAX_DOCUMENT_BYTES // MIB
        raise DocumentRefused(
            f"the file holds {found:.1f} MB of text; at most {most} MB can be stored",
            advice="Divide it into several documents.",
        )


def cleaned(text: str) -> str:
    """Line breaks as `\\n`, and nothing that PostgreSQL cannot store or that is no text."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _NO_TEXT.sub("", _UNSTORABLE.sub("", text))
