"""Webhooks against real servers on loopback, the guard that keeps them off private addresses, and the log.

What holds for every type of receiver is in test_every_type.py.
"""

import asyncio
import json
import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from standardwebhooks import Webhook, WebhookVerificationError
from structlog.testing import capture_logs

from alerts.errors import Cause, DeliveryError, PermanentDeliveryError, TransientDeliveryError
from alerts.receivers import Notification
from alerts.receivers.alertmanager import AlertmanagerReceiver
from alerts.receivers.log import LogReceiver
from alerts.receivers.ssrf import AddressRefusedError, guarded_socket, is_public
from alerts.receivers.webhook import WebhookReceiver
from tests.support.alerts_fakes import SECRET, START_MS, event, notification, webhook_server

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
    """The current time, read from the file system: the verifying side insists on it."""
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


@pytest.mark.parametrize("status", [410, 413])
async def test_413_refuses_for_good_and_410_asks_for_no_more_of_anything(status: int) -> None:
    async def refuse(_request: web.Request, _number: int) -> web.Response:
        return web.Response(status=status)

    async with webhook_server(refuse) as hook:
        with pytest.raises(PermanentDeliveryError, match=f"'ops': HTTP {status}") as raised:
            await _send(_receiver(hook.url))
    assert raised.value.disable is (status == 410)
    assert raised.value.cause is {410: Cause.GONE, 413: Cause.TOO_LARGE}[status]


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (304, Cause.REDIRECT),
        (308, Cause.REDIRECT),
        (400, Cause.INVALID),
        (401, Cause.AUTH),
        (403, Cause.AUTH),
        (404, Cause.NOT_FOUND),
        (407, Cause.AUTH),
        (408, Cause.TIMEOUT),
        (409, Cause.OTHER),
        (422, Cause.INVALID),
        (425, Cause.OTHER),
        (429, Cause.RATE_LIMITED),
        (451, Cause.OTHER),
        (500, Cause.SERVER_ERROR),
        (502, Cause.SERVER_ERROR),
        (504, Cause.SERVER_ERROR),
    ],
)
async def test_every_other_refusal_may_pass_and_has_a_kind_and_the_beginning_of_its_answer(
    status: int, cause: Cause
) -> None:
    async def refuse(_request: web.Request, _number: int) -> web.Response:
        return web.Response(status=status, text="no: " + "x" * 100_000)

    async with webhook_server(refuse) as hook:
        with pytest.raises(TransientDeliveryError, match=f"'ops': HTTP {status}") as raised:
            await _send(_receiver(hook.url))
    assert not raised.value.unknown
    assert raised.value.cause is cause
    assert raised.value.answer == ("" if status == 304 else "no: " + "x" * 2_044)


SLOPPY = {
    "a body after 204": b"HTTP/1.1 204 No Content\r\nserver: x\r\n\r\nthanks\r\n",
    "the end of chunks after 204": b"HTTP/1.1 204 No Content\r\n\r\n0\r\n\r\n",
    "chunks that 204 announces": b"HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a repeated equal length": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok",
    "a length that is none": b"HTTP/1.1 200 OK\r\ncontent-length: two\r\n\r\nok",
    "a length and chunks": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a broken header": b"HTTP/1.1 202 Accepted\r\nbad header: 2\r\n\r\nok",
    "a body that is cut": b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nok",
    "a head that is cut": b"HTTP/1.1 200 OK\r\nserv",
    "more than its length": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokay",
    "version 1.0": b"HTTP/1.0 200 OK\r\n\r\nok",
}
"""Answers that accept, and go on in a way that a parser may refuse."""


@asynccontextmanager
async def raw_server(answer: bytes, *, segments: int = 1, asked: bool = True) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that sends these bytes in this number of pieces, and hangs up; its address and the heads.

    Not ``asked`` it sends them at once.
    """
    heads: list[bytes] = []
    handlers: set[asyncio.Task[None] | None] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.current_task())
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            if asked:
                heads.append(await reader.readuntil(b"\r\n\r\n"))
            size = -(-len(answer) // segments) or 1
            for start in range(0, len(answer), size):
                writer.write(answer[start : start + size])
                await writer.drain()
                await asyncio.sleep(0.001)  # so that each goes by itself
        handlers.discard(asyncio.current_task())
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}", heads
    finally:
        server.close()
        left = [task for task in handlers if task is not None]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await server.wait_closed()


@pytest.mark.parametrize("segments", [1, 2, 1_000])
@pytest.mark.parametrize("sloppy", SLOPPY)
async def test_a_2xx_is_an_acceptance_whatever_follows_it_and_however_it_is_cut(sloppy: str, segments: int) -> None:
    async with raw_server(SLOPPY[sloppy], segments=segments) as (address, heads):
        await _send(_receiver(f"http://{address}/hook", timeout_s=5.0))
    assert len(heads) == 1


@pytest.mark.parametrize("segments", [1, 2, 1_000])
async def test_of_a_sloppy_refusal_too_the_status_line_decides(segments: int) -> None:
    answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nno"
    async with raw_server(answer, segments=segments) as (address, _):
        with pytest.raises(TransientDeliveryError, match=r"HTTP 404") as raised:
            await _send(_receiver(f"http://{address}/hook"))
    assert (raised.value.cause, raised.value.unknown) == (Cause.NOT_FOUND, False)


@pytest.mark.parametrize(
    "target", ["/a%2Fb/%7Esign?x=%2f%7E&y='+;", "/hook?sig=%C3%A9%zz", "/", "/a//b/../c/./d", "/%41?%41=b&&=", "/{a}|b"]
)
async def test_a_url_is_sent_byte_for_byte(target: str) -> None:
    async with raw_server(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", segments=1) as (address, heads):
        await _send(_receiver(f"http://{address}{target}"))
    assert heads[0].partition(b"\r\n")[0].decode() == f"POST {target} HTTP/1.1"


async def test_what_went_wrong_is_said_in_words_and_as_a_kind() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    cases = [
        (f"http://127.0.0.1:{port}", Cause.REFUSED, f"connection refused by 127.0.0.1:{port}"),
        ("http://no-such-host.invalid", Cause.DNS, "the name no-such-host.invalid could not be resolved: "),
        ("http://127.0.0.1", Cause.ADDRESS_REFUSED, "address 127.0.0.1 is not public; allow_private = true would"),
    ]
    async with raw_server(b"220 mail.example.org ESMTP\r\n", segments=1) as (address, _):
        cases += [(f"http://{address}", Cause.NOT_HTTP, "the answer is not HTTP")]
        for url, cause, text in cases:
            receiver = _receiver(url, allow_private=cause is not Cause.ADDRESS_REFUSED)
            with pytest.raises(TransientDeliveryError, match=re.escape(f"receiver 'ops': {text}")) as raised:
                await _send(receiver)
            assert raised.value.cause is cause
            if cause is not Cause.NOT_HTTP:  # it is found out without a request
                with pytest.raises(TransientDeliveryError, match=re.escape(text)) as raised:
                    await receiver.reach()
                assert raised.value.cause is cause
    async with raw_server(b"220 mail.example.org ESMTP\r\n", asked=False) as (address, _):
        with pytest.raises(TransientDeliveryError, match="'ops': TLS: ") as raised:
            await _send(_receiver(f"https://{address}"))
        assert (raised.value.cause, raised.value.unknown) == (Cause.TLS, False)
    async with raw_server(b"") as (address, _):
        with pytest.raises(TransientDeliveryError, match="the connection was closed before an answer") as raised:
            await _send(_receiver(f"http://{address}"))
        assert (raised.value.cause, raised.value.unknown) == (Cause.DISCONNECTED, True)


async def test_a_certificate_that_is_not_trusted_is_named(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hooks.example.org")])
    made = (
        x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=key.public_key(), serial_number=1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2020, 1, 2, tzinfo=UTC))
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "both.pem"
    unencrypted = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, unencrypted)
    pem.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(TransientDeliveryError, match=r"'ops': TLS: .*(certificate|self-signed)") as raised:
            await _send(_receiver(f"https://127.0.0.1:{port}"))
    assert (raised.value.cause, raised.value.unknown) == (Cause.TLS, False)


@pytest.mark.parametrize(
    ("content_type", "error"), [("application/json", PermanentDeliveryError), ("text/html", TransientDeliveryError)]
)
async def test_of_an_alert_only_alertmanager_itself_says_that_it_is_not_valid(
    content_type: str, error: type[DeliveryError]
) -> None:
    answer = f'HTTP/1.1 400 Bad Request\r\ncontent-type: {content_type}\r\ncontent-length: 4\r\n\r\n"no"'.encode()
    payload = {
        "type": "worker.stale",
        "timestamp": "2026-11-23T10:00:00.000Z",
        "data": msgspec.to_builtins(event().data()),
    }
    async with raw_server(answer) as (address, heads):
        receiver = AlertmanagerReceiver(name="am", url=f"http://{address}", allow_private=True)
        with pytest.raises(error, match="'am': HTTP 400") as raised:
            await receiver.send(replace(notification(), body=json.dumps(payload)), attempt=1, now_ms=START_MS)
        await receiver.close()
    assert (raised.value.cause, raised.value.answer, len(heads)) == (Cause.INVALID, '"no"', 1)


async def test_what_is_reached_at_the_start_is_the_address_that_was_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name may resolve to another address at each lookup (DNS rebinding)."""
    loop = asyncio.get_running_loop()
    asked: list[str] = []

    async def rebinding(host: str, port: int, **_: object) -> list[object]:
        asked.append(host)
        address = "192.0.2.1" if len(asked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(loop, "getaddrinfo", rebinding)
    async with webhook_server() as hook:
        port = hook.url.rpartition(":")[2].partition("/")[0]
        with pytest.raises(TransientDeliveryError):
            await _receiver(f"http://hooks.example.org:{port}", allow_private=False, timeout_s=0.5).reach()
    assert asked == ["hooks.example.org"]


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
        with pytest.raises(TransientDeliveryError, match=r"no answer within 0\.2 s"):
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
