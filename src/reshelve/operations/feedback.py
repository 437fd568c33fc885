"""Which result was used: said by the application, counted by side."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from reshelve.database.catalog import get_live_index
from reshelve.database.pools import Connection
from reshelve.domain.interleaving import anytime_valid
from reshelve.domain.routes import Arm, Route
from reshelve.errors import NotFoundError

ENOUGH_EVIDENCE = 20.0
"""An e-value that fair coins reach once in twenty times, however often one looks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """Result `chunk_id` of search `search_id`, found by index `index`, was used."""

    id: int
    search_id: str
    chunk_id: int
    index: int
    interleaved: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmTally:
    """`used` results of `searches` searches. `wins`: interleaved searches where more of this side's were used."""

    arm: Arm
    index: int
    model: str
    used: int
    searches: int
    wins: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """`ties` are interleaved searches where both sides were used alike.

    `e_value` is the evidence that users prefer one side, and may be looked at at any time; None without a candidate.
    `preferred` is that side, once the evidence is enough (Arm "serving" or "candidate").
    """

    arms: list[ArmTally]
    ties: int
    e_value: float | None
    preferred: Arm | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


async def record(
    connection: Connection,
    *,
    collection_id: int,
    tenant: str,
    search_id: UUID,
    chunk_id: int,
    index_id: int,
    interleaved: bool = False,
    unit: str | None = None,
) -> Feedback:
    """Said again, it counts once and has the same answer. Raises NotFoundError for a chunk or index not there."""
    await get_live_index(connection, index_id, collection_id=collection_id)
    cursor = await connection.execute(
        """
        SELECT FROM chunks c JOIN documents d ON d.id = c.document_id
        WHERE c.id = %s AND d.collection_id = %s AND d.tenant = %s
        """,
        (chunk_id, collection_id, tenant),
    )
    if await cursor.fetchone() is None:
        raise NotFoundError(
            f"no chunk {chunk_id}", advice="Give the chunk_id of a result, and the tenant who searched."
        )
    await connection.execute(
        """
        INSERT INTO feedback (collection_id, tenant, search_id, chunk_id, index_id, interleaved, unit)
        VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (search_id, chunk_id) DO NOTHING
        """,
        (collection_id, tenant, search_id, chunk_id, index_id, interleaved, unit),
    )
    cursor = await connection.execute(
        "SELECT id, search_id::text, chunk_id, index_id, interleaved FROM feedback "
        "WHERE search_id = %s AND chunk_id = %s",
        (search_id, chunk_id),
    )
    row = await cursor.fetchone()
    assert row is not None
    return Feedback(id=row[0], search_id=row[1], chunk_id=row[2], index=row[3], interleaved=row[4])


async def tally(connection: Connection, route: Route, *, tenant: str | None = None) -> Tally:
    """What was used of the two indexes that share the route's searches (None: by all tenants together)."""
    cursor = await connection.execute(
        """
        SELECT coalesce(sum(old), 0)::bigint, count(*) FILTER (WHERE old > 0),
               count(*) FILTER (WHERE drafted AND old > new),
               coalesce(sum(new), 0)::bigint, count(*) FILTER (WHERE new > 0),
               count(*) FILTER (WHERE drafted AND new > old),
               count(*) FILTER (WHERE drafted AND old = new AND old > 0)
        FROM (SELECT bool_or(interleaved) AS drafted, count(*) FILTER (WHERE index_id = %(old)s) AS old,
                     count(*) FILTER (WHERE index_id = %(new)s) AS new
              FROM feedback
              WHERE collection_id = %(collection)s AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s)
              GROUP BY search_id) searches
        """,
        {
            "old": route.old.id,
            "new": route.new.id if route.new is not None else None,
            "collection": route.collection_id,
            "tenant": tenant,
        },
    )
    row = await cursor.fetchone()
    assert row is not None
    counts, ties = (row[0:3], row[3:6]), row[6]
    arms = [
        ArmTally(arm=arm, index=index.id, model=index.model.name, used=used, searches=searches, wins=wins)
        for (arm, index), (used, searches, wins) in zip(route.sides, counts, strict=False)
    ]
    if len(arms) < 2:
        return Tally(arms=arms, ties=ties, e_value=None, preferred=None)
    serving, candidate = arms
    evidence = anytime_valid(candidate_wins=candidate.wins, serving_wins=serving.wins)
    ahead = candidate.arm if candidate.wins > serving.wins else serving.arm
    return Tally(arms=arms, ties=ties, e_value=evidence, preferred=ahead if evidence >= ENOUGH_EVIDENCE else None)
