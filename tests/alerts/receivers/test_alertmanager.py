"""A real Alertmanager, Debian's own, on a loopback port, and the alerts that it makes of notifications."""

import asyncio
import json
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from alerts.errors import PermanentDeliveryError
from alerts.receivers import Notification
from alerts.receivers.alertmanager import AlertmanagerReceiver, AlertmanagerSettings
from alerts.rendering.payload import Wording
from monitor.events import Event, rfc3339
from monitor.liveness import EventKind, Liveness
from monitor.settings.key_material import Surroundings
from tests.support.alerts_fakes import START_MS, event, notification, until, webhook_server
from tests.support.receiver_cases import Does
from tests.support.receiver_cases.http_peer import serve

PROGRAM: Final = "prometheus-alertmanager"
RESEND_MS: Final = 60_000
WORDING: Final = Wording(public_url="https://lastseen.example.org", redact=())


def notified(
    kind: EventKind, now_ms: int, *, created_ms: int | None = None, previous: Event | None = None, **changes: Any
) -> Notification:
    """A notification, at ``now_ms``, of a worker that has been silent for ten seconds."""
    facts: dict[str, Any] = {
        "kind": kind,
        "due_ms": now_ms - 10_000,
        "detected_ms": now_ms,
        "last_seen_ms": now_ms - 99_000,
    }
    if kind not in {EventKind.STALE, EventKind.REJECTED}:
        facts |= {"old": Liveness.STALE, "since_ms": now_ms - 10_000, "due_ms": now_ms}
    body = WORDING.single(
        event(2, **{**facts, **changes}), incident_id="inc_1", reminder=0, health=None, previous=previous
    )
    created = now_ms if created_ms is None else created_ms
    return replace(notification(), event_type=kind.value, body=body, created_ms=created)


@asynccontextmanager
async def alertmanager(folder: Path, hook_url: str) -> AsyncIterator[str]:
    """A running one that calls the hook at once; its URL."""
    program = shutil.which(PROGRAM)
    if program is None:
        pytest.skip(f"no {PROGRAM} on PATH (Debian: apt-get install prometheus-alertmanager)")
    route = {
        "receiver": "hook",
        "group_by": ["..."],
        "group_wait": "0s",
        "group_interval": "1s",
        "repeat_interval": "1h",
    }
    hook = {"name": "hook", "webhook_configs": [{"url": hook_url, "send_resolved": True}]}
    (folder / "alertmanager.yml").write_text(json.dumps({"route": route, "receivers": [hook]}))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        program,
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'storage'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
        "--log.level=error",
    )
    url = f"http://127.0.0.1:{port}"

    async def ready() -> bool:
        assert process.returncode is None
        try:
            return await fetched(f"{url}/-/ready") is not None
        except aiohttp.ClientError:
            return False

    try:
        await until(ready)
        yield url
    finally:
        process.terminate()
        await process.wait()


async def fetched(url: str) -> Any:
    async with aiohttp.ClientSession() as session, session.get(url, raise_for_status=True) as response:
        return json.loads(text) if (text := await response.text()).startswith(("[", "{")) else text


async def active(url: str) -> list[dict[str, Any]]:
    alerts: list[dict[str, Any]] = await fetched(f"{url}/api/v2/alerts")
    return alerts


@pytest.fixture
def now_ms(tmp_path: Path) -> int:
    """The current time, read from the file system: Alertmanager has a clock of its own."""
    return tmp_path.stat().st_mtime_ns // 1_000_000


async def test_an_outage_is_fired_sent_again_and_resolved_for_real(tmp_path: Path, now_ms: int) -> None:
    async with webhook_server() as hook, alertmanager(tmp_path, hook.url) as url:
        receiver = AlertmanagerReceiver(
            name="am", url=f"{url}/", resend_ms=RESEND_MS, labels={"team": "a"}, allow_private=True
        )

        def called() -> list[tuple[str, str]]:
            calls = [json.loads(body) for _, body in hook.requests]
            return [(call["status"], alert["labels"]["worker_id"]) for call in calls for alert in call["alerts"]]

        await receiver.send(notified(EventKind.STALE, now_ms), attempt=1, now_ms=now_ms)
        (fired,) = await active(url)
        assert fired["labels"] == {
            "alertname": "LastseenWorkerDown",
            "severity": "critical",
            "team": "a",
            "tenant": "acme",
            "environment": "prod",
            "worker_id": "w",
        }
        assert fired["startsAt"] == rfc3339(now_ms - 10_000)
        assert fired["endsAt"] == rfc3339(now_ms + 4 * RESEND_MS)
        assert fired["generatorURL"].startswith("https://lastseen.example.org/")
        assert set(fired["annotations"]) == {"summary", "description", "silence"}
        await until(lambda: called() == [("firing", "w")])

        # Sent again, and then failed: the same alert, with a later end.
        again = notified(EventKind.STALE, now_ms, created_ms=now_ms + RESEND_MS)
        await receiver.send(again, attempt=1, now_ms=now_ms)
        failed = notified(EventKind.FAILED, now_ms, created_ms=now_ms + RESEND_MS + 5)
        await receiver.send(failed, attempt=1, now_ms=now_ms)
        (later,) = await active(url)
        assert later["fingerprint"] == fired["fingerprint"]
        assert later["startsAt"] == fired["startsAt"]
        assert later["endsAt"] == rfc3339(now_ms + 5 * RESEND_MS + 5)

        other = notified(EventKind.STALE, now_ms, worker_id="other")
        await receiver.send(other, attempt=1, now_ms=now_ms)
        await receiver.send(notified(EventKind.RECOVERED, now_ms), attempt=1, now_ms=now_ms)
        assert [alert["labels"]["worker_id"] for alert in await active(url)] == ["other"]
        await until(lambda: ("resolved", "w") in called())
        assert ("resolved", "other") not in called()
        await receiver.close()


@pytest.mark.parametrize("down_ms", [5_000, 120_000])
async def test_an_alertmanager_whose_clock_is_behind_takes_an_end_for_an_end(
    tmp_path: Path, now_ms: int, down_ms: int
) -> None:
    ahead_ms = 5_000
    async with webhook_server() as hook, alertmanager(tmp_path, hook.url) as url:
        receiver = AlertmanagerReceiver(name="am", url=url, allow_private=True)
        stale = notified(
            EventKind.STALE, now_ms + ahead_ms - down_ms, created_ms=now_ms, due_ms=now_ms + ahead_ms - down_ms
        )
        await receiver.send(stale, attempt=1, now_ms=now_ms)
        await until(lambda: [json.loads(body)["status"] for _, body in hook.requests] == ["firing"])
        await receiver.send(notified(EventKind.RECOVERED, now_ms + ahead_ms), attempt=1, now_ms=now_ms)
        assert await active(url) == []
        await until(lambda: [json.loads(body)["status"] for _, body in hook.requests] == ["firing", "resolved"])
        await receiver.close()


async def test_p11_a_warning_ends_where_it_becomes_critical_and_only_that_is_resolved(
    tmp_path: Path, now_ms: int
) -> None:
    rejected, stale = event(kind=EventKind.REJECTED), event(kind=EventKind.STALE)
    async with webhook_server() as hook, alertmanager(tmp_path, hook.url) as url:
        receiver = AlertmanagerReceiver(name="am", url=url, allow_private=True)

        def called() -> list[tuple[str, str]]:
            calls = [json.loads(body) for _, body in hook.requests]
            return [(call["status"], alert["labels"]["severity"]) for call in calls for alert in call["alerts"]]

        why: dict[str, Any] = {"reason": "token expired", "rejected_reason": "token expired", "rejected_ms": now_ms}
        await receiver.send(notified(EventKind.REJECTED, now_ms, **why), attempt=1, now_ms=now_ms)
        again = notified(EventKind.REJECTED, now_ms, previous=rejected, **why)
        await receiver.send(again, attempt=1, now_ms=now_ms)
        [alert] = await active(url)
        assert alert["labels"]["severity"] == "warning"
        assert "token expired, last accepted heartbeat at " in alert["annotations"]["description"]
        await until(lambda: called() == [("firing", "warning")])
        worse = notified(EventKind.STALE, now_ms, previous=rejected, old=Liveness.STALE)
        await receiver.send(worse, attempt=1, now_ms=now_ms)
        assert [alert["labels"]["severity"] for alert in await active(url)] == ["critical"]
        await until(lambda: len(called()) == 3)
        await receiver.send(notified(EventKind.RECOVERED, now_ms, previous=stale), attempt=1, now_ms=now_ms)
        assert await active(url) == []
        await until(lambda: len(called()) == 4)
        assert sorted(called()) == sorted(
            [("firing", "warning"), ("resolved", "warning"), ("firing", "critical"), ("resolved", "critical")]
        )
        await receiver.close()


async def test_p11_a_worker_that_was_only_rejected_is_resolved_as_that(tmp_path: Path, now_ms: int) -> None:
    rejected = event(kind=EventKind.REJECTED)
    async with webhook_server() as hook, alertmanager(tmp_path, hook.url) as url:
        receiver = AlertmanagerReceiver(name="am", url=url, allow_private=True)
        await receiver.send(notified(EventKind.REJECTED, now_ms), attempt=1, now_ms=now_ms)
        assert len(await active(url)) == 1
        await receiver.send(notified(EventKind.RECOVERED, now_ms, previous=rejected), attempt=1, now_ms=now_ms)
        assert await active(url) == []
        await receiver.close()


async def test_p11_a_severity_that_is_configured_is_that_of_all_so_that_the_alert_stays_one(
    tmp_path: Path, now_ms: int
) -> None:
    rejected = event(kind=EventKind.REJECTED)
    async with webhook_server() as hook, alertmanager(tmp_path, hook.url) as url:
        receiver = AlertmanagerReceiver(name="am", url=url, labels={"severity": "page"}, allow_private=True)
        await receiver.send(notified(EventKind.REJECTED, now_ms), attempt=1, now_ms=now_ms)
        [first] = await active(url)
        await receiver.send(notified(EventKind.STALE, now_ms, previous=rejected), attempt=1, now_ms=now_ms)
        [second] = await active(url)
        assert (first["labels"], first["fingerprint"]) == (second["labels"], second["fingerprint"])
        assert first["labels"]["severity"] == "page"
        await receiver.close()


@pytest.mark.parametrize("kind", [EventKind.STOPPED, EventKind.FORGOTTEN])
async def test_a_stop_and_a_removal_resolve_too(tmp_path: Path, now_ms: int, kind: EventKind) -> None:
    async with webhook_server() as hook, alertmanager(tmp_path, hook.url) as url:
        receiver = AlertmanagerReceiver(name="am", url=url, allow_private=True)
        await receiver.send(notified(EventKind.STALE, now_ms), attempt=1, now_ms=now_ms)
        assert len(await active(url)) == 1
        await receiver.send(notified(kind, now_ms), attempt=1, now_ms=now_ms)
        assert await active(url) == []
        await receiver.close()


async def test_an_alert_that_is_not_sent_again_ends_by_itself(tmp_path: Path, now_ms: int) -> None:
    async with webhook_server() as hook, alertmanager(tmp_path, hook.url) as url:
        receiver = AlertmanagerReceiver(name="am", url=url, allow_private=True, resend_ms=500)
        await receiver.send(notified(EventKind.STALE, now_ms), attempt=1, now_ms=now_ms)
        await until(lambda: [json.loads(body)["status"] for _, body in hook.requests] == ["firing", "resolved"])
        assert await active(url) == []
        await receiver.close()


async def test_what_is_no_outage_and_no_end_of_one_is_accepted_and_not_sent() -> None:
    async with serve(Does.BREAK) as peer:
        receiver = AlertmanagerReceiver(name="am", url=f"http://{peer.address}", allow_private=True)
        for kind in (EventKind.REGISTERED, EventKind.RESUMED, EventKind.STATUS_CHANGED):
            await receiver.send(notified(kind, START_MS), attempt=1, now_ms=START_MS)
        await receiver.close()
    assert peer.received == []


async def test_a_body_that_is_no_notification_is_refused_for_good() -> None:
    receiver = AlertmanagerReceiver(name="am", url="http://127.0.0.1:1")
    for body in ("{", "[]", '{"type":"worker.stale","data":{}}'):
        with pytest.raises(PermanentDeliveryError, match="ntf_1 is not a notification"):
            await receiver.send(replace(notification(), body=body), attempt=1, now_ms=START_MS)
    await receiver.close()


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, None),
        ({"bearer_token_env": "A"}, b"authorization: Bearer c2VjcmV0"),
        ({"username": "lastseen", "password_env": "A"}, b"authorization: Basic bGFzdHNlZW46YzJWamNtVjA="),
    ],
)
async def test_the_token_or_password_goes_with_every_request(keys: dict[str, str], expected: bytes | None) -> None:
    around = Surroundings(environ={"A": "c2VjcmV0"})
    async with serve(Does.ACCEPT) as peer:
        table = {"name": "am", "type": "alertmanager", "url": f"http://{peer.address}/am", "allow_private": True}
        receiver = AlertmanagerSettings.model_validate({**table, **keys}, context=around).open()
        await receiver.send(notified(EventKind.STALE, START_MS), attempt=1, now_ms=START_MS)
        await receiver.close()
    (request,) = peer.received
    assert request.startswith(b"POST /am/api/v2/alerts HTTP/1.1\r\n")
    lines = [line for line in request.split(b"\r\n") if line.lower().startswith(b"authorization")]
    assert lines == ([] if expected is None else [expected])
