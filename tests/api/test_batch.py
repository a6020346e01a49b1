"""Many beats in one request: what is stored, what is rejected by its index, and what bounds it."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.api import batch
from monitor.api.contract.batches import SMALL_BYTES, TooManyBeatsError, split_array, split_lines
from monitor.api.contract.errors import ContractError
from monitor.api.errors import BodyTooLargeError
from monitor.api.inflate import MAX_MEMBERS, inflated
from monitor.api.shared import BATCHES_AT_ONCE
from monitor.auth import Scope
from monitor.metrics.registry import BeatOutcome
from tests.support import api, servers
from tests.support.api import Api

BATCH: Final = "/api/v1/workers/heartbeats"
LIMITS: Final[dict[str, Any]] = {"batch_bytes": 262_144, "batch_beats": 1_000}
LINES: Final = {"content-type": "application/x-ndjson"}
ARRAY: Final = {"content-type": "application/json"}

on_valkey = pytest.mark.parametrize("store_url", ["valkey"], indirect=True)


@pytest.fixture
async def lastseen(store_url: str) -> AsyncIterator[Api]:
    async with api.running(store_url, services=LIMITS) as running:
        yield running


def beat(worker_id: object, environment_name: str = "prod", **fields: object) -> dict[str, object]:
    return {"worker_id": worker_id, "environment_name": environment_name, **fields}


def array(beats: Iterable[object]) -> bytes:
    return json.dumps(list(beats)).encode()


def lines(beats: Iterable[object]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in beats)


async def send(lastseen: Api, content: bytes, headers: dict[str, str] = ARRAY) -> Any:
    answer = await lastseen.client.post(BATCH, content=content, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()


async def counted(lastseen: Api, outcome: BeatOutcome) -> float:
    text = (await lastseen.client.get("/metrics")).text
    found = [line for line in text.splitlines() if line.startswith(f'lastseen_beats_total{{outcome="{outcome}"}}')]
    return float(found[0].split()[-1]) if found else 0.0


def is_problem(answer: Any, status: int, *words: str) -> bool:
    return bool(
        answer.status_code == status
        and answer.headers["content-type"] == "application/problem+json"
        and all(word in answer.json()["detail"] for word in words)
    )


@on_valkey
@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (array, {}),
        (array, ARRAY),
        (array, {"content-type": "application/json; charset=utf-8", "content-encoding": "identity"}),
        (lines, LINES),
        (lines, {"content-type": "Application/JSONL; charset=utf-8"}),
        (lambda beats: b"\xef\xbb\xbf" + array(beats), ARRAY),
        (lambda beats: lines(beats).replace(b"\n", b"\r\n").rstrip(), LINES),
        (lambda beats: gzip.compress(array(beats)), {**ARRAY, "content-encoding": "gzip"}),
        (lambda beats: gzip.compress(lines(beats)), {**LINES, "content-encoding": "X-GZip"}),
    ],
)
async def test_every_beat_of_a_batch_is_stored_in_every_form(lastseen: Api, body: Any, headers: dict[str, str]) -> None:
    beats = [beat(f"w{k}", "prod" if k % 2 else "dev-1", status=f"s{k}", worker_metadata={"k": k}) for k in range(300)]
    assert await send(lastseen, body(beats), headers) == {"stored": 300, "superseded": 0, "rejected": []}
    listed = (await lastseen.json(f"{api.WORKERS}?limit=1000"))["workers"]
    assert {
        worker["worker_id"]: (worker["environment_name"], worker["status"], worker["worker_metadata"])
        for worker in listed
    } == {one["worker_id"]: (one["environment_name"], one["status"], one["worker_metadata"]) for one in beats}
    assert await counted(lastseen, BeatOutcome.STORED) == 300


@on_valkey
async def test_no_beats_are_a_batch_and_no_body_is_none(lastseen: Api) -> None:
    nothing = {"stored": 0, "superseded": 0, "rejected": []}
    assert await send(lastseen, b" [ ] ") == nothing
    assert await send(lastseen, b"\n \n\r\n", LINES) == nothing
    for headers in (ARRAY, LINES):
        answer = await lastseen.client.post(BATCH, content=b"", headers=headers)
        assert answer.status_code == 422
        assert answer.json()["detail"] == [{"loc": ["body"], "msg": "Field required", "type": "missing"}]


@on_valkey
async def test_a_beat_that_breaks_the_contract_is_rejected_by_its_index_and_the_others_go_on(lastseen: Api) -> None:
    sent: list[object] = [
        beat("a"),
        {"worker_id": "b"},
        5,
        beat("c", tasks_processed="7"),
        beat("", ""),
        beat("d", logs=[1] * 50),
        beat("e", worker_metadata={"a": "x" * 20_000}),
        beat("f", unknown="x" * api.BODY_BYTES),
        beat("g"),
    ]
    answer = await send(lastseen, array(sent))
    assert (answer["stored"], answer["superseded"]) == (3, 0)
    assert [(one["index"], one["worker_id"], one["status"]) for one in answer["rejected"]] == [
        (1, "b", 422),
        (2, None, 422),
        (4, None, 422),
        (5, "d", 422),
        (6, "e", 422),
        (7, None, 413),
    ]
    details = {one["index"]: one["detail"] for one in answer["rejected"]}
    assert details[1] == [{"loc": ["body", "environment_name"], "msg": "Field required", "type": "missing"}]
    assert len(details[4]) == 2
    assert len(details[5]) == batch.MAX_FAULTS_OF_A_BEAT
    assert str(api.BODY_BYTES) in details[7]
    assert await lastseen.ids() == ["a", "c", "g"]
    assert await counted(lastseen, BeatOutcome.STORED) == 3
    assert await counted(lastseen, BeatOutcome.INVALID) == 5
    assert await counted(lastseen, BeatOutcome.TOO_LARGE) == 1


@on_valkey
async def test_a_line_that_is_no_json_is_rejected_by_its_number_blank_lines_counted(lastseen: Api) -> None:
    content = b"\n" + lines([beat("a")]) + b'{"worker_id": "b", NaN\n' + b"  \r\n" + lines([beat("c")]) + b"\xff\n{}"
    answer = await send(lastseen, content, LINES)
    assert answer["stored"] == 2
    assert [(one["index"], one["status"], one["detail"][0]["type"]) for one in answer["rejected"]] == [
        (2, 422, "json_invalid"),
        (5, 422, "json_invalid"),
        (6, 422, "missing"),
    ]
    assert await lastseen.ids() == ["a", "c"]


@on_valkey
@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"{}", (["body"], "list_type")),
        (b'"x"', (["body"], "list_type")),
        (b"null", (["body"], "missing")),
        (b"[1, 2", (["body", 5], "json_invalid")),
        (b'\xef\xbb\xbf[{"a": NaN}]', (["body", 10], "json_invalid")),
        (b"[1]]", (["body", 3], "json_invalid")),
        (b"[1,,2]", (["body", 3], "json_invalid")),
        (b"\x00", (["body", 0], "json_invalid")),
        (b"[" * 513, (["body", 0], "json_invalid")),
        (b"[" * 5_000, (["body", 0], "json_invalid")),
        (b"[" * 512, (["body", 512], "json_invalid")),
        (b'[{"a":1},' + b'{"a":' * 520 + b"1" + b"}" * 520 + b"]", (["body", 0], "json_invalid")),
        (b'["' + b'\\"[' * 600 + b'",,', (["body", 1804], "json_invalid")),
        (lines([beat("a"), beat("b")]), (["body"], "list_type")),
    ],
)
async def test_a_body_that_is_no_array_is_refused_as_a_whole(
    lastseen: Api, content: bytes, fault: tuple[list[str | int], str]
) -> None:
    answer = await lastseen.client.post(BATCH, content=content, headers=ARRAY)
    assert answer.status_code == 422
    assert [(one["loc"], one["type"]) for one in answer.json()["detail"]] == [fault]
    assert await counted(lastseen, BeatOutcome.INVALID) == 1


@on_valkey
async def test_the_last_good_beat_of_a_worker_counts(lastseen: Api) -> None:
    sent = [
        beat("w", status="1"),
        beat("v"),
        beat("w", status="2"),
        beat("w", status=None),
        beat("w", "stage", status="4"),
    ]
    covered = {**ARRAY, **lastseen.auth(environments=("prod",))}
    answer = await send(lastseen, array(sent), covered)
    assert (answer["stored"], answer["superseded"]) == (2, 1)
    assert [(one["index"], one["status"]) for one in answer["rejected"]] == [(3, 422), (4, 403)]
    worker = await lastseen.json("/api/v1/workers/w")
    assert (worker["status"], worker["environment_name"], worker["seq"]) == ("2", "prod", 1)


@on_valkey
async def test_the_token_must_cover_each_beat(lastseen: Api) -> None:
    await lastseen.beat("moved", "prod")
    sent = array([beat("a", "stage"), beat("b", "prod"), beat("moved", "stage")])
    answer = await send(lastseen, sent, {**ARRAY, **lastseen.auth(environments=("stage", "test"))})
    assert answer["stored"] == 1
    assert [(one["index"], one["worker_id"], one["status"]) for one in answer["rejected"]] == [
        (1, "b", 403),
        (2, "moved", 403),
    ]
    answer = await send(lastseen, sent, {**ARRAY, **lastseen.auth(worker_id="b")})
    assert answer["stored"] == 1
    assert [(one["index"], one["status"]) for one in answer["rejected"]] == [(0, 403), (2, 403)]
    assert await lastseen.ids() == ["a", "b", "moved"]
    assert await counted(lastseen, BeatOutcome.FORBIDDEN) == 4
    other = {**ARRAY, **lastseen.auth("other")}
    assert (await send(lastseen, sent, other))["stored"] == 3
    assert (await lastseen.json("/api/v1/workers/moved"))["environment_name"] == "prod"


@on_valkey
async def test_a_caller_that_may_not_beat_is_refused_before_anything_is_read(lastseen: Api) -> None:
    good = lastseen.auth()
    for headers, status in (
        ({"authorization": "Bearer a.b.c"}, 401),
        (lastseen.auth(scopes=tuple(set(Scope) - {Scope.HEARTBEAT_WRITE})), 403),
        ({**good, "content-encoding": "br"}, 415),
        ({**good, "content-encoding": "gzip, gzip"}, 415),
        ({**good, "content-type": "text/plain"}, 415),
    ):
        answer = await lastseen.client.post(BATCH, content=b"x" * 1_000_000, headers=headers)
        assert is_problem(answer, status), (headers, answer.text)
    assert (await lastseen.client.get(BATCH)).status_code == 405
    await lastseen.beat("heartbeats")
    assert (await lastseen.json(BATCH))["worker_id"] == "heartbeats"


@on_valkey
async def test_a_quota_rejects_what_is_too_many_and_known_workers_go_on(store_url: str) -> None:
    async with api.running(store_url, services=LIMITS, workers_per_tenant=2) as lastseen:
        await lastseen.beat("b")
        answer = await send(lastseen, array([beat("a"), beat("x"), beat("b"), beat("y")]))
        assert answer["stored"] == 2
        assert [(one["index"], one["worker_id"], one["status"]) for one in answer["rejected"]] == [
            (1, "x", 429),
            (3, "y", 429),
        ]
        assert "limits.workers_per_tenant = 2" in answer["rejected"][0]["detail"]
        assert await counted(lastseen, BeatOutcome.QUOTA) == 2


@on_valkey
@pytest.mark.parametrize("headers", [ARRAY, LINES])
async def test_more_beats_than_the_limit_are_refused_and_as_many_are_stored(
    store_url: str, headers: dict[str, str]
) -> None:
    body = array if headers is ARRAY else lines
    async with api.running(store_url, services={"batch_beats": 100}) as lastseen:
        most = [beat(f"w{k}") for k in range(100)]
        assert (await send(lastseen, body(most), headers))["stored"] == 100
        answer = await lastseen.client.post(BATCH, content=body([*most, beat("x")]), headers=headers)
        assert is_problem(answer, 413, "limits.batch_beats = 100")
        assert "x" not in await lastseen.ids()


@on_valkey
async def test_a_batch_over_its_bytes_is_refused_as_sent_and_as_inflated(lastseen: Api) -> None:
    most = array([beat("w")]).ljust(LIMITS["batch_bytes"])
    assert (await send(lastseen, most))["stored"] == 1
    packed = {**ARRAY, "content-encoding": "gzip"}
    assert (await send(lastseen, gzip.compress(most), packed))["stored"] == 1
    for content, headers in ((most + b" ", ARRAY), (gzip.compress(most + b" "), packed)):
        answer = await lastseen.client.post(BATCH, content=content, headers=headers)
        assert is_problem(answer, 413, f"limits.batch_bytes = {LIMITS['batch_bytes']}")
    broken = await lastseen.client.post(BATCH, content=gzip.compress(most)[:-4], headers=packed)
    assert broken.status_code == 422
    assert broken.json()["detail"] == [{"loc": ["body"], "msg": "The gzip body ends early", "type": "gzip_invalid"}]


@on_valkey
async def test_with_the_store_down_the_whole_batch_is_unavailable(store_url: str) -> None:
    del store_url
    with servers.running(servers.valkey_binary()) as server:
        async with api.running(server.url, services=LIMITS, timeout_s=0.5) as lastseen:
            server.kill()
            answer = await lastseen.client.post(BATCH, content=array([beat("a"), beat("b"), 5]), headers=ARRAY)
            assert is_problem(answer, 503)
            assert answer.headers["retry-after"] == "1"
            assert await counted(lastseen, BeatOutcome.UNAVAILABLE) == 2
            assert await counted(lastseen, BeatOutcome.INVALID) == 1
            assert await counted(lastseen, BeatOutcome.STORED) == 0


@on_valkey
async def test_p29_batches_whose_bodies_never_end_hold_no_place(lastseen: Api) -> None:
    """A place is taken when the body is whole: five times as many as there are places hold up no batch."""
    released = asyncio.Event()
    begun = 0

    async def stalling() -> AsyncIterator[bytes]:
        nonlocal begun
        yield b"["
        begun += 1
        await released.wait()
        yield b"]"

    async with api.served(lastseen.app) as port:
        url = f"http://127.0.0.1:{port}{BATCH}"
        async with httpx2.AsyncClient(headers=lastseen.auth(worker_id="one")) as client:
            count = 5 * BATCHES_AT_ONCE
            stuck = [asyncio.create_task(client.post(url, content=stalling(), headers=ARRAY)) for _ in range(count)]
            async with asyncio.timeout(30):
                while begun < count:  # noqa: ASYNC110 - no event signals a change
                    await asyncio.sleep(0)
            own, other = lastseen.auth(), lastseen.auth("globex")
            for headers in (own, other):
                answer = await client.post(url, content=array([beat("w")]), headers={**ARRAY, **headers})
                assert answer.json() == {"stored": 1, "superseded": 0, "rejected": []}
            released.set()
            assert {answer.status_code for answer in await asyncio.gather(*stuck)} == {200}


@on_valkey
async def test_single_beats_go_on_while_a_batch_is_worked_on(store_url: str) -> None:
    """The largest batch takes many turns of the loop; a single beat that comes with it needs a few of them."""
    async with api.running(store_url, workers_per_tenant=100_000) as lastseen:
        content = array([beat(f"w{k}", tasks_processed=str(k)) for k in range(10_000)])
        large = asyncio.create_task(send(lastseen, content))
        singles = 0
        while not large.done():
            assert (await lastseen.beat("single")).status_code == 204
            singles += 1
        assert (await large)["stored"] == 10_000
        assert singles >= 20


def pieces(body: bytes, most_bytes: int = 1_000_000) -> bytes:
    return b"".join(inflated(body, most_bytes))


@given(st.lists(st.binary(max_size=200_000) | st.integers(0, 500_000).map(bytes), min_size=1, max_size=3))
def test_what_was_compressed_is_inflated_member_by_member(parts: list[bytes]) -> None:
    whole = b"".join(parts)
    packed = b"".join(gzip.compress(part) for part in parts)
    assert pieces(packed, max(len(whole), 1)) == whole
    assert all(len(piece) <= 262_144 for piece in inflated(packed, 2_000_000))
    if whole:
        with pytest.raises(BodyTooLargeError):
            pieces(packed, len(whole) - 1)


@given(st.binary(max_size=100), st.binary(max_size=20))
def test_bytes_that_are_no_gzip_or_end_early_or_go_on_are_refused(content: bytes, more: bytes) -> None:
    packed = gzip.compress(content)
    for cut in range(len(packed)):
        with pytest.raises(ContractError):
            pieces(packed[:cut])
    for body in (packed + b"\0" + more, b"\0" + packed, content, zlib.compress(content)):
        with pytest.raises(ContractError):
            pieces(body)
    damaged = packed[:-8] + bytes(byte ^ 255 for byte in packed[-8:])
    with pytest.raises(ContractError):
        pieces(damaged)


def test_a_bomb_is_not_inflated_beyond_the_bound() -> None:
    bomb = gzip.compress(bytes(200_000_000), compresslevel=9)
    seen: list[int] = []
    with pytest.raises(BodyTooLargeError):
        seen.extend(len(piece) for piece in inflated(bomb, 1_000_000))
    assert sum(seen) <= 1_000_000
    with pytest.raises(ContractError):
        pieces(gzip.compress(b"") * (MAX_MEMBERS + 1))


ITEMS: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text('a[]{},"\\é\n'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('a[]{}"'), inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(ITEMS, max_size=20), st.integers(0, 20), st.sampled_from([0, SMALL_BYTES]))
def test_an_array_of_any_length_is_split_into_its_items_or_is_too_long(items: list[Any], most: int, pad: int) -> None:
    body = json.dumps(items, ensure_ascii=False).encode() + b" " * pad
    if len(items) > most:
        with pytest.raises(TooManyBeatsError):
            split_array(body, most)
    else:
        assert [json.loads(bytes(item)) for item in split_array(body, most)] == items


@given(
    st.binary(max_size=60) | st.text('[]{},: "\\u1dn\n', max_size=60).map(str.encode), st.sampled_from([0, SMALL_BYTES])
)
def test_any_bytes_are_split_or_refused(body: bytes, pad: int) -> None:
    for split in (split_array, split_lines):
        try:
            split(body + b" " * pad, 10)
        except (ContractError, TooManyBeatsError):
            continue


def test_an_array_of_millions_of_items_is_refused_without_taking_them_up() -> None:
    with pytest.raises(TooManyBeatsError):
        split_array(b"[" + b"0," * 4_000_000 + b"0]", 10_000)


@given(st.lists(st.binary(max_size=10).filter(lambda line: b"\n" not in line), min_size=1, max_size=20), st.booleans())
def test_lines_keep_their_numbers(texts: list[bytes], is_ended: bool) -> None:  # noqa: FBT001 - drawn
    body = b"\n".join(texts) + (b"\n" if is_ended else b"")
    if not body:
        return
    count = len(texts) if is_ended or texts[-1] else len(texts) - 1
    assert list(split_lines(body, count)) == texts[:count]
    with pytest.raises(TooManyBeatsError):
        split_lines(body, count - 1)
