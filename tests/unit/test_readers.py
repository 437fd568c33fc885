"""What files and rows become, and what is refused with which words."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from reshelve.corpus.checks import MAX_DOCUMENT_BYTES, check_document
from reshelve.corpus.readers import from_mapping, jsonl, read_documents
from reshelve.domain.documents import Document
from reshelve.errors import DocumentRefused, InputError


def _written(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _only(path: Path, **options: Any) -> Document:
    found = list(read_documents(path, **options))
    assert len(found) == 1
    assert isinstance(found[0], Document), found[0]
    return found[0]


def _refusal(path: Path, **options: Any) -> DocumentRefused:
    found = list(read_documents(path, **options))
    assert len(found) == 1
    assert isinstance(found[0], DocumentRefused)
    return found[0]


def test_rows_become_documents_with_every_other_field_as_metadata(tmp_path: Path) -> None:
    rows = [
        {"_id": "a", "title": "T", "text": "one", "year": 2020, "metadata": {"tags": ["x"]}},
        {"id": 7, "text": "two", "title": None},
    ]
    path = _written(tmp_path, "c.jsonl", "\ufeff" + "\r\n\r\n".join(json.dumps(row) for row in rows))
    assert list(read_documents(path)) == [
        Document(external_id="a", title="T", content="one", metadata={"year": 2020, "tags": ["x"]}),
        Document(external_id="7", content="two"),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"_id": "a", "text": ', "broken JSON"),
        (b"[1]", "array, not an object"),
        (b"null", "null, not an object"),
        (b'{"text": "x"}', "`_id` is missing"),
        (b'{"_id": " ", "text": "x"}', "must be a string that is not empty"),
        (b'{"_id": true, "text": "x"}', "must be a string"),
        (b'{"_id": "a", "text": 3}', "text of document 'a' is of type number"),
        (b'{"_id": "a", "title": {}, "text": "x"}', "title of document 'a' is of type object"),
        (b'{"_id": "a", "title": " ", "text": "\\n"}', "neither a title nor a text"),
        (b'{"_id": "a", "text": "x\\u0000y"}', "NUL character at character 1"),
        (b'{"_id": "a", "text": "x\\ud800y"}', r"lone surrogate (\ud800) at character 1"),
        (b'{"_id": "a\\u0000", "text": "x"}', "the id of document 'a\\x00' has a NUL"),
        (b'{"_id": "a", "text": "x", "n": {"k": ["\\u0000"]}}', "metadata of document 'a' has a NUL"),
        (b'{"_id": "a", "text": "x", "n": {"\\u0000": 1}}', "metadata of document 'a' has a NUL"),
        (b'{"_id": "a", "text": "x", "n": NaN}', "NaN, which is no JSON"),
        (b'{"_id": "a", "text": "x", "n": 1e999}', "metadata of document 'a' holds inf"),
        (b'{"_id": "a", "text": "x", "n": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"_id": "a", "text": "x", "n": ' + b"[" * 5000 + b"]" * 5000 + b"}", "nested"),
        (b'{"_id": "a", "text": "x", "n": ' + b"[" * 150 + b"]" * 150 + b"}", "nested deeper than 100"),
        (b'{"_id": "a", "text": "x", "n": 1, "metadata": {"n": 2}}', "'n' both inside `metadata` and beside it"),
        (b'{"_id": "' + b"i" * 2000 + b'", "text": "x"}', "at most 1 kB"),
        (b'{"_id": "a", "text": "' + b"x" * (11 * 1024**2) + b'"}', "is 11 MB long; at most 10 MB"),
        (b'{"_id": "a", "text": "\xff"}', "invalid UTF-8 at byte 55 of the file (0xff)"),
        (b'{"_id": "a", "text": "\x00"}', "NUL at byte 55 of the file"),
    ],
)
def test_a_wrong_row_is_refused_with_its_line_and_the_rest_goes_on(tmp_path: Path, line: bytes, reason: str) -> None:
    good = b'{"_id": "good", "text": "one"}\n'
    path = _written(tmp_path, "c.jsonl", b"\n\n" + good + line + b"\n" + b'{"_id": "too", "text": "two"}')
    first, refusal, last = read_documents(path)
    assert isinstance(first, Document)
    assert isinstance(last, Document)
    assert isinstance(refusal, DocumentRefused)
    assert refusal.line == 4
    assert reason.replace("55", str(2 + len(good) + 22)) in refusal.message


def test_a_line_that_is_too_long_is_passed_over_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 1000)
    rows = [b'{"_id": "a", "text": "' + b"x" * 3_000_000 + b'"}', b'{"_id": "b", "text": "\xff"}']
    refused, broken = read_documents(_written(tmp_path, "c.jsonl", b"\n".join(rows)))
    assert isinstance(refused, DocumentRefused)
    assert (refused.line, refused.message) == (1, "the line is 2.9 MB long; at most 0 MB are read")
    assert f"byte {len(rows[0]) + 1 + 22} " in str(broken)


def test_a_binary_or_utf16_file_is_refused_once(tmp_path: Path) -> None:
    assert "binary: NUL at byte 4" in _refusal(_written(tmp_path, "a.jsonl", b"\x7fELF\0\n" * 100)).message
    assert "binary" in _refusal(_written(tmp_path, "a.txt", b"x" * 10_000 + b"\0")).message
    assert "UTF-16" in _refusal(_written(tmp_path, "b.txt", "hello".encode("utf-16"))).message
    assert "invalid UTF-8 at byte 3" in _refusal(_written(tmp_path, "c.txt", b"abc\xe9t\xe9")).message
    assert "11.0 MB" in _refusal(_written(tmp_path, "d.txt", b"x" * (11 * 1024**2))).message
    assert "empty" in _refusal(_written(tmp_path, "e.md", b" \n")).message


def test_a_text_of_the_greatest_size_is_taken(tmp_path: Path) -> None:
    path = _written(tmp_path, "a.txt", b"\xef\xbb\xbf" + b"x" * MAX_DOCUMENT_BYTES)
    assert len(_only(path).content) == MAX_DOCUMENT_BYTES


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("# The title #\n\ntext", "The title"),
        ("intro\n\n```sh\n# not this\n```\n\n## This", "This"),
        ("---\nname: x\n---\n# After\n", "After"),
        ("Underlined\n=====\ntext", "Underlined"),
        ("#hashtag only\n", "notes"),
        ("text\r\n\r\n# Late\r\n", "Late"),
    ],
)
def test_a_markdown_file_is_called_by_its_first_heading(tmp_path: Path, text: str, title: str) -> None:
    document = _only(_written(tmp_path, "notes.md", text))
    assert (document.title, document.format, document.external_id) == (title, "markdown", "notes.md")
    assert "\r" not in document.content


def test_a_folder_is_read_in_order_and_other_files_are_refused_one_line_each(tmp_path: Path) -> None:
    _written(tmp_path, "b/two.MD", "# Two\n")
    _written(tmp_path, "a.txt", "one")
    _written(tmp_path, "c.jsonl", '{"_id": "three", "text": "x"}\nbroken\n')
    _written(tmp_path, "picture.png", b"\x89PNG")
    _written(tmp_path, ".git/config.txt", "hidden")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    found = list(read_documents(tmp_path))
    assert [each.external_id for each in found if isinstance(each, Document)] == ["a.txt", "three", "b/two.MD"]
    reasons = [(each.line, each.message.partition(" ")[0]) for each in found if isinstance(each, DocumentRefused)]
    assert reasons == [(2, "c.jsonl:"), (None, "gone.txt:"), (None, "picture.png:"), (None, "pipe.txt:")]


def test_what_cannot_be_opened_or_named_is_an_input_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_documents(tmp_path / "nothing.txt")
    with pytest.raises(InputError, match=r"(?s)unknown format 'odt'.*text, markdown, jsonl"):
        read_documents(tmp_path, format="odt")
    assert _only(_written(tmp_path, "a.pdf", "x"), format="text").title == "a"


def test_a_mapping_from_a_program_is_refused_with_its_line() -> None:
    with pytest.raises(DocumentRefused, match="not a string") as caught:
        from_mapping({"_id": "a", "text": b"bytes"}, line=3)
    assert caught.value.line == 3


@pytest.mark.parametrize("metadata", [{"when": object()}, {1: "one"}, {"a": {2: 3}}, {"t": (1, 2)}, {"x": "y" * 2**21}])
def test_metadata_that_would_not_come_back_as_it_was_is_refused(metadata: dict[Any, Any]) -> None:
    with pytest.raises(DocumentRefused, match="metadata"):
        check_document(Document(external_id="a", content="x", metadata=metadata))
