"""The routes, read at every search and changed by compare-and-set, and the version of the corpus behind them."""

from __future__ import annotations

from typing import Any, LiteralString

from reshelve.database.catalog import collection_names, index_from_row
from reshelve.database.pools import Connection
from reshelve.domain.routes import Route
from reshelve.errors import NotFoundError

_COLUMNS: LiteralString = (
    "{0}.id, {0}.collection_id, {0}.chunking_id, {0}.model_id, {0}.backend, {0}.metric, {0}.m, {0}.ef_construction, "
    "{0}.language, {0}.token_space, {0}.state, {0}m.definition"
)
_WIDTH = 12
_READ: LiteralString = f"""
    r.collection_id, r.tenant, r.epoch, r.share, r.salt, r.sticky_by,
    {_COLUMNS.format("s")}, {_COLUMNS.format("c")}, {_COLUMNS.format("p")}
"""
_FROM: LiteralString = """
    FROM routes r JOIN collections n ON n.id = r.collection_id
    JOIN indexes s ON s.id = r.serving_index_id JOIN embedding_models sm ON sm.id = s.model_id
    LEFT JOIN indexes c ON c.id = r.candidate_index_id LEFT JOIN embedding_models cm ON cm.id = c.model_id
    LEFT JOIN indexes p ON p.id = r.previous_index_id LEFT JOIN embedding_models pm ON pm.id = p.model_id
"""
_ROUTE: LiteralString = f"SELECT {_READ} {_FROM}"
_WITH_VERSION: LiteralString = f"""
    SELECT {_READ}, (SELECT coalesce(sum(v.version), 0)::bigint FROM corpus_versions v
                     WHERE v.collection_id = r.collection_id) {_FROM}
"""
_OF_TENANT: LiteralString = "WHERE n.name = %s AND r.tenant IN ('', %s) ORDER BY r.tenant DESC LIMIT 1"


def _route(row: tuple[Any, ...]) -> Route:
    serving, candidate, previous = (row[at : at + _WIDTH] for at in (6, 6 + _WIDTH, 6 + 2 * _WIDTH))
    return Route(
        collection_id=row[0],
        tenant=row[1],
        epoch=row[2],
        share=row[3],
        salt=row[4],
        sticky_by=row[5],
        serving=index_from_row(serving),
        candidate=index_from_row(candidate) if candidate[0] is not None else None,
        previous=index_from_row(previous) if previous[0] is not None else None,
    )


async def find_route(connection: Connection, collection: str, tenant: str | None = "") -> Route | None:
    """The tenant's own route, or everybody's, with its indexes and their models, read at one instant."""
    cursor = await connection.execute(_ROUTE + _OF_TENANT, (collection, tenant or ""))
    row = await cursor.fetchone()
    return _route(row) if row else None


async def get_route(connection: Connection, collection: str, tenant: str | None = "") -> Route:
    route = await find_route(connection, collection, tenant)
    if route is None:
        raise await _no_collection(connection, collection)
    return route


async def get_route_and_version(connection: Connection, collection: str, tenant: str | None = "") -> tuple[Route, int]:
    """The route, and the version of the corpus at that instant: it grows with every transaction that changes it."""
    cursor = await connection.execute(_WITH_VERSION + _OF_TENANT, (collection, tenant or ""))
    row = await cursor.fetchone()
    if row is None:
        raise await _no_collection(connection, collection)
    return _route(row), row[-1]


async def _no_collection(connection: Connection, collection: str) -> NotFoundError:
    return NotFoundError(
        f"no collection {collection!r}",
        advice=f"There are: {', '.join(await collection_names(connection)) or 'none'}. Make one: reshelve ingest FILE.",
    )


async def count_change(connection: Connection, collection_id: int) -> None:
    """Let the corpus's version grow with this transaction, which changes entries of an index.

    Changes of documents and chunks are counted by triggers. Waits for nobody.
    """
    await connection.execute("SELECT corpus_changed(%s::int)", (collection_id,))


async def own_route(connection: Connection, collection_id: int, tenant: str) -> Route | None:
    """The route of exactly this tenant ("": everybody's)."""
    cursor = await connection.execute(_ROUTE + "WHERE r.collection_id = %s AND r.tenant = %s", (collection_id, tenant))
    row = await cursor.fetchone()
    return _route(row) if row else None


async def all_routes(connection: Connection, collection_id: int) -> list[Route]:
    """Everybody's first, then those of single tenants."""
    cursor = await connection.execute(_ROUTE + "WHERE r.collection_id = %s ORDER BY r.tenant", (collection_id,))
    return [_route(row) for row in await cursor.fetchall()]


async def create_route(connection: Connection, *, collection_id: int, index_id: int, tenant: str = "") -> None:
    await connection.execute(
        "INSERT INTO routes (collection_id, tenant, serving_index_id) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
        (collection_id, tenant, index_id),
    )


async def change_route(connection: Connection, before: Route, after: Route) -> int | None:
    """Compare-and-set by the epoch that `before` was read at. The new epoch; None when somebody else changed it."""
    cursor = await connection.execute(
        """
        UPDATE routes SET serving_index_id = %s, candidate_index_id = %s, previous_index_id = %s, share = %s, salt = %s,
            sticky_by = %s, epoch = nextval('route_epochs'), changed_at = now()
        WHERE collection_id = %s AND tenant = %s AND epoch = %s RETURNING epoch
        """,
        (
            after.serving.id,
            after.candidate.id if after.candidate is not None else None,
            after.previous.id if after.previous is not None else None,
            after.share,
            after.salt,
            after.sticky_by,
            before.collection_id,
            before.tenant,
            before.epoch,
        ),
    )
    row = await cursor.fetchone()
    return row[0] if row else None


async def routed_index_ids(connection: Connection, collection_id: int) -> set[int]:
    """Every index that some route names."""
    cursor = await connection.execute(
        """
        SELECT i FROM routes, unnest(ARRAY[serving_index_id, candidate_index_id, previous_index_id]) i
        WHERE collection_id = %s AND i IS NOT NULL
        """,
        (collection_id,),
    )
    return {row[0] for row in await cursor.fetchall()}


async def forget_superfluous(connection: Connection, collection_id: int) -> None:
    """A tenant's own route that says what everybody's says, and has no migration under way, goes.

    Not while everybody's is being shared out: a tenant that was taken back would be given to the new index again.
    """
    await connection.execute(
        """
        DELETE FROM routes t USING routes e
        WHERE t.collection_id = %(c)s AND e.collection_id = %(c)s AND e.tenant = '' AND t.tenant <> ''
          AND t.serving_index_id = e.serving_index_id AND t.candidate_index_id IS NULL AND t.previous_index_id IS NULL
          AND e.candidate_index_id IS NULL AND e.previous_index_id IS NULL
          AND NOT EXISTS (SELECT FROM migrations WHERE collection_id = %(c)s AND tenant = t.tenant
                          AND state NOT IN ('completed', 'rolled_back'))
        """,
        {"c": collection_id},
    )
