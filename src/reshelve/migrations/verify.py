"""The proof: an index compared with the corpus until one pass finds nothing to repair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from psycopg import sql

from reshelve.backends import Backends
from reshelve.database.pools import Connection
from reshelve.domain.indexes import Index, IndexState, Scope
from reshelve.errors import NotFoundError
from reshelve.evaluation.runs import recall_against_exact
from reshelve.indexing.comparing import Comparison, compare, repair, sweep_orphans
from reshelve.indexing.draining import drain
from reshelve.indexing.outbox import require_triggers
from reshelve.indexing.spending import account
from reshelve.indexing.vectors import read_chunks
from reshelve.stores.protocol import Hit

_MOST_PASSES = 6
_RECALL_QUERIES = 50
_RECALL_DEPTH = 10
_TIE = 1e-6
_NAMED_FOR_PEOPLE = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was compared, and what came of it. `problems` is empty exactly when `passed`.

    `repaired` counts the entries mended on the way; the last pass mended none. `sample_cosine` is the lowest between a
    stored vector and its text embedded again; `ann_recall` is recall@10 of the graph against the exact search.
    """

    passed: bool
    chunks: int
    entries: int
    missing: int
    extra: int
    flawed: int
    repaired: int
    passes: int
    source_checksum: str
    index_checksum: str
    sample_rows: int
    sample_cosine: float | None
    ann_recall: float | None
    problems: list[str] = field(default_factory=list[str])
    named: list[str] = field(default_factory=list[str])

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


async def verify_index(backends: Backends, index: Index) -> Verification:
    """Drain, sweep, compare, repair, until a pass repairs nothing; then embed a sample again, and measure the graph."""
    if index.state is IndexState.DROPPED:
        raise NotFoundError(f"index {index.id} was dropped", advice="List the indexes: reshelve status.")
    named: list[str] = []
    repaired, passes = 0, 0
    async with backends.database.service() as connection:
        await require_triggers(connection)
    while True:
        passes += 1
        await drain(backends, [index])
        orphans: list[int] = []
        mended = await sweep_orphans(backends, index, on_found=orphans.extend)
        found = await compare(backends, index)
        named += [*_names(found), *map(_too_many, orphans[:_NAMED_FOR_PEOPLE])]
        if found.equal and not mended:
            break
        # What the model refuses stays missing, however often it is tried.
        others = found.extra or found.flaws or found.wordless or found.tokenless or mended
        only_refused = set(found.missing) <= found.refused.keys() and not others
        if passes == _MOST_PASSES or (passes > 1 and only_refused):
            break
        repaired += mended + await repair(backends, index, found)
    cosine, rows = await _sample_again(backends, index)
    recall = await ann_recall(backends, index)
    problems = _problems(backends, found, cosine=cosine, recall=recall)
    return Verification(
        passed=not problems,
        chunks=found.chunks,
        entries=found.entries,
        missing=len(found.missing),
        extra=len(found.extra),
        flawed=len(found.flaws),
        repaired=repaired,
        passes=passes,
        source_checksum=found.source_checksum,
        index_checksum=found.index_checksum,
        sample_rows=rows,
        sample_cosine=cosine,
        ann_recall=recall,
        problems=problems,
        named=list(dict.fromkeys(named))[:_NAMED_FOR_PEOPLE],
    )


def _too_many(chunk_id: int) -> str:
    return f"chunk {chunk_id}: a vector too many"


def _names(found: Comparison) -> list[str]:
    return [
        *(f"chunk {flaw.chunk_id}: {flaw.reason}" for flaw in found.flaws),
        *(
            f"chunk {chunk}: refused by the model: {found.refused[chunk]}"
            if chunk in found.refused
            else f"chunk {chunk}: no vector"
            for chunk in found.missing
        ),
        *map(_too_many, found.extra),
        *(f"chunk {chunk}: its words are not those of its text" for chunk in found.wordless),
        *(f"chunk {chunk}: its token vectors are missing, or were changed" for chunk in found.tokenless),
    ][:_NAMED_FOR_PEOPLE]


def _problems(backends: Backends, found: Comparison, *, cosine: float | None, recall: float | None) -> list[str]:
    gates = backends.settings.migration
    problems: list[str] = []
    if found.missing:
        refused = sum(chunk in found.refused for chunk in found.missing)
        problems.append(f"{len(found.missing)} chunks have no vector ({refused} of them refused by the model)")
    if found.extra:
        problems.append(f"{len(found.extra)} vectors have no chunk")
    if found.flaws:
        problems.append(f"{len(found.flaws)} vectors are damaged")
    if found.tokenless:
        problems.append(f"{len(found.tokenless)} chunks have no token vectors, or wrong ones")
    if found.wordless:
        problems.append(f"{len(found.wordless)} chunks are not found by their words")
    if not problems and found.source_checksum != found.index_checksum:
        problems.append("the checksums differ")
    # NaN fails every comparison, and so must never pass one.
    if cosine is not None and not cosine >= gates.min_sample_cosine:
        problems.append(
            f"a text embedded again has cosine {cosine:.4f} with its vector, under {gates.min_sample_cosine}"
        )
    if recall is not None and not recall >= gates.min_ann_recall:
        problems.append(f"the graph's recall@10 is {recall:.3f}, under {gates.min_ann_recall}: raise ef_search or m")
    return problems


async def _sample(backends: Backends, connection: Connection, index: Index, *, rows: int) -> list[int]:
    """Chunk ids of the index, the same ones each time for the same contents."""
    cursor = await connection.execute(
        sql.SQL("SELECT chunk_id FROM {} h ORDER BY hashint8extended(chunk_id, 7), chunk_id LIMIT %s").format(
            backends.stores.of(index).holdings(index)
        ),
        (rows,),
    )
    return [row[0] for row in await cursor.fetchall()]


async def _sample_again(backends: Backends, index: Index) -> tuple[float | None, int]:
    store = backends.stores.of(index)
    async with backends.database.service() as connection:
        ids = await _sample(backends, connection, index, rows=backends.settings.migration.sample_rows)
        stored = await store.read(connection, index, ids)
        texts = {chunk.id: chunk.content for chunk in await read_chunks(connection, ids)}
    both = [at for at, chunk_id in enumerate(stored.chunk_ids.tolist()) if chunk_id in texts]
    if not both:
        return None, 0
    embedder = await backends.embedders.of(index.model_id)
    again = await embedder.embed_documents([texts[int(stored.chunk_ids[at])] for at in both])
    async with backends.database.service() as connection:
        await account(connection, index, tokens=again.tokens)
    kept = stored.vectors[both]
    norms = np.linalg.norm(kept, axis=1) * np.linalg.norm(again.vectors, axis=1)
    return float(np.min(np.sum(kept * again.vectors, axis=1) / norms)), len(both)


async def ann_recall(backends: Backends, index: Index, *, queries: int = _RECALL_QUERIES) -> float | None:
    """recall@10 of the index's own vectors as queries, against the exact search. None for an empty index."""
    store = backends.stores.of(index)
    everybody = Scope(tenant=None)
    async with backends.database.service() as connection:
        ids = await _sample(backends, connection, index, rows=queries)
        stored = await store.read(connection, index, ids)
        if not len(stored.chunk_ids):
            return None
        approximate: list[list[int]] = []
        exact: list[list[int]] = []
        for vector in stored.vectors:
            found, wanted = [
                await store.search(connection, index, vector, limit=_RECALL_DEPTH, scope=everybody, exact=exactly)
                for exactly in (False, True)
            ]
            approximate.append(_as_near(found, wanted))
            exact.append([hit.chunk_id for hit in wanted])
    return recall_against_exact(approximate, exact)


def _as_near(found: Sequence[Hit], wanted: Sequence[Hit]) -> list[int]:
    """As many wanted ids as there are hits as near as the last of them: equal texts tie, and any of them will do."""
    least = wanted[-1].score - _TIE if wanted else 0.0
    return [hit.chunk_id for hit in wanted[: sum(hit.score >= least for hit in found)]]
