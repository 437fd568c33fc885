"""Documents in and out of a real database, as the service's role."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import psycopg
import pytest

from reshelve.corpus.chunkers import Chunker, tokenizer_fingerprint
from reshelve.corpus.ingest import IngestReport, as_document, delete, ingest, rechunk
from reshelve.database import catalog
from reshelve.database.catalog import RegisteredChunking
from reshelve.database.pools import Database
from reshelve.domain.documents import Chunking, Document, Section
from reshelve.embedders.wordpiece import wordpiece
from reshelve.errors import DocumentRefused, NotFoundError

SENTENCES = [
    f"Sentence number {n} says that shelf {n * 7 % 13} holds some {n * n} books, maybe more." for n in range(100)
]
FINGERPRINT = tokenizer_fingerprint(wordpiece())


def _chunking(size: int) -> Chunking:
    return Chunking(strategy="semantic", chunk_size=size, max_chunk_size=size + 10, overlap=0, tokenizer=FINGERPRINT)


@cache
def _chunker(size: int) -> Chunker:
    return Chunker(_chunking(size), wordpiece())


async def _chunker_of(registered: RegisteredChunking) -> Chunker:
    return _chunker(registered.chunking.chunk_size)


@dataclass
class Corpus:
    database: Database
    collection_id: int
    chunking_id: int

    async def take(self, *documents: Document | DocumentRefused, **options: Any) -> IngestReport:
        return await ingest(
            self.database, documents, collection_id=self.collection_id, chunker_of=_chunker_of, **options
        )

    async def make_live(self, size: int) -> int:
        async with self.database.owner() as connection:
            return await catalog.ensure_chunking(connection, self.collection_id, _chunking(size))

    async def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        async with self.database.owner() as connection:
            return await (await connection.execute(query.encode(), values)).fetchall()

    async def count(self, table: str) -> int:
        return (await self.rows(f"SELECT count(*) FROM {table}"))[0][0]

    async def check(self) -> None:
        """The chunks are exactly the pieces of the documents, and the outbox, replayed, gives exactly the chunks."""
        async with self.database.owner() as connection:
            live = await catalog.live_chunkings(connection, self.collection_id)
        wanted: set[tuple[Any, ...]] = set()
        for id, *row in await self.rows("SELECT id, external_id, title, content, format, sections FROM documents"):
            document = as_document(*row)
            for chunking in live:
                pieces = (await _chunker_of(chunking)).pieces(document)
                wanted |= {
                    (
                        id,
                        chunking.id,
                        number,
                        each.content,
                        each.hash,
                        each.token_count,
                        each.start,
                        each.end,
                        json.dumps(each.place.as_dict(), sort_keys=True),
                    )
                    for number, each in enumerate(pieces)
                }
        found = await self.rows(
            "SELECT document_id, chunking_id, ordinal, content, content_hash, token_count, start_char, end_char, "
            "place FROM chunks"
        )
        made = {(*row, json.dumps(place, sort_keys=True)) for *row, place in found}
        assert len(found) == len(made)
        assert made == wanted
        events = await self.rows("SELECT chunk_id, kind FROM outbox ORDER BY chunk_id")
        added = {chunk for chunk, kind in events if kind == "added"}
        removed = {chunk for chunk, kind in events if kind == "removed"}
        assert len(events) == len(added) + len(removed)
        assert added - removed == {row[0] for row in await self.rows("SELECT id FROM chunks")}


@pytest.fixture
async def corpus(database_urls: tuple[str, str]) -> AsyncGenerator[Corpus]:
    owner, service = database_urls
    database = Database(owner=owner, service=service, pool_size=4, ef_search=100, idle_in_transaction_seconds=60)
    await database.open()
    async with database.owner() as connection:
        collection_id = await catalog.ensure_collection(connection, "books")
        chunking_id = await catalog.ensure_chunking(connection, collection_id, _chunking(40))
    yield Corpus(database, collection_id, chunking_id)
    await database.close()


def _document(name: str, first: int, last: int, **options: Any) -> Document:
    return Document(external_id=name, content=" ".join(SENTENCES[first:last]), **options)


async def test_the_second_time_nothing_is_written(corpus: Corpus) -> None:
    documents = [_document(f"d{n}", n, n + 5, metadata={"n": n}) for n in range(20)]
    first = await corpus.take(*documents)
    assert (first.added, first.updated, first.unchanged, first.refused_count) == (20, 0, 0, 0)
    assert first.chunks_added == await corpus.count("chunks") == await corpus.count("outbox") > 20
    assert [(first.xid,)] == await corpus.rows("SELECT DISTINCT xid::text::bigint FROM outbox")
    await corpus.check()
    before = await corpus.rows("SELECT *, ctid, xmin, xmax FROM documents ORDER BY id")
    again = await corpus.take(*documents)
    assert (again.added, again.unchanged, again.chunks_added, again.xid) == (0, 20, 0, None)
    assert await corpus.rows("SELECT *, ctid, xmin, xmax FROM documents ORDER BY id") == before
    assert await corpus.count("outbox") == first.chunks_added


async def test_an_update_keeps_the_pieces_that_did_not_change(corpus: Corpus) -> None:
    paragraphs = [" ".join(SENTENCES[n : n + 2]) for n in range(0, 20, 2)]
    await corpus.take(Document(external_id="a", content="\n\n".join(paragraphs)))
    before = dict(await corpus.rows("SELECT content, id FROM chunks"))
    paragraphs.insert(0, "An introduction that is new. " * 4)
    del paragraphs[6]
    report = await corpus.take(Document(external_id="a", content="\n\n".join(paragraphs), metadata={"v": 2}))
    assert (report.updated, report.chunks_removed) == (1, 1)
    assert report.chunks_added <= 3
    after = dict(await corpus.rows("SELECT content, id FROM chunks"))
    assert len(before.keys() & after.keys()) == 9
    assert all(after[text] == before[text] for text in before.keys() & after.keys())
    await corpus.check()
    meta = await corpus.take(Document(external_id="a", content="\n\n".join(paragraphs), metadata={"v": 3}))
    assert (meta.updated, meta.chunks_added, meta.chunks_removed) == (1, 0, 0)
    assert meta.xid is not None
    assert await corpus.rows("SELECT metadata FROM documents") == [({"v": 3},)]


async def test_a_text_that_moves_to_another_page_keeps_its_chunk(corpus: Corpus) -> None:
    def book(*pages: str) -> Document:
        starts = [sum(len(page) + 2 for page in pages[:at]) for at in range(len(pages))]
        sections = tuple(Section(start, number) for number, start in enumerate(starts, 1))
        return Document(external_id="book", content="\n\n".join(pages), format="pdf", sections=sections)

    def places() -> Any:
        return corpus.rows("SELECT id, place FROM chunks ORDER BY ordinal")

    first, second = " ".join(SENTENCES[:2]), " ".join(SENTENCES[2:4])
    await corpus.take(book(first, second))
    (one, one_place), (two, two_place) = await places()
    assert (one_place, two_place) == ({"page": 1}, {"page": 2})
    await corpus.take(book(first, " ".join(SENTENCES[4:6]), second))
    assert [(id, place["page"]) for id, place in await places() if id in {one, two}] == [(one, 1), (two, 3)]
    await corpus.check()


async def test_every_live_chunking_gets_its_pieces_and_a_dead_one_keeps_no_old_ones(corpus: Corpus) -> None:
    other = await corpus.make_live(80)
    await corpus.take(_document("a", 0, 10), _document("b", 10, 20))
    await corpus.check()
    await corpus.rows("UPDATE chunkings SET live = false WHERE id = %s RETURNING id", other)
    await corpus.take(_document("a", 1, 12))
    left = await corpus.rows("SELECT DISTINCT external_id FROM chunks c JOIN documents d ON d.id = document_id "
                             "WHERE chunking_id = %s", other)  # fmt: skip
    assert left == [("b",)]
    await corpus.make_live(80)
    async with corpus.database.service() as connection, connection.transaction():
        chunker = _chunker(80)
        assert await rechunk(connection, chunking_id=other, chunker=chunker, lo=0, hi=10_000) > 0
        assert await rechunk(connection, chunking_id=other, chunker=chunker, lo=0, hi=10_000) == 0
    await corpus.check()


async def test_tenants_do_not_share_ids(corpus: Corpus) -> None:
    await corpus.take(_document("a", 0, 3), tenant="x")
    assert (await corpus.take(_document("a", 3, 6), tenant="y")).added == 1
    assert await delete(corpus.database, ["a"], collection_id=corpus.collection_id, tenant="z") == (0, None)
    deleted, xid = await delete(corpus.database, ["a"], collection_id=corpus.collection_id, tenant="x")
    assert deleted == 1
    assert xid is not None
    assert await corpus.rows("SELECT tenant FROM documents") == [("y",)]
    await corpus.check()


async def test_deleting_many(corpus: Corpus) -> None:
    await corpus.take(*(Document(external_id=f"d{n}", content=f"text {n}") for n in range(2500)))
    names = [f"d{n}" for n in range(2400)]
    deleted, xid = await delete(
        corpus.database, [*names, *names, "unknown", "nul\0", "\ud800"], collection_id=corpus.collection_id
    )
    assert deleted == 2400
    assert [(xid,)] == await corpus.rows("SELECT max(xid::text::bigint) FROM outbox WHERE kind = 'removed'")
    await corpus.check()
    again = await corpus.take(Document(external_id="d1", content="text 1"))
    assert again.added == 1


async def test_of_the_same_id_the_later_one_stays(corpus: Corpus) -> None:
    report = await corpus.take(_document("a", 0, 3), _document("b", 0, 3), _document("a", 3, 6), _document("a", 3, 6))
    assert (report.added, report.updated, report.unchanged) == (2, 1, 1)
    assert await corpus.rows("SELECT content FROM documents WHERE external_id = 'a'") == [(" ".join(SENTENCES[3:6]),)]
    await corpus.check()


async def test_what_is_refused_stops_nothing(corpus: Corpus) -> None:
    seen: list[int] = []

    async def mixed() -> AsyncIterator[Document | DocumentRefused]:
        for n in range(30):
            yield _document(f"d{n}", n, n + 2)
            yield DocumentRefused("broken JSON", line=n)
            yield Document(external_id=f"bad{n}", content="a\0b")

    report = await ingest(
        corpus.database,
        mixed(),
        collection_id=corpus.collection_id,
        chunker_of=_chunker_of,
        batch_rows=10,
        on_progress=lambda report: seen.append(report.seen),
    )
    assert (report.added, report.refused_count, len(report.refused)) == (30, 60, 60)
    assert (report.refused[2].line, report.refused[2].reason) == (1, "broken JSON")
    assert report.refused[1].external_id == "bad0"
    assert "NUL" in report.refused[1].reason
    assert seen == list(range(10, 100, 10))
    many = await corpus.take(*(DocumentRefused("no", line=n) for n in range(1200)))
    assert (len(many.refused), many.refused_count) == (1000, 1200)
    await corpus.check()


async def test_a_row_that_only_the_database_refuses_does_not_take_its_neighbours_along(corpus: Corpus) -> None:
    async with corpus.database.owner() as connection:
        await connection.execute("ALTER TABLE documents ADD CHECK (title <> 'forbidden')")
    report = await corpus.take(
        _document("a", 0, 3), _document("b", 0, 3, title="forbidden"), _document("c", 0, 3), _document("d", 3, 5)
    )
    assert (report.added, report.refused_count) == (3, 1)
    assert report.refused[0].external_id == "b"
    assert "violates check constraint" in report.refused[0].reason
    await corpus.check()
    with pytest.raises(NotFoundError, match="no collection 999"):
        await ingest(corpus.database, [_document("a", 0, 3)], collection_id=999, chunker_of=_chunker_of)


async def test_an_unchanged_document_is_not_locked(corpus: Corpus) -> None:
    await corpus.take(_document("a", 0, 3))
    async with corpus.database.owner() as connection, connection.transaction():
        await connection.execute("SELECT FROM documents FOR UPDATE")
        report = await asyncio.wait_for(corpus.take(_document("a", 0, 3)), timeout=5)
    assert report.unchanged == 1


async def test_concurrent_writers_of_the_same_ids(corpus: Corpus) -> None:
    """New ids, changed ids and deleted ones, in opposite orders and overlapping batches."""
    await corpus.take(*(_document(f"d{n}", n, n + 3) for n in range(0, 60, 2)))

    async def write(version: int) -> None:
        names = range(60) if version % 2 else reversed(range(60))
        documents = [_document(f"d{n}", (n * version) % 90, (n * version) % 90 + 4) for n in names]
        await corpus.take(*documents, batch_rows=17 + version)
        if version % 3 == 0:
            await delete(corpus.database, [f"d{n}" for n in names][10:20], collection_id=corpus.collection_id)

    for _ in range(3):
        await asyncio.wait_for(asyncio.gather(*(write(version) for version in range(6))), timeout=120)
        await corpus.check()
    await corpus.take(*(_document(f"d{n}", 1, 5) for n in range(60)))
    assert await corpus.count("documents") == 60
    await corpus.check()


async def _wait_until_blocked(corpus: Corpus) -> None:
    for _ in range(500):
        if (await corpus.rows("SELECT count(*) FROM pg_locks WHERE NOT granted"))[0][0]:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nobody waits")


async def test_a_writer_in_flight_while_documents_are_cut_anew(corpus: Corpus) -> None:
    """Rechunking waits for a writer that did not know of the chunking, and cuts what that writer left."""
    await corpus.take(*(_document(f"d{n}", n, n + 6) for n in range(10)))
    chunker = _chunker(90)

    async def rechunk_all(chunking_id: int) -> int:
        async with corpus.database.service() as connection, connection.transaction():
            return await rechunk(connection, chunking_id=chunking_id, chunker=chunker, lo=0, hi=10_000)

    async with corpus.database.owner() as writer:
        async with writer.transaction():
            changed = _document("d3", 60, 70)
            await writer.execute(
                "UPDATE documents SET content = %s, content_hash = %s WHERE external_id = 'd3'",
                (changed.content, changed.hash),
            )
            other = await corpus.make_live(90)
            cutting = asyncio.create_task(rechunk_all(other))
            await _wait_until_blocked(corpus)
            await writer.execute("DELETE FROM documents WHERE external_id = 'd4'")
        await cutting
    found = await corpus.rows(
        "SELECT string_agg(c.content, ' ' ORDER BY ordinal) FROM chunks c JOIN documents d ON d.id = document_id "
        "WHERE chunking_id = %s AND external_id IN ('d3', 'd4')",
        other,
    )
    assert found == [(changed.content,)]


async def test_a_writer_waits_for_documents_being_cut_anew_and_replaces_their_pieces(corpus: Corpus) -> None:
    await corpus.take(*(_document(f"d{n}", n, n + 6) for n in range(10)))
    other = await corpus.make_live(90)
    async with corpus.database.service() as connection:
        async with connection.transaction():
            chunker = _chunker(90)
            await rechunk(connection, chunking_id=other, chunker=chunker, lo=0, hi=10_000)
            writing = asyncio.create_task(corpus.take(_document("d3", 60, 70), _document("new", 1, 9)))
            await _wait_until_blocked(corpus)
        assert (await writing).updated == 1
    await corpus.check()


async def test_a_chunking_that_comes_alive_while_a_batch_is_cut_is_seen(corpus: Corpus) -> None:
    made: list[int] = []

    async def slow_chunker_of(registered: RegisteredChunking) -> Chunker:
        if not made:
            made.append(await corpus.make_live(90))
        return await _chunker_of(registered)

    await ingest(
        corpus.database, [_document("a", 0, 9)], collection_id=corpus.collection_id, chunker_of=slow_chunker_of
    )
    assert await corpus.rows("SELECT count(*) > 0 FROM chunks WHERE chunking_id = %s", made[0]) == [(True,)]
    await corpus.check()


async def test_writing_and_cutting_anew_at_once_loses_nothing(corpus: Corpus) -> None:
    await corpus.take(*(_document(f"d{n}", n, n + 6) for n in range(80)))

    async def write(seed: int) -> None:
        for turn in range(6):
            names = [(n * 7 + seed * turn) % 90 for n in range(0, 90, 3)]
            await corpus.take(*(_document(f"d{n}", (n + turn) % 90, (n + turn) % 90 + 5) for n in names))

    async def cut_anew() -> None:
        chunking_id = await corpus.make_live(90)
        # As the engine does: whoever did not see the chunking has ended before the ranges are cut.
        async with corpus.database.owner() as connection:
            row = await (
                await connection.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
            ).fetchone()
            assert row is not None
            while True:
                held = await connection.execute(
                    "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint >= %s", row
                )
                if (await held.fetchone()) == (True,):
                    break
                await asyncio.sleep(0.005)
        chunker = _chunker(90)
        for lo in range(0, 400, 20):
            async with corpus.database.service() as connection, connection.transaction():
                await rechunk(connection, chunking_id=chunking_id, chunker=chunker, lo=lo, hi=lo + 19)

    await asyncio.gather(write(1), write(2), cut_anew())
    await corpus.check()


_GENERATED = """
import asyncio, resource, sys
from reshelve.corpus.chunkers import Chunker
from reshelve.corpus.ingest import ingest
from reshelve.database.pools import Database
from reshelve.domain.documents import Document
from reshelve.embedders.wordpiece import wordpiece

async def main(owner, service, collection_id, rows):
    database = Database(owner=owner, service=service, pool_size=4, ef_search=100, idle_in_transaction_seconds=60)
    await database.open()
    chunkers = {}
    async def chunker_of(registered):
        if registered.id not in chunkers:
            chunkers[registered.id] = Chunker(registered.chunking, wordpiece())
        return chunkers[registered.id]
    documents = (Document(external_id=f"d{n}", content=f"row {n} of many", metadata={"n": n}) for n in range(rows))
    report = await ingest(database, documents, collection_id=collection_id, chunker_of=chunker_of)
    await database.close()
    print(report.added, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
"""


def _peak_kilobytes(urls: Iterable[str], collection_id: int, rows: int) -> int:
    result = subprocess.run(
        [sys.executable, "-c", _GENERATED, *urls, str(collection_id), str(rows)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
    )
    added, peak = result.stdout.split()
    assert int(added) == rows
    return int(peak)


async def test_memory_does_not_grow_with_the_rows(corpus: Corpus, database_urls: tuple[str, str]) -> None:
    few = await asyncio.to_thread(_peak_kilobytes, database_urls, corpus.collection_id, 1_000)
    with psycopg.connect(database_urls[0], autocommit=True) as connection:
        connection.execute("TRUNCATE documents, chunks")
    many = await asyncio.to_thread(_peak_kilobytes, database_urls, corpus.collection_id, 100_000)
    assert many < few + 40_000
