"""Another way of cutting is a migration like any other: planned, live, proven, and with a way back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import reshelve
from reshelve.corpus.ingest import as_document
from reshelve.database.catalog import live_chunkings
from reshelve.domain.documents import Place
from reshelve.domain.migration import State
from reshelve.migrations.declaration import chunker_of
from reshelve.settings import Settings
from tests.support.files import docx, pdf
from tests.support.oracle import assert_indexes_equal_source
from tests.support.writers import documents, writing

SettingsOf = Callable[[str], Settings]
HASHING = '[rag.embedding]\nmodel = "hashing-64"\n'
LINES = [f"The {word} shelf number {at} holds many old books." for at in range(9) for word in ("green", "red", "blue")]


def _chunking(**settings: Any) -> str:
    written = "".join(f"{name} = {value!r}\n" for name, value in settings.items())
    return f"{HASHING}[rag.chunking]\n{written}"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "plan.pdf").write_bytes(pdf(["\n".join(LINES[at : at + 6]) for at in range(0, 24, 6)]))
    (folder / "report.docx").write_bytes(docx(["# The report", *LINES[:8]]))
    (folder / "shelves.csv").write_text("colour,number\n" + "".join(f"green,{at}\n" for at in range(30)))
    return folder


async def _assert_cut_as_declared(library: reshelve.Library) -> None:
    """The chunks of every live chunking are what its chunker makes of the documents as they are now."""
    async with library.backends.database.service() as connection:
        (collection,) = await (await connection.execute("SELECT id FROM collections")).fetchall()
        chunkings = await live_chunkings(connection, collection[0])
        rows = await connection.execute("SELECT id, external_id, title, content, format, sections FROM documents")
        stored = [(id, as_document(*row)) for id, *row in await rows.fetchall()]
        rows = await connection.execute(
            "SELECT chunking_id, document_id, content, start_char, end_char, place FROM chunks"
        )
        found = {(*row, str(sorted(place.items()))) for *row, place in await rows.fetchall()}
    wanted: set[tuple[Any, ...]] = set()
    for chunking in chunkings:
        chunker = await chunker_of(library.backends, chunking)
        wanted |= {
            (chunking.id, id, piece.content, piece.start, piece.end, str(sorted(piece.place.as_dict().items())))
            for id, document in stored
            for piece in chunker.pieces(document)
        }
    assert found == wanted


async def test_one_chunker_follows_another_under_writes(settings_of: SettingsOf, files: Path) -> None:
    async with reshelve.connect(settings_of(HASHING)) as library:
        await library.ingest(files)
        await library.ingest(documents(200))
    sentences = _chunking(strategy="sentence", chunk_size=24, max_chunk_size=32, overlap=8, pdf_chunk_tokens=16)
    async with reshelve.connect(settings_of(sentences)) as library:
        plan = await library.plan()
        assert {change.what for change in plan.changes} == {
            "chunking", "chunk size", "largest chunk", "overlap", "chunk size of PDF",
        }  # fmt: skip
        async with writing(library):
            migration = await library.apply(cutover=True)
            assert migration.state is State.SOAKING
            found = await library.search("red shelf number 8", top_k=1)
        assert await assert_indexes_equal_source(library) > 200
        await _assert_cut_as_declared(library)
        assert found.results[0].content
        async with writing(library, seed=1):
            assert (await library.rollback()).state is State.ROLLED_BACK
        await assert_indexes_equal_source(library)
        await _assert_cut_as_declared(library)


async def test_the_plan_foresees_the_chunks_of_short_and_long_documents(settings_of: SettingsOf) -> None:
    """Most documents are one line, most of the text is in a few."""
    lines = [reshelve.Document(external_id=f"line{n}", content=f"row {n} of a table") for n in range(500)]
    books = [
        reshelve.Document(external_id=f"book{n}", content=" ".join(f"word{n * k}." for k in range(3000)))
        for n in range(2, 6)
    ]
    async with reshelve.connect(settings_of(HASHING)) as library:
        await library.ingest([*lines, *books])
    for size in (100, 30):
        async with reshelve.connect(settings_of(_chunking(strategy="sentence", chunk_size=size, overlap=0))) as library:
            plan = await library.plan()
            await library.apply(cutover=True)
            await library.cleanup(skip_soak=True)
            async with library.backends.database.service() as connection:
                cursor = await connection.execute(
                    "SELECT count(*), sum(token_count) FILTER (WHERE content NOT LIKE 'row %') FROM chunks"
                )
                counted = await cursor.fetchone()
        assert counted is not None
        assert plan.rows == pytest.approx(counted[0], rel=0.1)
        # The lines are cut as before, and keep their vectors.
        assert plan.reused_rows == pytest.approx(500, rel=0.2)
        assert plan.tokens == pytest.approx(counted[1], rel=0.1)


@pytest.mark.parametrize(
    ("setting", "value", "shown"),
    [
        ("strategy", "sliding_window", "chunking"),
        ("min_chunk_size", 20, "smallest chunk"),
        ("csv_chunk_tokens", 20, "chunk size of tables"),
        ("csv_chunk_max_tokens", 210, "largest chunk of tables"),
        ("pdf_chunk_tokens", 20, "chunk size of PDF"),
        ("pdf_chunk_max_tokens", 210, "largest chunk of PDF"),
    ],
)
async def test_every_parameter_is_a_change_that_the_plan_shows(
    settings_of: SettingsOf, setting: str, value: Any, shown: str
) -> None:
    async with reshelve.connect(settings_of(HASHING)) as library:
        await library.ingest(documents(3))
    async with reshelve.connect(settings_of(_chunking(**{setting: value}))) as library:
        assert [change.what for change in (await library.plan()).changes] == [shown]
    same = _chunking(csv_chunk_tokens=200, csv_chunk_max_tokens=250, pdf_chunk_tokens=200, min_chunk_size=0)
    async with reshelve.connect(settings_of(same)) as library:
        assert (await library.plan()).changes == [], "sizes that say nothing new change nothing"


async def test_results_say_where_they_stand(settings_of: SettingsOf, files: Path) -> None:
    small = _chunking(chunk_size=16, max_chunk_size=20, csv_chunk_tokens=12) + "[rag.reading]\ncsv_rows = 10\n"
    async with reshelve.connect(settings_of(small)) as library:
        await library.ingest(files)

        async def place(text: str, document: str) -> Place:
            found = (await library.search(text, top_k=200)).results
            return next(each.place for each in found if each.document_id == document and text in each.content)

        assert (await place(LINES[20], "plan.pdf")).page == 4
        assert (await place(LINES[2], "report.docx")).headings == ("The report",)
        rows = await place("number: 17", "shelves.csv#12-21")
        assert rows.row is not None
        assert rows.row <= 19 <= (rows.last_row or rows.row)
