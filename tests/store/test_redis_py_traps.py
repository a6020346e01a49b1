"""What redis-py does by itself and must not do here: each of its traps that we know, on a real server over TCP.

Over TCP, and by way of a proxy, because some of them are not there on a unix socket.
"""

import asyncio
import contextlib
import random
import secrets
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
import uvloop
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from alerts.store.receivers import ReceiverStore
from monitor.errors import NoRoomError, StoreUnavailableError
from monitor.store import Store
from monitor.store.connection import ONCE, READERS, WRITERS
from monitor.store.endpoint import Address
from monitor.store.results import STORED
from monitor.workers import WorkerKey
from tests.support import servers
from tests.support.fleets import tasks_of
from tests.support.proxies import BOTH, CutAnswer, Proxy, Way, proxied
from tests.support.stores import INTERVAL_MS, alert_store, beat, opened

CALLS: Final = 400
BEYOND_S: Final = 2.0
"""Maximum overrun of a call's time limit on a loaded machine: less than one more attempt takes."""


@asynccontextmanager
async def behind(url: str, **settings: Any) -> AsyncIterator[tuple[Proxy, Store]]:
    async with proxied(url) as proxy, opened(proxy.url, **settings) as store:
        yield proxy, store


async def read(store: Store, worker_id: str = "w") -> Any:
    _, _, worker = await store.get(WorkerKey("acme", worker_id))
    return worker


async def forget(store: Store, worker_id: str = "w") -> int:
    return (await store.delete(WorkerKey("acme", worker_id), allowed=None, reason="deleted")).outcome


CALL: Final[dict[str, Callable[[Store], Awaitable[Any]]]] = {
    "write": lambda store: store.beat(0, [beat()]),
    "read": read,
    "once": forget,
}
"""A call over each of the three sets of connections. The last is sent only once: nothing hides a dead connection."""


async def kill_all(redis: Redis, proxy: Proxy) -> None:
    """Have the server close every connection of the store, and wait until that is known here."""
    assert await redis.client_kill_filter(_type="normal", skipme=True) > 0
    await proxy.until(lambda: proxy.open == 0, "the end of every connection")
    for _ in range(3):  # the loop looks at every socket meanwhile
        await redis.ping()


@pytest.mark.parametrize("kind", CALL)
async def test_idle_connections_that_the_server_has_closed_fail_no_call(store_url: str, kind: str) -> None:
    async with behind(store_url) as (proxy, store), Redis.from_url(store_url) as redis:
        for _ in range(3):
            await store.beat(0, [beat()])
            await CALL[kind](store)
            await kill_all(redis, proxy)
            await CALL[kind](store)


async def test_of_many_idle_connections_that_are_closed_at_once_none_is_used_again(store_url: str) -> None:
    async with behind(store_url) as (proxy, store), Redis.from_url(store_url) as redis:
        proxy.delay_s[Way.ANSWERS] = 0.05
        await asyncio.gather(*(forget(store) for _ in range(ONCE)), *(read(store) for _ in range(READERS)))
        proxy.delay_s[Way.ANSWERS] = 0.0
        assert proxy.open >= ONCE + READERS
        await kill_all(redis, proxy)
        await asyncio.gather(*(forget(store) for _ in range(ONCE)), *(read(store) for _ in range(READERS)))


@pytest.mark.parametrize("kind", CALL)
@pytest.mark.parametrize("fault", ["refused", "black hole", "answers held", "cut"])
async def test_a_store_that_is_away_holds_no_call_beyond_the_limit(store_url: str, fault: str, kind: str) -> None:
    timeout_s = 1.0
    async with behind(store_url, timeout_s=timeout_s) as (proxy, store):
        await store.beat(0, [beat()])
        match fault:
            case "refused":
                await proxy.refuse()
                proxy.cut()
            case "black hole":
                proxy.stall()
            case "answers held":
                proxy.stall(Way.ANSWERS)
            case _:
                proxy.plan(CutAnswer(match=b"FCALL"))
        for _ in range(2):
            async with asyncio.timeout(timeout_s + BEYOND_S):
                with pytest.raises(StoreUnavailableError):
                    await CALL[kind](store)
        await proxy.heal()
        await CALL[kind](store)


@pytest.mark.parametrize("stalled", [False, True])
async def test_many_calls_at_once_wait_for_a_connection_and_none_is_turned_away(
    store_url: str,
    stalled: bool,  # noqa: FBT001 - a case of the test
) -> None:
    async with behind(store_url, timeout_s=20.0) as (proxy, store):
        if stalled:
            proxy.stall()
        calls = [asyncio.create_task(store.beat(0, [beat(f"w{k}")])) for k in range(CALLS)]
        reads = [asyncio.create_task(read(store, f"w{k}")) for k in range(CALLS)]
        if stalled:
            await proxy.until(lambda: proxy.open >= WRITERS + READERS, "all connections in use")
            proxy.flow()
        results = await asyncio.gather(*calls)
        assert {outcome for result in results for outcome, _ in result.outcomes} == {STORED}
        await asyncio.gather(*reads)
        assert proxy.most_open <= WRITERS + READERS + ONCE


async def test_more_calls_than_connections_into_a_black_hole_all_end_within_the_limit(store_url: str) -> None:
    timeout_s = 1.0
    async with behind(store_url, timeout_s=timeout_s) as (proxy, store):
        proxy.stall()
        calls = [store.beat(0, [beat(f"w{k}")]) for k in range(CALLS)]
        async with asyncio.timeout(timeout_s + 2 * BEYOND_S):
            results = await asyncio.gather(*calls, *(read(store) for _ in range(50)), return_exceptions=True)
        kinds = {type(result) for result in results}
        assert kinds <= {StoreUnavailableError, NoRoomError}, "a read that waited for others may say that"
        assert type(results[0]) is StoreUnavailableError
        proxy.flow()
        assert (await store.beat(0, [beat("after")])).outcomes == [(STORED, INTERVAL_MS)]


@pytest.mark.parametrize("seed", range(3))
async def test_cancelled_calls_mix_no_answers(store_url: str, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - a plan, not a secret
    count = 150

    async def own(store: Store, k: int) -> None:
        [(outcome, interval_ms)] = (await store.beat(0, [beat(f"w{k}", interval_ms=5_000 + k)])).outcomes
        assert (outcome, interval_ms) == (STORED, 5_000 + k)
        assert (await read(store, f"w{k}")).interval_ms == 5_000 + k

    async with behind(store_url, timeout_s=20.0) as (proxy, store):
        for way in BOTH:
            proxy.delay_s[way] = 0.002
        tasks = [asyncio.create_task(own(store, k)) for k in range(count)]
        for task in tasks:
            task.add_done_callback(lambda _: proxy.changed())
        doomed = chance.sample(tasks, count // 2)
        for task in doomed:
            commands = len(proxy.commands) + chance.randint(0, 6)
            await proxy.until(lambda: all(one.done() for one in tasks) or len(proxy.commands) >= commands, "calls")  # noqa: B023
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} <= {type(None), asyncio.CancelledError}
        assert any(isinstance(result, asyncio.CancelledError) for result in results)
        # And those who come after them, on the same connections, get their own too.
        proxy.delay_s = dict.fromkeys(BOTH, 0.0)
        await asyncio.gather(*(own(store, k) for k in range(count)))


class _TransportOf312(asyncio.selector_events._SelectorSocketTransport):  # type: ignore[misc, name-defined]
    """As from CPython 3.12 on: it writes at once, and once it is lost it has no loop to wait with."""

    def writelines(self, list_of_data: Any) -> None:
        if self._loop is None:
            raise AttributeError("'NoneType' object has no attribute '_add_writer'")
        super().writelines(list_of_data)


class _LoopOf312(asyncio.SelectorEventLoop):
    def _make_socket_transport(self, *args: Any, **settings: Any) -> Any:
        return _TransportOf312(self, *args, **settings)


LOOPS: Final = [asyncio.new_event_loop, _LoopOf312, uvloop.new_event_loop]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_connection_that_is_lost_at_any_moment_is_the_stores_trouble_and_nothing_else(
    valkey_url: str, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """On the daemon's loop a transport that was lost raises what is neither an error of redis-py nor of the system."""

    async def beat_on(store: Store, name: str, done: asyncio.Event) -> None:
        while not done.is_set():
            with contextlib.suppress(StoreUnavailableError):
                await store.beat(0, [beat(name)])

    async def lose() -> None:
        async with behind(valkey_url) as (proxy, store):
            done = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                for k in range(2 * WRITERS):
                    group.create_task(beat_on(store, f"w{k}", done))
                for _ in range(150):
                    commands = len(proxy.commands)
                    proxy.cut()
                    await proxy.until(lambda commands=commands: len(proxy.commands) > commands + 40, "calls")  # type: ignore[misc]
                done.set()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(lose())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_connection_of_the_delivery_queue_that_is_lost_is_the_stores_trouble_and_nothing_else(
    valkey_url: str, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def lose() -> None:
        async with proxied(valkey_url) as proxy:
            address = Address(proxy.url, timeout_s=2.0)
            queue = alert_store(address)
            for _ in range(10):
                await proxy.refuse()
                proxy.cut()
                await proxy.accept()
                calls = (ReceiverStore(queue).remove(f"r{k}") for k in range(30))
                answers = await asyncio.gather(*calls, return_exceptions=True)
                assert {type(answer) for answer in answers} <= {type(None), StoreUnavailableError}
            await queue.close()
            await address.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(lose())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_store_that_comes_back_empty_gets_the_library_again_from_the_first_caller(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def empty_it(server: servers.Server) -> None:
        async with behind(server.url) as (proxy, store):
            await store.beat(0, [beat()])
            for round_ in range(3):
                await proxy.refuse()
                server.empty()
                proxy.cut()
                await proxy.accept()
                names = [f"{round_}-{k}" for k in range(50)]
                results = await asyncio.gather(*(store.beat(0, [beat(name)]) for name in names))
                assert {outcome for result in results for outcome, _ in result.outcomes} == {STORED}
            for call in (read, forget):
                server.empty()
                await call(store)

    with servers.running(servers.valkey_binary()) as server, asyncio.Runner(loop_factory=loop) as runner:
        runner.run(empty_it(server))


async def test_another_server_at_the_same_address_is_used_as_soon_as_it_answers() -> None:
    with servers.running(servers.valkey_binary()) as old, servers.running(servers.valkey_binary()) as new:
        async with behind(old.url, timeout_s=1.0) as (proxy, store), opened(new.url) as direct:
            await store.beat(0, [beat("before")])
            old.process.send_signal(signal.SIGSTOP)
            with pytest.raises(StoreUnavailableError):
                await store.beat(0, [beat("lost")])
            proxy.target(new.url)
            proxy.cut()
            assert (await store.beat(0, [beat("after")])).outcomes == [(STORED, INTERVAL_MS)]
            assert set(await tasks_of(direct)) == {"after"}


# Errors of the server's present state -------------------------------------------------------------------------------


@asynccontextmanager
async def settings_changed(redis: Redis, name: str, trouble: str, normal: str) -> AsyncIterator[None]:
    await redis.config_set(name, trouble)
    try:
        yield
    finally:
        await redis.config_set(name, normal)


@asynccontextmanager
async def read_only(redis: Redis, _: servers.Server) -> AsyncIterator[None]:
    # A replica of a primary that does not exist: the state of a server that lost an election, until it gets the address
    # of the new primary.
    await redis.replicaof("127.0.0.1", "1")
    try:
        yield
    finally:
        await redis.replicaof("NO", "ONE")


@asynccontextmanager
async def busy(redis: Redis, server: servers.Server) -> AsyncIterator[None]:
    await redis.config_set("busy-reply-threshold", "10")
    async with Redis.from_url(server.url, socket_timeout=60) as other:
        endless = asyncio.ensure_future(_command(other, "EVAL", "while true do end", 0))
        await _until_it_says(redis, "BUSY")
        try:
            yield
        finally:
            await redis.script_kill()
            with pytest.raises(ResponseError):
                await endless


@asynccontextmanager
async def loading(redis: Redis, server: servers.Server) -> AsyncIterator[None]:
    async with redis.pipeline(transaction=False) as pipe:
        for k in range(400):
            pipe.set(
                f"ballast:{k}", secrets.token_bytes(2_048)
            )  # what cannot be compressed, so that it looks up after each
        await pipe.execute()
    await redis.config_set("loading-process-events-interval-bytes", "1024")
    await redis.config_set("key-load-delay", "10000")
    async with Redis.from_url(server.url, socket_timeout=60) as other:
        reloading = asyncio.ensure_future(_command(other, "DEBUG", "RELOAD"))
        await _until_it_says(redis, "LOADING")
        try:
            yield
        finally:
            await redis.config_set("key-load-delay", "0")
            await reloading


async def _command(redis: Redis, *words: str | int) -> Any:
    return await redis.execute_command(*words)  # type: ignore[no-untyped-call]


async def _until_it_says(redis: Redis, word: str) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await redis.get("any")
            except RedisError as error:
                assert word.lower() in str(error).lower(), error  # noqa: PT017 - it may also succeed
                return


TROUBLES: Final[dict[str, Callable[[Redis, servers.Server], Any]]] = {
    "OOM": lambda redis, _: settings_changed(redis, "maxmemory", "1", "0"),
    "NOREPLICAS": lambda redis, _: settings_changed(redis, "min-replicas-to-write", "1", "0"),
    "READONLY": read_only,
    "BUSY": busy,
    "LOADING": loading,
}


@pytest.fixture(params=["valkey", "redis"])
def own_server(request: pytest.FixtureRequest) -> Any:
    binary = servers.valkey_binary() if request.param == "valkey" else servers.redis_binary()
    if binary is None:
        pytest.skip("no redis-server on PATH (Debian: apt-get install redis-server)")
    with servers.running(binary, "--enable-debug-command", "local") as server:
        yield server


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_p10_an_error_of_the_servers_present_state_refuses_the_beat_and_passes(
    own_server: servers.Server, trouble: str
) -> None:
    impatient = Redis.from_url(own_server.url, retry=Retry(NoBackoff(), 0))
    async with behind(own_server.url, timeout_s=2.0) as (_, store), impatient as redis:
        assert (await store.beat(0, [beat()])).outcomes == [(STORED, INTERVAL_MS)]
        async with TROUBLES[trouble](redis, own_server):
            for _ in range(3):
                with pytest.raises(StoreUnavailableError):
                    await store.beat(0, [beat("refused")])
        assert (await store.beat(0, [beat()])).outcomes == [(STORED, INTERVAL_MS)]
        assert set(await tasks_of(store)) == {"w"}
