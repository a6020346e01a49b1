"""The fast path of heartbeats and the usual path through the router: a client cannot distinguish the two."""

import asyncio
import base64
import gc
import json
import signal
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from monitor.api.admission import Admission, BeatRates
from monitor.api.app import create_app
from monitor.api.fast_path import FastPath, Headers, Sender
from monitor.api.rejected_beats import RejectedBeats
from monitor.api.services import Services
from monitor.auth import Scope
from monitor.errors import StoreUnavailableError
from monitor.http.protocol import BoundedProtocol
from monitor.http.server import HttpServer, listen
from monitor.intake.queue import Intake
from monitor.rate_limit import NS, Rate
from monitor.store import Store
from monitor.workers import Evidence, Rejection, WorkerKey
from tests.support import api, servers, stores
from tests.support.vectors import VECTORS

pytestmark = pytest.mark.parametrize("store_url", ["valkey"], indirect=True)

PATIENCE_S: Final = 20.0
NOSNIFF: Final = ("x-content-type-options", "nosniff")
UNLIMITED: Final = BeatRates(worker=None, tenant=None, batch=1)
BODY: Final = b'{"worker_id":"w","environment_name":"prod","status":"busy","tasks_processed":3}'


class Counting(FastPath):
    """The fast path, and how many requests have taken it."""

    def __init__(self, services: Services) -> None:
        super().__init__(services)
        self.taken = 0
        self.judged = 0
        """Number of heads that were judged."""
        self.broken = ""
        """Name of the method that fails."""

    def sender(self, target: bytes, headers: Headers) -> Sender | None:
        self.judged += 1
        if self.broken == "sender":
            raise ValueError(target)
        return super().sender(target, headers)

    def take(self, sender: Sender, body: bytes, answer: Callable[[bytes, bytes], None]) -> bool:
        if self.broken == "take":
            raise ValueError(body)
        taken = super().take(sender, body, answer)
        self.taken += taken
        return taken


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One server: with the fast path, or without."""

    listener: socket.socket
    services: Services
    fast_path: Counting | None
    server: HttpServer
    noted: list[Evidence]
    """Evidence of refused beats."""

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    def counts(self) -> dict[str, float]:
        """Heartbeat requests by outcome."""
        text, _ = self.services.metrics.exposition("")
        return {
            sample.labels["outcome"]: sample.value
            for family in text_string_to_metric_families(text.decode())
            for sample in family.samples
            if sample.name == "lastseen_beats_total" and sample.value
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Both:
    """The same store behind both."""

    store: Store
    fast: Side
    usual: Side

    def token(self, *, old_ms: int = 0, **changes: Any) -> str:
        return api.token(self.store.clock.now_ms() - old_ms, **changes)

    @property
    def taken(self) -> int:
        assert self.fast.fast_path is not None
        return self.fast.fast_path.taken


@asynccontextmanager
async def side(store: Store, *, fast: bool, **changes: Any) -> AsyncIterator[Side]:
    noted: list[Evidence] = []
    services = api.make_services(store, rejected_beats=RejectedBeats(noted.append), **changes)
    fast_path = Counting(services) if fast else None
    server = HttpServer(create_app(services), connections=100, shutdown_timeout_ms=1_000, fast_path=fast_path)
    listener = listen("127.0.0.1", 0)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await asyncio.wait_for(server.accepting.wait(), PATIENCE_S)
        yield Side(listener=listener, services=services, fast_path=fast_path, server=server, noted=noted)
    finally:
        server.should_exit = True
        await task
        await services.intake.drain()


@asynccontextmanager
async def running(
    url: str, *, capacity: int = 1_000, rates: BeatRates = UNLIMITED, **settings: Any
) -> AsyncIterator[Both]:
    async with stores.opened(url, **settings) as store:

        def own() -> dict[str, Any]:
            return {
                "intake": Intake(store, capacity=capacity, on_moved=lambda _: None),
                "admission": Admission(rates, now_ns=lambda: NS),
            }

        async with side(store, fast=True, **own()) as fast, side(store, fast=False, **own()) as usual:
            yield Both(store=store, fast=fast, usual=usual)


@pytest.fixture
async def both(store_url: str) -> AsyncIterator[Both]:
    async with running(store_url) as made:
        yield made


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    lines = (line.partition(": ") for line in head[1:] if line)
    headers = sorted((name.lower(), value) for name, _, value in lines if name.lower() != "date")
    assert len(headers) == len([line for line in head[1:] if line]) - (head[0] != "HTTP/1.1 100 Continue"), "a Date"
    length = int(dict(headers).get("content-length", "0"))
    return Answer(int(head[0].split()[1]), headers, await reader.readexactly(length))


async def ask(port: int, *parts: bytes, answers: int = 1) -> tuple[list[Answer], bytes]:
    """The answers on one connection, and what comes after them when the client has ended its side."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(PATIENCE_S):
            for part in parts:
                writer.write(part)
                await writer.drain()
            found = [await read_answer(reader) for _ in range(answers)]
            writer.write_eof()
            return found, await reader.read()
    finally:
        writer.close()


def request(
    body: bytes = BODY, *headers: str, target: str = api.BEAT, method: str = "POST", version: str = "1.1"
) -> bytes:
    lines = [f"{method} {target} HTTP/{version}", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def usual_headers(token: str) -> list[str]:
    return ["Host: lastseen", f"Authorization: Bearer {token}", "Content-Type: application/json"]


async def workers_of(store: Store) -> set[WorkerKey]:
    """None of a store that does not answer."""
    try:
        found = await store.list_workers(0, "acme", after="", limit=100, environments=None, want=None)
    except StoreUnavailableError:
        return set()
    return {worker.key for worker in found.workers}


async def same(both: Both, raw: bytes) -> Answer:
    """Ask both sides twice, so that the fast one knows the token the second time; what they all answered.

    Each side finds the workers as they were; only the answer to the beat that registers one may have a header more.
    """
    seen = []
    known = await workers_of(both.store)
    for one in (both.fast, both.usual):
        for key in await workers_of(both.store) - known:
            await both.store.delete(key, allowed=None, reason="deleted")
        before = one.counts()
        one.noted.clear()
        with structlog.testing.capture_logs() as logs:
            first, rest = await ask(one.port, raw)
            again, rest_again = await ask(one.port, raw)
        after = one.counts()
        counted = {name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)}
        lines = [{name: value for name, value in line.items() if name != "exception"} for line in logs]
        seen.append((first, rest, again, rest_again, counted, lines, list(one.noted)))
    assert seen[0] == seen[1]
    one_answer, next_answer = seen[0][0][0], seen[0][2][0]
    headers = [header for header in one_answer.headers if header[0] != "lastseen-unknown-fields"]
    assert (one_answer.status, headers, one_answer.body) == (next_answer.status, next_answer.headers, next_answer.body)
    return one_answer


def noted(rejection: Rejection, **changes: Any) -> Evidence:
    """Evidence of a refused beat of ``BODY``."""
    values: dict[str, Any] = {
        "key": WorkerKey("acme", "w"),
        "allowed": None,
        "rejection": rejection,
        "subject": "tests",
    }
    return Evidence(**{**values, **changes})


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
async def test_every_body_of_the_contract_is_answered_the_same(both: Both, vector: dict[str, Any]) -> None:
    headers = ["Host: lastseen", f"Authorization: Bearer {both.token()}"]
    if vector["content_type"]:
        headers.append(f"Content-Type: {vector['content_type']}")
    answer = await same(both, request(base64.b64decode(vector["body_b64"]), *headers, target=vector["path"]))
    assert answer.status in {204, 422}
    if answer.status == 204 and vector["content_type"] == "application/json":
        assert both.taken == 1


async def test_a_good_beat_takes_the_fast_path_in_both_forms_and_is_stored(both: Both) -> None:
    headers = usual_headers(both.token())
    assert (await same(both, request(BODY, *headers))).status == 204
    assert both.taken == 1
    nothing = request(b"", *headers, target="/api/v1/workers/quiet/heartbeat")
    assert (await same(both, nothing)).status == 204
    assert both.taken == 3
    form = request(b'{"status":"idle"}', *headers, target="/api/v1/workers/a%2Fb%C3%A9/heartbeat")
    assert (await same(both, form)).headers == [("cache-control", "no-store"), ("lastseen-next-beat", "30"), NOSNIFF]
    assert both.taken == 5
    _, _, worker = await both.store.get(WorkerKey("acme", "a/bé"))
    assert worker is not None
    assert worker.status == "idle"
    assert both.fast.counts() == both.usual.counts() == {"stored": 6}


async def test_the_fast_path_names_fields_that_are_not_known_to_the_beat_that_registers(both: Both) -> None:
    headers = usual_headers(both.token())
    await ask(both.fast.port, request(BODY, *headers))  # now the token is known
    body = b'{"interval_second":5}'
    path = "/api/v1/workers/new/heartbeat"
    (first,), _ = await ask(both.fast.port, request(body, *headers, target=path))
    (again,), _ = await ask(both.fast.port, request(body, *headers, target=path))
    usual = [("cache-control", "no-store"), ("lastseen-next-beat", "30"), NOSNIFF]
    unknown = ("lastseen-unknown-fields", "interval_second")
    assert (first.status, first.headers) == (204, [*usual[:2], unknown, NOSNIFF])
    assert (again.status, again.headers) == (204, usual)
    assert both.taken == 2


def in_both_headers(token: str) -> list[str]:
    return ["Host: x", f"UserKey: {token}", f"Authorization: Bearer {token}"]


HEADERS: Final[dict[str, Callable[[Both], list[str]]]] = {
    "no token": lambda _: ["Host: x"],
    "bad token": lambda _: ["Host: x", "Authorization: Bearer a.b.c"],
    "another scheme": lambda both: ["Host: x", f"Authorization: Basic {both.token()}"],
    "user key scheme": lambda both: ["Host: x", f"Authorization: UserKey {both.token()}"],
    "user key header": lambda both: ["Host: x", f"UserKey: {both.token()}"],
    "both headers": lambda both: in_both_headers(both.token()),
    "both headers, two tokens": lambda both: ["Host: x", "UserKey: a.b.c", f"Authorization: Bearer {both.token()}"],
    "two tokens": lambda both: ["Host: x", "Authorization: Bearer a.b.c", f"Authorization: Bearer {both.token()}"],
    "two tokens, the other way": lambda both: [
        *("Host: x", f"Authorization: Bearer {both.token()}", "Authorization: Bearer a.b.c")
    ],
    "two good tokens": lambda both: [
        *("Host: x", f"Authorization: Bearer {both.token(worker_id='w')}", f"Authorization: Bearer {both.token()}")
    ],
    "both headers, the key last": lambda both: [
        *("Host: x", f"Authorization: Bearer {both.token()}", "UserKey: a.b.c")
    ],
    "wrong scope": lambda both: usual_headers(both.token(scopes=(Scope.WORKERS_READ,))),
    "another worker's token": lambda both: usual_headers(both.token(worker_id="other")),
    "this worker's token": lambda both: usual_headers(both.token(worker_id="w")),
    "another environment's token": lambda both: usual_headers(both.token(environments=("stage",))),
    "this environment's token": lambda both: usual_headers(both.token(environments=("prod", "stage"))),
    "another tenant": lambda both: usual_headers(both.token(tenant="globex")),
    "expired": lambda both: usual_headers(both.token(old_ms=60_000, expires_in_ms=1_000)),
    "another key": lambda both: usual_headers(both.token(key=api.OTHER_KEY)),
    "no host": lambda both: usual_headers(both.token())[1:],
    "bad host": lambda both: ["Host: a b", *usual_headers(both.token())[1:]],
    "ipv6 host": lambda both: ["Host: [::1]:8642", *usual_headers(both.token())[1:]],
    "no content type": lambda both: usual_headers(both.token())[:2],
    "charset": lambda both: [*usual_headers(both.token())[:2], "Content-Type: application/json; charset=utf-8"],
    "not json": lambda both: [*usual_headers(both.token())[:2], "Content-Type: text/plain"],
    "closing": lambda both: [*usual_headers(both.token()), "Connection: close"],
    "keeping": lambda both: [*usual_headers(both.token()), "Connection: keep-alive"],
    "spaced": lambda both: ["Host: x", f"Authorization:    Bearer   {both.token()}  "],
    "lower case": lambda both: ["host: x", f"authorization: bearer {both.token()}"],
    "upgrade": lambda both: [*usual_headers(both.token()), "Connection: upgrade", "Upgrade: h2c"],
}


CREDENTIALS: Final[dict[str, tuple[int, bool]]] = {
    "no token": (401, False),
    "bad token": (401, False),
    "another scheme": (401, False),
    "user key scheme": (204, True),
    "user key header": (204, False),
    "both headers": (204, False),
    "both headers, two tokens": (401, False),
    "both headers, the key last": (401, False),
    "two tokens": (401, False),
    "two tokens, the other way": (401, False),
    "two good tokens": (401, False),
    "wrong scope": (403, False),
    "another worker's token": (403, False),
    "this worker's token": (204, True),
    "another environment's token": (403, True),
    "this environment's token": (204, True),
    "another tenant": (204, True),
    "expired": (401, False),
    "another key": (401, False),
    "lower case": (204, True),
}
"""What is answered, and whether by the fast path."""


async def warmed(both: Both, headers: list[str]) -> None:
    """Have the fast path know each of these credentials that is good: else it takes none of them, whatever it does."""
    for line in headers:
        if line.lower().startswith("authorization:"):
            for one in (both.fast, both.usual):
                await ask(one.port, request(BODY, "Host: x", line, "Content-Type: application/json"))


@pytest.mark.parametrize("case", HEADERS)
async def test_every_header_is_answered_the_same(both: Both, case: str) -> None:
    headers = HEADERS[case](both)
    await warmed(both, headers)
    taken = both.taken
    answer = await same(both, request(BODY, *headers))
    if case in CREDENTIALS:
        status, is_short = CREDENTIALS[case]
        assert (answer.status, both.taken - taken) == (status, 2 * is_short)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", f"{api.BEAT}?x=1"),
        ("POST", f"{api.BEAT}/"),
        ("POST", "/api/v1/workers//heartbeat"),
        ("POST", "/api/v1/workers/%00/heartbeat"),
        ("POST", "/api/v1/workers/%zz/heartbeat"),
        ("POST", "/api/v1/workers/heartbeat/heartbeat"),
        ("POST", "/api/v1/workers/a/b/heartbeat"),
        ("POST", "/api/v1/workers/../heartbeat"),
        ("POST", f"/api/v1/workers/{'i' * 257}/heartbeat"),
        ("PUT", api.BEAT),
        ("GET", "/api/v1/workers/w/heartbeat"),
        ("POST", "http://elsewhere/api/v1/workers/heartbeat"),
    ],
)
async def test_every_target_is_answered_the_same(both: Both, method: str, target: str) -> None:
    headers = usual_headers(both.token())
    await warmed(both, headers)
    await same(both, request(BODY, *headers, method=method, target=target))


async def test_old_http_chunks_and_questions_are_answered_the_same(both: Both) -> None:
    headers = usual_headers(both.token())
    assert (await same(both, request(BODY, *headers, version="1.0"))).status == 204
    chunked = "\r\n".join([f"POST {api.BEAT} HTTP/1.1", *headers, "Transfer-Encoding: chunked", "", ""]).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in BODY)
    assert (await same(both, chunked + chunks + b"0\r\n\r\n")).status == 204
    for length in (api.BODY_BYTES, api.BODY_BYTES + 1):
        padded = BODY + b" " * (length - len(BODY))
        assert (await same(both, request(padded, *headers))).status == (204 if length == api.BODY_BYTES else 413)
    await same(both, chunked + b"zz\r\n")


async def test_a_client_that_asks_first_is_answered_100_continue(both: Both) -> None:
    raw = request(BODY, *usual_headers(both.token()), "Expect: 100-continue")
    for one in (both.fast, both.usual):
        for _ in range(2):
            answers, _ = await ask(one.port, raw, answers=2)
            assert [answer.status for answer in answers] == [100, 204]


async def test_a_token_is_remembered_no_longer_than_it_is_good(both: Both, store_url: str) -> None:
    clock = stores.ManualClock(store_url)
    now_ms = both.store.clock.now_ms()
    raw = request(BODY, *usual_headers(both.token(expires_in_ms=60_000)))
    assert (await same(both, raw)).status == 204
    await clock.set(now_ms + 60_000 + 4_000)  # leeway 5 s
    await both.store.swept(0)
    assert (await same(both, raw)).status == 204
    taken = both.taken
    assert taken > 1
    await clock.set(now_ms + 60_000 + 5_100)
    await both.store.beat(0, [])
    answer = await same(both, raw)
    assert (answer.status, json.loads(answer.body)["reason"]) == (401, "expired")
    assert both.taken == taken


async def test_refusals_of_the_store_are_reported_the_same(store_url: str) -> None:
    async with running(store_url, workers_per_tenant=1) as both:
        headers = usual_headers(both.token())
        assert (await same(both, request(BODY, *headers))).status == 204
        taken = both.taken
        answer = await same(both, request(BODY.replace(b'"w"', b'"v"'), *headers))
        assert answer.status == 429
        assert ("retry-after", "60") in answer.headers
        other = usual_headers(both.token(environments=("stage",)))
        assert (await same(both, request(BODY, *other))).status == 403
        assert both.taken == taken + 3, "the fast path refused them"
        assert both.fast.noted == [], "it may not speak for that worker"


async def test_p11_p24_evidence_from_the_fast_path_goes_no_further_than_its_token(store_url: str) -> None:
    async with running(store_url, capacity=0) as both:
        headers = usual_headers(both.token(environments=("prod",), worker_id="w"))
        assert (await same(both, request(BODY, *headers))).status == 503
        assert both.taken == 1
        assert both.fast.noted == [noted(Rejection.OVERLOADED, allowed=("prod",))] * 2


async def test_p10_a_store_that_hangs_or_is_gone_is_503_on_both_ways(store_url: str) -> None:
    assert store_url
    with servers.running(servers.valkey_binary()) as server:
        async with running(server.url, timeout_s=0.5) as both:
            raw = request(BODY, *usual_headers(both.token()))
            assert (await same(both, raw)).status == 204
            server.process.send_signal(signal.SIGSTOP)
            taken = both.taken
            answer = await same(both, raw)
            assert (answer.status, dict(answer.headers)["retry-after"]) == (503, "1")
            assert both.taken == taken + 2
            assert both.fast.noted == [noted(Rejection.OVERLOADED)] * 2
            server.kill()
            assert (await same(both, raw)).status == 503


async def test_p28_a_full_intake_is_503_on_both_ways(store_url: str) -> None:
    async with running(store_url, capacity=0) as both:
        answer = await same(both, request(BODY, *usual_headers(both.token())))
        assert (answer.status, dict(answer.headers)["retry-after"]) == (503, "1")
        assert both.taken == 1, "refused at once, where the token is known"
        assert both.fast.noted == [noted(Rejection.OVERLOADED)] * 2


@pytest.mark.parametrize(
    ("rates", "whose", "retry_after"),
    [
        (BeatRates(worker=Rate(per_s=1, burst=2), tenant=None, batch=1), "worker", "1"),
        (BeatRates(worker=None, tenant=Rate(per_s=2, burst=2), batch=1), "tenant", "1"),
        (BeatRates(worker=Rate(per_s=9, burst=9), tenant=Rate(per_s=1, burst=2), batch=1), "tenant", "1"),
    ],
)
async def test_p28_beats_over_a_rate_are_429_on_both_ways(
    store_url: str, rates: BeatRates, whose: str, retry_after: str
) -> None:
    async with running(store_url, rates=rates) as both:
        raw = request(BODY, *usual_headers(both.token()))
        assert (await same(both, raw)).status == 204
        taken = both.taken
        answer = await same(both, raw)
        assert both.taken == taken + 2
        assert (answer.status, dict(answer.headers)["retry-after"]) == (429, retry_after)
        assert dict(answer.headers)["content-type"] == "application/problem+json"
        assert f"limits.{whose}_beats_per_second" in json.loads(answer.body)["detail"]
        assert both.fast.counts() == both.usual.counts() == {"stored": 2, "rate_limited": 2}
        assert both.fast.noted == [noted(Rejection.RATE_LIMITED)] * 2


async def test_requests_in_one_write_are_answered_in_their_order(both: Both) -> None:
    headers = usual_headers(both.token())
    good, bad = request(BODY, *headers), request(b"{}", *headers)
    look = request(b"", *headers, method="GET", target="/livez")
    mixed = good + look + bad + good + good + look
    for one in (both.fast, both.usual):
        for _ in range(2):
            answers, rest = await ask(one.port, mixed, answers=6)
            assert [answer.status for answer in answers] == [204, 200, 422, 204, 204, 200]
            assert rest == b""
    assert both.taken > 0


@pytest.mark.parametrize("at", [1, 20, 60, -len(BODY) - 1, -len(BODY), -len(BODY) + 1, -1])
async def test_a_request_in_two_pieces_is_answered_the_same(both: Both, at: int) -> None:
    raw = request(BODY, *usual_headers(both.token()))
    for _ in range(3):  # now its head is known
        await ask(both.fast.port, raw)
    for one in (both.fast, both.usual):
        reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
        async with asyncio.timeout(PATIENCE_S):
            # An answer in between makes sure that the first piece was read alone.
            writer.write(raw + raw[:at])
            assert (await read_answer(reader)).status == 204
            writer.write(raw[at:] + raw)
            assert [(await read_answer(reader)).status for _ in range(2)] == [204, 204]
        writer.close()


async def test_a_connection_carries_many_beats(both: Both) -> None:
    raw = request(BODY, *usual_headers(both.token()))
    reader, writer = await asyncio.open_connection("127.0.0.1", both.fast.port)
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(200):
            writer.write(raw)
            assert (await read_answer(reader)).status == 204
    writer.close()
    assert both.taken == 199
    assert both.fast.counts() == {"stored": 200}


async def test_a_head_is_judged_once_whatever_connection_it_comes_on_and_each_body_for_itself(both: Both) -> None:
    assert both.fast.fast_path is not None
    headers = usual_headers(both.token())
    await ask(both.fast.port, request(BODY, *headers))  # now the token is known
    for status in ("busy", "calm", "bu\u00e4"):  # of the same length
        body = BODY.replace(b"busy", status.encode())
        (answer,), _ = await ask(both.fast.port, request(body, *headers))
        assert answer.status == 204
        _, _, worker = await both.store.get(WorkerKey("acme", "w"))
        assert worker is not None
        assert worker.status == status
    assert both.taken == 3
    assert both.fast.fast_path.judged == 2, "the one that was not known, and the first that was taken"
    (answer,), _ = await ask(both.fast.port, request(b"{" * len(BODY), *headers))
    assert answer.status == 422, "a known head says nothing of the body"
    (answer,), _ = await ask(both.fast.port, request(BODY + b" ", *headers))
    assert answer.status == 204
    assert both.fast.fast_path.judged == 4


@pytest.mark.parametrize("part", ["sender", "take"])
async def test_p30_a_fault_on_the_fast_path_is_logged_and_the_beat_takes_the_usual_one(both: Both, part: str) -> None:
    assert both.fast.fast_path is not None
    raw = request(BODY, *usual_headers(both.token()))
    both.fast.fast_path.broken = part
    with structlog.testing.capture_logs() as logs:
        answers, _ = await ask(both.fast.port, raw, raw, answers=2)
    assert [answer.status for answer in answers] == [204, 204]
    assert {line["event"] for line in logs} >= {"http.shortcut_failed"}
    assert both.fast.counts() == {"stored": 2}


async def test_bytes_around_a_request_whose_head_is_known_are_what_they_are_without(both: Both) -> None:
    raw = request(BODY, *usual_headers(both.token()))
    for _ in range(3):
        await ask(both.fast.port, raw)
    for one in (both.fast, both.usual):
        for parts, statuses in (
            ((raw + b"\r\n", raw), [204, 204]),
            ((b"\r\n" + raw, raw), [204, 204]),
            ((raw + raw,), [204, 204]),
            ((raw[: raw.index(b"\r\n\r\n") + 4], BODY), [204]),
            ((raw + b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",), [204, 200]),
            ((raw[:-1] + b"}}",), [204, 400]),
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            async with asyncio.timeout(PATIENCE_S):
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                assert [(await read_answer(reader)).status for _ in statuses] == statuses, parts
            writer.close()


async def test_what_is_no_request_before_one_whose_head_is_known_is_400(both: Both) -> None:
    raw = request(BODY, *usual_headers(both.token()))
    for _ in range(3):
        await ask(both.fast.port, raw)
    for one in (both.fast, both.usual):
        reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
        async with asyncio.timeout(PATIENCE_S):
            writer.write(raw)
            assert (await read_answer(reader)).status == 204
            begun = one.server.connections.unfinished
            writer.write(b"POST /api")
            while one.server.connections.unfinished == begun:  # noqa: ASYNC110 - no event signals that it is read
                await asyncio.sleep(0)
            writer.write(raw)
            assert (await read_answer(reader)).status == 400
        writer.close()


async def test_a_request_whose_head_is_known_waits_for_the_answer_to_the_one_before_it(store_url: str) -> None:
    assert store_url
    with servers.running(servers.valkey_binary()) as server:
        async with running(server.url, timeout_s=PATIENCE_S) as both:
            raw = request(BODY, *usual_headers(both.token()))
            for _ in range(3):
                await ask(both.fast.port, raw)
            reader, writer = await asyncio.open_connection("127.0.0.1", both.fast.port)
            async with asyncio.timeout(PATIENCE_S):
                taken = both.taken
                server.process.send_signal(signal.SIGSTOP)
                writer.write(raw)
                while both.taken == taken:  # noqa: ASYNC110 - no event signals a change
                    await asyncio.sleep(0)
                writer.write(raw)
                opened: set[Any] = both.fast.server.server_state.connections
                while not any(one.pipeline for one in opened):
                    assert both.taken == taken + 1, "an answer may come before that of the first"
                    await asyncio.sleep(0)
                writer.write(request(b"", "Host: x", method="GET", target="/livez"))
                server.process.send_signal(signal.SIGCONT)
                assert [(await read_answer(reader)).status for _ in range(3)] == [204, 204, 200]
            writer.close()


def kept_by(holder: object) -> list[bytes]:
    """The bytes that an object holds, by itself and in its collections."""
    found: list[bytes] = []
    for one in gc.get_referents(holder):
        if isinstance(one, bytes):
            found.append(one)
        elif isinstance(one, dict | list | tuple | deque):
            found += kept_by(one)
    return found


@asynccontextmanager
async def in_two_reads(
    both: Both, raw: bytes, *, at: int
) -> AsyncIterator[tuple[BoundedProtocol, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection, on which this request was read in two parts, and answered."""
    opened = both.fast.server.server_state.connections
    async with asyncio.timeout(PATIENCE_S):
        while opened:  # noqa: ASYNC110 - no event signals a change
            await asyncio.sleep(0)
        begun = both.fast.server.connections.unfinished
        reader, writer = await asyncio.open_connection("127.0.0.1", both.fast.port)
        while both.fast.server.connections.unfinished == begun:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
        (connection,) = opened
        assert isinstance(connection, BoundedProtocol)
        writer.write(raw[:at])
        while connection._is_between or (at > 100 and not connection._in_body):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
        writer.write(raw[at:])
        assert (await read_answer(reader)).status == 204
        yield connection, reader, writer
    writer.close()


async def test_p29_a_connection_keeps_neither_body_nor_token_of_a_beat_that_is_answered(both: Both) -> None:
    token = both.token()
    small = request(BODY, *usual_headers(token))
    large = request(BODY[:-1] + b" " * 60_000 + b"}", *usual_headers(token))
    for _ in range(3):
        await ask(both.fast.port, small)
    async with in_two_reads(both, large, at=9) as (connection, reader, writer):
        for _ in range(2):
            kept = kept_by(connection)
            assert [len(one) for one in kept if len(one) > 10_000] == []
            assert [one for one in kept if token.encode() in one] == []
            writer.write(small)  # its head is known
            assert (await read_answer(reader)).status == 204


async def test_p29_a_request_that_waits_behind_one_in_two_reads_is_seen(both: Both) -> None:
    raw = request(b'{"worker_id":"w","environment_name":"p"}', *usual_headers(both.token()))
    for _ in range(3):
        await ask(both.fast.port, raw)
    async with in_two_reads(both, raw, at=raw.index(b"\r\n\r\n") + 4) as (connection, reader, writer):
        for _ in range(2):
            while connection.idle_since_s() is None:  # noqa: ASYNC110 - no event signals a change
                await asyncio.sleep(0)
            writer.write(raw)
            assert connection.may_hold_request(), "it may not be closed to make room for others"
            assert (await read_answer(reader)).status == 204


async def test_a_client_that_goes_away_takes_no_other_client_with_it(both: Both) -> None:
    raw = request(BODY, *usual_headers(both.token()))
    await ask(both.fast.port, raw)
    reader, writer = await asyncio.open_connection("127.0.0.1", both.fast.port)
    _, leaver = await asyncio.open_connection("127.0.0.1", both.fast.port)
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(50):
            leaver.write(raw)
            writer.write(raw)
            leaver.transport.abort()
            assert (await read_answer(reader)).status == 204
            _, leaver = await asyncio.open_connection("127.0.0.1", both.fast.port)
    writer.close()
    leaver.close()


async def test_what_was_taken_is_answered_while_the_server_stops(store_url: str) -> None:
    with servers.running(servers.valkey_binary()) as server:
        assert store_url
        async with stores.opened(server.url, timeout_s=PATIENCE_S) as store, side(store, fast=True) as one:
            raw = request(BODY, *usual_headers(api.token(store.clock.now_ms())))
            await ask(one.port, raw)
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            server.process.send_signal(signal.SIGSTOP)
            writer.write(raw)
            assert one.fast_path is not None
            async with asyncio.timeout(PATIENCE_S):
                while not one.fast_path.taken:  # noqa: ASYNC110 - no event signals a change
                    await asyncio.sleep(0)
                one.server.should_exit = True
                while one.listener.fileno() != -1:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0)
                server.process.send_signal(signal.SIGCONT)
                answer = await read_answer(reader)
                assert answer.status == 204
                assert ("connection", "close") in answer.headers
                assert await reader.read() == b""
            writer.close()
