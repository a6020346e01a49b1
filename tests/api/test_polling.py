"""Polling: an answer that has not changed is a 304, and one that has is not."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from monitor.events import rfc3339
from tests.support import api, stores
from tests.support.alerts_fakes import event
from tests.support.api import Api
from tests.support.incidents import record

pytestmark = pytest.mark.parametrize("store_url", ["valkey"], indirect=True)

LIST, ONE, STATUS, INCIDENTS = api.WORKERS, f"{api.WORKERS}/w1", "/api/v1/status", "/api/v1/incidents"


@pytest.fixture
async def lastseen(store_url: str) -> AsyncIterator[Api]:
    async with api.running(store_url, partitions=3) as running:
        yield running


class Poller:
    """Asks for one answer again and again, as a page does."""

    def __init__(self, lastseen: Api, path: str) -> None:
        self._lastseen, self._path, self._tag = lastseen, path, ""

    async def polls(self) -> int:
        """The status of the next answer."""
        headers = {"if-none-match": f'"other", {self._tag}'} if self._tag else {}
        answer = await self._lastseen.client.get(self._path, headers=headers)
        assert answer.headers["etag"].startswith('W/"')
        now_ms = self._lastseen.store.clock.now_ms()  # the test's clocks of the partitions differ by some ms
        assert rfc3339(now_ms - 1_000) <= answer.headers["lastseen-time"] <= rfc3339(now_ms + 1_000)
        assert (answer.headers["etag"] == self._tag) is (answer.status_code == 304)
        assert bool(answer.content) is (answer.status_code == 200)
        assert answer.headers["cache-control"] == "no-store"
        self._tag = answer.headers["etag"]
        return answer.status_code


async def pollers(lastseen: Api, *paths: str) -> list[Poller]:
    made = [Poller(lastseen, path) for path in paths]
    assert [await one.polls() for one in made] == [200] * len(made)
    assert [await one.polls() for one in made] == [304] * len(made)
    return made


async def test_what_each_beat_of_a_steady_worker_changes_is_no_change(lastseen: Api) -> None:
    for name in ("w1", "w2"):
        await lastseen.beat(name, status="busy", current_task_id="t", worker_metadata={"pool": "a"})
    await lastseen.sweep()
    polling = await pollers(lastseen, LIST, ONE, STATUS, INCIDENTS)
    for count in range(3):
        await lastseen.advance(20_000)
        await lastseen.sweep()
        for name in ("w1", "w2"):
            await lastseen.beat(name, tasks_processed=count, system_info={"load": count}, logs=[f"line {count}"])
        assert [await one.polls() for one in polling] == [304] * 4


async def test_a_minute_of_a_thousand_steady_workers_is_one_answer_until_one_of_them_is_late(store_url: str) -> None:
    async with api.running(store_url, partitions=3, workers_per_tenant=1_000) as lastseen:
        names = [f"w{number:03}" for number in range(1_000)]

        async def beat(workers: list[str]) -> None:
            for partition in range(3):
                beats = [one for one in map(stores.beat, workers) if lastseen.store.partition_of(one.key) == partition]
                for start in range(0, len(beats), 256):
                    await lastseen.store.beat(partition, beats[start : start + 256])
            await lastseen.sweep()

        await beat(names)
        poller = Poller(lastseen, f"{LIST}?limit=1000")
        statuses = []
        for second in range(60):
            await lastseen.advance(1_000)
            if second % 5 == 0:
                await beat(names)
            statuses.append(await poller.polls())
        assert statuses == [200] + 59 * [304]
        await lastseen.advance(stores.INTERVAL_MS - 10_000)
        await beat(names[:-1])
        assert await poller.polls() == 304
        await lastseen.advance(10_000)
        await beat(names[:-1])
        assert await poller.polls() == 200


@pytest.mark.parametrize(
    ("fields", "path", "expected"),
    [
        ({"worker_id": "w3"}, LIST, 200),
        ({"worker_id": "w3"}, STATUS, 200),
        ({"worker_id": "w3"}, ONE, 304),
        ({"worker_id": "w3"}, f"{LIST}?environment=dev", 304),
        ({"worker_id": "w1", "status": "idle"}, LIST, 200),
        ({"worker_id": "w1", "status": "idle"}, ONE, 200),
        ({"worker_id": "w1", "status": "idle"}, STATUS, 304),
        ({"worker_id": "w1", "current_task_id": "t2"}, LIST, 200),
        ({"worker_id": "w1", "worker_metadata": {"pool": "b"}}, ONE, 200),
        ({"worker_id": "w1", "environment_name": "dev"}, LIST, 200),
        ({"worker_id": "w1", "environment_name": "dev"}, STATUS, 200),
        ({"worker_id": "w1", "interval_seconds": 45}, ONE, 200),
        ({"worker_id": "w2", "status": "idle"}, ONE, 304),
        ({"worker_id": "w2", "status": "idle"}, f"{LIST}?text=w1", 304),
    ],
)
async def test_a_poller_learns_of_each_change_that_it_asks_for(
    lastseen: Api, fields: dict[str, Any], path: str, expected: int
) -> None:
    for name in ("w1", "w2"):
        await lastseen.beat(name, status="busy", current_task_id="t", worker_metadata={"pool": "a"})
    [poller] = await pollers(lastseen, path)
    assert (await lastseen.beat(**fields)).status_code == 204
    assert await poller.polls() == expected


async def test_p22_time_alone_makes_a_worker_late_and_stale_for_a_poller_too(lastseen: Api) -> None:
    await lastseen.beat("w1")
    await lastseen.sweep()
    polling = await pollers(lastseen, LIST, ONE, STATUS)
    for ms in (stores.INTERVAL_MS + 1, stores.GRACE_MS):
        await lastseen.advance(ms)
        assert [await one.polls() for one in polling] == [200, 200, 200]


async def test_p22_a_poller_learns_that_the_monitor_is_degraded_and_that_it_is_well_again(lastseen: Api) -> None:
    await lastseen.beat("w1", interval_seconds=3_600)
    await lastseen.sweep()
    polling = await pollers(lastseen, LIST, ONE, STATUS, INCIDENTS)
    await lastseen.advance(20_000)  # without a sweep
    assert [await one.polls() for one in polling] == [200] * 4
    assert [await one.polls() for one in polling] == [304] * 4
    await lastseen.sweep()
    assert [await one.polls() for one in polling] == [200] * 4


async def test_a_poller_of_incidents_learns_of_a_new_one_of_an_acknowledgement_and_of_the_end(lastseen: Api) -> None:
    alerts = lastseen.alerts
    await lastseen.sweep()
    [listed] = await pollers(lastseen, INCIDENTS)
    [noted] = await record(alerts.incidents, 0, [event()], lambda _: {}, now_ms=lastseen.store.clock.now_ms())
    assert await listed.polls() == 200
    [single] = await pollers(lastseen, f"{INCIDENTS}/{noted.incident_id}")
    answer = await lastseen.client.post(f"{INCIDENTS}/{noted.incident_id}/ack", json={})
    assert answer.status_code == 200
    assert "etag" not in answer.headers
    assert [await one.polls() for one in (listed, single)] == [200, 200]
    assert [await one.polls() for one in (listed, single)] == [304, 304]


async def test_what_is_refused_has_no_tag_and_a_tag_does_not_hide_it(lastseen: Api) -> None:
    answer = await lastseen.client.get(f"{api.WORKERS}/unknown", headers={"if-none-match": "*"})
    assert (answer.status_code, "etag" in answer.headers) == (404, False)
    answer = await lastseen.client.get(f"{LIST}?limit=0", headers={"if-none-match": "*"})
    assert (answer.status_code, "etag" in answer.headers) == (422, False)


async def test_head_and_a_strong_form_of_the_tag_are_answered_the_same(lastseen: Api) -> None:
    await lastseen.beat("w1")
    tag = (await lastseen.client.get(LIST)).headers["etag"]
    for known in (tag, tag.removeprefix("W/"), "*"):
        for method in ("GET", "HEAD"):
            answer = await lastseen.client.request(method, LIST, headers={"if-none-match": known})
            assert (answer.status_code, answer.headers["etag"], answer.content) == (304, tag, b"")


async def test_a_connection_goes_on_after_a_304(lastseen: Api) -> None:
    await lastseen.beat("w1")
    tag = (await lastseen.client.get(LIST)).headers["etag"]
    head = f"GET {LIST} HTTP/1.1\r\nhost: x\r\nauthorization: {lastseen.auth()['authorization']}\r\n"
    async with api.served(lastseen.app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for extra, status in ((f"if-none-match: {tag}\r\n", b"304"), ("connection: close\r\n", b"200")):
                writer.write(f"{head}{extra}\r\n".encode())
                answer = await reader.readuntil(b"\r\n\r\n")
                assert answer.split()[1] == status
                assert (b"content-length" in answer.lower()) is (status == b"200")
            assert b'"worker_id":"w1"' in await reader.read()
        finally:
            writer.close()
