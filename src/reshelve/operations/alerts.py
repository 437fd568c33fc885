"""Alerts: kept in a table, listed, and sent to the operator's webhook.

A delivery is at least once: an alert is sent until the receiver answers with 2xx, with pauses that grow, for a day.
The receiver knows a repeated one by its `id`.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

import httpx
import psycopg
import structlog
from psycopg.rows import class_row

from reshelve.database.pools import Connection, Database
from reshelve.errors import ReshelveError
from reshelve.settings import AlertSettings
from reshelve.tasks import cancel_and_wait

Severity = Literal["info", "warning", "error", "critical"]
Source = Literal["webhook", "gate", "breaker", "migration"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "error", "critical")

_TIMEOUT_SECONDS = 10.0
_LEASE_SECONDS = 2 * _TIMEOUT_SECONDS
_LONGEST_PAUSE_SECONDS = 600.0
_TRIED_FOR_HOURS = 24
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """`outcome` says what was done about it; `delivered_at` when the operator's webhook took it."""

    id: int
    at: datetime
    collection: str | None
    source: Source
    type: str
    severity: Severity
    value: float | None
    threshold: float | None
    message: str
    outcome: str
    attempts: int
    delivered_at: datetime | None

    def as_dict(self) -> dict[str, Any]:
        dates = {
            "at": self.at.isoformat(),
            "delivered_at": self.delivered_at.isoformat() if self.delivered_at else None,
        }
        return {**asdict(self), **dates}


async def raise_alert(
    connection: Connection,
    *,
    source: Source,
    type: str,
    severity: Severity,
    collection_id: int | None = None,
    value: float | None = None,
    threshold: float | None = None,
    message: str = "",
    outcome: str = "",
) -> int:
    """The new alert's id. Alerts that came in by the webhook are kept, and not sent out again."""
    cursor = await connection.execute(
        """
        INSERT INTO alerts (collection_id, source, type, severity, value, threshold, message, outcome)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s) RETURNING id
        """,
        (collection_id, source, type, severity, value, threshold, message, outcome),
    )
    row = await cursor.fetchone()
    assert row is not None
    return row[0]


async def set_outcome(connection: Connection, alert_id: int, outcome: str) -> None:
    await connection.execute("UPDATE alerts SET outcome = %s WHERE id = %s", (outcome, alert_id))


async def list_alerts(
    connection: Connection, *, severity: Severity | None = None, collection_id: int | None = None, limit: int = 50
) -> list[Alert]:
    """Newest first. Those of a collection, with those of none in particular; None: of all."""
    cursor = connection.cursor(row_factory=class_row(Alert))
    await cursor.execute(
        """
        SELECT a.id, a.at, c.name AS collection, a.source, a.type, a.severity, a.value, a.threshold, a.message,
               a.outcome, a.attempts, a.delivered_at
        FROM alerts a LEFT JOIN collections c ON c.id = a.collection_id
        WHERE (%(severity)s::text IS NULL OR a.severity = %(severity)s)
          AND (%(collection)s::integer IS NULL OR a.collection_id = %(collection)s OR a.collection_id IS NULL)
        ORDER BY a.id DESC LIMIT %(limit)s
        """,
        {"severity": severity, "collection": collection_id, "limit": limit},
    )
    return await cursor.fetchall()


async def _claim(connection: Connection) -> Alert | None:
    """The oldest alert that is due. Nobody else gets it before the lease is over."""
    cursor = connection.cursor(row_factory=class_row(Alert))
    await cursor.execute(
        """
        WITH due AS (
            SELECT id FROM alerts
            WHERE delivered_at IS NULL AND source <> 'webhook' AND next_attempt_at <= clock_timestamp()
              AND at > clock_timestamp() - make_interval(hours => %s)
            ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED
        )
        UPDATE alerts a SET attempts = attempts + 1, next_attempt_at = clock_timestamp() + make_interval(secs => %s)
        FROM due WHERE a.id = due.id
        RETURNING a.id, a.at, (SELECT name FROM collections WHERE id = a.collection_id) AS collection, a.source, a.type,
                  a.severity, a.value, a.threshold, a.message, a.outcome, a.attempts, a.delivered_at
        """,
        (_TRIED_FOR_HOURS, _LEASE_SECONDS),
    )
    return await cursor.fetchone()


class Courier:
    """Sends what waits, for as long as it runs; without a `url`, nothing. Any number of processes may have one."""

    def __init__(
        self,
        database: Database,
        settings: AlertSettings,
        *,
        poll_seconds: float = 1.0,
        first_pause_seconds: float = 1.0,
    ) -> None:
        self._database = database
        self._url = settings.url
        self._secret = settings.url_secret
        self._poll_seconds = poll_seconds
        self._first_pause_seconds = first_pause_seconds
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    def start(self) -> None:
        if self._url is not None and self._task is None:
            self._task = asyncio.create_task(self._work(self._url))

    def wake(self) -> None:
        """There is something to send: do not wait for the next look."""
        self._wake.set()

    async def stop(self) -> None:
        """Ends at once. What was being sent is sent again by whoever looks next."""
        if self._task is not None:
            await cancel_and_wait(self._task)
            self._task = None

    async def _work(self, url: str) -> None:
        headers = {"Authorization": f"Bearer {self._secret.get_secret_value()}"} if self._secret is not None else {}
        async with httpx.AsyncClient(headers=headers, timeout=_TIMEOUT_SECONDS) as client:
            while True:
                self._wake.clear()
                try:
                    while await self._deliver_one(client, url):
                        pass
                except (ReshelveError, psycopg.Error) as error:
                    _log.warning("alerts cannot be read", error=str(error))
                # Not wait_for: before Python 3.12 it can swallow a cancellation, and `stop` would hang.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._poll_seconds):
                        await self._wake.wait()

    async def _deliver_one(self, client: httpx.AsyncClient, url: str) -> bool:
        """Whether there was one to send."""
        async with self._database.service() as connection:
            alert = await _claim(connection)
        if alert is None:
            return False
        trouble = await _send(client, url, alert)
        pause = min(self._first_pause_seconds * 2 ** min(alert.attempts - 1, 30), _LONGEST_PAUSE_SECONDS)
        async with self._database.service() as connection:
            await connection.execute(
                "UPDATE alerts SET delivered_at = CASE WHEN %(ok)s THEN clock_timestamp() END, "
                "next_attempt_at = clock_timestamp() + make_interval(secs => %(pause)s) "
                "WHERE id = %(id)s AND delivered_at IS NULL",
                {"ok": trouble is None, "pause": pause, "id": alert.id},
            )
        if trouble is not None:
            _log.warning("an alert was not taken", alert=alert.id, reason=trouble, attempts=alert.attempts)
        return True


async def _send(client: httpx.AsyncClient, url: str, alert: Alert) -> str | None:
    """None when the receiver took it, else why not."""
    body = {key: value for key, value in alert.as_dict().items() if key not in ("attempts", "delivered_at")}
    try:
        # httpx's own timeout begins anew with every byte.
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            answer = await client.post(url, json=body)
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
        return f"{type(error).__name__}: {error}"
    return None if answer.is_success else f"the receiver answered {answer.status_code}"
