"""P23: what a disconnect reports is as safe as configured before its 204."""

import asyncio
import gc
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from monitor.errors import StoreUnavailableError
from monitor.liveness import EventKind
from monitor.store import Store
from tests.support import api, servers
from tests.support.api import Api
from tests.support.stores import beat, opened, outbox_of

DISCONNECT = "/api/v1/workers/w/disconnect"


async def test_p23_a_write_is_on_disk_when_it_is_confirmed() -> None:
    with servers.running(servers.valkey_binary(), "--appendonly", "yes", "--appendfsync", "everysec") as server:
        async with opened(server.url, durability="fsync") as store:
            await store.beat(0, [beat("w")])
            await asyncio.gather(*(store.confirm(0) for _ in range(100)))
            info = await store.connection._probing.info("commandstats")
            assert 1 <= info["cmdstat_waitaof"]["calls"] <= 2


async def test_p23_each_confirmation_is_asked_for_anew() -> None:
    with servers.running(servers.valkey_binary(), "--appendonly", "yes", "--appendfsync", "always") as server:
        async with opened(server.url, durability="fsync", timeout_s=1.0) as store, Redis.from_url(server.url) as redis:
            await store.beat(0, [beat("w")])
            await store.confirm(0)
            # What is written from now on is not on the disk, whatever was confirmed before.
            await redis.config_set("appendfsync", "no")
            await store.beat(0, [beat("v")])
            for _ in range(2):
                with pytest.raises(StoreUnavailableError, match="confirm"):
                    await store.confirm(0)
            await redis.config_set("appendfsync", "always")
            await store.confirm(0)


async def test_p23_a_confirmation_in_the_millisecond_of_the_last_write_waits_for_it_too() -> None:
    with servers.running(servers.valkey_binary(), "--appendonly", "yes", "--appendfsync", "always") as server:
        async with opened(server.url, durability="fsync", timeout_s=1.0) as store, Redis.from_url(server.url) as redis:
            for _ in range(3):
                await redis.config_set("appendfsync", "always")
                await store.confirm(0)
                await redis.config_set("appendfsync", "no")
                # Another connection's write; the store's time stands still until the server's clock has reached it.
                seconds, micros = await redis.time()
                await redis.hset("{ls:0}:meta", "last", str(seconds * 1_000 + micros // 1_000 + 12))
                with pytest.raises(StoreUnavailableError, match="confirm"):
                    await store.confirm(0)


async def test_p23_one_replica_is_not_two() -> None:
    with servers.with_a_replica() as (primary, _):
        async with (
            opened(primary.url, durability="replicas:1") as one,
            opened(primary.url, durability="replicas:2", timeout_s=0.5) as two,
        ):
            async with asyncio.timeout(20):
                while not await _is_confirmed(one):
                    pass  # it waits for the replica itself
            await two.beat(0, [beat("w")])
            assert not await _is_confirmed(two)
            assert await _is_confirmed(one)


async def _is_confirmed(store: Store) -> bool:
    try:
        await store.confirm(0)
    except StoreUnavailableError:
        return False
    return True


async def test_p23_a_server_that_cannot_confirm_a_sync_is_not_asked_to(store_url: str) -> None:
    async with opened(store_url, durability="fsync", timeout_s=5.0) as store:
        await store.beat(0, [beat("w")])
        if not await _has_append_only_file(store_url):
            await store.confirm(0)


async def _has_append_only_file(url: str) -> bool:
    async with opened(url) as store:
        found: dict[str, object] = await store.connection._probing.info("persistence")
        return bool(found["aof_enabled"])


async def test_p23_a_failure_without_its_replicas_is_refused_and_a_clean_stop_is_not(store_url: str) -> None:
    async with opened(store_url, durability="replicas:1", timeout_s=0.5) as store:
        with pytest.raises(StoreUnavailableError, match="confirm"):
            await store.confirm(0)
    async with api.running(store_url, durability="replicas:1", timeout_s=0.5) as lastseen:
        assert (await lastseen.beat("w")).status_code == 204
        refused = await lastseen.client.post(DISCONNECT, json={"reason": "crash", "exit_code": 1})
        assert refused.status_code == 503
        assert "retry-after" in refused.headers
        assert (await lastseen.beat("w")).status_code == 204
        stopped = await lastseen.client.post(DISCONNECT, json={"reason": "shutdown", "exit_code": 0})
        assert stopped.status_code == 204


async def test_p23_an_event_is_routed_once_its_replicas_have_it(store_url: str) -> None:
    async with opened(store_url, durability="replicas:1", timeout_s=0.5) as store:
        await store.beat(0, [beat("w")])
        with pytest.raises(StoreUnavailableError, match="confirm"):
            await (await outbox_of(store)).claim(0, 10)
    async with opened(store_url) as store:  # whose durability is memory
        taken = await (await outbox_of(store)).claim(0, 10)
    assert taken is not None
    assert [event.kind for event in taken.events] == [EventKind.REGISTERED]


async def test_p23_an_event_is_confirmed_by_the_primary_that_it_was_read_from() -> None:
    # In a failover each connection changes the primary at a time of its own.
    with servers.running(servers.valkey_binary()) as old, servers.with_a_replica() as (new, _):
        async with (
            opened(old.url, durability="replicas:1") as behind,
            opened(new.url, durability="replicas:1") as ahead,
        ):
            async with asyncio.timeout(20):
                while not await _is_confirmed(ahead):
                    pass  # it waits for the replica itself
            await behind.beat(0, [beat("lost")])
            await ahead.beat(0, [beat("kept")])
            outbox = await outbox_of(ahead)
            await outbox_of(behind)
            ahead.connection._writing, behind.connection._writing = (
                behind.connection._writing,
                ahead.connection._writing,
            )
            taken = await outbox.claim(0, 10)
    assert taken is not None
    assert [event.worker_id for event in taken.events] == ["kept"]


@asynccontextmanager
async def failover_of_writes() -> AsyncIterator[tuple[Api, Store]]:
    """A daemon whose confirmations go to a primary with its replica, and its writes to the primary before that one."""
    with servers.running(servers.valkey_binary()) as old, servers.with_a_replica() as (new, _):
        async with opened(old.url) as behind, api.running(new.url, durability="replicas:1") as lastseen:
            async with asyncio.timeout(20):
                while not await _is_confirmed(lastseen.store):
                    pass  # it waits for the replica itself
            ahead = lastseen.store.connection
            ahead._writing, behind.connection._writing = behind.connection._writing, ahead._writing
            yield lastseen, behind


async def test_p23_a_failure_is_confirmed_by_the_primary_that_has_it() -> None:
    crash = {"reason": "crash", "exit_code": 1}
    async with failover_of_writes() as (lastseen, behind):
        lost = await lastseen.client.post(DISCONNECT, json=crash)
        assert lost.status_code == 503
        # The failure of a worker that is failed already changes nothing, and is no more confirmed than the first.
        again = await lastseen.client.post(DISCONNECT, json=crash)
        assert again.status_code == 503
        writing = lastseen.store.connection._writing
        lastseen.store.connection._writing, behind.connection._writing = behind.connection._writing, writing
        kept = await lastseen.client.post(DISCONNECT, json=crash)
        assert kept.status_code == 204


async def test_p23_a_revocation_is_confirmed_by_the_primary_that_has_it() -> None:
    async with failover_of_writes() as (lastseen, behind):
        lost = await lastseen.client.post("/api/v1/revocations", json={"jti": "stolen"})
        assert lost.status_code == 503
        writing = lastseen.store.connection._writing
        lastseen.store.connection._writing, behind.connection._writing = behind.connection._writing, writing
        kept = await lastseen.client.post("/api/v1/revocations", json={"jti": "stolen"})
        assert kept.status_code == 204


async def test_a_confirmation_that_fails_when_no_caller_waits_for_it_any_more_is_no_error_of_the_loop() -> None:
    said: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    with servers.running(servers.valkey_binary()) as server:
        async with opened(server.url, durability="fsync", timeout_s=0.2) as store:
            server.process.send_signal(signal.SIGSTOP)
            asked = asyncio.create_task(store.confirm(0))
            await asyncio.wait([asked], timeout=0)
            asked.cancel()
            await asyncio.wait([task for task in asyncio.all_tasks() if task.get_name() == "confirm-0"])
            del asked  # its traceback holds the other
            gc.collect()
            assert said == []
