"""Alerts out to the operator's webhook, and alerts in, which roll back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

import reshelve
from reshelve.operations.alerts import Courier, list_alerts, raise_alert
from reshelve.settings import AlertSettings, Settings
from tests.support.alert_receiver import AlertReceiver, receiving
from tests.support.served import served
from tests.support.waiting import until
from tests.support.writers import documents

CRITICAL = {"type": "error_rate", "severity": "critical", "value": 0.5, "threshold": 0.1}
SECRET = {"Authorization": "Bearer s3cret"}
BY_HAND = """
[rag.rollout]
shadow_sample = 0.0
[rag.alerts]
webhook_secret = "s3cret"
"""


def courier(library: reshelve.Library, receiver: AlertReceiver) -> Courier:
    settings = AlertSettings(url=receiver.url, url_secret=SecretStr("out"))
    return Courier(library.backends.database, settings, poll_seconds=0.02, first_pause_seconds=0.02)


async def alert(library: reshelve.Library, **given: Any) -> int:
    async with library.backends.database.service() as connection:
        return await raise_alert(
            connection, **{"source": "gate", "type": "rollback", "severity": "critical", "message": "m", **given}
        )


async def delivered(library: reshelve.Library) -> bool:
    async with library.backends.database.service() as connection:
        return all(each.delivered_at for each in await list_alerts(connection) if each.source != "webhook")


async def test_an_alert_is_sent_until_it_is_taken(library: reshelve.Library) -> None:
    async with receiving() as receiver:
        receiver.answers.extend([500, 302])
        number = await alert(library, value=0.5, threshold=0.1)
        await alert(library, source="webhook", message="came from outside")
        sending = courier(library, receiver)
        sending.start()
        try:
            await until(lambda: delivered(library))
        finally:
            await sending.stop()
        assert [each["id"] for each in receiver.received] == [number] * 3
        assert receiver.authorizations == ["Bearer out"] * 3
        told = receiver.received[-1]
        assert (told["severity"], told["value"], told["threshold"], told["message"]) == ("critical", 0.5, 0.1, "m")
        async with library.backends.database.service() as connection:
            assert [each.attempts for each in await list_alerts(connection)] == [0, 3]


async def test_two_couriers_send_each_alert_once(library: reshelve.Library) -> None:
    async with receiving() as receiver:
        numbers = [await alert(library, message=str(number)) for number in range(30)]
        couriers = [courier(library, receiver) for _ in range(3)]
        for each in couriers:
            each.start()
        try:
            await until(lambda: delivered(library))
        finally:
            for each in couriers:
                await each.stop()
        assert sorted(each["id"] for each in receiver.received) == numbers


async def test_what_a_courier_left_behind_is_sent_by_another(library: reshelve.Library) -> None:
    async with receiving() as receiver:
        receiver.answers.append(None)
        number = await alert(library)
        first = courier(library, receiver)
        first.start()
        await until(lambda: len(receiver.received) == 1)
        await first.stop()
        assert not await delivered(library)
        async with library.backends.database.service() as connection:
            await connection.execute("UPDATE alerts SET next_attempt_at = clock_timestamp()")
        second = courier(library, receiver)
        second.start()
        try:
            await until(lambda: delivered(library))
        finally:
            await second.stop()
        assert [each["id"] for each in receiver.received] == [number] * 2


async def test_an_unreachable_receiver_is_tried_again(library: reshelve.Library) -> None:
    async with receiving() as receiver:
        gone = receiver.url
    settings = AlertSettings(url=gone)
    sending = Courier(library.backends.database, settings, poll_seconds=0.02, first_pause_seconds=0.02)
    await alert(library)

    async def tried_twice() -> bool:
        async with library.backends.database.service() as connection:
            return (await list_alerts(connection))[0].attempts >= 2

    sending.start()
    try:
        await until(tried_twice)
    finally:
        await sending.stop()
    assert not await delivered(library)


@pytest.fixture
def rolling(settings_of: Callable[[str], Settings]) -> Callable[[float], Any]:
    """Settings of a collection whose migration to hashing-128 has this share."""

    async def make(percent: float) -> Settings:
        async with reshelve.connect(settings_of('[rag.embedding]\nmodel = "hashing-64"')) as library:
            await library.ingest(documents(30))
        settings = settings_of('[rag.embedding]\nmodel = "hashing-128"\n' + BY_HAND)
        async with reshelve.connect(settings) as library:
            await library.apply()
            if percent:
                await library.rollout(percent)
        return settings

    return make


async def answering(client: httpx.AsyncClient) -> set[str]:
    searches = [
        await client.post("/api/v1/search", json={"query": "a shelf", "user": f"u{number}"}) for number in range(20)
    ]
    return {found.raise_for_status().json()["model"] for found in searches}


@pytest.mark.parametrize(("percent", "models"), [(50, {"hashing-64", "hashing-128"}), (100, {"hashing-128"})])
async def test_a_critical_alert_rolls_back(rolling: Callable[[float], Any], percent: float, models: set[str]) -> None:
    async with served(await rolling(percent)) as client:
        assert await answering(client) == models
        mild = await client.post("/api/alerts/webhook", json={**CRITICAL, "severity": "error"}, headers=SECRET)
        assert mild.json()["action"] == "stored"
        assert await answering(client) == models
        done = (await client.post("/api/alerts/webhook", json=CRITICAL, headers=SECRET)).raise_for_status().json()
        assert done["action"] == "rolled_back"
        (migration,) = done["migrations"]
        assert (migration["state"], migration["percent"]) == ("rolled_back", 0)
        assert await answering(client) == {"hashing-64"}
        again = (await client.post("/api/alerts/webhook", json=CRITICAL, headers=SECRET)).raise_for_status().json()
        assert (again["action"], again["migrations"][0]["migration"]) == ("already_rolled_back", migration["migration"])
        kept = (await client.get("/api/alerts/webhook", headers=SECRET)).json()["alerts"]
        incoming = [each for each in kept if each["source"] == "webhook"]
        assert [each["id"] for each in incoming] == [again["alert"], done["alert"], mild.json()["alert"]]
        assert incoming[1]["outcome"] == done["said"]
        only = await client.get("/api/alerts/webhook", params={"severity": "error", "limit": 1}, headers=SECRET)
        assert [each["id"] for each in only.json()["alerts"]] == [mild.json()["alert"]]


async def test_critical_alerts_at_the_same_time_do_no_harm(rolling: Callable[[float], Any]) -> None:
    # The service watches the rollout by itself meanwhile.
    async with served(await rolling(50), worker=True) as client:
        answers = await asyncio.gather(
            *(client.post("/api/alerts/webhook", json=CRITICAL, headers=SECRET) for _ in range(4))
        )
        actions = {each.raise_for_status().json()["action"] for each in answers}
        assert actions <= {"rolled_back", "already_rolled_back"}
        assert await answering(client) == {"hashing-64"}


async def test_what_no_search_meets_is_left_alone(rolling: Callable[[float], Any]) -> None:
    settings = await rolling(0)
    async with served(settings) as client:
        done = (await client.post("/api/alerts/webhook", json=CRITICAL, headers=SECRET)).json()
        assert (done["action"], done["migrations"]) == ("nothing_to_roll_back", [])
        missing = await client.post("/api/alerts/webhook", json={**CRITICAL, "collection": "other"}, headers=SECRET)
        assert missing.status_code == 404
    async with reshelve.connect(settings) as library:
        migration = (await library.status()).migration
        assert migration is not None
        assert migration.state == "verifying"


async def test_only_who_knows_the_secret_may(settings_of: Callable[[str], Settings]) -> None:
    async with served(settings_of('[rag.alerts]\nwebhook_secret = "s3cret"')) as client:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Basic s3cret"},
            {"X-Secret": "s3cret"},
        ):
            for refused in (
                await client.post("/api/alerts/webhook", json=CRITICAL, headers=headers),
                await client.get("/api/alerts/webhook", headers=headers),
            ):
                assert refused.status_code == 401
                assert refused.headers["www-authenticate"] == "Bearer"
                assert refused.json()["code"] == "unauthorised"
        for wrong in ({**CRITICAL, "more": 1}, {**CRITICAL, "value": "0.5"}, {"type": "x"}, {**CRITICAL, "type": "\0"}):
            refused = await client.post("/api/alerts/webhook", json=wrong, headers=SECRET)
            assert refused.status_code == 422
        assert (await client.get("/api/alerts/webhook?severity=bad", headers=SECRET)).status_code == 422
        assert (await client.get("/api/alerts/webhook", headers=SECRET)).json() == {"alerts": []}


@pytest.mark.parametrize("lines", ["", '[rag.alerts]\nwebhook_secret = ""'])
async def test_without_a_secret_nothing_comes_in(settings_of: Callable[[str], Settings], lines: str) -> None:
    async with served(settings_of(lines)) as client:
        assert (await client.post("/api/alerts/webhook", json=CRITICAL)).status_code == 503
        refused = await client.post("/api/alerts/webhook", json=CRITICAL, headers=SECRET)
        assert refused.status_code == 503
        assert "rag.alerts.webhook_secret" in refused.json()["advice"]
        assert (await client.get("/api/alerts/webhook")).json() == {"alerts": []}
