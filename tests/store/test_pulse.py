"""The pulse of a daemon, on a real store."""

import asyncio
import math
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis
from structlog.testing import capture_logs

from monitor.ownership import Ownership
from monitor.pulse import Pulse
from monitor.reasons import Reason
from monitor.store import Store
from tests.support import servers
from tests.support.daemons import until
from tests.support.proxies import Watched, Way, proxied
from tests.support.stores import opened


class Pulsing(Watched):
    """A daemon's pulse, and the sums that the store answered."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.pulses = self.windows = self.ticks = 0
        self.is_behind = False
        self.ownership = Ownership(store.settings.daemon, store.partitions, sweep_interval_s=1.0)
        self.pulse = Pulse(store, self.ownership, on_sums=self._summed, is_behind=self._ask)
        self._partitions = store.partitions

    def _ask(self) -> bool:
        self.ticks += 1
        self.changed()
        return self.is_behind

    def _summed(self, windows: int, _: int) -> None:
        self.pulses, self.windows = self.pulses + 1, windows
        self.changed()

    async def more(self, count: int = 2) -> None:
        wanted = self.pulses + count * self._partitions
        await self.until(lambda: self.pulses >= wanted, f"{count} more pulses")


@asynccontextmanager
async def pulsing(store: Store) -> AsyncIterator[Pulsing]:
    made = Pulsing(store)
    running = asyncio.create_task(made.pulse.run())
    try:
        await made.more()
        yield made
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_p27_a_daemon_whose_pulses_are_not_taken_says_that_it_is_blind_and_then_for_how_long() -> None:
    with servers.running(servers.valkey_binary()) as server, capture_logs() as logs:
        async with opened(server.url, timeout_s=0.5) as store, pulsing(store) as daemon, pulsing(store) as second:
            assert daemon.pulse.reasons() == []
            server.process.send_signal(signal.SIGSTOP)
            await asyncio.to_thread(
                until, lambda: daemon.pulse.reasons() == [Reason.BLIND], "the daemon's word that it is blind"
            )
            server.process.send_signal(signal.SIGCONT)
            await daemon.more()
            await second.more()
            assert daemon.pulse.reasons() == []
            assert daemon.windows == 1
        said = [line for line in logs if line["event"] == "monitor.was_blind"]
        # Once by each of the two, whichever of them ended the window.
        assert [line["cause"] for line in said] == ["no_pulse"] * 2
        assert all(line["seconds"] > 1.5 for line in said)
        assert [line["event"] for line in logs].count("pulse.store_unavailable") == 2


async def test_p1_the_next_daemon_says_what_was_missed_before_it_and_nothing_older(store_url: str) -> None:
    async with opened(store_url, daemon="d1") as store:
        async with pulsing(store) as first:
            pass
        await first.pulse.end()
        assert first.pulse.reasons() == []
        assert math.isnan(first.pulse.age_s()), "none is sent, so none is missed"
    with capture_logs() as logs:
        async with opened(store_url, daemon="d2") as store, pulsing(store) as second:
            assert second.windows == 1
            async with opened(store_url, daemon="d3") as other, pulsing(other) as third:
                assert third.windows == 1
    assert [line["cause"] for line in logs if line["event"] == "monitor.was_blind"] == ["daemon_started"]


async def test_p13_a_clock_that_was_stepped_back_far_is_a_reason(store_url: str) -> None:
    async with opened(store_url) as store, pulsing(store) as daemon, Redis.from_url(store_url) as redis:
        await redis.hincrby("{ls:0}:meta", "skew", 9_000)
        await daemon.more()
        assert daemon.pulse.reasons() == []
        await redis.hincrby("{ls:0}:meta", "skew", 2_000)
        await daemon.more()
        assert daemon.pulse.reasons() == [Reason.CLOCK_SKEW]


async def test_p13_a_clock_that_was_stepped_back_for_one_partition_of_several_is_a_reason(store_url: str) -> None:
    async with opened(store_url, partitions=2) as store, pulsing(store) as daemon, Redis.from_url(store_url) as redis:
        windows = daemon.windows
        await redis.hincrby("{ls:1}:meta", "skew", 11_000)
        await daemon.more()
        assert daemon.pulse.reasons() == [Reason.CLOCK_SKEW]
        assert 10 < daemon.pulse.skew_s() <= 11
        assert daemon.windows > windows, "to its pulses the jump is a gap"


async def test_p1_pulses_go_on_while_the_store_answers_late_and_leave_connections_to_beats(store_url: str) -> None:
    async with proxied(store_url) as proxy, opened(proxy.url, timeout_s=60.0) as store, pulsing(store) as daemon:
        await asyncio.gather(*(store.pulse(0) for _ in range(8)))  # connections that are open already
        proxy.stall(Way.ANSWERS)
        sent = proxy.seen(b"_pulse\r\n")
        await proxy.until(lambda: proxy.seen(b"_pulse\r\n") >= sent + 3, "pulses of which none was answered")
        ticks = daemon.ticks
        await daemon.until(lambda: daemon.ticks >= ticks + 5, "ticks at which there might be more")
        assert proxy.seen(b"_pulse\r\n") <= sent + 4, "no more of them at a time"
        proxy.flow()
        await daemon.more()


async def test_p28_a_daemon_that_is_behind_sends_no_pulse_and_that_is_a_blind_window(store_url: str) -> None:
    async with opened(store_url) as store, pulsing(store) as daemon:
        daemon.is_behind = True
        await daemon.until(lambda: daemon.ticks >= 1, "a tick")
        ticks, windows = daemon.ticks, daemon.windows
        assert daemon.pulse.reasons() == []
        await daemon.until(lambda: daemon.ticks >= ticks + 6, "ticks for more than 750 ms")
        assert daemon.pulse.age_s() > 0.75, "what it says instead is no pulse"
        await daemon.until(lambda: daemon.ticks >= ticks + 12, "ticks for more than 2 s")
        assert daemon.pulse.reasons() == [Reason.BLIND]
        assert daemon.ownership.token(0), "it routes on"
        daemon.is_behind = False
        await daemon.more()
        assert daemon.windows == windows + 1
        assert daemon.pulse.reasons() == [Reason.BLIND], "that may come again at once"
