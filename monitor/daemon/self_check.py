"""Background self-checks, so that health endpoints answer from memory (P27).

Checks the event loop, the store and the receivers' queues, each at its own rate, independent of requests. The results
go to the metrics, to the health and to the other processes of the daemon.
"""

import asyncio
import ctypes
import math
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import structlog

from alerts.store.receivers import Stats
from monitor.clock import monotonic_s
from monitor.durability import DurabilityMode
from monitor.errors import StoreUnavailableError
from monitor.health import PROBE_AGE_S, Health
from monitor.metrics.registry import Metrics
from monitor.pulse import Pulse
from monitor.reasons import Reason
from monitor.store import Store
from monitor.store.outbox import Outbox

log = structlog.get_logger(__name__)

TURN_S: Final = 0.25
LOOP_WINDOW_S: Final = 10.0
LOOP_LAG_S: Final = 1.0
"""Half of the timeout of a beat: if the loop is blocked for longer, workers get 503."""
QUEUES_S: Final = 5.0
DELIVERY_LAG_S: Final = 60.0
STORE_S: Final = 15.0
STORE_AGAIN_S: Final = 2.0
"""Time to the next check of the store while it is degraded."""
CONFIRM_TRIES: Final = 3
"""Confirmations in a row that must fail before the store counts as not durable: a disk may be slow for a moment."""
FULL_SHARE: Final = 0.9
TRIM_S: Final = 30.0


class SelfCheck:
    """The self-checks of one event loop. ``queues`` returns the status of the receivers' queues.

    ``owners``: the tenants that a receiver belongs to.
    """

    def __init__(
        self,
        *,
        store: Store,
        health: Health,
        metrics: Metrics,
        outbox: Outbox,
        pulse: Pulse,
        queues: Callable[[], Awaitable[Sequence[Stats]]],
        owners: Mapping[str, frozenset[str]],
    ) -> None:
        self._store = store
        self._health = health
        self._metrics = metrics
        self._gauges = metrics.condition
        self._outbox = outbox
        self._pulse = pulse
        self._queues = queues
        self._owners = owners
        self._tenants_with_dead_letters: frozenset[str] = frozenset()
        self._lags: deque[tuple[float, float]] = deque()
        self._queue_reasons: list[str] = []
        self._queues_seen_s = monotonic_s()
        self._store_reasons: list[str] = []
        health.add_reasons(outbox.reasons)
        health.add_reasons(pulse.reasons)
        health.add_failing(pulse.failing)
        health.add_reasons(self._reasons)
        health.add_tenant_reasons(self._reasons_of)

    async def run(self) -> None:
        """Run the checks until cancelled. An exception from here is a bug."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_loop(), name="watch the loop")
            group.create_task(self._watch_probe(), name="watch the probe")
            group.create_task(self._watch_queues(), name="watch the queues")
            group.create_task(self._watch_store(), name="watch the store")
            group.create_task(_give_back_now_and_then(), name="give back memory")

    def _reasons(self) -> list[str]:
        reasons = [*self._queue_reasons, *self._store_reasons]
        if monotonic_s() - self._queues_seen_s > DELIVERY_LAG_S:
            reasons.append(Reason.DELIVERY_LAG)
        if self._loop_lag_s() > LOOP_LAG_S:
            reasons.append(Reason.EVENT_LOOP_LAG)
        return reasons

    def _reasons_of(self, tenant: str) -> list[str]:
        return [Reason.DEAD_LETTERS] if tenant in self._tenants_with_dead_letters else []

    def _loop_lag_s(self) -> float:
        """Longest delay of the loop within the window."""
        began_s = monotonic_s() - LOOP_WINDOW_S
        while self._lags and self._lags[0][0] < began_s:
            self._lags.popleft()
        return max((late_s for _, late_s in self._lags), default=0.0)

    async def _watch_loop(self) -> None:
        """Measure how late a timer fires, and publish this process's state: a stuck process publishes nothing."""
        while True:
            due_s = monotonic_s() + TURN_S
            self._gauges.routing_lag_s.set(self._outbox.lag_s())
            self._gauges.pulse_age_s.set(self._pulse.age_s())
            self._gauges.skew_s.set(self._pulse.skew_s())
            self._metrics.signs(
                at_s=monotonic_s(),
                ready=self._health.stores_beats,
                probe_s=self._health.probe_s,
                loop_lag_s=self._loop_lag_s(),
                reasons=self._health.own_reasons(),
            )
            await asyncio.sleep(TURN_S)
            now_s = monotonic_s()
            self._lags.append((now_s, max(now_s - due_s, 0.0)))

    async def _watch_probe(self) -> None:
        """Make the store write periodically, so that failures are detected without requests and beats too."""
        while True:
            self._gauges.up.set(await self._health.store_writes())
            await asyncio.sleep(PROBE_AGE_S)

    async def _watch_queues(self) -> None:
        """Check the queues. Sends nothing to receivers."""
        while True:
            try:
                found = await self._queues()
            except StoreUnavailableError:  # the store's failure is a separate reason
                self._gauges.clear_queues()
            except Exception:  # a bug of the alert side must not end the intake (P30)
                log.exception("self_check.queues_failed")
                self._gauges.clear_queues()
            else:
                self._queues_seen_s = monotonic_s()
                self._note_queues(found)
            await asyncio.sleep(QUEUES_S)

    def _note_queues(self, found: Sequence[Stats]) -> None:
        self._gauges.clear_queues()
        for one in found:
            self._gauges.queued.labels(one.receiver).set(one.queued)
            self._gauges.groups.labels(one.receiver).set(one.groups)
            self._gauges.lag_s.labels(one.receiver).set(one.lag_ms / 1_000)
            self._gauges.dead_letters.labels(one.receiver).set(one.dead)
            self._gauges.open_dead_letters.labels(one.receiver).set(one.open_dead_letters)
            self._gauges.disabled.labels(one.receiver).set(one.disabled is not None)
        is_late = any(one.lag_ms > DELIVERY_LAG_S * 1_000 for one in found)
        self._queue_reasons = [Reason.DELIVERY_LAG] if is_late else []
        self._queue_reasons += [Reason.RECEIVER_DISABLED] if any(one.disabled is not None for one in found) else []
        open_dead_letters = {one.receiver for one in found if one.open_dead_letters}
        self._queue_reasons += [Reason.DEAD_LETTERS] if open_dead_letters - set(self._owners) else []
        self._tenants_with_dead_letters = frozenset().union(*(self._owners.get(name, ()) for name in open_dead_letters))

    async def _watch_store(self) -> None:
        while True:
            found = await self._look_at_store()
            for reason in found:
                if reason not in self._store_reasons:
                    log.warning("store.degraded", reason=str(reason))
            if self._store_reasons and not found:
                log.info("store.well_again")
            self._store_reasons = found
            await asyncio.sleep(STORE_AGAIN_S if found else STORE_S)

    async def _look_at_store(self) -> list[str]:
        """Reasons why the store is degraded although it accepts writes: nearly full, or not durable."""
        try:
            condition = await self._store.connection.condition()
        except StoreUnavailableError:
            self._gauges.used_bytes.set(math.nan)
            self._gauges.limit_bytes.set(math.nan)
            self._note_durability(math.nan, confirm_s=math.nan)
            return []  # the probe reports that
        self._gauges.used_bytes.set(condition.used_bytes)
        self._gauges.limit_bytes.set(condition.limit_bytes)
        found: list[str] = [Reason.STORE_NEARLY_FULL] if condition.over(FULL_SHARE) else []
        # A server without an append-only file does not answer WAITAOF, nor does one too old for the command.
        keeps = condition.append_only or self._store.settings.durability.mode is not DurabilityMode.FSYNC
        began_s = monotonic_s()
        confirmed = await self._confirms()
        confirm_s = monotonic_s() - began_s
        if not confirmed and not await self._health.store_writes():
            self._note_durability(math.nan, confirm_s=math.nan)
            return found
        self._note_durability(keeps and confirmed, confirm_s=confirm_s)
        return found if keeps and confirmed else [*found, Reason.STORE_NOT_DURABLE]

    def _note_durability(self, value: float, *, confirm_s: float) -> None:
        self._gauges.durable.set(value)
        self._gauges.confirm_s.set(confirm_s)

    async def _confirms(self) -> bool:
        # Checking one partition is enough: all are on one server. But one may be broken.
        for number in range(CONFIRM_TRIES):
            with suppress(StoreUnavailableError):
                await self._store.confirm(number % self._store.partitions)
                return True
        return False


def give_back_memory() -> None:
    """Return free memory of the C library to the system (glibc only), such as after thousands of unfinished bodies.

    Takes a tenth of a millisecond if there is nothing to return, and about four for 40 MiB.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


async def _give_back_now_and_then() -> None:
    while True:
        await asyncio.sleep(TRIM_S)
        give_back_memory()
