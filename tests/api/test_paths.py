"""Over a real server: ids that look like paths, methods, and answers that come before the body has been sent."""

from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import quote

import pytest

from monitor.api.raw_path import NOWHERE, routed_path
from monitor.auth import Scope
from tests.support import api
from tests.support.api import Api

pytestmark = pytest.mark.parametrize("store_url", ["valkey"], indirect=True)

IDS: Final = (
    *("a/b", "..", ".", "../../heartbeat", "%2F", "%", "heartbeat", "heartbeats", "disconnect", "a b", "a+b", "a?b#c"),
    *("ü✓", "/", "//", "w;v=1", "\u2028", "x" * 256, "?", "%68eartbeat"),
)


@pytest.fixture
async def lastseen(store_url: str) -> AsyncIterator[Api]:
    async with api.running(store_url) as running:
        yield running


def request(lastseen: Api, method: str, path: str, body: str = "", **headers: str) -> str:
    lines = [f"{method} {path} HTTP/1.1", "Host: lastseen", f"Authorization: {lastseen.auth()['authorization']}"]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\n".join(lines)


async def test_any_id_works_in_bodies_and_in_paths(lastseen: Api) -> None:
    async with api.served(lastseen.app) as port:
        for worker_id in IDS:
            path = f"{api.WORKERS}/{quote(worker_id, safe='')}"
            assert (await lastseen.beat(worker_id, "prod")).status_code == 204
            for method, where, body, status in (
                ("GET", path, "", 200),
                ("POST", f"{path}/heartbeat", '{"status": "by-path"}', 204),
                ("POST", f"{path}/disconnect", '{"reason": "crash"}', 204),
                ("GET", path, "", 200),
                ("DELETE", path, "", 204),
                ("GET", path, "", 405 if worker_id in {"heartbeat", "heartbeats"} else 404),
            ):
                head = request(lastseen, method, where, body, Connection="close")
                answer = await api.raw(port, head, [body.encode()])
                assert answer.status == status, (worker_id, method, where, answer.body)
                if status == 200:
                    assert answer.json()["worker_id"] == worker_id
                    last = answer.json()
            assert (last["liveness"], last["status"]) == ("failed", "by-path"), worker_id
        assert await lastseen.ids() == []


@pytest.mark.parametrize("segment", ["..", ".", "..%2F..", "%2e%2e"])
async def test_dots_in_a_path_are_an_id_and_lead_nowhere(lastseen: Api, segment: str) -> None:
    async with api.served(lastseen.app) as port:
        beat = request(lastseen, "POST", f"{api.WORKERS}/{segment}/heartbeat", "{}")
        assert (await api.raw(port, beat, [b"{}"])).status == 204
        one = await api.raw(port, request(lastseen, "GET", f"{api.WORKERS}/{segment}"))
        assert one.json()["worker_id"] == segment.replace("%2F", "/").replace("%2e", ".")


@pytest.mark.parametrize("segment", ["%00", "%1F", "%FF", "%C3", "%zz", "%", "%ED%A0%80", "%C2%80", "x" * 257])
async def test_an_id_that_can_not_be_one_is_the_contracts_422(lastseen: Api, segment: str) -> None:
    async with api.served(lastseen.app) as port:
        for method, tail, body in (("GET", "", ""), ("DELETE", "", ""), ("POST", "/heartbeat", "{}")):
            head = request(lastseen, method, f"{api.WORKERS}/{segment}{tail}", body)
            answer = await api.raw(port, head, [body.encode()])
            assert answer.status == 422
            assert answer.json()["detail"][0]["loc"] == ["path", "worker_id"]


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/api/v1/nothing", 404, None),
        ("GET", "/", 404, None),
        ("PUT", "/api/v1/workers", 405, "GET, HEAD, OPTIONS"),
        ("DELETE", "/api/v1/workers/", 404, None),
        ("POST", "/api/v1/workers/w/heartbeat/", 404, None),
        ("POST", "/api/v1/workers//heartbeat", 404, None),
        ("PUT", "/api/v1/workers/heartbeat", 405, "OPTIONS, POST"),
        ("GET", "/api/v1/workers/w/heartbeat", 405, "OPTIONS, POST"),
        ("GET", "/api/v1/workers/a%2Fb/heartbeat", 405, "OPTIONS, POST"),
        ("DELETE", "/api/v1/workers/a%2Fb/disconnect", 405, "OPTIONS, POST"),
        ("POST", "/api/v1/workers/a%2Fb", 405, "DELETE, GET, HEAD, OPTIONS"),
        ("GET", "/api/v1/workers/heartbeat", 405, "OPTIONS, POST"),
        ("DELETE", "/api/v1/workers/heartbeats", 405, "OPTIONS, POST"),
        ("GET", "/api/v1/workers/%68eartbeat", 404, None),
        ("PATCH", "/api/v1/workers/w", 405, "DELETE, GET, HEAD, OPTIONS"),
        ("OPTIONS", "/api/v1/workers/w", 204, "DELETE, GET, OPTIONS"),
        ("GET", "/api/v1/workers/", 404, None),
        ("OPTIONS", "/api/v1/silences", 204, "GET, OPTIONS, POST"),
        ("OPTIONS", "/api/v1/silences/x", 204, "DELETE, GET, OPTIONS"),
        ("PUT", "/api/v1/silences", 405, "GET, HEAD, OPTIONS, POST"),
    ],
)
async def test_paths_and_methods_that_are_not_there(
    lastseen: Api, method: str, path: str, status: int, allow: str | None
) -> None:
    async with api.served(lastseen.app) as port:
        answer = await api.raw(port, request(lastseen, method, path))
    assert answer.status == status
    assert answer.headers.get("allow") == allow
    if status >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == status


@pytest.mark.parametrize("scopes", [None, (), (Scope.HEARTBEAT_WRITE,), tuple(Scope)])
async def test_the_heartbeat_paths_take_no_other_method_unless_a_worker_has_that_name(
    lastseen: Api, scopes: tuple[Scope, ...] | None
) -> None:
    headers = {} if scopes is None else lastseen.auth(scopes=scopes)
    for path in ("/api/v1/workers/heartbeat", "/api/v1/workers/heartbeats"):
        for method in ("GET", "HEAD", "DELETE", "PUT"):
            answer = await lastseen.client.request(method, path, headers={"authorization": "", **headers})
            assert (answer.status_code, answer.headers["allow"]) == (405, "OPTIONS, POST"), (method, path)
            if method != "HEAD":
                assert answer.json()["detail"] == "allowed methods: OPTIONS, POST"
    await lastseen.beat("heartbeat")
    answer = await lastseen.client.get("/api/v1/workers/heartbeat", headers={"authorization": "", **headers})
    assert answer.status_code == (200 if scopes and Scope.WORKERS_READ in scopes else 405)


async def test_a_head_is_a_get_without_its_body(lastseen: Api) -> None:
    for path in ("/livez", "/api/v1/workers", "/api/v1/workers/unknown"):
        got, head = await lastseen.client.get(path), await lastseen.client.head(path)
        assert (head.status_code, head.content) == (got.status_code, b"")
        assert head.headers["content-type"] == got.headers["content-type"]


MIB: Final = b"x" * 1_048_576


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
@pytest.mark.parametrize("framing", ["chunked", "length"])
@pytest.mark.parametrize(("token", "status"), [("", 413), ("a.b.c", 401)])
async def test_a_client_that_sends_ten_megabytes_first_still_reads_the_answer(
    lastseen: Api, connection: str, framing: str, token: str, status: int
) -> None:
    lines = [
        f"POST {api.BEAT} HTTP/1.1",
        "Host: lastseen",
        f"Authorization: {f'Bearer {token}' if token else lastseen.auth()['authorization']}",
        f"Connection: {connection}",
        "Transfer-Encoding: chunked" if framing == "chunked" else f"Content-Length: {10 * len(MIB)}",
    ]
    body = [b"%x\r\n%b\r\n" % (len(MIB), MIB)] * 10 + [b"0\r\n\r\n"] if framing == "chunked" else [MIB] * 10
    async with api.served(lastseen.app) as port:
        answer = await api.raw(port, "\n".join(lines), body)
        assert answer.status == status
        assert answer.json()["status"] == status
        assert answer.headers["connection"] == "close"
        assert (await api.raw(port, request(lastseen, "GET", "/livez"))).status == 200


async def test_a_client_that_asks_first_sends_no_body_for_nothing(lastseen: Api) -> None:
    head = f"POST {api.BEAT} HTTP/1.1\nHost: x\nAuthorization: {lastseen.auth()['authorization']}\n"
    async with api.served(lastseen.app) as port:
        answer = await api.raw(port, f"{head}Content-Length: 10000000\nExpect: 100-continue")
        assert answer.status == 413
        assert answer.headers["connection"] == "close"


async def test_a_small_refused_beat_keeps_its_connection(lastseen: Api) -> None:
    async with api.served(lastseen.app) as port:
        answer = await api.raw(port, f"POST {api.BEAT} HTTP/1.1\nHost: x\nContent-Length: 2", [b"{}"])
        assert answer.status == 401
        assert "connection" not in answer.headers


def test_only_an_id_that_is_spelled_like_a_route_is_spelled_anew(store_url: str) -> None:
    del store_url
    spelled = "/api/v1/workers/%68eartbeat"
    assert routed_path("POST", "/api/v1/workers/heartbeat") == "/api/v1/workers/heartbeat"
    assert routed_path("POST", "/api/v1/workers/heartbeat/") == NOWHERE
    assert routed_path("GET", "/api/v1/workers/heartbeat") == spelled
    assert routed_path("POST", "/api/v1/workers/heartbeat/heartbeat") == f"{spelled}/heartbeat"
    assert routed_path("GET", "/api/v1/workers/a") == "/api/v1/workers/a"
    assert routed_path("GET", "/livez") == "/livez"
