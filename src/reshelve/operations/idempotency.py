"""A write that comes again under the same key is not done again: it gets the first one's answer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from reshelve.database.pools import Connection
from reshelve.errors import IdempotencyConflict, RequestUnderWay

KEPT_HOURS = 24
GIVEN_UP_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Ours to carry out, until somebody takes it over who thinks that we died."""

    key: str
    operation: str
    started_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What was answered the first time."""

    status: int
    document: Any


async def claim(connection: Connection, *, key: str, operation: str, request_hash: str) -> Claim | Stored:
    """Raises IdempotencyConflict for a key that another request has, RequestUnderWay while the first one runs."""
    await connection.execute(
        "DELETE FROM idempotency_keys WHERE started_at < clock_timestamp() - make_interval(hours => %s)", (KEPT_HOURS,)
    )
    # One statement: of two that come at once, one claims. A claim of one that failed was deleted.
    cursor = await connection.execute(
        """
        INSERT INTO idempotency_keys AS k (key, operation, request_hash) VALUES (%s, %s, %s)
        ON CONFLICT (key, operation) DO UPDATE SET started_at = clock_timestamp()
            WHERE k.status IS NULL AND k.request_hash = EXCLUDED.request_hash
              AND k.started_at < clock_timestamp() - make_interval(secs => %s)
        RETURNING started_at
        """,
        (key, operation, request_hash, GIVEN_UP_SECONDS),
    )
    claimed = await cursor.fetchone()
    if claimed is not None:
        return Claim(key=key, operation=operation, started_at=claimed[0])
    cursor = await connection.execute(
        "SELECT request_hash, status, response FROM idempotency_keys WHERE key = %s AND operation = %s",
        (key, operation),
    )
    found = await cursor.fetchone()
    if found is not None and found[0] != request_hash:
        raise IdempotencyConflict(
            "this idempotency key belongs to another request", advice="Use a new key for every new request."
        )
    if found is None or found[1] is None:
        raise RequestUnderWay("the first request with this idempotency key has not ended", advice="Ask again.")
    return Stored(status=found[1], document=found[2])


async def settle(connection: Connection, claimed: Claim, *, status: int, document: bytes) -> None:
    """Keep the answer, a JSON document, unless the claim was taken over."""
    await connection.execute(
        "UPDATE idempotency_keys SET status = %s, response = %s WHERE key = %s AND operation = %s AND started_at = %s",
        (status, document.decode(), claimed.key, claimed.operation, claimed.started_at),
    )


async def release(connection: Connection, claimed: Claim) -> None:
    """It failed: who asks again may try again."""
    await connection.execute(
        "DELETE FROM idempotency_keys WHERE key = %s AND operation = %s AND started_at = %s AND status IS NULL",
        (claimed.key, claimed.operation, claimed.started_at),
    )
