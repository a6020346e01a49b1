"""P11: which refused beats are evidence of life, of whom, and which never are."""

import base64
import gzip
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, cast

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from litestar.types import Scope as Scope_

from monitor.api.admission import Admission, BeatRates
from monitor.api.contract.salvage import claimed_ids
from monitor.api.rejected_beats import RejectedBeats, Seen
from monitor.auth import Principal, Scope
from monitor.errors import IntakeFullError
from monitor.intake.queue import Intake
from monitor.rate_limit import NS, Rate
from monitor.workers import Evidence, Rejection, WorkerKey
from tests.support import api
from tests.support.stores import opened

on_valkey = pytest.mark.parametrize("store_url", ["valkey"], indirect=True)

BATCH: Final = f"{api.WORKERS}/heartbeats"
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
BEAT: Final = b'{"worker_id":"w","environment_name":"prod","worker_metadata":{"worker_id":"inner"}}'


@dataclass
class Site:
    """The HTTP side, and the evidence that it recorded."""

    http: api.Api
    noted: list[Evidence] = field(default_factory=list)

    @property
    def rejections(self) -> list[tuple[str, Rejection]]:
        return [(evidence.key.worker_id, evidence.rejection) for evidence in self.noted]

    def token(self, *, old_ms: int = 0, tenant: str = "acme", **changes: Any) -> str:
        return api.token(self.http.store.clock.now_ms() - old_ms, tenant, **changes)

    async def post(self, token: str, body: bytes = BEAT, path: str = api.BEAT, **headers: str) -> int:
        names = {"authorization": f"Bearer {token}", "content-type": "application/json", **headers}
        answer = await self.http.client.post(path, content=body, headers=names)
        return int(answer.status_code)


@asynccontextmanager
async def site(url: str, *, settings: dict[str, Any] | None = None, **services: Any) -> AsyncIterator[Site]:
    noted: list[Evidence] = []
    made = {"rejected_beats": RejectedBeats(noted.append), **services}
    async with api.running(url, services=made, **(settings or {})) as running:
        yield Site(running, noted)


@pytest.fixture
async def lastseen(store_url: str) -> AsyncIterator[Site]:
    async with site(store_url) as made:
        yield made


def expired(lastseen: Site, ago_ms: int, **changes: Any) -> str:
    """A token that expired this long ago."""
    return lastseen.token(old_ms=ago_ms + 1_000, expires_in_ms=1_000, **changes)


def without_signature(token: str) -> str:
    header = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    return f"{header}.{token.split('.')[1]}."


def signed(lastseen: Site, *, nbf_ms: int, exp_ms: int) -> str:
    """A token with these times, counted from now."""
    now_s = lastseen.http.store.clock.now_ms() // 1_000
    claims = jwt.decode(lastseen.token(), options={"verify_signature": False})
    claims |= {"nbf": now_s + nbf_ms // 1_000, "exp": now_s + exp_ms // 1_000}
    return jwt.encode(claims, api.KEY.key, "HS256", headers={"kid": api.KEY.kid})


FORMS: Final = [(api.BEAT, BEAT), (f"{api.WORKERS}/w/heartbeat", b'{"status":"busy"}'), (BATCH, b"[" + BEAT + b"]")]


@on_valkey
@pytest.mark.parametrize(("path", "body"), FORMS)
async def test_p11_a_token_that_expired_less_than_a_day_ago_is_evidence(lastseen: Site, path: str, body: bytes) -> None:
    assert await lastseen.post(expired(lastseen, DAY_MS - 60_000), body, path) == 401
    assert lastseen.rejections == [("w", Rejection.TOKEN_EXPIRED)]
    assert lastseen.noted[0].key == WorkerKey("acme", "w")
    assert lastseen.noted[0].allowed is None


@on_valkey
@pytest.mark.parametrize(("path", "body"), FORMS)
async def test_p11_a_token_for_something_else_is_evidence_of_the_worker_that_it_names(
    lastseen: Site, path: str, body: bytes
) -> None:
    token = lastseen.token(scopes=(Scope.WORKERS_READ,), environments=("prod", "stage"), worker_id="w")
    assert await lastseen.post(token, body, path) == 403
    assert lastseen.rejections == [("w", Rejection.SCOPE_MISSING)]
    assert lastseen.noted[0].allowed == ("prod", "stage"), "and only for workers there"
    assert await lastseen.post(expired(lastseen, DAY_MS - 60_000, scopes=(), worker_id="w"), body, path) == 401
    assert lastseen.rejections[1:] == [("w", Rejection.TOKEN_EXPIRED)]


@on_valkey
@pytest.mark.parametrize("long", [False, True])
async def test_p11_evidence_names_the_subject_of_the_token_within_100_characters(lastseen: Site, *, long: bool) -> None:
    subject = "ü" * 300 if long else "deploy bot"
    await lastseen.post(expired(lastseen, HOUR_MS, subject=subject))
    assert [evidence.subject for evidence in lastseen.noted] == ["ü" * 99 + "…" if long else "deploy bot"]


NEVER: Final[dict[str, Callable[[Site], str]]] = {
    "another key": lambda site: site.token(key=api.OTHER_KEY),
    "another key, expired": lambda site: expired(site, HOUR_MS, key=api.OTHER_KEY),
    "alg none": lambda site: without_signature(site.token()),
    "alg none, expired": lambda site: without_signature(expired(site, HOUR_MS)),
    "another audience": lambda site: site.token(audience="other"),
    "another audience, expired": lambda site: expired(site, HOUR_MS, audience="other"),
    "another issuer": lambda site: site.token(issuer="other"),
    "another issuer, expired": lambda site: expired(site, HOUR_MS, issuer="other"),
    "not valid yet": lambda site: signed(site, nbf_ms=HOUR_MS, exp_ms=2 * HOUR_MS),
    "not valid yet, expired": lambda site: signed(site, nbf_ms=HOUR_MS, exp_ms=-HOUR_MS),
    "expired 24 h ago": lambda site: expired(site, DAY_MS),
    "expired 25 h ago": lambda site: expired(site, DAY_MS + HOUR_MS),
    "no token": lambda _: "a.b.c",
    "a changed claim": lambda site: ".".join(
        part if number != 1 else base64.urlsafe_b64encode(b'{"org_id":"acme","sub":"x"}').rstrip(b"=").decode()
        for number, part in enumerate(expired(site, HOUR_MS).split("."))
    ),
    "without the scope": lambda site: site.token(scopes=(Scope.METRICS_READ, Scope.ADMIN)),
    "without any scope": lambda site: site.token(scopes=()),
    "without the scope, expired": lambda site: expired(site, HOUR_MS, scopes=(Scope.WORKERS_READ,)),
    "another worker's": lambda site: site.token(worker_id="other"),
    "another worker's, expired": lambda site: expired(site, HOUR_MS, worker_id="other"),
    "another worker's, without the scope": lambda site: site.token(worker_id="other", scopes=(Scope.ADMIN,)),
}


@on_valkey
@pytest.mark.parametrize(("path", "body"), FORMS)
@pytest.mark.parametrize("case", NEVER)
async def test_p11_a_token_that_may_not_speak_for_the_worker_is_never_evidence(
    lastseen: Site, case: str, path: str, body: bytes
) -> None:
    token = NEVER[case](lastseen)
    for content in (body, body[:-5], body + b" " * api.BODY_BYTES):
        await lastseen.post(token, content, path)
    assert lastseen.noted == []


@on_valkey
async def test_p11_a_restricted_token_is_evidence_of_its_own_worker_only(lastseen: Site) -> None:
    for body in (BEAT[:-1], BEAT.replace(b'"prod"', b"7"), BEAT + b" " * api.BODY_BYTES):
        await lastseen.post(lastseen.token(worker_id="other"), body)
        assert lastseen.noted == []
        await lastseen.post(lastseen.token(worker_id="w"), body)
        assert lastseen.rejections.pop() == ("w", lastseen.noted.pop().rejection)
    batch = b'[{"worker_id":"w"},{"worker_id":"other"}]'
    await lastseen.post(expired(lastseen, HOUR_MS, worker_id="other"), batch, BATCH)
    assert lastseen.rejections == [("other", Rejection.TOKEN_EXPIRED)]


@on_valkey
async def test_p11_evidence_is_of_the_tenant_of_the_token(lastseen: Site) -> None:
    await lastseen.post(expired(lastseen, HOUR_MS, tenant="globex"))
    assert [evidence.key for evidence in lastseen.noted] == [WorkerKey("globex", "w")]


@on_valkey
async def test_p11_a_malformed_body_with_a_readable_id_is_evidence(lastseen: Site) -> None:
    token = lastseen.token()
    for body in (b'{"worker_id":"w"}', BEAT.replace(b"}}", b'},"status":7}'), BEAT[:-1], BEAT + b"x"):
        assert await lastseen.post(token, body) == 422
        assert lastseen.rejections == [("w", Rejection.MALFORMED)]
        lastseen.noted.clear()
    for body in (b"", b"{}", b"[]", b'{"worker_id":7}', b'{"worker_id":""}', b'{"worker_metadata":{"worker_id":"w"}'):
        assert await lastseen.post(token, body) == 422
        assert lastseen.noted == []
    assert await lastseen.post(token, b"{", f"{api.WORKERS}/a%2Fb/heartbeat") == 422
    assert lastseen.rejections == [("a/b", Rejection.MALFORMED)]
    zipped, coding = gzip.compress(b"{}"), {"content-encoding": "gzip"}
    assert await lastseen.post(token, zipped, f"{api.WORKERS}/a%2Fb/heartbeat", **coding) == 415
    assert lastseen.rejections == [("a/b", Rejection.MALFORMED)] * 2
    lastseen.noted.clear()
    assert await lastseen.post(token, b"{}", f"{api.WORKERS}/a%00b/heartbeat") == 422
    assert lastseen.noted == []


@on_valkey
async def test_p11_a_body_that_is_too_large_is_evidence(lastseen: Site) -> None:
    large = BEAT + b" " * api.BODY_BYTES
    assert await lastseen.post(lastseen.token(), large) == 413
    assert await lastseen.post(lastseen.token(), large, f"{api.WORKERS}/v/heartbeat") == 413
    assert lastseen.rejections == [("w", Rejection.TOO_LARGE), ("v", Rejection.TOO_LARGE)]
    lastseen.noted.clear()
    answer = await lastseen.http.client.post(api.BEAT, content=_chunks(large))
    assert answer.status_code == 413
    assert lastseen.rejections == [("w", Rejection.TOO_LARGE)]


async def _chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 1_000):
        yield body[start : start + 1_000]


@on_valkey
async def test_p11_rate_limited_and_overloaded_beats_are_evidence(store_url: str) -> None:
    rates = BeatRates(worker=Rate(per_s=1, burst=1), tenant=Rate(per_s=1, burst=3), batch=10)
    async with site(store_url, admission=Admission(rates, now_ns=lambda: NS)) as lastseen:
        token = lastseen.token()
        assert await lastseen.post(token) == 204
        assert lastseen.noted == []
        assert await lastseen.post(token) == 429
        assert lastseen.rejections == [("w", Rejection.RATE_LIMITED)]
        batch = b'[{"worker_id":"w","environment_name":"p"},{"worker_id":"x","environment_name":"p"}]'
        assert await lastseen.post(token, batch, BATCH) == 200
        assert lastseen.rejections[1:] == [("w", Rejection.RATE_LIMITED)]
        assert await lastseen.post(token, batch, BATCH) == 429
        assert lastseen.rejections[2:] == [("w", Rejection.RATE_LIMITED), ("x", Rejection.RATE_LIMITED)]
    async with opened(store_url) as store:
        full = Intake(store, capacity=0, on_moved=lambda _: None)
        async with site(store_url, intake=full) as overloaded:
            assert await overloaded.post(overloaded.token()) == 503
            assert overloaded.rejections == [("w", Rejection.OVERLOADED)]


@on_valkey
async def test_p11_a_known_worker_that_brings_more_than_a_quota_leaves_is_alive(store_url: str) -> None:
    heavy = b'{"worker_id":"w","environment_name":"prod","worker_metadata":{"a":"' + b"x" * 1_000 + b'"}}'
    async with site(store_url, settings={"bytes_per_tenant": 1_000}) as lastseen:
        token = lastseen.token()
        assert await lastseen.post(token) == 204
        assert lastseen.noted == []
        assert await lastseen.post(token, heavy) == 429
        assert await lastseen.post(token, b"[" + heavy + b"]", BATCH) == 200
        assert lastseen.rejections == [("w", Rejection.OVER_QUOTA)] * 2
        assert await lastseen.post(token) == 204


@on_valkey
async def test_p11_a_refused_batch_is_evidence_of_the_workers_in_it(lastseen: Site) -> None:
    late = expired(lastseen, HOUR_MS)
    beats = [{"worker_metadata": {"worker_id": "inner"}, "worker_id": f"w{number}"} for number in range(300)]
    everyone = [(f"w{number}", Rejection.TOKEN_EXPIRED) for number in range(300)]
    lines = b"\n".join(json.dumps(one).encode() for one in beats)
    for body, headers in (
        (json.dumps(beats).encode(), {}),
        (lines, {"content-type": "application/x-ndjson"}),
        (gzip.compress(lines), {"content-type": "application/x-ndjson", "content-encoding": "gzip"}),
    ):
        assert await lastseen.post(late, body, BATCH, **headers) == 401
        assert lastseen.rejections == everyone
        lastseen.noted.clear()
    for odd in (b"", b"no json", gzip.compress(lines)[:40], gzip.compress(b"\x00" * 10_000_000)):
        assert await lastseen.post(late, odd, BATCH, **{"content-encoding": "gzip"}) == 401
        assert lastseen.noted == []


@on_valkey
async def test_p11_the_refused_beats_of_a_batch_are_evidence_and_the_good_ones_are_stored(lastseen: Site) -> None:
    large = b'{"worker_id":"large","environment_name":"p","x":"' + b"y" * api.BODY_BYTES + b'"}'
    body = b"\n".join([b'{"worker_id":"m"}', b'{"worker_id":"g","environment_name":"p"}', b"no json", large])
    status = await lastseen.post(lastseen.token(), body, BATCH, **{"content-type": "application/x-ndjson"})
    assert status == 200
    assert lastseen.rejections == [("m", Rejection.MALFORMED), ("large", Rejection.TOO_LARGE)]
    lastseen.noted.clear()
    assert await lastseen.post(lastseen.token(), b'[{"worker_id":"a"},{"worker_id":"b"},', BATCH) == 422
    assert lastseen.rejections == [("a", Rejection.MALFORMED), ("b", Rejection.MALFORMED)]


@on_valkey
async def test_p11_refused_requests_that_come_in_a_flood_are_not_looked_into(store_url: str) -> None:
    noted: list[Evidence] = []
    async with site(store_url, rejected_beats=RejectedBeats(noted.append, now_ns=lambda: NS)) as lastseen:
        late = expired(lastseen, HOUR_MS)
        for _ in range(40):
            assert await lastseen.post(late, b"[" + BEAT + b"]", BATCH) == 401
        assert len(noted) == 25, "a batch counts as twenty, of five hundred"
        assert await lastseen.post(late) == 401
        assert len(noted) == 25
        assert await lastseen.post(late, BEAT, f"{api.WORKERS}/w/heartbeat") == 401
        assert len(noted) == 26, "an id in the path costs nothing to see"


@on_valkey
async def test_p28_of_refusals_that_are_our_fault_each_is_noted_or_known_to_be_lost(store_url: str) -> None:
    noted: list[Evidence] = []
    lost: list[bool] = []
    rejected_beats = RejectedBeats(noted.append, lost=lambda: lost.append(True), now_ns=lambda: NS)
    principal = Principal(subject="s", tenant="acme", scopes=frozenset(Scope), worker_id=None, environments=None)
    for number in range(600):
        rejected_beats.record_body(principal, Rejection.OVERLOADED, b'{"worker_id":"w%d"}' % number)
    assert (len(noted), len(lost)) == (500, 100)
    noted.clear()
    async with opened(store_url) as store:
        full = Intake(store, capacity=0, on_moved=lambda _: None)
        async with site(store_url, intake=full, rejected_beats=rejected_beats) as overloaded:
            for number in range(5):  # on the usual way, where a body that was read need not be looked into
                body = b'{"worker_id":"w%d","environment_name":"p"}' % number
                charset = {"content-type": "application/json; charset=utf-8"}
                assert await overloaded.post(overloaded.token(), body, **charset) == 503
    assert [one.key.worker_id for one in noted] == [f"w{number}" for number in range(5)]
    seen = Seen(scope=cast("Scope_", {}), principal=principal, beats=[f"b{number}" for number in range(3_000)])
    noted.clear()
    rejected_beats.batch_refused(IntakeFullError("full", 1), seen)
    assert len(noted) == 3_000, "of a batch all"


@on_valkey
async def test_p11_a_disconnect_that_is_refused_is_no_evidence(lastseen: Site) -> None:
    path = f"{api.WORKERS}/w/disconnect"
    assert await lastseen.post(expired(lastseen, HOUR_MS), b'{"reason":"shutdown"}', path) == 401
    assert lastseen.noted == []


@on_valkey
async def test_p11_what_is_noted_changes_no_answer(store_url: str) -> None:
    """Over a real connection: also where the client waits to be asked for its body, or sends it slowly."""
    noted: list[Evidence] = []
    async with site(store_url, rejected_beats=RejectedBeats(noted.append)) as seen, site(store_url) as plain:
        late = expired(seen, HOUR_MS)
        head = f"POST {api.BEAT} HTTP/1.1\nHost: x\nAuthorization: Bearer {late}\nContent-Type: application/json\n"
        asking = f"{head}Expect: 100-continue\nContent-Length: {len(BEAT)}"
        sending = f"{head}Content-Length: {len(BEAT)}"
        async with api.served(seen.http.app) as port, api.served(plain.http.app) as other:
            for text, body in ((asking, ()), (sending, (BEAT,)), (sending, (BEAT[:20], BEAT[20:]))):
                got, expected = await api.raw(port, text, body), await api.raw(other, text, body)
                assert got.status == expected.status == 401
                assert got.body == expected.body
                assert {**got.headers, "date": ""} == {**expected.headers, "date": ""}
        assert [evidence.key.worker_id for evidence in noted] == ["w", "w"], "who was not asked has said nothing"


# Whom a body speaks of ----------------------------------------------------------------------------------------------

TEXTS: Final = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=30)
JSONS: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS | st.just("worker_id"), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(st.tuples(TEXTS, st.dictionaries(TEXTS, JSONS, max_size=3), st.booleans()), min_size=1, max_size=5))
def test_p11_of_good_json_the_ids_are_found_in_every_form_and_no_others(
    beats: list[tuple[str, dict[str, Any], bool]],
) -> None:
    made = [
        {"worker_id": name, **rest} if first else {**rest, "worker_id": name}
        for name, rest, first in beats
        if "worker_id" not in rest
    ]
    ids = [one["worker_id"] for one in made]
    array, lines = json.dumps(made).encode(), "\n".join(json.dumps(one, ensure_ascii=False) for one in made).encode()
    assert list(claimed_ids(array, tokens=10_000)) == ids
    assert list(claimed_ids(lines, tokens=10_000)) == ids
    for end in range(0, len(array), 7):
        found = list(claimed_ids(array[:end], tokens=10_000))
        assert found == ids[: len(found)], "of a part that has come, the first ones"


@given(st.binary(max_size=300) | st.text(alphabet='"{}[]:\\, worker_id', max_size=300).map(str.encode))
def test_p11_whatever_the_bytes_are_it_ends_and_names_are_names(data: bytes) -> None:
    for name in claimed_ids(b'{"worker_id":"w",' + data, tokens=100):
        assert 0 < len(name) <= 256
        assert name.isprintable()
