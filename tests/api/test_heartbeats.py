"""Heartbeats and disconnects over HTTP: the published contract, who may send, and the answers to failures."""

import base64
import gzip
from collections.abc import AsyncIterator
from typing import Any, Final

import jwt
import pytest
import structlog

from monitor.api.app import create_app
from monitor.auth import Scope
from monitor.errors import StoreUnavailableError
from monitor.store import Store
from monitor.workers import WorkerKey
from tests.support import api, servers
from tests.support.api import Api
from tests.support.vectors import VECTORS

pytestmark = pytest.mark.parametrize("store_url", ["valkey"], indirect=True)

STRICTER: Final[dict[str, Any]] = {
    "empty_id": [[["body", "worker_id"], "string_too_short"]],
    "nan": [[["body", "worker_metadata"], "finite_number"]],
    "badutf8": [[["body", 0], "json_invalid"]],
}


@pytest.fixture
async def lastseen(store_url: str) -> AsyncIterator[Api]:
    async with api.running(store_url) as running:
        yield running


def is_problem(answer: Any, status: int) -> bool:
    body = answer.json()
    return bool(
        answer.status_code == status
        and answer.headers["content-type"] == "application/problem+json"
        and answer.headers["cache-control"] == "no-store"
        and body["status"] == status
        and body["title"]
        and body["detail"]
    )


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
async def test_the_contract_is_answered_as_published(lastseen: Api, vector: dict[str, Any]) -> None:
    headers = {"content-type": vector["content_type"]} if vector["content_type"] else {}
    answer = await lastseen.client.post(
        vector["path"], content=base64.b64decode(vector["body_b64"]), headers={**lastseen.auth(), **headers}
    )
    expected = STRICTER.get(vector["name"], vector["detail"])
    if vector["status"] == 204 and expected is None:
        assert (answer.status_code, answer.content) == (204, b"")
        return
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/json"
    faults = [[fault["loc"], fault["type"]] for fault in answer.json()["detail"]]
    assert [fault[1] for fault in faults] == [fault[1] for fault in expected]
    if faults[0][1] != "json_invalid":
        assert faults == expected


BY_ID: Final = "/api/v1/workers/w/heartbeat"


@pytest.mark.parametrize("by_id", [False, True])
async def test_the_answer_to_the_beat_that_registers_a_worker_names_fields_that_are_not_known(
    lastseen: Api, *, by_id: bool
) -> None:
    names = ["interval", "a b", "é", "x\r\ny", "", "n" * 65, "n" * 64, "pid"]
    body = {**dict.fromkeys(names, 1), **({} if by_id else {"worker_id": "w", "environment_name": "prod"})}
    path = BY_ID if by_id else api.BEAT
    with structlog.testing.capture_logs() as logs:
        first = await lastseen.client.post(path, json=body)
        again = await lastseen.client.post(path, json=body)
        await lastseen.client.post("/api/v1/workers/v/heartbeat", json=dict.fromkeys(names, 1))
        await lastseen.client.post("/api/v1/workers/u/heartbeat", json={"interval": 1}, headers=lastseen.auth("other"))
    assert (first.status_code, first.headers["lastseen-next-beat"]) == (204, "30")
    assert first.headers["lastseen-unknown-fields"] == f"interval, {'n' * 64}, pid"
    assert (again.status_code, "lastseen-unknown-fields" in again.headers) == (204, False)
    lines = [(line["tenant"], line["field"]) for line in logs if line["event"] == "beat.unknown_field"]
    shown = [name[:64] for name in names]
    assert lines == [*(("acme", name) for name in shown), ("other", "interval")]


async def test_at_most_ten_unknown_fields_are_named(lastseen: Api) -> None:
    answer = await lastseen.client.post(BY_ID, json={f"field-{number}": 1 for number in range(3_000)})
    assert answer.headers["lastseen-unknown-fields"] == ", ".join(f"field-{number}" for number in range(10))
    assert "lastseen-unknown-fields" not in (await lastseen.beat("known", interval_seconds=5)).headers


async def test_the_answer_to_a_disconnect_names_fields_that_are_not_known(lastseen: Api) -> None:
    for path in (BY_ID, ID_PATHS[1]):
        answer = await lastseen.client.post(path, json={"reason": "crash", "exitcode": 1})
        named = "exitcode" if path == ID_PATHS[1] else "reason, exitcode"
        assert (answer.status_code, answer.headers["lastseen-unknown-fields"]) == (204, named)


async def test_a_batch_that_registers_workers_logs_fields_that_are_not_known(lastseen: Api) -> None:
    batch = [{"worker_id": name, "environment_name": "prod", "interval": 5} for name in ("a", "b")]
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            answer = await lastseen.client.post("/api/v1/workers/heartbeats", json=batch)
            assert answer.json() == {"stored": 2, "superseded": 0, "rejected": []}
    lines = [(line["worker_id"], line["field"]) for line in logs if line["event"] == "beat.unknown_field"]
    assert lines == [("a", "interval")]


ID_PATHS: Final = ("/api/v1/workers/w/heartbeat", "/api/v1/workers/w/disconnect")


@pytest.mark.parametrize("path", [api.BEAT, *ID_PATHS, "/api/v1/silences"])
@pytest.mark.parametrize("coding", ["gzip", "br", "gzip, identity"])
async def test_the_refusal_of_a_compressed_body_names_what_accepts_one(lastseen: Api, path: str, coding: str) -> None:
    body = gzip.compress(b'{"worker_id": "w", "environment_name": "prod", "reason": "crash"}')
    headers = {"content-encoding": coding, "content-type": "application/json"}
    answer = await lastseen.client.post(path, content=body, headers={**lastseen.auth(), **headers})
    assert is_problem(answer, 415)
    assert answer.json()["detail"] == (
        f"the body is not JSON: it has Content-Encoding: {coding}. Send it uncompressed;"
        " only POST /api/v1/workers/heartbeats accepts gzip"
    )


@pytest.mark.parametrize("coding", ["gzip", "identity"])
async def test_a_body_that_is_json_is_judged_as_json_whatever_its_encoding_is_said_to_be(
    lastseen: Api, coding: str
) -> None:
    headers = {"content-encoding": coding}
    assert (await lastseen.client.post(ID_PATHS[0], json={"status": "busy"}, headers=headers)).status_code == 204
    assert (await lastseen.client.post(ID_PATHS[0], json={"status": 3}, headers=headers)).status_code == 422
    headers = {**lastseen.auth(), "content-encoding": "identity"}
    broken = await lastseen.client.post(ID_PATHS[0], content=b"\x1f", headers=headers)
    assert (broken.status_code, broken.json()["detail"][0]["type"]) == (422, "json_invalid")


@pytest.mark.parametrize("content_type", [None, "application/json", "application/x-www-form-urlencoded", "text/plain"])
async def test_a_beat_by_id_needs_no_body(lastseen: Api, content_type: str | None) -> None:
    await lastseen.beat("w", "prod", status="busy")
    headers = {**lastseen.auth(), **({"content-type": content_type} if content_type else {})}
    for worker in ("w", "new"):
        answer = await lastseen.client.post(f"/api/v1/workers/{worker}/heartbeat", headers=headers)
        assert (answer.status_code, answer.headers["Lastseen-Next-Beat"]) == (204, "30")
    shown = [(one["worker_id"], one["status"]) for one in (await lastseen.json(api.WORKERS))["workers"]]
    assert shown == [("new", "active"), ("w", "busy")]
    # The other forms have something to say.
    for path in (api.BEAT, ID_PATHS[1]):
        answer = await lastseen.client.post(path, headers=headers)
        assert (answer.status_code, answer.json()["detail"]) == (
            422,
            [{"loc": ["body"], "msg": "Field required", "type": "missing"}],
        )


@pytest.mark.parametrize("path", [api.BEAT, *ID_PATHS])
async def test_the_refusal_of_a_body_that_is_not_sent_as_json_names_its_content_type(lastseen: Api, path: str) -> None:
    headers = {**lastseen.auth(), "content-type": "application/x-www-form-urlencoded"}
    answer = await lastseen.client.post(path, content=b"{}", headers=headers)
    assert answer.status_code == 422
    (fault,) = answer.json()["detail"]
    assert (fault["loc"], fault["type"]) == (["body"], "model_attributes_type")
    assert fault["msg"].endswith(
        "; the Content-Type is 'application/x-www-form-urlencoded', application/json is expected"
    )


async def test_a_204_says_when_the_next_beat_is_expected(lastseen: Api) -> None:
    assert (await lastseen.beat("w")).headers["Lastseen-Next-Beat"] == "30"
    assert (await lastseen.beat("w", interval_seconds=1.5)).headers["Lastseen-Next-Beat"] == "1.5"
    assert (await lastseen.beat("w", "dev-1", interval_seconds=None)).headers["Lastseen-Next-Beat"] == "10"


async def test_a_beat_by_id_keeps_the_environment_and_omitted_fields_keep_their_value(lastseen: Api) -> None:
    await lastseen.beat(
        "w", "prod", status="busy", worker_metadata={"a": [1, None]}, system_info={"pid": 1}, logs=["x"]
    )
    answer = await lastseen.client.post("/api/v1/workers/w/heartbeat", json={"tasks_processed": 3})
    assert answer.status_code == 204
    worker = await lastseen.json("/api/v1/workers/w")
    kept = {name: worker[name] for name in ("environment_name", "status", "worker_metadata", "system_info", "logs")}
    assert kept == {
        "environment_name": "prod",
        "status": "busy",
        "worker_metadata": {"a": [1, None]},
        "system_info": {"pid": 1},
        "logs": ["x"],
    }
    assert worker["tasks_processed"] == 3


async def test_an_unknown_worker_that_beats_by_id_gets_the_tokens_single_environment(lastseen: Api) -> None:
    await lastseen.client.post("/api/v1/workers/a/heartbeat", json={})
    await lastseen.client.post("/api/v1/workers/b/heartbeat", json={}, headers=lastseen.auth(environments=("stage",)))
    listed = (await lastseen.json(api.WORKERS))["workers"]
    assert {worker["worker_id"]: worker["environment_name"] for worker in listed} == {"a": "default", "b": "stage"}


@pytest.mark.parametrize(
    ("body", "liveness"),
    [
        ({"reason": "shutdown"}, "stopped"),
        ({"reason": "shutdown", "exit_code": 143}, "stopped"),
        ({"reason": "shutdown", "exit_code": 1}, "failed"),
        ({"reason": "crash", "error_message": "boom"}, "failed"),
    ],
)
async def test_a_disconnect_is_a_clean_stop_or_a_failure(lastseen: Api, body: dict[str, Any], liveness: str) -> None:
    await lastseen.beat("w")
    for _ in range(2):
        assert (await lastseen.client.post("/api/v1/workers/w/disconnect", json=body)).status_code == 204
    assert (await lastseen.json("/api/v1/workers/w"))["liveness"] == liveness


async def test_a_failure_report_of_an_unknown_worker_registers_it_as_failed(lastseen: Api) -> None:
    body = {"reason": "error", "exit_code": 3, "error_message": "no module named x"}
    for _ in range(2):
        assert (await lastseen.client.post("/api/v1/workers/w/disconnect", json=body)).status_code == 204
    worker = await lastseen.json("/api/v1/workers/w")
    shown = {name: worker[name] for name in ("liveness", "environment_name", "seq", "generation")}
    assert shown == {"liveness": "failed", "environment_name": "default", "seq": 1, "generation": worker["generation"]}
    assert worker["last_seen"] == worker["registered_at"] == worker["since"]
    assert [(past["type"], past["seq"], past["reason"]) for past in worker["transitions"]] == [
        ("worker.failed", 1, "error")
    ]
    (event,) = (await lastseen.json("/api/v1/events"))["events"]
    data = event["data"]
    assert (event["type"], data["old"], data["new"], data["exit_code"]) == ("worker.failed", None, "failed", 3)
    counts = (await lastseen.json("/api/v1/status"))["environments"]
    assert [(one["environment_name"], one["counts"]["failed"]) for one in counts] == [("default", 1)]
    # Its first beat ends the outage, and what was recorded stays.
    assert (await lastseen.client.post("/api/v1/workers/w/heartbeat", json={})).status_code == 204
    worker = await lastseen.json("/api/v1/workers/w")
    assert (worker["liveness"], worker["status"], worker["environment_name"]) == ("alive", "active", "default")
    assert [past["type"] for past in worker["transitions"]] == ["worker.failed", "worker.recovered"]


async def test_a_failure_report_registers_in_the_environment_that_it_or_its_token_names(lastseen: Api) -> None:
    async def report(worker: str, environment: str | None, **token: Any) -> int:
        body = {"reason": "crash", "environment_name": environment}
        path = f"/api/v1/workers/{worker}/disconnect"
        return (await lastseen.client.post(path, json=body, headers=lastseen.auth(**token))).status_code

    assert await report("a", None, environments=("stage",)) == 204
    assert await report("b", "prod", environments=("stage", "prod")) == 204
    assert await report("c", "dev-1") == 204
    assert await report("d", "prod", environments=("stage",)) == 404
    assert await report("e", None, environments=("stage", "prod")) == 404  # that would be "default"
    assert await report("f", None, worker_id="other") == 403
    listed = {one["worker_id"]: one for one in (await lastseen.json(api.WORKERS))["workers"]}
    assert {name: one["environment_name"] for name, one in listed.items()} == {"a": "stage", "b": "prod", "c": "dev-1"}
    assert (listed["c"]["interval_seconds"], listed["c"]["liveness"]) == (10, "failed")
    # Of a worker that is known it changes nothing, and a token that may not see that one may not report it.
    assert await report("a", "prod") == 204
    assert await report("a", None, environments=("prod",)) == 404
    assert (await lastseen.json("/api/v1/workers/a"))["environment_name"] == "stage"


@pytest.mark.parametrize("name", ["", "a\nb", 5])
async def test_a_failure_report_names_an_environment_as_a_beat_does(lastseen: Api, name: object) -> None:
    body = {"reason": "crash", "environment_name": name}
    answer = await lastseen.client.post("/api/v1/workers/w/disconnect", json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "environment_name"]


async def test_failure_reports_of_unknown_workers_are_bound_by_the_tenants_quota(store_url: str) -> None:
    async with api.running(store_url, workers_per_tenant=1) as lastseen:
        for worker, status in (("a", 204), ("b", 429), ("a", 204)):
            answer = await lastseen.client.post(f"/api/v1/workers/{worker}/disconnect", json={"reason": "crash"})
            assert answer.status_code == status, worker
        assert await lastseen.ids() == ["a"]


async def test_a_refused_disconnect_says_why(lastseen: Api) -> None:
    unknown = await lastseen.client.post("/api/v1/workers/unknown/disconnect", json={"reason": "shutdown"})
    assert is_problem(unknown, 404)
    wrong = await lastseen.client.post("/api/v1/workers/unknown/disconnect", json={})
    assert wrong.status_code == 422
    assert wrong.json()["detail"][0]["loc"] == ["body", "reason"]


async def test_an_absence_is_announced_moved_and_taken_back_and_ends_with_the_next_beat(lastseen: Api) -> None:
    path = "/api/v1/workers/w/disconnect"

    async def goodbye(**said: object) -> tuple[int, int | None]:
        """(answer, until when the worker is absent, in ms since it stopped)."""
        status = (await lastseen.client.post(path, json={"reason": "shutdown", **said})).status_code
        _, _, worker = await lastseen.store.get(WorkerKey("acme", "w"))
        assert worker is not None
        return status, None if worker.back_ms is None else worker.back_ms - worker.since_ms

    await lastseen.beat("w")
    assert await goodbye(back_in_seconds=0.25) == (204, 250)
    status, moved_ms = await goodbye(back_in_seconds=2_592_000)
    assert status == 204
    assert 2_592_000_000 <= (moved_ms or 0) < 2_592_010_000
    assert await goodbye(back_in_seconds=None) == (204, None)
    status, _ = await goodbye(back_in_seconds=3_600)
    stopped = await lastseen.json("/api/v1/workers/w")
    assert (status, stopped["liveness"], stopped["back_at"] is None) == (204, "stopped", False)

    now_ms, _, _ = await lastseen.store.get(WorkerKey("acme", "w"))
    await lastseen.clock.set(now_ms + 5_001)
    await lastseen.beat("w")
    back = await lastseen.json("/api/v1/workers/w")
    assert (back["liveness"], back["back_at"]) == ("alive", None)
    assert [past["type"] for past in back["transitions"]] == ["worker.registered", "worker.stopped", "worker.resumed"]


@pytest.mark.parametrize(
    "said",
    [
        {"back_in_seconds": 0},
        {"back_in_seconds": -1},
        {"back_in_seconds": 2_592_000.001},
        {"back_in_seconds": "60"},
        {"back_in_seconds": True},
        {"reason": "crash", "back_in_seconds": 60},
        {"exit_code": 1, "back_in_seconds": 60},
    ],
)
async def test_an_absence_that_cannot_be_announced_is_refused_by_name_and_changes_nothing(
    lastseen: Api, said: dict[str, Any]
) -> None:
    await lastseen.beat("w")
    refused = await lastseen.client.post("/api/v1/workers/w/disconnect", json={"reason": "shutdown", **said})
    assert refused.status_code == 422
    assert refused.json()["detail"][0]["loc"] == ["body", "back_in_seconds"]
    assert (await lastseen.json("/api/v1/workers/w"))["liveness"] == "alive"


def _forged(now_ms: int, *, header: dict[str, Any] | None = None, key: Any = api.KEY.key, **claims: Any) -> str:
    good = {"sub": "s", "org_id": "acme", "scope": "heartbeat:write workers:read admin", "aud": "lastseen"}
    times = {"iss": "tests", "exp": now_ms // 1000 + 600}
    return jwt.encode(
        {**good, **times, **claims},
        key,
        algorithm=(header or {}).get("alg", "HS256"),
        headers={"kid": "k1", **(header or {})},
    )


REFUSED: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "alg_none": ({"header": {"alg": "none"}, "key": None}, "bad_algorithm"),
    "wrong_key": ({"key": b"x" * 32}, "bad_signature"),
    "unknown_kid": ({"header": {"kid": "k2"}}, "unknown_key"),
    "confused_algorithm": ({"header": {"alg": "HS512"}, "key": b"k" * 64}, "bad_algorithm"),
    "wrong_audience": ({"aud": "other"}, "wrong_audience"),
    "wrong_issuer": ({"iss": "other"}, "wrong_issuer"),
    "expired": ({"exp": 1_000}, "expired"),
    "not_yet_valid": ({"nbf": 99_999_999_999}, "not_yet_valid"),
    "no_tenant": ({"org_id": ""}, "bad_claim"),
}
SENT: Final = (
    ("POST", api.BEAT),
    ("POST", "/api/v1/workers/w/heartbeat"),
    ("POST", "/api/v1/workers/w/disconnect"),
    ("GET", "/api/v1/workers"),
    ("GET", "/api/v1/workers/w"),
    ("GET", "/api/v1/status"),
    ("GET", "/api/v1/events"),
    ("DELETE", "/api/v1/workers/w"),
)


@pytest.mark.parametrize("case", REFUSED)
async def test_a_token_that_is_not_good_is_refused_everywhere_with_its_reason(lastseen: Api, case: str) -> None:
    changes, reason = REFUSED[case]
    forged = _forged(lastseen.store.clock.now_ms(), **changes)
    for method, path in SENT:
        for headers in ({"authorization": f"Bearer {forged}"}, {"authorization": f"UserKey {forged}"}):
            answer = await lastseen.client.request(method, path, headers=headers, json={})
            assert is_problem(answer, 401)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["reason"] == reason
            assert forged not in answer.text
    assert await lastseen.ids() == []


async def test_no_token_two_tokens_and_no_token_at_all(lastseen: Api) -> None:
    del lastseen.client.headers["authorization"]
    good = lastseen.auth()["authorization"].removeprefix("Bearer ")
    for method, path in (*SENT, ("GET", "/metrics"), ("GET", "/schema"), ("GET", "/schema/openapi.json")):
        answer = await lastseen.client.request(method, path)
        assert is_problem(answer, 401)
        assert answer.json()["reason"] == "missing"
    twice = [("authorization", f"Bearer {good}"), ("authorization", "Bearer a.b.c")]
    assert is_problem(await lastseen.client.get(api.WORKERS, headers=twice), 401)
    assert (await lastseen.client.get(api.WORKERS, headers={"userkey": good})).status_code == 200
    assert (await lastseen.client.get(api.WORKERS, headers={"authorization": f"UserKey {good}"})).status_code == 200


async def test_each_path_asks_for_its_scope(lastseen: Api) -> None:
    await lastseen.beat("w")
    needed = {path: Scope.HEARTBEAT_WRITE for method, path in SENT if method == "POST"}
    for method, path in (*SENT, ("GET", "/metrics"), ("GET", "/schema")):
        scope = needed.get(path, Scope.WORKERS_READ) if method == "POST" else Scope.WORKERS_READ
        if method == "DELETE":
            scope = Scope.ADMIN
        if not path.startswith("/api"):
            scope = Scope.METRICS_READ
        others = lastseen.auth(scopes=tuple(set(Scope) - {scope}))
        answer = await lastseen.client.request(method, path, headers=others, json={"reason": "shutdown"})
        assert is_problem(answer, 403), (method, path)
        assert scope.value in answer.json()["detail"]


async def test_a_token_for_one_worker_beats_and_leaves_for_no_other(lastseen: Api) -> None:
    bound = lastseen.auth(worker_id="w")
    body = {"worker_id": "other", "environment_name": "prod", "reason": "shutdown"}
    for path in (api.BEAT, "/api/v1/workers/other/heartbeat", "/api/v1/workers/other/disconnect"):
        assert is_problem(await lastseen.client.post(path, json=body, headers=bound), 403)
    assert (await lastseen.client.post("/api/v1/workers/w/heartbeat", json={}, headers=bound)).status_code == 204
    assert await lastseen.ids() == ["w"]


async def test_a_token_for_some_environments_touches_no_other(lastseen: Api) -> None:
    await lastseen.beat("w", "prod")
    stage = lastseen.auth(environments=("stage",))
    for path, body in (
        (api.BEAT, {"worker_id": "v", "environment_name": "prod"}),
        (api.BEAT, {"worker_id": "w", "environment_name": "stage"}),
        ("/api/v1/workers/w/heartbeat", {}),
    ):
        assert is_problem(await lastseen.client.post(path, json=body, headers=stage), 403), path
    # As for GET and DELETE, what the token does not cover is not there for it.
    for worker in ("w", "unknown"):
        path = f"/api/v1/workers/{worker}/disconnect"
        answer = await lastseen.client.post(path, json={"reason": "shutdown"}, headers=stage)
        assert is_problem(answer, 404), path
    assert (await lastseen.json("/api/v1/workers/w"))["environment_name"] == "prod"


async def test_tenants_share_ids_and_nothing_else(lastseen: Api) -> None:
    await lastseen.beat("w", "prod", tenant="acme", status="busy")
    await lastseen.beat("w", "prod", tenant="other", status="idle")
    await lastseen.beat("x", "prod", tenant="acme")
    other = lastseen.auth("other")
    assert (await lastseen.json("/api/v1/workers/w", **other))["status"] == "idle"
    assert await lastseen.ids("", **other) == ["w"]
    assert (await lastseen.json("/api/v1/status", **other))["total"] == 1
    events = (await lastseen.json("/api/v1/events", **other))["events"]
    assert {event["data"]["tenant"] for event in events} == {"other"}
    assert is_problem(await lastseen.client.get("/api/v1/workers/x", headers=other), 404)
    assert is_problem(await lastseen.client.delete("/api/v1/workers/x", headers=other), 404)
    gone = await lastseen.client.post("/api/v1/workers/x/disconnect", json={"reason": "shutdown"}, headers=other)
    assert is_problem(gone, 404)
    assert (await lastseen.json("/api/v1/workers/x"))["liveness"] == "alive"


async def test_a_quota_is_named_and_known_workers_go_on(store_url: str) -> None:
    async with api.running(store_url, workers_per_tenant=1) as lastseen:
        assert (await lastseen.beat("w")).status_code == 204
        refused = await lastseen.beat("x")
        assert is_problem(refused, 429)
        assert refused.headers["retry-after"] == "60"
        assert "limits.workers_per_tenant = 1" in refused.json()["detail"]
        assert (await lastseen.beat("w")).status_code == 204
        text = (await lastseen.client.get("/metrics")).text
    assert 'lastseen_beats_total{outcome="stored"} 2.0' in text
    assert 'lastseen_beats_total{outcome="quota"} 1.0' in text


async def test_a_body_over_the_limit_is_refused_whether_or_not_it_says_so(lastseen: Api) -> None:
    most = b'{"worker_id": "w", "environment_name": "p"}'.ljust(api.BODY_BYTES)
    assert (await lastseen.client.post(api.BEAT, content=most)).status_code == 204

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b" " * (api.BODY_BYTES // 2)

    for content in (most + b" ", chunks()):
        answer = await lastseen.client.post(api.BEAT, content=content)
        assert is_problem(answer, 413)
        assert str(api.BODY_BYTES) in answer.json()["detail"]


async def test_with_the_store_down_nothing_is_acknowledged(store_url: str) -> None:
    del store_url
    with servers.running(servers.valkey_binary()) as server:
        async with api.running(server.url, timeout_s=0.5) as lastseen:
            assert (await lastseen.beat("w")).status_code == 204
            server.kill()
            for method, path in SENT:
                body = {"worker_id": "w", "environment_name": "prod", "reason": "shutdown"}
                answer = await lastseen.client.request(method, path, json=body)
                assert is_problem(answer, 503), (method, path)
                assert answer.headers["retry-after"] == "1"
            assert (await lastseen.client.get("/readyz")).status_code == 503
            healthz = await lastseen.client.get("/healthz")
            assert healthz.status_code == 503
            assert healthz.json()["reasons"] == ["store_unavailable"]
            assert (await lastseen.client.get("/livez")).status_code == 200
            metrics = (await lastseen.client.get("/metrics")).text
            assert 'lastseen_degraded{reason="store_unavailable"} 1.0' in metrics
            assert 'lastseen_beats_total{outcome="unavailable"} 2.0' in metrics


class _BrokenStore(Store):
    """Fails with an unexpected error, or as a store that does not answer."""

    failure: Exception = RuntimeError("out of cheese")

    async def beat(self, *_: Any, **__: Any) -> Any:
        raise self.failure

    async def get(self, *_: Any, **__: Any) -> Any:
        raise self.failure


async def test_an_internal_error_is_a_problem_and_a_log_line_without_secrets(
    store_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with api.running(store_url) as whole:
        broken = _BrokenStore(whole.store.settings)
        broken.clock.observe(whole.store.clock.now_ms())
        app = create_app(api.make_services(broken))
        async with api.in_process(app, whole.auth()) as client:
            answer = await client.get("/api/v1/workers/w?secret=1")
            assert is_problem(answer, 500)
            assert "cheese" not in answer.text
            out = capsys.readouterr().out
            assert "request.failed" in out
            assert "out of cheese" in out
            assert "secret" not in out
            assert whole.auth()["authorization"] not in out
            broken.failure = StoreUnavailableError("the store failed: redis://:password@host")
            answer = await client.get("/api/v1/workers/w")
            assert is_problem(answer, 503)
            assert "password" not in answer.text
            assert capsys.readouterr().out == ""
