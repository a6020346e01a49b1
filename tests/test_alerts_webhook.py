"""Webhooks against real servers on loopback, the guard that keeps them off private addresses, and the log.

What holds for every type of receiver is in test_receivers.py.
"""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError
from structlog.testing import capture_logs

from alerts.errors import PermanentDeliveryError, TransientDeliveryError
from alerts.receivers.guard import AddressRefusedError, guarded_socket, is_public
from alerts.receivers.log import LogReceiver
from alerts.receivers.webhook import WebhookReceiver
from tests.alerts_fakes import SECRET, START_MS, notification, webhook_server

if TYPE_CHECKING:
    from pathlib import Path

    from alerts.notification import Notification

OLD_SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


def _receiver(url: str, **changes: Any) -> WebhookReceiver:
    values: dict[str, Any] = {"name": "ops", "url": url, "secrets": (SECRET,), "allow_private": True}
    return WebhookReceiver(**{**values, **changes})


async def _send(receiver: WebhookReceiver, item: Notification | None = None, now_ms: int = START_MS) -> None:
    try:
        await receiver.send(item or notification(), attempt=1, now_ms=now_ms)
    finally:
        await receiver.close()


@pytest.fixture
def now_ms(tmp_path: Path) -> int:
    """The present, which the verifying side insists on, as the file system tells it."""
    return tmp_path.stat().st_mtime_ns // 1_000_000


async def test_a_receiver_can_verify_what_it_gets(now_ms: int) -> None:
    async with webhook_server() as hook:
        await _send(_receiver(hook.url), now_ms=now_ms)
    ((headers, body),) = hook.requests
    assert Webhook(SECRET).verify(body, headers)["data"] == {"event_id": "ntf_1"}
    assert body == notification().body.encode()
    assert headers["webhook-id"] == "ntf_1"
    assert headers["webhook-timestamp"] == str(now_ms // 1000)
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"].startswith("lastseen/")
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body + b" ", headers)


async def test_while_secrets_are_rotated_either_verifies(now_ms: int) -> None:
    async with webhook_server() as hook:
        await _send(_receiver(hook.url, secrets=(SECRET, OLD_SECRET)), now_ms=now_ms)
    ((headers, body),) = hook.requests
    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in (SECRET, OLD_SECRET):
        assert Webhook(secret).verify(body, headers)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_a_failure_and_is_not_followed(status: int) -> None:
    async def away(_request: web.Request, _number: int) -> web.Response:
        return web.Response(status=status, headers={"location": "/hook"})

    async with webhook_server(away) as hook:
        with pytest.raises(TransientDeliveryError, match=f"'ops': HTTP {status}"):
            await _send(_receiver(hook.url))
    assert len(hook.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 413, 422, 451])
async def test_a_4xx_refuses_for_good_and_410_asks_for_no_more_of_anything(status: int) -> None:
    async def refuse(_request: web.Request, _number: int) -> web.Response:
        return web.Response(status=status)

    async with webhook_server(refuse) as hook:
        with pytest.raises(PermanentDeliveryError, match=f"'ops': HTTP {status}") as raised:
            await _send(_receiver(hook.url))
    assert raised.value.disable is (status == 410)


@pytest.mark.parametrize("status", [304, 408, 425, 429, 500, 502, 503, 504])
async def test_what_may_pass_is_tried_again(status: int) -> None:
    async def refuse(_request: web.Request, _number: int) -> web.Response:
        return web.Response(status=status)

    async with webhook_server(refuse) as hook:
        with pytest.raises(TransientDeliveryError, match=f"'ops': HTTP {status}") as raised:
            await _send(_receiver(hook.url))
    assert not raised.value.unknown


@pytest.mark.parametrize(("header", "wait_ms"), [("7", 7_000), ("nonsense", None), (None, None)])
async def test_the_receivers_retry_after_is_reported(header: str | None, wait_ms: int | None) -> None:
    async def busy(_request: web.Request, _number: int) -> web.Response:
        return web.Response(status=503, headers={} if header is None else {"retry-after": header})

    async with webhook_server(busy) as hook:
        with pytest.raises(TransientDeliveryError) as raised:
            await _send(_receiver(hook.url))
    assert raised.value.retry_after_ms == wait_ms


async def test_a_receiver_that_does_not_answer_is_given_up_in_time() -> None:
    release = asyncio.Event()

    async def never(_request: web.Request, _number: int) -> web.Response:
        await release.wait()
        return web.Response()

    async with webhook_server(never) as hook:
        with pytest.raises(TransientDeliveryError, match=r"no reply within 0\.2 s"):
            await _send(_receiver(hook.url, timeout_s=0.2))
        release.set()


async def test_of_a_huge_reply_only_the_beginning_is_read() -> None:
    written = 0

    async def flood(request: web.Request, _number: int) -> web.StreamResponse:
        nonlocal written
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 65_536)
                written += 65_536
        except ConnectionError:
            return response

    async with webhook_server(flood) as hook:
        await _send(_receiver(hook.url))
    assert written < 50_000_000


async def test_a_2xx_counts_though_its_body_never_ends() -> None:
    release = asyncio.Event()

    async def drip(request: web.Request, _number: int) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-length": "100"})
        await response.prepare(request)
        await response.write(b"x")
        await release.wait()
        return response

    async with webhook_server(drip) as hook:
        await _send(_receiver(hook.url, timeout_s=0.3))
        release.set()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f000001", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"])  # noqa: S104
async def test_a_private_address_is_refused_whatever_its_name(host: str) -> None:
    async with webhook_server() as hook:
        port = hook.url.rsplit(":", 1)[1]
        with pytest.raises(TransientDeliveryError) as raised:
            await _send(_receiver(f"http://{host}:{port}", allow_private=False))
    assert "is not public" in str(raised.value) or "cannot connect" in str(raised.value)
    assert hook.requests == []


async def test_a_name_that_resolves_to_loopback_is_refused_by_address() -> None:
    async with webhook_server() as hook:
        with pytest.raises(TransientDeliveryError, match="is not public"):
            await _send(_receiver(hook.url.replace("127.0.0.1", "localhost"), allow_private=False))
        await _send(_receiver(hook.url.replace("127.0.0.1", "localhost")))
    assert len(hook.requests) == 1


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",  # noqa: S104
        "10.1.2.3",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.1",
        "192.0.0.192",
        "192.168.1.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2001:db8::1",
        "fd00:ec2::254",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
        "not-an-address",
        "",
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)
    with pytest.raises(AddressRefusedError):
        guarded_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, 80)))


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101", "2002:101:101::1"]
)
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(address)


async def test_the_log_receiver_writes_one_line_with_the_data() -> None:
    receiver = LogReceiver()
    with capture_logs() as logs:
        await receiver.send(notification(), attempt=2, now_ms=START_MS)
        await receiver.close()
    assert logs == [
        {
            "event": "notification",
            "log_level": "info",
            "event_id": "ntf_1",
            "nid": "ntf_1",
            "receiver": "log",
            "type": "worker.stale",
            "attempt": 2,
            "page": "DOWN ",  # what a terminal shows of it: there is no summary
        }
    ]


async def test_the_log_receiver_writes_one_line_for_a_group() -> None:
    data = {"group": {"environment": "prod"}, "summary": "3 of 240", "events": [{"type": "worker.stale"}], "event": "x"}
    body = json.dumps({"type": "group.firing", "timestamp": "2026-11-23T10:00:00.000Z", "data": data})
    with capture_logs() as logs:
        await LogReceiver(name="l").send(
            replace(notification(), event_type="group.firing", body=body), attempt=1, now_ms=START_MS
        )
    (line,) = logs
    assert (line["event"], line["type"], line["receiver"]) == ("notification", "group.firing", "l")
    assert (line["summary"], line["group"]) == (data["summary"], data["group"])
