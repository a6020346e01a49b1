"""The delivery queue on real servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from redis.asyncio import Redis

from alerts.durability import Confirmation, Durability
from alerts.errors import StoreUnavailableError
from alerts.queue import Claimed, DeliveryQueue, Finish, QueueStats, QueueStore
from tests import servers
from tests.alerts_fakes import START_MS, dead_letters, notification

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MEMORY = Durability.parse("memory")
LEASE_MS = 15_000


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[QueueStore]:
    opened = QueueStore(redis_url=store_url, receivers=2)
    yield opened
    await opened.close()


@pytest.fixture
def queue(store: QueueStore) -> DeliveryQueue:
    return DeliveryQueue(store, "ops")


async def _claim(queue: DeliveryQueue, now_ms: int = START_MS, limit: int = 10) -> list[Claimed]:
    claim = await queue.claim(limit=limit, lease_ms=LEASE_MS, now_ms=now_ms, durability=MEMORY)
    return list(claim.items)


async def test_what_is_put_is_what_is_claimed(queue: DeliveryQueue) -> None:
    item = notification("ntf_é", key="4:acmeé\n")
    assert await queue.put([item], now_ms=START_MS) == 1
    (claimed,) = await _claim(queue)
    assert claimed.notification == item
    assert (claimed.attempt, claimed.first_attempt_ms) == (1, START_MS)


async def test_p6_an_id_is_queued_once_before_and_after_its_outcome(queue: DeliveryQueue) -> None:
    items = [notification("ntf_1"), notification("ntf_2", key="other")]
    assert await queue.put([*items, items[0]], now_ms=START_MS) == 2
    assert await queue.put(items, now_ms=START_MS) == 0
    delivered, dead = await _claim(queue)
    assert await queue.put(items, now_ms=START_MS) == 0
    assert await queue.complete(delivered, now_ms=START_MS) is Finish.DONE
    assert await queue.bury(dead, reason="gave_up: HTTP 500", now_ms=START_MS) is Finish.DONE
    assert await queue.put(items, now_ms=START_MS + 10**12) == 0
    assert await _claim(queue, START_MS + 10**12) == []


async def test_p7_one_notification_of_a_key_is_in_attempts_and_the_order_holds(queue: DeliveryQueue) -> None:
    await queue.put([notification(f"ntf_{i}") for i in (3, 1, 2)], now_ms=START_MS)
    order = []
    now_ms = START_MS
    for outcome in ("retry", "done", "dead", "done"):
        (item,) = await _claim(queue, now_ms)
        order.append(item.notification.nid)
        assert await _claim(queue, now_ms) == []
        match outcome:
            case "retry":
                await queue.postpone(item, due_ms=now_ms + 1_000)
                assert await _claim(queue, now_ms + 999) == []
                now_ms += 1_000
            case "done":
                await queue.complete(item, now_ms=now_ms)
            case _:
                await queue.bury(item, reason="gave_up", now_ms=now_ms)
    assert order == ["ntf_3", "ntf_3", "ntf_1", "ntf_2"]
    assert await queue.stats(now_ms=now_ms) == QueueStats(receiver="ops", queued=0, lag_ms=0, dead=1)


async def test_a_lease_that_ran_out_is_fenced(queue: DeliveryQueue) -> None:
    await queue.put([notification()], now_ms=START_MS)
    (slow,) = await _claim(queue)
    assert await _claim(queue, START_MS + LEASE_MS - 1) == []
    (quick,) = await _claim(queue, START_MS + LEASE_MS)
    assert (quick.attempt, quick.first_attempt_ms) == (2, START_MS)
    now_ms = START_MS + LEASE_MS
    assert await queue.complete(slow, now_ms=now_ms) is Finish.LEASE_LOST
    assert await queue.postpone(slow, due_ms=now_ms) is Finish.LEASE_LOST
    assert await queue.bury(slow, reason="", now_ms=now_ms) is Finish.LEASE_LOST
    assert await queue.complete(quick, now_ms=now_ms) is Finish.DONE
    assert await queue.complete(quick, now_ms=now_ms) is Finish.GONE
    assert await queue.postpone(slow, due_ms=now_ms) is Finish.GONE
    assert (await queue.stats(now_ms=now_ms)).dead == 0


async def test_a_release_counts_no_attempt(queue: DeliveryQueue) -> None:
    await queue.put([notification()], now_ms=START_MS)
    (item,) = await _claim(queue)
    assert await queue.release(item, due_ms=START_MS + 5) is Finish.DONE
    assert await queue.release(item, due_ms=START_MS) is Finish.LEASE_LOST
    (again,) = await _claim(queue, START_MS + 5)
    assert (again.attempt, again.first_attempt_ms) == (1, START_MS + 5)


async def test_the_longest_due_is_claimed_first_within_the_limit(queue: DeliveryQueue) -> None:
    for i in range(5):
        await queue.put([notification(f"ntf_{i}", key=str(i))], now_ms=START_MS - i)
    assert [item.notification.nid for item in await _claim(queue, limit=2)] == ["ntf_4", "ntf_3"]
    assert await queue.stats(now_ms=START_MS) == QueueStats(receiver="ops", queued=5, lag_ms=2, dead=0)


async def test_a_batch_of_any_size_is_put(queue: DeliveryQueue) -> None:
    assert await queue.put([], now_ms=START_MS) == 0
    assert await queue.put([notification(f"ntf_{i}", key=str(i)) for i in range(250)], now_ms=START_MS) == 250
    assert len(await _claim(queue, limit=1_000)) == 100


async def test_a_dead_letter_keeps_body_attempts_and_reason(queue: DeliveryQueue, store_url: str) -> None:
    await queue.put([notification()], now_ms=START_MS)
    (item,) = await _claim(queue)
    await queue.bury(item, reason="permanent: HTTP 410", now_ms=START_MS + 7)
    assert await queue.reject(notification("ntf_bad"), reason="cannot be rendered", now_ms=START_MS) is True
    assert await queue.reject(notification("ntf_bad"), reason="cannot be rendered", now_ms=START_MS) is False
    assert await queue.put([notification("ntf_bad")], now_ms=START_MS) == 0
    entries = await dead_letters(store_url)
    assert entries[0] == {
        "nid": "ntf_1",
        "type": "worker.stale",
        "key": "4:acmew",
        "created_ms": str(START_MS - 1),
        "attempts": "1",
        "first_attempt_ms": str(START_MS),
        "dead_ms": str(START_MS + 7),
        "reason": "permanent: HTTP 410",
        "body": notification().body,
    }
    assert [entry["nid"] for entry in entries] == ["ntf_1", "ntf_bad"]


async def test_p26_a_queue_that_is_empty_holds_nothing_but_outcomes(queue: DeliveryQueue, store_url: str) -> None:
    await queue.put([notification(f"ntf_{i}", key=str(i % 3)) for i in range(9)], now_ms=START_MS)
    while items := await _claim(queue):
        for item in items:
            await queue.complete(item, now_ms=START_MS)
    async with Redis.from_url(store_url, decode_responses=True) as redis:
        assert sorted(await redis.keys()) == ["{la:ops}:done", "{la:ops}:m"]


async def test_p26_outcomes_are_forgotten_by_age_but_the_newest_never(queue: DeliveryQueue, store_url: str) -> None:
    async with Redis.from_url(store_url) as redis:
        await redis.zadd("{la:ops}:done", {f"old{i}": START_MS - 8 * 86_400_000 + i for i in range(10_050)})
        await queue.put([notification()], now_ms=START_MS)
        (item,) = await _claim(queue)
        await queue.complete(item, now_ms=START_MS)
        assert await redis.zcard("{la:ops}:done") == 10_000
        assert await redis.zscore("{la:ops}:done", "old50") is None
        assert await redis.zscore("{la:ops}:done", "old51") is not None


async def test_the_queues_of_two_receivers_are_apart(queue: DeliveryQueue, store: QueueStore) -> None:
    other = DeliveryQueue(store, "ops2")
    await queue.put([notification()], now_ms=START_MS)
    assert await other.put([notification()], now_ms=START_MS) == 1
    assert len(await _claim(queue)) == len(await _claim(other)) == 1


async def test_the_library_comes_back_after_a_failover_or_flush(queue: DeliveryQueue, store_url: str) -> None:
    await queue.put([notification()], now_ms=START_MS)
    async with Redis.from_url(store_url) as redis:
        await redis.function_flush()
        assert len(await _claim(queue)) == 1
        await redis.function_flush()
    assert (await queue.stats(now_ms=START_MS)).queued == 1


async def test_p4_a_key_of_another_kind_is_refused_before_anything_is_written(
    queue: DeliveryQueue, store_url: str
) -> None:
    async with Redis.from_url(store_url) as redis:
        await redis.set("{la:ops}:k:bad", "not a list")
        with pytest.raises(StoreUnavailableError, match="bad"):
            await queue.put([notification("ntf_1"), notification("ntf_2", key="bad")], now_ms=START_MS)
        assert await redis.keys("{la:ops}:*") == [b"{la:ops}:k:bad"]
        await redis.set("{la:ops}:b", "not a hash")
        with pytest.raises(StoreUnavailableError, match="put: type of"):
            await queue.put([notification("ntf_1")], now_ms=START_MS)


async def test_p26_a_full_store_can_be_drained(queue: DeliveryQueue, store_url: str) -> None:
    await queue.put([notification("ntf_1"), notification("ntf_2", key="o")], now_ms=START_MS)
    async with Redis.from_url(store_url) as redis:
        await redis.config_set("maxmemory", "1mb")
        try:
            with pytest.raises(StoreUnavailableError, match=r"(?i)oom|memory"):
                await queue.put([notification("ntf_3")], now_ms=START_MS)
            first, second = await _claim(queue)
            await queue.postpone(first, due_ms=START_MS)
            (first,) = await _claim(queue)
            assert await queue.complete(first, now_ms=START_MS) is Finish.DONE
            assert await queue.bury(second, reason="gave_up", now_ms=START_MS) is Finish.DONE
        finally:
            await redis.config_set("maxmemory", "0")


async def test_a_record_that_is_gone_does_not_block_the_others(queue: DeliveryQueue, store_url: str) -> None:
    await queue.put([notification("ntf_1", key="a"), notification("ntf_2", key="b")], now_ms=START_MS)
    async with Redis.from_url(store_url) as redis:
        await redis.hdel("{la:ops}:b", "ntf_1")
    assert [item.notification.nid for item in await _claim(queue)] == ["ntf_2"]


@pytest.mark.parametrize("name", ["", "a}b", "{a", "a b", "-a", "x" * 65])
def test_a_name_that_would_leave_its_hash_tag_is_refused(name: str) -> None:
    store = QueueStore(redis_url="unix:///nowhere", receivers=1)
    with pytest.raises(ValueError, match="receiver name"):
        DeliveryQueue(store, name)


async def test_receivers_of_earlier_runs_are_known(store: QueueStore) -> None:
    assert await store.register(["ops", "log"]) == ()
    assert await store.register(["log"]) == ("ops",)
    await store.forget("ops")
    assert await store.register(["log"]) == ()


async def test_a_store_that_is_away_is_told_by_type(tmp_path: object) -> None:
    store = QueueStore(redis_url=f"unix://{tmp_path}/none", receivers=1)
    queue = DeliveryQueue(store, "ops")
    with pytest.raises(StoreUnavailableError):
        await queue.put([notification()], now_ms=START_MS)
    with pytest.raises(StoreUnavailableError):
        await _claim(queue)
    with pytest.raises(StoreUnavailableError):
        await store.register(["ops"])
    with pytest.raises(StoreUnavailableError):
        await store.can_confirm(Durability.parse("fsync"))
    await store.close()


async def _claim_at(url: str, durability: str) -> tuple[Confirmation, int, QueueStats, bool]:
    store = QueueStore(redis_url=url, receivers=1)
    queue = DeliveryQueue(store, "ops")
    await queue.put([notification()], now_ms=START_MS)
    level = Durability.parse(durability)
    claim = await queue.claim(limit=5, lease_ms=LEASE_MS, now_ms=START_MS, durability=level)
    stats = await queue.stats(now_ms=START_MS + 2_250)
    available = await store.can_confirm(level)
    if claim.confirmation is Confirmation.UNCONFIRMED:
        (again,) = await _claim(queue, START_MS + 2_250)
        assert again.attempt == 1
    await store.close()
    return claim.confirmation, len(claim.items), stats, available


async def test_p23_fsync_is_confirmed_where_the_server_has_an_append_only_file() -> None:
    with servers.running(servers.valkey_binary()) as server:
        confirmation, items, _, available = await _claim_at(server.url, "fsync")
    assert (confirmation, items, available) == (Confirmation.CONFIRMED, 1, True)


async def test_p23_fsync_without_an_append_only_file_falls_back_to_memory() -> None:
    with servers.running(servers.valkey_binary(), "--appendonly", "no") as server:
        confirmation, items, _, available = await _claim_at(server.url, "fsync")
    assert (confirmation, items, available) == (Confirmation.UNAVAILABLE, 1, False)


async def test_p23_fsync_on_a_redis_without_waitaof_falls_back_to_memory() -> None:
    binary = servers.redis_binary()
    if binary is None:
        pytest.skip("no redis-server on PATH (Debian: apt-get install redis-server)")
    with servers.running(binary) as server:
        async with Redis.from_url(server.url) as redis:
            version = (await redis.info("server"))["redis_version"]
        has_waitaof = tuple(int(part) for part in version.split(".")[:2]) >= (7, 2)
        confirmation, items, _, available = await _claim_at(server.url, "fsync")
    expected = Confirmation.CONFIRMED if has_waitaof else Confirmation.UNAVAILABLE
    assert (confirmation, items, available) == (expected, 1, has_waitaof)


async def test_p23_nothing_leaves_without_its_replicas_and_no_attempt_is_counted() -> None:
    with servers.running(servers.valkey_binary()) as server:
        confirmation, items, stats, _ = await _claim_at(server.url, "replicas:1")
    assert (confirmation, items) == (Confirmation.UNCONFIRMED, 0)
    assert (stats.queued, stats.lag_ms) == (1, 0)
