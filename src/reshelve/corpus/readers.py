"""Files and rows turned into documents. What is wrong with one row is yielded as a refusal; the rest goes on."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from reshelve.corpus.checks import MAX_DOCUMENT_BYTES, MIB, check_document
from reshelve.domain.documents import Document
from reshelve.errors import DocumentRefused, InputError

__all__ = ["FORMATS", "MAX_DOCUMENT_BYTES", "MAX_LINE_BYTES", "check_document", "from_mapping", "read_documents"]

FORMATS: Mapping[str, tuple[str, ...]] = {"text": (".txt",), "markdown": (".md", ".markdown"), "jsonl": (".jsonl",)}
MAX_LINE_BYTES = 64 * MIB
_SNIFFED_BYTES = 8192
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_HEADING = re.compile(r" {0,3}#{1,6}[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*$")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*$")


def read_documents(path: Path, *, format: str | None = None) -> Iterator[Document | DocumentRefused]:
    """The documents of a file, or of a folder's files in the order of their names, read as they are asked for.

    The format comes from the name's suffix (`FORMATS`) unless it is given. A folder's hidden files are passed over,
    and every other file of no known format is one refusal. The id of a text or Markdown file is its path below the
    folder; its title is the first Markdown heading, or else the name without suffix.
    Raises InputError at once when the path does not exist or the format is not known.
    """
    if format is not None and format not in FORMATS:
        raise InputError(f"unknown format {format!r}", advice=f"Known formats: {', '.join(FORMATS)}.")
    if path.is_dir():
        return _read_folder(path, format)
    if not path.exists():
        raise InputError(f"{path} does not exist")
    found = format or _format_of(path)
    if found is None:
        raise InputError(f"the format of {path} is not known from its name", advice=f"Give one: {_known()}.")
    return _read_file(path, name=path.name, format=found, where="")


def from_mapping(row: Mapping[str, Any], *, line: int | None = None) -> Document:
    """`_id` (or `id`), `title`, `text`; the fields of an object `metadata`, and every other field, become metadata.

    Raises DocumentRefused, with `line`.
    """
    try:
        document = _document_of(row)
        check_document(document)
    except DocumentRefused as refusal:
        raise DocumentRefused(refusal.message, line=line, advice=refusal.advice) from None
    return document


def _document_of(row: Mapping[str, Any]) -> Document:
    key = "_id" if "_id" in row else "id"
    external_id = row.get(key)
    if isinstance(external_id, int) and not isinstance(external_id, bool):
        external_id = str(external_id)
    if not isinstance(external_id, str) or not external_id.strip():
        said = "is missing" if external_id is None else f"is {external_id!r:.60}: it must be a string that is not empty"
        raise DocumentRefused(f"the document's `_id` {said}")
    title, text = row.get("title"), row.get("text", "")
    title = "" if title is None else title
    for name, value in (("title", title), ("text", text)):
        if not isinstance(value, str):
            kind = _json_name(value)
            raise DocumentRefused(f"the {name} of document {external_id!r:.60} is of type {kind}, not a string")
    metadata = {name: value for name, value in row.items() if name not in {key, "title", "text"}}
    inner: Any = metadata.get("metadata")
    if isinstance(inner, dict):
        del metadata["metadata"]
        twice = sorted(str(name) for name in metadata.keys() & inner.keys())  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        if twice:
            field = f"{twice[0]!r:.60}"
            raise DocumentRefused(f"document {external_id!r:.60} has {field} both inside `metadata` and beside it")
        metadata.update(inner)  # pyright: ignore[reportUnknownArgumentType]
    return Document(external_id=external_id, title=title, content=text, metadata=metadata)


def _known() -> str:
    return ", ".join(f"{name} ({' '.join(suffixes)})" for name, suffixes in FORMATS.items())


def _format_of(path: Path) -> str | None:
    suffix = path.suffix.lower()
    return next((name for name, suffixes in FORMATS.items() if suffix in suffixes), None)


def _read_folder(folder: Path, format: str | None) -> Iterator[Document | DocumentRefused]:
    for path in _files_below(folder):
        name = path.relative_to(folder).as_posix()
        shown = ascii(name)[1:-1] if not name.isprintable() else name
        found = format or _format_of(path)
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                yield DocumentRefused(f"{shown} is not a regular file")
            elif found is None:
                yield DocumentRefused(f"{shown} is of no known format", advice=f"Known formats: {_known()}.")
            else:
                yield from _read_file(path, name=name, format=found, where=f"{shown}: ")
        except (OSError, InputError) as error:
            yield DocumentRefused(f"{shown} cannot be read: {error}")


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent) / name for name in sorted(names) if not name.startswith("."))


def _read_file(path: Path, *, name: str, format: str, where: str) -> Iterator[Document | DocumentRefused]:
    """`where` goes before the reasons of refusals, to say which of several files they are about."""
    try:
        with path.open("rb") as stream:
            if format == "jsonl":
                yield from _read_rows(stream, where)
            else:
                yield _read_whole(stream, path, name=name, format=format)
    except DocumentRefused as refusal:
        yield DocumentRefused(where + refusal.message, line=refusal.line, advice=refusal.advice)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def _read_whole(stream: BinaryIO, path: Path, *, name: str, format: str) -> Document:
    size = os.fstat(stream.fileno()).st_size
    content = stream.read(MAX_DOCUMENT_BYTES + 4)
    if len(content) > MAX_DOCUMENT_BYTES + 3:  # a byte order mark does not count
        found, most = max(size, len(content)) / MIB, MAX_DOCUMENT_BYTES // MIB
        advice = "Divide it into several documents."
        raise DocumentRefused(f"the file is {found:.1f} MB long; at most {most} MB can be stored", advice=advice)
    _refuse_binary(content)
    text = _decoded(content, at=0).removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    title = (_first_heading(text) if format == "markdown" else None) or path.stem
    document = Document(external_id=name, title=title, content=text, format=format)
    if not text.strip():
        raise DocumentRefused("the file is empty")
    check_document(document)
    return document


def _refuse_binary(start: bytes) -> None:
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DocumentRefused("the file is UTF-16", advice="Save it as UTF-8.")
    if b"\0" in start:
        raise DocumentRefused(f"the file is binary: NUL at byte {start.index(0)}")


def _decoded(content: bytes, *, at: int) -> str:
    """`at` is where the content begins in its file."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise DocumentRefused(
            f"invalid UTF-8 at byte {at + error.start} of the file (0x{content[error.start]:02x})",
            advice="Save the file as UTF-8.",
        ) from None


def _first_heading(text: str) -> str | None:
    """The text of the first heading outside code fences and front matter, as CommonMark defines headings."""
    lines = iter(_without_front_matter(text.splitlines()))
    fence = before = ""
    for line in lines:
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
            continue
        if mark:
            fence = mark[1]
            before = ""
            continue
        heading = _HEADING.match(line)
        if heading and heading[1].strip("# \t"):
            return heading[1].strip()
        if before and _UNDERLINE.match(line):
            return before
        before = "" if line.startswith(("    ", "\t", ">", "- ", "* ", "|")) else line.strip()
    return None


def _without_front_matter(lines: list[str]) -> list[str]:
    if lines and lines[0].rstrip() == "---":
        for number, line in enumerate(lines[1:], 1):
            if line.rstrip() in {"---", "..."}:
                return lines[number + 1 :]
    return lines


def _read_rows(stream: BinaryIO, where: str) -> Iterator[Document | DocumentRefused]:
    at = 0
    for number, (content, size) in enumerate(_lines_of(stream), 1):
        if number == 1:
            _refuse_binary(content[:_SNIFFED_BYTES])
            content = content.removeprefix(b"\xef\xbb\xbf")
        try:
            if size > MAX_LINE_BYTES:
                found, most = size / MIB, MAX_LINE_BYTES // MIB
                raise DocumentRefused(f"the line is {found:.1f} MB long; at most {most} MB are read")
            if content.strip():
                yield from_mapping(_row_of(content, at=at + size - len(content)), line=number)
        except DocumentRefused as refusal:
            yield DocumentRefused(where + refusal.message, line=number, advice=refusal.advice)
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
        row = json.loads(_decoded(content, at=at), parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise DocumentRefused(f"broken JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise DocumentRefused("the JSON is nested too deep") from None
    except ValueError as error:  # an integer with more digits than Python converts
        raise DocumentRefused(f"broken JSON: {error}") from None
    if not isinstance(row, dict):
        raise DocumentRefused(f"the line is of type {_json_name(row)}, not an object")
    return row  # pyright: ignore[reportUnknownVariableType]


def _refuse_constant(name: str) -> None:
    raise DocumentRefused(f"the line holds {name}, which is no JSON")


def _json_name(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case str():
            return "string"
        case list():
            return "array"
        case int() | float():
            return "number"
        case _:
            return "object"
