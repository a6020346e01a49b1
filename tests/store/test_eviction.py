"""A store that begins to evict is noticed, and so is that it stopped."""

from redis.asyncio import Redis
from structlog.testing import capture_logs

from monitor.eviction import EvictionWatch
from monitor.reasons import Reason
from tests.support import servers
from tests.support.stores import opened


async def test_p26_a_policy_that_begins_to_evict_is_a_reason_until_it_is_set_right(store_url: str) -> None:
    async with opened(store_url) as store, Redis.from_url(store_url) as redis:
        watch = EvictionWatch(store)
        await watch.check()
        assert watch.reasons() == []
        try:
            with capture_logs() as lines:
                await redis.config_set("maxmemory-policy", "volatile-ttl")
                await watch.check()
                await watch.check()
                assert watch.reasons() == [Reason.STORE_EVICTS]
                await redis.config_set("maxmemory-policy", "noeviction")
                await watch.check()
        finally:
            await redis.config_set("maxmemory-policy", "noeviction")
    assert watch.reasons() == []
    assert [line["event"] for line in lines] == ["store.evicts", "store.evicts_no_more"]
    assert lines[0]["maxmemory_policy"] == "volatile-ttl"
    assert "'noeviction'" in lines[0]["remedy"]


async def test_a_store_that_does_not_answer_changes_nothing_about_its_policy() -> None:
    with servers.running(servers.valkey_binary()) as server:
        async with opened(server.url, timeout_s=0.5) as store, Redis.from_url(server.url) as redis:
            watch = EvictionWatch(store)
            await redis.config_set("maxmemory-policy", "allkeys-lru")
            await watch.check()
            server.kill()
            await watch.check()
            assert watch.reasons() == [Reason.STORE_EVICTS]
