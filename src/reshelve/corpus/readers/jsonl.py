"""JSON lines: a document each. What is wrong with one line is yielded as a refusal; the rest goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from reshelve.corpus.checks import MIB
from reshelve.corpus.readers.mapping import from_mapping, json_name
from reshelve.corpus.readers.protocol import Source
from reshelve.corpus.readers.text import decoded, refuse_binary
from reshelve.domain.documents import Document
from reshelve.errors import DocumentRefused

MAX_LINE_BYTES = 64 * MIB
_SNIFFED_BYTES = 8192


def read(source: Source) -> Iterator[Document | DocumentRefused]:
    with source.path.open("rb") as stream:
        yield from _read_rows(stream)


def _read_rows(stream: BinaryIO) -> Iterator[Document | DocumentRefused]:
    at = 0
    for number, (content, size) in enumerate(_lines_of(stream), 1):
        if number == 1:
            refuse_binary(content[:_SNIFFED_BYTES])
            content = content.removeprefix(b"\xef\xbb\xbf")
        try:
            if size > MAX_LINE_BYTES:
                found, most = size / MIB, MAX_LINE_BYTES // MIB
                raise DocumentRefused(f"the line is {found:.1f} MB long; at most {most} MB are read")
            if content.strip():
                yield from_mapping(_row_of(content, at=at + size - len(content)), line=number)
        except DocumentRefused as refusal:
            yield DocumentRefused(refusal.message, line=number, advice=refusal.advice)
        at += size


def _lines_of(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Each line with its length in bytes. Of one longer than `MAX_LINE_BYTES` only the start is there."""
    while line := stream.readline(MAX_LINE_BYTES + 1):
        size = len(line)
        if size > MAX_LINE_BYTES:
            line, rest = line[:_SNIFFED_BYTES], line
            while not rest.endswith(b"\n") and (rest := stream.readline(MIB)):
                size += len(rest)
            rest = b""
        yield line, size


def _row_of(content: bytes, *, at: int) -> dict[str, Any]:
    if b"\0" in content:
        raise DocumentRefused(f"NUL at byte {at + content.index(0)} of the file: PostgreSQL cannot store it")
    try:
        row = json.loads(decoded(content, at=at), parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise DocumentRefused(f"broken JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise DocumentRefused("the JSON is nested too deep") from None
    except ValueError as error:  # an integer with more digits than Python converts
        raise DocumentRefused(f"broken JSON: {error}") from None
    if not isinstance(row, dict):
        raise DocumentRefused(f"the line is of type {json_name(row)}, not an object")
    return row  # pyright: ignore[reportUnknownVariableType]


def _refuse_constant(name: str) -> None:
    raise DocumentRefused(f"the line holds {name}, which is no JSON")
