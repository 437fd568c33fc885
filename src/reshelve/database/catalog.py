"""What exists: collections, chunkings, models, indexes, routes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from reshelve.database.pools import Connection
from reshelve.domain.documents import Chunking
from reshelve.domain.indexes import Hnsw, Index, IndexDefinition, IndexState, Metric
from reshelve.domain.models import EmbeddingModel, RegisteredModel, Vectors
from reshelve.errors import ModelDimensionConflict, NotFoundError


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredChunking:
    id: int
    chunking: Chunking


_INDEX = """
    SELECT i.id, i.collection_id, i.chunking_id, i.model_id, i.backend, i.metric, i.m, i.ef_construction,
           i.language, i.token_space, i.state, m.definition
    FROM indexes i JOIN embedding_models m ON m.id = i.model_id
"""


def index_from_row(row: tuple[Any, ...]) -> Index:
    return Index(
        id=row[0],
        collection_id=row[1],
        chunking_id=row[2],
        model_id=row[3],
        backend=row[4],
        metric=Metric(row[5]),
        hnsw=Hnsw(m=row[6], ef_construction=row[7]),
        language=row[8],
        token_space=row[9],
        state=IndexState(row[10]),
        model=EmbeddingModel(**row[11]),
    )


async def find_collection(connection: Connection, name: str) -> int | None:
    row = await (await connection.execute("SELECT id FROM collections WHERE name = %s", (name,))).fetchone()
    return row[0] if row else None


async def ensure_collection(connection: Connection, name: str) -> int:
    await connection.execute("INSERT INTO collections (name) VALUES (%s) ON CONFLICT DO NOTHING", (name,))
    found = await find_collection(connection, name)
    assert found is not None
    return found


async def lock_collection(connection: Connection, collection_id: int) -> None:
    """Until the transaction ends nobody else registers or drops an index of the collection."""
    await connection.execute("SELECT id FROM collections WHERE id = %s FOR NO KEY UPDATE", (collection_id,))


async def collection_name(connection: Connection, collection_id: int) -> str:
    row = await (await connection.execute("SELECT name FROM collections WHERE id = %s", (collection_id,))).fetchone()
    if row is None:
        raise NotFoundError(f"no collection {collection_id}")
    return row[0]


async def collection_names(connection: Connection) -> list[str]:
    return [row[0] for row in await (await connection.execute("SELECT name FROM collections ORDER BY name")).fetchall()]


async def ensure_chunking(connection: Connection, collection_id: int, chunking: Chunking) -> int:
    """The id of this way of cutting, live from now on."""
    row = await (
        await connection.execute(
            """
            INSERT INTO chunkings (collection_id, fingerprint, strategy, chunk_size, max_chunk_size, overlap, tokenizer,
                                   min_chunk_size, csv_chunk_tokens, csv_chunk_max_tokens, pdf_chunk_tokens,
                                   pdf_chunk_max_tokens)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            ON CONFLICT (collection_id, fingerprint) DO UPDATE SET live = true
            RETURNING id
            """,
            (
                collection_id,
                chunking.fingerprint,
                chunking.strategy,
                chunking.chunk_size,
                chunking.max_chunk_size,
                chunking.overlap,
                chunking.tokenizer,
                chunking.min_chunk_size,
                chunking.csv_chunk_tokens,
                chunking.csv_chunk_max_tokens,
                chunking.pdf_chunk_tokens,
                chunking.pdf_chunk_max_tokens,
            ),
        )
    ).fetchone()
    assert row is not None
    return row[0]


async def find_chunking(connection: Connection, collection_id: int, chunking: Chunking) -> int | None:
    cursor = await connection.execute(
        "SELECT id FROM chunkings WHERE collection_id = %s AND fingerprint = %s", (collection_id, chunking.fingerprint)
    )
    row = await cursor.fetchone()
    return row[0] if row else None


async def chunking_is_complete(connection: Connection, collection_id: int, chunking: Chunking) -> bool:
    """Every document has been cut this way: an index over it is ready, or was there before any document."""
    cursor = await connection.execute(
        """
        SELECT EXISTS (SELECT FROM chunkings k JOIN indexes i ON i.chunking_id = k.id
                       WHERE k.collection_id = %s AND k.fingerprint = %s AND i.state = 'ready')
        """,
        (collection_id, chunking.fingerprint),
    )
    row = await cursor.fetchone()
    return bool(row and row[0])


async def live_chunkings(connection: Connection, collection_id: int) -> list[RegisteredChunking]:
    rows = await (
        await connection.execute(
            """
            SELECT id, strategy, chunk_size, max_chunk_size, overlap, tokenizer, min_chunk_size, csv_chunk_tokens,
                   csv_chunk_max_tokens, pdf_chunk_tokens, pdf_chunk_max_tokens FROM chunkings
            WHERE collection_id = %s AND live ORDER BY id
            """,
            (collection_id,),
        )
    ).fetchall()
    return [
        RegisteredChunking(
            id=row[0],
            chunking=Chunking(
                strategy=row[1],
                chunk_size=row[2],
                max_chunk_size=row[3],
                overlap=row[4],
                tokenizer=row[5],
                min_chunk_size=row[6],
                csv_chunk_tokens=row[7],
                csv_chunk_max_tokens=row[8],
                pdf_chunk_tokens=row[9],
                pdf_chunk_max_tokens=row[10],
            ),
        )
        for row in rows
    ]


async def find_model(connection: Connection, fingerprint: str) -> int | None:
    row = await (
        await connection.execute("SELECT id FROM embedding_models WHERE fingerprint = %s", (fingerprint,))
    ).fetchone()
    return row[0] if row else None


async def refuse_other_dimension(connection: Connection, model: EmbeddingModel) -> None:
    row = await (
        await connection.execute(
            "SELECT dimension FROM embedding_models WHERE model_name = %s AND dimension <> %s LIMIT 1",
            (model.name, model.dimension),
        )
    ).fetchone()
    if row is not None:
        raise ModelDimensionConflict(name=model.name, registered=row[0], requested=model.dimension)


async def register_model(connection: Connection, model: EmbeddingModel, *, location: str, canary: Vectors) -> int:
    """Idempotent by fingerprint. Raises ModelDimensionConflict."""
    await refuse_other_dimension(connection, model)
    await connection.execute(
        """
        INSERT INTO embedding_models
            (model_name, provider, dimension, fingerprint, definition, location, price_per_million_tokens, canary)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
        ON CONFLICT (fingerprint) DO UPDATE
            SET price_per_million_tokens = EXCLUDED.price_per_million_tokens, location = EXCLUDED.location,
                definition = EXCLUDED.definition
        """,
        (
            model.name,
            model.provider,
            model.dimension,
            model.fingerprint,
            json.dumps(asdict(model)),
            location,
            model.price_per_million_tokens,
            canary.astype("<f4").tobytes(),
        ),
    )
    found = await find_model(connection, model.fingerprint)
    assert found is not None
    return found


async def get_model(connection: Connection, model_id: int) -> RegisteredModel:
    row = await (
        await connection.execute("SELECT definition, location, canary FROM embedding_models WHERE id = %s", (model_id,))
    ).fetchone()
    if row is None:
        raise NotFoundError(f"no embedding model {model_id}")
    canary = np.frombuffer(row[2], dtype="<f4").astype(np.float32).reshape(1, -1)
    return RegisteredModel(id=model_id, model=EmbeddingModel(**row[0]), location=row[1], canary=canary)


async def list_models(connection: Connection) -> list[dict[str, Any]]:
    cursor = await connection.execute(
        """
        SELECT em.model_name, em.provider, em.dimension, em.fingerprint, em.price_per_million_tokens,
               count(i.id) FILTER (WHERE i.state <> 'dropped')
        FROM embedding_models em LEFT JOIN indexes i ON i.model_id = em.id
        GROUP BY em.id ORDER BY em.id
        """
    )
    names = ("model", "provider", "dimension", "fingerprint", "price_per_million_tokens", "indexes")
    return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]


async def find_index(connection: Connection, definition: IndexDefinition) -> Index | None:
    row = await (
        await connection.execute(
            _INDEX
            + """
            WHERE i.collection_id = %s AND i.chunking_id = %s AND i.model_id = %s AND i.backend = %s
              AND i.metric = %s AND i.m = %s AND i.ef_construction = %s AND i.language = %s
              AND i.token_space = %s AND i.state <> 'dropped'
            """,
            (
                definition.collection_id,
                definition.chunking_id,
                definition.model_id,
                definition.backend,
                definition.metric,
                definition.m,
                definition.ef_construction,
                definition.language,
                definition.token_space,
            ),
        )
    ).fetchone()
    return index_from_row(row) if row else None


async def insert_index(
    connection: Connection, definition: IndexDefinition, *, state: IndexState, cut_documents: bool = False
) -> int:
    """`ready` is for the first index of an empty collection only: there is nothing to fill it with.

    `cut_documents` says that the chunking is new, and the backfill has to cut what is there.
    """
    empty = state is IndexState.READY
    row = await (
        await connection.execute(
            """
            INSERT INTO indexes (collection_id, chunking_id, model_id, backend, metric, m, ef_construction, language,
                                 token_space, state, next_document, next_chunk)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING id
            """,
            (
                definition.collection_id,
                definition.chunking_id,
                definition.model_id,
                definition.backend,
                definition.metric,
                definition.m,
                definition.ef_construction,
                definition.language,
                definition.token_space,
                state,
                0 if cut_documents else None,
                None if empty else 0,
            ),
        )
    ).fetchone()
    assert row is not None
    return row[0]


async def next_index_id(connection: Connection) -> int:
    """The id that the next index gets, if nobody makes another one first."""
    row = await (await connection.execute("SELECT coalesce(max(id), 0) + 1 FROM indexes")).fetchone()
    assert row is not None
    return row[0]


async def get_index(connection: Connection, index_id: int) -> Index:
    row = await (await connection.execute(_INDEX + "WHERE i.id = %s", (index_id,))).fetchone()
    if row is None:
        raise NotFoundError(f"no index {index_id}", advice="List them: reshelve status.")
    return index_from_row(row)


async def get_live_index(connection: Connection, index_id: int, *, collection_id: int) -> Index:
    """Raises NotFoundError for one that is dropped, or another collection's."""
    index = await get_index(connection, index_id)
    if index.collection_id != collection_id or index.state is IndexState.DROPPED:
        raise NotFoundError(f"index {index_id} is not one of this collection's", advice="See reshelve status.")
    return index


async def live_indexes(connection: Connection, collection_id: int | None = None) -> list[Index]:
    """Every index that is fed, of one collection or of all."""
    cursor = await connection.execute(
        _INDEX + "WHERE i.state <> 'dropped' AND (%(c)s::integer IS NULL OR i.collection_id = %(c)s) ORDER BY i.id",
        {"c": collection_id},
    )
    return [index_from_row(row) for row in await cursor.fetchall()]


@dataclass(frozen=True, slots=True, kw_only=True)
class FillState:
    """Transactions below `registered_xid` may not have known the index; `enumerated`: all that was there is divided."""

    registered_xid: int | None
    enumerated: bool


async def fill_state(connection: Connection, index_id: int) -> FillState:
    row = await (
        await connection.execute(
            "SELECT registered_xid::text::bigint, next_document IS NULL AND next_chunk IS NULL "
            "FROM indexes WHERE id = %s",
            (index_id,),
        )
    ).fetchone()
    if row is None:
        raise NotFoundError(f"no index {index_id}")
    return FillState(registered_xid=row[0], enumerated=row[1])


async def set_registered_xid(connection: Connection, index_id: int, xid: int) -> None:
    """Once: a later registration of the same index must not lift the barrier."""
    await connection.execute(
        "UPDATE indexes SET registered_xid = %s::text::xid8 WHERE id = %s AND registered_xid IS NULL",
        (str(xid), index_id),
    )


async def set_index_state(connection: Connection, index_id: int, state: IndexState) -> None:
    await connection.execute(
        "UPDATE indexes SET state = %(s)s, dropped_at = CASE WHEN %(s)s = 'dropped' THEN now() END WHERE id = %(i)s",
        {"s": state, "i": index_id},
    )


async def words_are_shared(connection: Connection, index: Index) -> bool:
    """Another live index is searched by the same words."""
    cursor = await connection.execute(
        "SELECT EXISTS (SELECT FROM indexes WHERE chunking_id = %s AND language = %s AND id <> %s "
        "AND state <> 'dropped')",
        (index.chunking_id, index.language, index.id),
    )
    row = await cursor.fetchone()
    return row is not None and row[0]
