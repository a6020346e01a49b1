"""P27: the daemon's self-checks, and their results for clients and for its other processes."""

import asyncio
import math
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from alerts.store.receivers import Stats
from bench.overload import resident_mib
from monitor.clock import monotonic_s
from monitor.daemon.self_check import CONFIRM_TRIES, DELIVERY_LAG_S, LOOP_WINDOW_S, SelfCheck, give_back_memory
from monitor.errors import StoreUnavailableError
from monitor.health import Health, asking_tenant
from monitor.metrics.registry import DeliveryLabels, Metrics
from monitor.ownership import Ownership
from monitor.pulse import Pulse
from monitor.reasons import Reason
from monitor.store import Store
from monitor.store.outbox import ROUTING_LAG_S, Outbox
from monitor.store.results import condition_of
from tests.core.test_metrics import values
from tests.support import servers, stores
from tests.support.proxies import CutAnswer, proxied

WAIT_S: Final = 20.0
PAUSE_S: Final = 0.01
PATIENT_S: Final = 5.0
"""For a confirmation that is to come: a disk that is shared is slow at times."""
HURRIED_S: Final = 0.3


class Looked:
    """A daemon's parts that look at itself, over a real store, each look made by hand."""

    def __init__(self, store: Store, ownership: Ownership) -> None:
        self.store = store
        self.metrics = Metrics(version="test", labels=DeliveryLabels(receivers=("ops",), outcomes=("delivered",)))
        self.health = Health(sweep_interval_ms=1_000, probe=store.takes_beats, others=self.metrics.reasons_of_others)
        self.outbox = Outbox(store, ownership)
        self.queues: list[Stats] | None = []
        self.bug: Exception | None = None
        self.self_check = SelfCheck(
            store=store,
            health=self.health,
            metrics=self.metrics,
            outbox=self.outbox,
            pulse=Pulse(store, ownership, on_sums=self.metrics.blind),
            queues=self._asked,
            owners={"theirs": frozenset({"acme"})},
        )

    async def _asked(self) -> list[Stats]:
        if self.bug is not None:
            raise self.bug
        if self.queues is None:
            raise StoreUnavailableError("down for the test")
        return self.queues

    async def of_store(self) -> list[str]:
        """Reasons that a check of the store finds."""
        return await self.self_check._look_at_store()

    def shown(self, series: str) -> float:
        return values(self.metrics)[f"lastseen_{series}"]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        running = asyncio.create_task(self.self_check.run())
        try:
            yield running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def until(self, condition: Callable[[], object]) -> None:
        """Run the self-check until the condition holds."""
        async with self.running():
            await until(condition)

    async def until_reasons(self, *reasons: str) -> None:
        """Run the self-check until it has found these reasons."""
        await self.until(lambda: self.health.own_reasons() == reasons)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - no event signals a change
            await asyncio.sleep(PAUSE_S)


@asynccontextmanager
async def looking(url: str, **settings: Any) -> AsyncIterator[Looked]:
    async with stores.opened(url, **settings) as store:
        yield Looked(store, await stores.owned(store))


def queue(**changes: Any) -> Stats:
    values: dict[str, Any] = {
        "receiver": "ops",
        "queued": 1,
        "lag_ms": 0,
        "dead": 2,
        "open_dead_letters": 0,
        "open_in": (),
        "groups": 3,
        "disabled": None,
    }
    return Stats(**{**values, **changes})


# The store ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"durability": "fsync"}, {}])
async def test_a_store_that_is_well_gives_no_reason_and_its_numbers(store_url: str, settings: dict[str, Any]) -> None:
    async with looking(store_url, timeout_s=PATIENT_S, **settings) as looked:
        assert await looked.of_store() == []
        assert looked.shown("store_durable") == 1
        assert looked.shown("store_memory_used_bytes") > 100_000
        assert looked.shown("store_memory_limit_bytes") == 0
        assert 0 <= looked.shown("store_confirm_seconds") < CONFIRM_TRIES * 2 * PATIENT_S


async def test_a_store_close_to_its_limit_is_a_reason_before_it_refuses_writes(store_url: str) -> None:
    async with looking(store_url) as looked, Redis.from_url(store_url) as redis:
        try:
            for share, expected in ((0.8, []), (0.95, [Reason.STORE_NEARLY_FULL])):
                memory = await redis.info("memory")
                used = memory["used_memory"] - memory["mem_not_counted_for_evict"]
                await redis.config_set("maxmemory", round(used / share))
                assert await looked.of_store() == expected
                assert await looked.health.store_writes()
        finally:
            await redis.config_set("maxmemory", 0)
        assert await looked.of_store() == []


def test_p26_what_the_server_keeps_for_replicas_and_its_file_takes_none_of_its_limit() -> None:
    memory = {"used_memory": 900, "mem_not_counted_for_evict": 200, "maxmemory": 1_000}
    condition = condition_of(memory, {"aof_enabled": 1})
    assert (condition.used_bytes, condition.limit_bytes, condition.append_only) == (700, 1_000, True)
    assert condition.over(0.69)
    assert not condition.over(0.7)
    assert not condition_of({**memory, "maxmemory": 0}, {"aof_enabled": 0}).over(0.0), "there is no limit"


@pytest.mark.parametrize("option", [("--appendonly", "no"), ("--appendfsync", "no")], ids="=".join)
async def test_p23_a_store_that_syncs_nothing_is_not_as_durable_as_fsync_asks(option: tuple[str, str]) -> None:
    with servers.running(servers.valkey_binary(), *option) as server:
        async with looking(server.url, durability="fsync", timeout_s=HURRIED_S) as looked:
            assert await looked.of_store() == [Reason.STORE_NOT_DURABLE]
            assert looked.shown("store_durable") == 0
        async with looking(server.url) as looked:  # memory
            assert await looked.of_store() == []


async def test_p23_a_store_without_its_replicas_takes_beats_and_is_not_durable(store_url: str) -> None:
    async with looking(store_url, durability="replicas:1", timeout_s=HURRIED_S) as looked:
        assert await looked.of_store() == [Reason.STORE_NOT_DURABLE]
        assert await looked.health.store_writes()


async def test_a_store_that_does_not_answer_is_unavailable_and_nothing_else() -> None:
    with servers.running(servers.valkey_binary()) as server:
        async with looking(server.url, durability="fsync", timeout_s=HURRIED_S) as looked:
            assert await looked.of_store() == []
            server.kill()
            assert await looked.of_store() == []
            assert math.isnan(looked.shown("store_durable"))
            assert math.isnan(looked.shown("store_memory_used_bytes"))
            await looked.until(lambda: looked.shown("store_up") == 0)
            assert looked.health.own_reasons() == (Reason.STORE_UNAVAILABLE,)
            assert looked.shown("ready") == 0
            assert not looked.health.stores_beats


# Events and notifications ------------------------------------------------------------------------------------------


async def test_routing_lags_while_one_partition_of_several_is_not_looked_at(store_url: str) -> None:
    async with stores.opened(store_url, partitions=2) as store:
        outbox = await stores.outbox_of(store)
        outbox._looked_s = dict.fromkeys(range(2), monotonic_s() - ROUTING_LAG_S - 1)
        await outbox.claim(0, 1)
        assert outbox.reasons() == [Reason.ROUTING_LAG]
        assert ROUTING_LAG_S < outbox.lag_s() < ROUTING_LAG_S + 5
        await outbox.claim(1, 1)
        assert outbox.reasons() == []
        assert outbox.lag_s() < 5


async def test_a_queue_that_lags_or_is_disabled_is_a_reason_and_a_number(store_url: str) -> None:
    async with looking(store_url) as looked:
        for stats, expected in (
            (queue(lag_ms=DELIVERY_LAG_S * 1_000), ()),
            (queue(lag_ms=DELIVERY_LAG_S * 1_000 + 1), (Reason.DELIVERY_LAG,)),
            (queue(disabled="HTTP 410"), (Reason.RECEIVER_DISABLED,)),
            (queue(), ()),
        ):
            looked.queues = [stats]
            lag = ("lastseen_delivery_lag_seconds,receiver=ops", stats.lag_ms / 1_000)
            await looked.until(lambda lag=lag: lag in values(looked.metrics).items())  # type: ignore[misc]
            await looked.until_reasons(*expected)
            shown_now = {name: looked.shown(f"{name},receiver=ops") for name in ("delivery_queue", "dead_letters")}
            assert shown_now == {"delivery_queue": 1, "dead_letters": 2}
            assert looked.shown("receiver_disabled,receiver=ops") == (stats.disabled is not None)


async def test_p31_open_dead_letters_are_a_reason_and_those_of_a_tenants_receiver_only_in_its_answers(
    store_url: str,
) -> None:
    def reasons(tenant: str | None) -> tuple[str, ...]:
        asking_tenant.set(tenant)
        return looked.health.monitor_state(1_000, 1_000).reasons

    async with looking(store_url) as looked:
        looked.queues = [queue(open_dead_letters=1)]
        await looked.until_reasons(Reason.DEAD_LETTERS)
        assert looked.shown("dead_letters_standing,receiver=ops") == 1
        looked.queues = [queue(), queue(receiver="theirs", open_dead_letters=1)]
        await looked.until_reasons()
        assert looked.shown("dead_letters_standing,receiver=theirs") == 1
        assert [reasons(tenant) for tenant in (None, "other", "acme")] == [(), (), (Reason.DEAD_LETTERS,)]
        looked.queues = [queue(), queue(receiver="theirs")]
        await looked.until(lambda: looked.shown("dead_letters_standing,receiver=theirs") == 0)
        assert reasons("acme") == ()


@pytest.mark.parametrize("at", [0, 1, 2])
async def test_p27_one_receiver_of_several_that_lags_or_is_disabled_is_a_reason(store_url: str, at: int) -> None:
    async with looking(store_url) as looked:
        ills: list[tuple[dict[str, Any], tuple[str, ...]]] = [
            ({"lag_ms": 60_000}, ()),
            ({"lag_ms": 60_001}, (Reason.DELIVERY_LAG,)),
            ({"disabled": "HTTP 410"}, (Reason.RECEIVER_DISABLED,)),
            ({}, ()),
        ]
        for ill, expected in ills:
            looked.self_check._note_queues([queue(receiver=f"r{k}", **(ill if k == at else {})) for k in range(3)])
            assert looked.health.own_reasons() == expected


async def test_queues_that_cannot_be_asked_for_long_count_as_lagging_and_have_no_numbers(store_url: str) -> None:
    async with looking(store_url) as looked:
        series = "lastseen_delivery_queue,receiver=ops"
        looked.queues = [queue()]
        await looked.until(lambda: series in values(looked.metrics))
        looked.queues = None
        await looked.until(lambda: series not in values(looked.metrics))
        assert looked.health.own_reasons() == ()
        looked.self_check._queues_seen_s -= DELIVERY_LAG_S
        assert looked.health.own_reasons() == (Reason.DELIVERY_LAG,)
        looked.queues = [queue()]
        await looked.until_reasons()


async def test_p30_a_bug_of_the_alert_side_does_not_end_the_daemon_s_look_at_itself(store_url: str) -> None:
    async with looking(store_url) as looked:
        looked.bug = KeyError("a bug")
        with capture_logs() as logs:
            async with looked.running() as running:
                await until(lambda: logs)
                turns = len(looked.self_check._lags)
                await until(lambda: len(looked.self_check._lags) > turns)
                assert not running.done()
        assert [line["event"] for line in logs] == ["self_check.queues_failed"]
        looked.self_check._queues_seen_s -= 60
        assert looked.health.own_reasons() == (Reason.DELIVERY_LAG,)


@pytest.mark.parametrize(("failing", "expected"), [(2, []), (3, [Reason.STORE_NOT_DURABLE])])
async def test_p27_a_store_is_not_durable_after_three_confirmations_in_a_row_that_failed_and_not_before(
    store_url: str, failing: int, expected: list[str]
) -> None:
    async with proxied(store_url) as proxy, looking(proxy.url, durability="fsync", timeout_s=PATIENT_S) as looked:
        await looked.store.beat(0, [stores.beat()])
        proxy.plan(CutAnswer(match=b"WAITAOF", times=failing))
        assert await looked.of_store() == expected
        assert looked.shown("store_durable") == (not expected)


async def test_it_ends_whenever_it_is_cancelled(store_url: str) -> None:
    """On CPython 3.11 a cancellation that came as a command had been written was lost, and a stop never ended."""
    async with looking(store_url) as looked:
        for turns in range(60):
            running = asyncio.create_task(looked.self_check.run())
            for _ in range(turns):
                await asyncio.sleep(0)
            running.cancel()
            ended, _ = await asyncio.wait((running,), timeout=WAIT_S)
            assert ended, turns


# The event loop ----------------------------------------------------------------------------------------------------


async def test_a_loop_that_was_held_up_is_a_reason_until_the_window_has_passed(store_url: str) -> None:
    async with looking(store_url) as looked:
        async with looked.running():
            await until(lambda: looked.self_check._lags)
            time.sleep(1.5)  # noqa: ASYNC251 - the test blocks the loop on purpose
            await until(lambda: Reason.EVENT_LOOP_LAG in looked.health.own_reasons())
            await until(lambda: looked.shown("event_loop_lag_seconds") > 1)
        lags = looked.self_check._lags
        looked.self_check._lags = type(lags)((at_s - LOOP_WINDOW_S, late_s) for at_s, late_s in lags)
        assert looked.health.own_reasons() == ()


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of the process from /proc")
def test_p29_memory_that_many_bodies_took_is_given_back() -> None:
    mib = 64
    bodies = [(bytes(16_384), bytes(1_024)) for _ in range(mib * 64)]
    kept = [small for _, small in bodies]
    del bodies
    before = resident_mib(os.getpid())
    give_back_memory()
    assert before - resident_mib(os.getpid()) > mib / 2
    assert len(kept) == mib * 64
