"""The live figures of all processes, read by the database's clock."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import datetime

from reshelve.database.pools import Connection
from reshelve.domain.figures import ArmFigures, quantile
from reshelve.domain.routes import Arm
from reshelve.operations.retention import BUCKET_SECONDS, FINE_SECONDS, OLD_BUCKET_SECONDS

_POINTS = 120
# A bucket counts from its start. The second is for a `since` that was taken just after the route changed. Buckets of
# the future are those of a clock that was put back; a `since` of the future must not hide what the last seconds were.
_WINDOW = """
    collection_id = %(collection)s AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s)
    AND at > CASE WHEN %(seconds)s::float8 IS NOT NULL AND %(since)s::timestamptz > clock_timestamp() THEN '-infinity'
                  ELSE coalesce(%(since)s::timestamptz - interval '1 second', '-infinity') END
    AND at > clock_timestamp() - make_interval(secs => coalesce(%(seconds)s::float8, 1e9))
    AND at <= clock_timestamp()
"""


async def read_figures(
    connection: Connection,
    *,
    collection_id: int,
    tenant: str | None,
    seconds: float | None = None,
    since: datetime | None = None,
) -> dict[tuple[int, Arm], ArmFigures]:
    """By index and arm: of the last `seconds`, since `since`, or where both are given what both hold.

    `tenant` is the route's; None adds up all. Who was not searched has no entry.
    """
    cursor = await connection.execute(
        f"""
        SELECT index_id, arm, name, bin, sum(count)::bigint, sum(total) FROM figures
        WHERE {_WINDOW} GROUP BY index_id, arm, name, bin
        """,
        {"collection": collection_id, "tenant": tenant, "seconds": seconds, "since": since},
    )
    rows: defaultdict[tuple[int, Arm], list[tuple[str, int, int, float]]] = defaultdict(list)
    for index_id, arm, *row in await cursor.fetchall():
        rows[index_id, Arm(arm)].append((row[0], row[1], row[2], row[3]))
    return {key: ArmFigures.from_counts(counts) for key, counts in rows.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """The searches of one arm in the `seconds` from `at` on."""

    at: datetime
    seconds: int
    index_id: int
    arm: Arm
    requests: int
    errors: int
    p50_ms: float | None
    p95_ms: float | None


async def read_series(connection: Connection, *, collection_id: int, tenant: str | None, seconds: float) -> list[Point]:
    """The last `seconds` in at most some 120 points an arm, oldest first. Where nothing happened there is no point."""
    width = _width_seconds(seconds)
    cursor = await connection.execute(
        f"""
        SELECT date_bin(make_interval(secs => %(width)s), at, 'epoch') AS start, index_id, arm, name, bin,
               sum(count)::bigint
        FROM figures WHERE {_WINDOW} AND name IN ('request', 'error')
        GROUP BY start, index_id, arm, name, bin ORDER BY start
        """,
        {"collection": collection_id, "tenant": tenant, "seconds": seconds, "since": None, "width": width},
    )
    requests: defaultdict[tuple[datetime, int, str], Counter[int]] = defaultdict(Counter)
    errors: Counter[tuple[datetime, int, str]] = Counter()
    for start, index_id, arm, name, bin, count in await cursor.fetchall():
        if name == "request":
            requests[start, index_id, arm][bin] += count
        else:
            errors[start, index_id, arm] += count
    return [
        Point(
            at=at,
            seconds=width,
            index_id=index_id,
            arm=Arm(arm),
            requests=bins.total(),
            errors=errors[at, index_id, arm],
            p50_ms=quantile(bins, 0.50),
            p95_ms=quantile(bins, 0.95),
        )
        for (at, index_id, arm), bins in requests.items()
    ]


def _width_seconds(seconds: float) -> int:
    """Whole buckets, of the width that buckets of that age have."""
    bucket = BUCKET_SECONDS if seconds <= FINE_SECONDS else OLD_BUCKET_SECONDS
    return bucket * max(1, math.ceil(seconds / _POINTS / bucket))
