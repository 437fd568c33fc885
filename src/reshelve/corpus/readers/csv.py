"""Tables with a header row: a row, or a few rows, is a document; its columns are the metadata."""

from __future__ import annotations

import csv
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from reshelve.corpus.checks import MAX_DOCUMENT_BYTES, check_document
from reshelve.corpus.readers.decoding import encoding_of
from reshelve.corpus.readers.protocol import Source
from reshelve.domain.documents import Document, Section
from reshelve.errors import DocumentRefused

_SAMPLE_BYTES = 64 * 1024
_SAMPLE_ROWS = 50
_DELIMITERS = ",;\t|"
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,14})(\.\d{1,15})?")
_BLANK_LINES = re.compile(r"\s*\n\s*")
_Row = tuple[int, dict[str, str]]
"""Its number as a spreadsheet shows it, the header being 1, and its cells that are not empty, by column."""


def read(source: Source) -> Iterator[Document | DocumentRefused]:
    """`rag.reading.csv_rows` rows a document, `name#row` or `name#first-last`: "column: value" lines.

    Metadata are the columns: of several rows those values that are the same in all, or a list of the different ones.
    """
    csv.field_size_limit(MAX_DOCUMENT_BYTES)
    with source.path.open("rb") as stream:
        sample = stream.read(_SAMPLE_BYTES)
    if not sample.strip():
        raise DocumentRefused("the file is empty")
    encoding = encoding_of(sample)
    delimiter = _delimiter_of(_whole_lines(sample, encoding))
    with source.path.open(encoding=encoding, newline="") as lines:
        rows = _rows(csv.reader(lines, delimiter=delimiter), encoding)
        found = False
        while group := list(itertools.islice(rows, source.settings.csv_rows)):
            found = True
            yield _taken(source, group)
    if not found:
        raise DocumentRefused("the table has a header at most, and no rows")


def _whole_lines(sample: bytes, encoding: str) -> list[str]:
    lines = sample.decode(encoding, errors="ignore").splitlines(keepends=True)
    return lines[:-1] if len(sample) == _SAMPLE_BYTES and len(lines) > 1 else lines


def _delimiter_of(lines: Sequence[str]) -> str:
    """The one that divides most rows into the same number of cells, of those that divide them at all."""

    def fitness(delimiter: str) -> tuple[float, int]:
        try:
            rows = itertools.islice(csv.reader(lines, delimiter=delimiter), _SAMPLE_ROWS)
            widths = Counter(len(row) for row in rows if row)
        except csv.Error:
            return 0.0, 0
        width, rows_of_it = widths.most_common(1)[0] if widths else (0, 0)
        return (rows_of_it / widths.total(), width) if width > 1 else (0.0, 0)

    return max(_DELIMITERS, key=fitness)


def _rows(reader: Iterator[list[str]], encoding: str) -> Iterator[_Row]:
    columns: list[str] = []
    number = 0
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except UnicodeDecodeError as error:
            raise DocumentRefused(
                f"row {number + 1} and what follows are not {encoding}: {error.reason}", advice="Save it as UTF-8."
            ) from None
        except csv.Error as error:
            raise DocumentRefused(f"row {number + 1} cannot be read: {error}") from None
        number += 1
        if not columns:
            columns = _named([cell.strip() for cell in cells])
            continue
        if len(cells) > len(columns):
            columns = _named([*columns, *[""] * (len(cells) - len(columns))])
        if row := {column: cell.strip() for column, cell in zip(columns, cells, strict=False) if cell.strip()}:
            yield number, row


def _named(header: Sequence[str]) -> list[str]:
    """Every column has a name, and no two the same."""
    names: dict[str, None] = {}
    for at, name in enumerate(header, 1):
        name = name or f"column {at}"
        while name in names:
            name = f"{name} ({at})"
        names[name] = None
    return list(names)


def _taken(source: Source, rows: Sequence[_Row]) -> Document | DocumentRefused:
    first, last = rows[0][0], rows[-1][0]
    content, sections = "", list[Section]()
    for number, row in rows:
        content += "\n\n" if content else ""
        sections.append(Section(len(content), number))
        content += "\n".join(f"{column}: {_BLANK_LINES.sub(' ', value)}" for column, value in row.items())
    document = Document(
        external_id=f"{source.name}#{first}" if first == last else f"{source.name}#{first}-{last}",
        title=source.stem,
        content=content,
        metadata=_metadata([row for _, row in rows]),
        format="csv",
        sections=tuple(sections),
    )
    try:
        check_document(document)
    except DocumentRefused as refusal:
        return DocumentRefused(refusal.message, line=first, advice=refusal.advice)
    return document


def _metadata(rows: Sequence[dict[str, str]]) -> dict[str, Any]:
    values: dict[str, dict[str, None]] = {}
    for row in rows:
        for column, value in row.items():
            values.setdefault(column, {})[value] = None
    return {
        column: _value(*different) if len(different) == 1 else [_value(each) for each in different]
        for column, different in values.items()
    }


def _value(text: str) -> str | int | float:
    """A number where it would be written the same way again: "007" and "1e3" stay what they are."""
    if not _NUMBER.fullmatch(text):
        return text
    return float(text) if "." in text else int(text)
