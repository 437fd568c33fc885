"""PDF, Word, HTML, tables and archives: what they become, what is refused, and that a bad file harms nobody."""

from __future__ import annotations

import io
import os
import signal
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from reshelve.corpus.readers import read_documents
from reshelve.corpus.readers.apart import ReadingApart
from reshelve.domain.documents import Document
from reshelve.errors import DocumentRefused, InputError
from reshelve.settings import ReadingSettings
from tests.support.files import docx, pdf


def _read(path: Path, **settings: Any) -> tuple[list[Document], list[str]]:
    """Documents, and the reasons of refusals."""
    found = list(read_documents(path, settings=ReadingSettings(**settings)))
    refusals = [each for each in found if isinstance(each, DocumentRefused)]
    return [each for each in found if isinstance(each, Document)], [each.message for each in refusals]


def _file(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _zip(members: Sequence[tuple[str, bytes]], **options: Any) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content, **options)
    return out.getvalue()


def test_a_pdf_keeps_its_pages(tmp_path: Path) -> None:
    path = _file(tmp_path, "plan.pdf", pdf(["First page.", "", "Third page."], title="The plan"))
    (document,), _ = _read(path)
    assert (document.external_id, document.title, document.format) == ("plan.pdf", "The plan", "pdf")
    assert document.metadata == {"pages": 3}
    starts = [(document.content[section.start :][:5], section.number) for section in document.sections]
    assert starts == [("First", 1), ("Third", 3)]


def test_an_owners_password_hinders_nobody_and_a_users_is_the_reason(tmp_path: Path) -> None:
    _file(tmp_path, "owner.pdf", pdf(["Read me."], owner="theirs"))
    _file(tmp_path, "user.pdf", pdf(["Read me not."], owner="theirs", user="secret"))
    _file(tmp_path, "scan.pdf", pdf(["", ""]))
    _file(tmp_path, "torn.pdf", b"%PDF-1.7\n" + b"\0" * 500)
    (document,), refused = _read(tmp_path)
    assert (document.external_id, document.content) == ("owner.pdf", "Read me.")
    assert refused == [
        "scan.pdf: the PDF has no text: its 2 pages hold pictures, drawings or nothing",
        "torn.pdf: the PDF is damaged: no pages can be found in it",
        "user.pdf: the PDF asks for a password to be opened",
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252", "shift_jis"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_dialect_and_encoding_of_a_table_are_found(tmp_path: Path, encoding: str, delimiter: str) -> None:
    words = ("学校", "図書館の本") if encoding == "shift_jis" else ("café", "crème brûlée")
    rows = [["name", "year", "code", "note"]]
    rows += [[f"{words[0]} {at}", str(1990 + at), f"00{at}", f'"{words[1]}\r\n{delimiter} {at}"'] for at in range(40)]
    path = _file(tmp_path, "shops.csv", "\r\n".join(delimiter.join(row) for row in rows).encode(encoding))
    documents, refused = _read(path)
    assert (len(documents), refused) == (40, [])
    first = documents[0]
    assert (first.external_id, first.title, first.sections[0].number) == ("shops.csv#2", "shops", 2)
    assert first.metadata["year"] == 1990, "a number is one"
    assert first.metadata["code"] == "000", "and what would not be written the same again is none"
    assert first.metadata["note"] == f"{words[1]}\r\n{delimiter} 0"
    assert first.content.splitlines()[0] == f"name: {words[0]} 0"


def test_rows_in_groups(tmp_path: Path) -> None:
    lines = "city,country\n" + "".join(f"town {at},{'FR' if at < 4 else 'IT'}\n" for at in range(6))
    first, second = _read(_file(tmp_path, "t.csv", lines), csv_rows=4)[0]
    assert (first.external_id, second.external_id) == ("t.csv#2-5", "t.csv#6-7")
    assert first.metadata == {"city": ["town 0", "town 1", "town 2", "town 3"], "country": "FR"}
    assert [first.content[at:].splitlines()[0] for at, _ in first.sections] == [f"city: town {at}" for at in range(4)]


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ("a,a,\n1,2,3,4\n", [{"a": 1, "a (2)": 2, "column 3": 3, "column 4": 4}]),
        ('a,b\n1,"x ""y"" z"\n\n,,\n2\n', [{"a": 1, "b": 'x "y" z'}, {"a": 2}]),
        ("only\none\ntwo\n", [{"only": "one"}, {"only": "two"}]),
    ],
)
def test_tables_of_all_kinds(tmp_path: Path, content: str, rows: list[dict[str, Any]]) -> None:
    assert [document.metadata for document in _read(_file(tmp_path, "t.csv", content))[0]] == rows


def test_html_becomes_markdown_without_what_no_reader_sees(tmp_path: Path) -> None:
    page = """<!DOCTYPE html><html><head><title> The  page </title><style>p {}</style></head><body><nav>Home</nav>
        <h1>One</h1><p>A <b>bold</b>
        word.<br>Next.</p><script>alert(1)</script><h2>Two</h2><ul><li>first<li><p>second</p></ul>
        <pre>x = 1\n  y</pre><table><tr><th>k</th><th>v</th></tr><tr><td>a</td><td>1|2</td></tr></table></body>"""
    (document,), _ = _read(_file(tmp_path, "page.html", page))
    assert (document.title, document.format) == ("The page", "html")
    assert document.content.split("\n\n") == [
        "# One",
        "A bold word.\nNext.",
        "## Two",
        "- first\n- second",
        "```\nx = 1\n  y\n```",
        "| k | v |\n| --- | --- |\n| a | 1\\|2 |",
    ]


def test_html_says_its_encoding(tmp_path: Path) -> None:
    page = '<html><head><meta charset="iso-8859-2"></head><body><p>Żółw</p></body></html>'
    assert _read(_file(tmp_path, "a.html", page.encode("iso-8859-2")))[0][0].content == "Żółw"


def test_a_word_document_keeps_headings_and_tables(tmp_path: Path) -> None:
    content = docx(["# The report", "All is well."], [["k", "v"], ["a", "1"]])
    (document,), _ = _read(_file(tmp_path, "report.docx", content))
    assert (document.title, document.format) == ("The report", "docx")
    assert document.content == "# The report\n\nAll is well.\n\n| k | v |\n| --- | --- |\n| a | 1 |"


def test_the_content_says_what_a_file_is(tmp_path: Path) -> None:
    _file(tmp_path, "a", pdf(["A plan."]))
    _file(tmp_path, "b.txt", docx(["A report."]))
    _file(tmp_path, "c.pdf", "<!doctype html><p>An error page.</p>")
    _file(tmp_path, "LICENSE", "Do what you want.")
    _file(tmp_path, "readme.md", "<html> in Markdown")
    documents, refused = _read(tmp_path)
    assert {each.external_id: each.format for each in documents} == {
        "LICENSE": "text", "a": "pdf", "b.txt": "docx", "c.pdf": "html", "readme.md": "markdown",
    }  # fmt: skip
    assert refused == []


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.pdf", b"no pdf", "it is called .pdf, and is none"),
        ("a.png", b"\x89PNG\r\n\x1a\n\0\0", "of no known format"),
        ("a.png", b"text", "of no known format"),
        ("a.xlsx", _zip([("xl/workbook.xml", b"")]), "it is an Excel workbook (XLSX), which is not read"),
        ("a.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 100, "an Office file of the old kind"),
        ("a.rtf", b"{\\rtf1 text}", "it is a rich text file (RTF)"),
        ("a.docx", docx(["x"])[:300], "the Word document is damaged"),
        ("a.docx", docx([""]), "there is no text in it"),
        ("a.docx", _zip([("word/document.xml", b"<w:document")]), "the Word document is damaged"),
        ("a.html", b"<html><script>x</script>", "there is no text in it"),
        ("a.csv", b"", "the file is empty"),
        ("a.csv", b"a,b\n", "the table has a header at most"),
        ("a.csv", b"a,b\n" + b"\x81\x00\xff\xfe\x07" * 200, ""),
        ("a.gz", b"\x1f\x8b\x08\0\0", "it is a compressed file, and no archive of files"),
        ("a.zip", b"PK\x03\x04 torn", "the archive is damaged"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    documents, (refused,) = _read(_file(tmp_path, name, content))
    assert documents == []
    assert reason in refused


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.xz"])
def test_an_archive_is_read_as_a_folder_is(tmp_path: Path, kind: str) -> None:
    members = [
        ("b/two.md", b"# Two\n"),
        ("a.pdf", pdf(["A plan."])),
        (".git/x.txt", b"hidden"),
        ("p.png", b"\x89PNG\0"),
    ]
    if kind == "zip":
        content = _zip(members)
    else:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode=f"w:{kind.partition('.')[2]}") as archive:  # pyright: ignore
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        content = out.getvalue()
    path = _file(tmp_path, f"all.{kind}", content)
    documents, refused = _read(path)
    assert [each.external_id for each in documents] == [f"all.{kind}/a.pdf", f"all.{kind}/b/two.md"]
    assert refused == ["p.png: of no known format"]
    assert _read(tmp_path)[1] == [f"all.{kind}/p.png: of no known format"]


def test_an_archive_reaches_nothing_outside(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, kind, target in (
            ("../up.txt", tarfile.REGTYPE, ""),
            ("/etc/up.txt", tarfile.REGTYPE, ""),
            ("link.txt", tarfile.SYMTYPE, "/etc/passwd"),
            ("hard.txt", tarfile.LNKTYPE, "/etc/passwd"),
            ("pipe", tarfile.FIFOTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, target, 2 if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"up"))
    documents, refused = _read(_file(tmp_path, "a.tar", out.getvalue()))
    assert documents == []
    assert [reason.rpartition(": ")[2] for reason in refused] == ["its path leads out of the archive"] * 2 + [
        "it is a link or a device, and no file"
    ] * 3
    climbing = _zip([("..\\up.txt", b"x"), ("c:/up.txt", b"x"), ("inner.zip", _zip([("a.txt", b"x")]))])
    assert [reason.partition(": ")[2] for reason in _read(_file(tmp_path, "a.zip", climbing))[1]] == [
        "its path leads out of the archive",
        "its path leads out of the archive",
        "it is an archive inside an archive",
    ]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.tar", "a.zip"]


def test_the_limits_of_archives(tmp_path: Path) -> None:
    bomb = _file(tmp_path, "bomb.zip", _zip([("a.txt", b"small"), ("b.txt", b"\n" * 30 * 1024**2), ("c.txt", b"x")]))
    (kept,), (reason,) = _read(bomb)
    assert kept.external_id == "bomb.zip/a.txt"
    assert "grows more than 200 times as large (rag.reading.archive_ratio); what follows was not read" in reason
    assert "holds more than 1 MB (rag.reading.archive_mb)" in _read(bomb, archive_ratio=10_000, archive_mb=1)[1][0]
    assert "10 MB" in _read(bomb, archive_ratio=10_000)[1][0], "then only the document is too large"
    many = _file(tmp_path, "many.zip", _zip([(f"{at}.txt", b"x") for at in range(11)]))
    assert _read(many, archive_entries=10) == (
        [],
        ["the archive has more than 10 entries (rag.reading.archive_entries)"],
    )
    assert len(_read(many, archive_entries=11)[0]) == 11


def test_a_file_may_take_so_much_time_and_memory_and_the_next_one_is_read(tmp_path: Path) -> None:
    _file(tmp_path, "a.html", "<html>" + "<div><p>x</p>" * 60_000)
    _file(tmp_path, "b.html", "<p>light</p>")
    documents, (refused,) = _read(tmp_path, timeout_seconds=0.7)
    assert refused == "a.html: reading it takes more than 0.7 s (rag.reading.timeout_seconds)"
    assert [each.content for each in documents] == ["light"]
    _file(tmp_path, "a.html", "<html>" + "<p>x</p>" * 3_000_000)
    documents, (refused,) = _read(tmp_path, memory_mb=256)
    assert "256 MB" in refused
    assert [each.content for each in documents] == ["light"]


def test_a_child_that_dies_costs_one_file(tmp_path: Path) -> None:
    table = _file(tmp_path, "a.csv", "a,b\n" + "some,words\n" * 300_000)
    with ReadingApart(ReadingSettings()) as apart:
        items = apart.read(table, format="csv", name="a")
        next(items)
        child = apart._child
        assert child is not None
        os.kill(child.pid, signal.SIGSEGV)
        with pytest.raises(DocumentRefused, match=r"did not survive it \(SIGSEGV\)"):
            list(items)
        assert len(list(apart.read(_file(tmp_path, "b.csv", "a\n1\n"), format="csv", name="b"))) == 1
        again = apart._child
        assert again is not None
        assert again.pid != child.pid
    assert again.returncode is not None, "closed, it leaves no process behind"


def test_a_pattern_names_files_below_its_fixed_part(tmp_path: Path) -> None:
    for name in ("x/a.md", "x/y/b.md", "x/y/c.txt"):
        _file(tmp_path, name, "# text")
    assert [each.external_id for each in _read(tmp_path / "x" / "**" / "*.md")[0]] == ["a.md", "y/b.md"]
    with pytest.raises(InputError, match="does not exist"):
        read_documents(tmp_path / "*.pdf")
