"""What the migration towards an index has done, spent, and may still spend."""

from __future__ import annotations

from reshelve.backends import Backends
from reshelve.database.pools import Connection
from reshelve.domain.indexes import Index
from reshelve.embedders.under_way import Purse


async def account(connection: Connection, index: Index, *, embedded: int = 0, reused: int = 0, tokens: int = 0) -> None:
    """Add to the books. `embedded` and `reused` count the backfill's rows."""
    if not (embedded or reused or tokens):
        return
    await connection.execute(
        """
        UPDATE migrations SET embedded_rows = embedded_rows + %s, reused_rows = reused_rows + %s,
            embedded_tokens = embedded_tokens + %s, spent_usd = spent_usd + %s
        WHERE target_index_id = %s AND state NOT IN ('completed', 'rolled_back')
        """,
        (embedded, reused, tokens, index.model.cost_usd(tokens), index.id),
    )


async def left_usd(backends: Backends, index: Index) -> float | None:
    """What the spend cap leaves; None where there is none. An index that was proven complete is fed in any case."""
    if index.model.price_per_million_tokens == 0:
        return None
    async with backends.database.service() as connection:
        cursor = await connection.execute(
            """
            SELECT m.budget_usd - m.spent_usd FROM migrations m JOIN indexes i ON i.id = m.target_index_id
            WHERE i.id = %s AND i.state = 'filling' AND m.state NOT IN ('completed', 'rolled_back')
              AND m.budget_usd IS NOT NULL
            """,
            (index.id,),
        )
        row = await cursor.fetchone()
    return row[0] if row else None


def purse_of(backends: Backends, index: Index) -> Purse:
    if index.id not in backends.purses:
        backends.purses[index.id] = Purse(price_per_million_tokens=index.model.price_per_million_tokens)
    return backends.purses[index.id]
