"""Judged queries from files, good and bad, and the demo's own."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest

from reshelve.errors import InputError
from reshelve.evaluation.judged import load_judged, load_judged_directory

QUERIES = (
    '{"_id": "1", "text": "first"}\n\n{"_id": 2, "text": "second", "metadata": {}}\n{"_id": "3", "text": "third"}\n'
)


def _written(folder: Path, queries: str | bytes, qrels: str | bytes) -> tuple[Path, Path]:
    paths = folder / "queries.jsonl", folder / "qrels.tsv"
    for path, content in zip(paths, (queries, qrels), strict=True):
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return paths


@pytest.mark.parametrize("header", ["", "query-id\tcorpus-id\tscore\n"])
def test_only_queries_with_a_text_and_a_positive_judgement_are_kept(tmp_path: Path, header: str) -> None:
    paths = _written(tmp_path, QUERIES, f"{header}1\ta\t1\n1\tb\t0\r\n2\ta\t0\n9\ta\t1\n3\tc\t2\n")
    judged = load_judged(*paths)
    assert judged.queries == {"1": "first", "3": "third"}
    assert judged.judgements == {"1": {"a": 1, "b": 0}, "3": {"c": 2}}
    assert load_judged_directory(tmp_path) == judged


def test_a_byte_order_mark_and_the_folder_of_beir_are_understood(tmp_path: Path) -> None:
    paths = _written(tmp_path, b"\xef\xbb\xbf" + QUERIES.encode(), "1\ta\t1\n")
    (tmp_path / "qrels").mkdir()
    paths[1].rename(tmp_path / "qrels" / "test.tsv")
    assert load_judged_directory(tmp_path).queries == {"1": "first"}


@pytest.mark.parametrize(
    ("queries", "qrels", "message"),
    [
        ('{"_id": "1", "text": "a"}\n{"_id"', "1\ta\t1\n", r"queries\.jsonl, line 2: not valid JSON"),
        ("[1]", "1\ta\t1\n", r"queries\.jsonl, line 1: not a JSON object"),
        ('{"text": "a"}', "1\ta\t1\n", r'queries\.jsonl, line 1: no "_id"'),
        ('{"_id": "1", "text": " "}', "1\ta\t1\n", r'queries\.jsonl, line 1: no "text"'),
        (QUERIES + '{"_id": "1", "text": "a"}', "1\ta\t1\n", r"queries\.jsonl, line 5: the query id 1 occurs twice"),
        (b'{"_id": "1", "text": "\xff"}', "1\ta\t1\n", r"queries\.jsonl, line 1: not UTF-8"),
        (QUERIES, "1\ta\t1\n1 b 1\n", r"qrels\.tsv, line 2: not query-id"),
        (QUERIES, "1\t0\ta\t1\n", r"qrels\.tsv, line 1: not query-id"),
        (QUERIES, "1\ta\tgood\n", r"qrels\.tsv, line 1: the score 'good'"),
        (QUERIES, "1\ta\t1\n1\tb\t0.5\n", r"qrels\.tsv, line 2: the score '0\.5'"),
        (QUERIES, "1\ta\t1\n1\ta\t2\n", r"qrels\.tsv, line 2: a is judged twice"),
        (QUERIES, "1\ta\t0\n", r"qrels\.tsv judges no document relevant"),
        ("", "", r"qrels\.tsv judges no document relevant"),
    ],
)
def test_a_bad_file_is_refused_by_name_and_line(
    tmp_path: Path, queries: str | bytes, qrels: str | bytes, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load_judged(*_written(tmp_path, queries, qrels))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither"):
        load_judged_directory(tmp_path)
    with pytest.raises(InputError, match=r"absent\.jsonl cannot be read: No such file"):
        load_judged(tmp_path / "absent.jsonl", tmp_path / "qrels.tsv")


def test_the_demo_holds_every_judged_abstract_and_its_arrivals_are_new() -> None:
    data = Path(str(files("reshelve.demo") / "data"))
    judged = load_judged_directory(data)
    rows = {
        name: [json.loads(line) for line in (data / name).read_text("utf-8").split("\n") if line]
        for name in ("corpus.jsonl", "arrivals.jsonl")
    }
    corpus = {row["_id"] for row in rows["corpus.jsonl"]}
    arrivals = {row["_id"] for row in rows["arrivals.jsonl"]}
    assert (len(judged.queries), len(corpus), len(arrivals)) == (300, 1000, 60)
    assert {document for documents in judged.judgements.values() for document in documents} <= corpus
    assert not corpus & arrivals
    assert all(row.keys() == {"_id", "title", "text"} and row["text"] for name in rows for row in rows[name])
    assert "ODC-By" in (data / "LICENSE.md").read_text("utf-8")
