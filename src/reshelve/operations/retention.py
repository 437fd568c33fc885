"""How long live figures are kept, and how finely."""

from __future__ import annotations

from reshelve.database.pools import Connection

BUCKET_SECONDS = 10
OLD_BUCKET_SECONDS = 300
"""Of the buckets that are older than FINE_SECONDS."""
FINE_SECONDS = 3600
_LOCK = 0x7265_7366


async def tidy(connection: Connection, *, retention_days: float) -> None:
    """Add old buckets up into wider ones, and delete what is too old. Where another process is at it, nothing."""
    async with connection.transaction():
        row = await (await connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (_LOCK,))).fetchone()
        if row is None or not row[0]:
            return
        old = (retention_days * 86_400,)
        await connection.execute("DELETE FROM figures WHERE at < now() - make_interval(secs => %s)", old)
        await connection.execute("DELETE FROM recent_queries WHERE at < now() - make_interval(secs => %s)", old)
        # Whole windows only, so that a window is added up once.
        await connection.execute(
            """
            WITH fine AS (
                DELETE FROM figures
                WHERE seconds < %(wide)s AND at < date_bin(
                    make_interval(secs => %(wide)s), now() - make_interval(secs => %(keep)s), 'epoch'
                )
                RETURNING *
            )
            INSERT INTO figures AS f (collection_id, tenant, index_id, arm, name, at, seconds, bin, count, total)
            SELECT collection_id, tenant, index_id, arm, name,
                   date_bin(make_interval(secs => %(wide)s), at, 'epoch') AS start,
                   %(wide)s, bin, sum(count), sum(total)
            FROM fine GROUP BY collection_id, tenant, index_id, arm, name, start, bin
            ON CONFLICT (collection_id, at, tenant, index_id, arm, name, bin)
                DO UPDATE SET count = f.count + EXCLUDED.count, total = f.total + EXCLUDED.total
            """,
            {"wide": OLD_BUCKET_SECONDS, "keep": FINE_SECONDS},
        )
