"""Judged queries, read from files in BEIR layout."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from reshelve.errors import InputError


@dataclass(frozen=True, slots=True)
class Judged:
    """Queries that have a text and at least one positive judgement.

    `queries` maps the query id to its text, `judgements` the query id to {external document id: relevance}. Both have
    the same keys. A relevance of 0 or less means "not relevant".
    """

    queries: dict[str, str]
    judgements: dict[str, dict[str, int]]


def load_judged_directory(directory: Path) -> Judged:
    """Read `queries.jsonl` and `qrels.tsv` (or `qrels/test.tsv`) of a folder. Raises InputError."""
    for qrels in (directory / "qrels.tsv", directory / "qrels" / "test.tsv"):
        if qrels.is_file():
            return load_judged(directory / "queries.jsonl", qrels)
    raise InputError(
        f"{directory} has neither qrels.tsv nor qrels/test.tsv",
        advice="Judged queries are a folder with queries.jsonl and qrels.tsv, as BEIR lays them out.",
    )


def load_judged(queries: Path, qrels: Path) -> Judged:
    """Read the texts and the judgements, and keep the queries that have both.

    `queries` has a JSON object {"_id", "text"} a line. `qrels` has `query-id`, `corpus-id` and an integer score,
    separated by tabs, with or without a header line. Raises InputError that names the file and the line.
    """
    texts = _read_queries(queries)
    judgements = {
        query: documents
        for query, documents in _read_qrels(qrels, known_queries=texts).items()
        if query in texts and any(relevance > 0 for relevance in documents.values())
    }
    if not judgements:
        raise InputError(
            f"{qrels} judges no document relevant to any query of {queries}",
            advice="Check that both files belong to the same collection: the first column of the judgements is the "
            "_id of a query.",
        )
    return Judged(queries={query: texts[query] for query in judgements}, judgements=judgements)


def _read_queries(path: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, line in _lines(path):
        query, text = _parsed_query(line, f"{path}, line {number}")
        if query in texts:
            raise InputError(f"{path}, line {number}: the query id {query} occurs twice")
        texts[query] = text
    return texts


def _parsed_query(line: str, where: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise InputError(f"{where}: not a JSON object", advice='A query is {"_id": "1", "text": "..."}.')
    fields = cast("dict[str, Any]", row)
    query, text = fields.get("_id"), fields.get("text")
    if isinstance(query, int) and not isinstance(query, bool):
        query = str(query)
    if not isinstance(query, str) or not query:
        raise InputError(f'{where}: no "_id"', advice='A query is {"_id": "1", "text": "..."}.')
    if not isinstance(text, str) or not text.strip():
        raise InputError(f'{where}: no "text"', advice='A query is {"_id": "1", "text": "..."}.')
    return query, text


def _read_qrels(path: Path, *, known_queries: dict[str, str]) -> dict[str, dict[str, int]]:
    judgements: dict[str, dict[str, int]] = {}
    for number, line in _lines(path):
        where = f"{path}, line {number}"
        columns = [column.strip() for column in line.split("\t")]
        if len(columns) != 3 or not columns[0] or not columns[1]:
            raise InputError(f"{where}: not query-id, corpus-id and score, separated by tabs")
        query, document, score = columns
        if number == 1 and query not in known_queries and not _is_integer(score):
            continue  # the header
        if not _is_integer(score):
            raise InputError(f"{where}: the score {score!r} is not a whole number")
        relevance = int(score)
        if judgements.setdefault(query, {}).setdefault(document, relevance) != relevance:
            raise InputError(f"{where}: {document} is judged twice for query {query}, with different scores")
    return judgements


def _is_integer(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) <= 9


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1, without their ends or a byte order mark."""
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise InputError(f"{path}, line {number}: not UTF-8: {error.reason}") from error
                if line.strip():
                    yield number, line
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
