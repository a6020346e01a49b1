"""The pulse: this daemon's periodic write to each partition that says it accepts beats, and bids for its lease.

``monitor/blindness.py`` describes what a missing pulse means. A pulse must prove its claim: it is sent by the loop that
serves requests, through the connections that beats use, and a store that refuses beats refuses it too.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import cycle
from typing import Final

import structlog

from monitor.blindness import PULSE_MS
from monitor.clock import monotonic_s
from monitor.errors import StoreUnavailableError
from monitor.events import rfc3339
from monitor.ownership import Bid, Lease, Ownership
from monitor.reasons import Reason
from monitor.store import Store, StoreFullError
from monitor.store.results import PulseResult

log = structlog.get_logger(__name__)

IN_FLIGHT: Final = 4
"""Maximum pulses of a partition in flight, so that connections stay free for beats."""
BLIND_S: Final = 2.0
"""Without an accepted pulse for this long, the daemon counts as unable to accept beats."""
CALM_S: Final = 10.0
"""Being behind is over after this long without it; until then breaks are ignored."""
SKEW_MS: Final = 10_000
"""Above this total of backward steps of the server's clock, store time is too far ahead of it."""


class Pulse:
    """Sends pulses. Belongs to one event loop. ``on_sums`` gets the number of blind windows and their length in ms.

    ``ownership`` says what to bid and gets the answers. ``on_waiting`` gets each owned partition whose events wait.
    While ``is_behind``, a report of being behind replaces the pulse: beats have come and are not accepted yet.
    """

    def __init__(
        self,
        store: Store,
        ownership: Ownership,
        *,
        on_sums: Callable[[int, int], None],
        on_waiting: Callable[[int], None] = lambda _: None,
        is_behind: Callable[[], bool] = lambda: False,
    ) -> None:
        self._is_behind = is_behind
        self._store = store
        self._ownership = ownership
        self._on_sums = on_sums
        self._on_waiting = on_waiting
        self._known_ms = [-1] * store.partitions
        """End of the newest blind window seen, by partition."""
        self._sums = 0, 0
        """The most blind windows of a partition, and the longest time in them."""
        self._skews_ms = [0] * store.partitions
        self._in_flight: Counter[int] = Counter()
        self._unavailable: set[int] = set()
        self._taken_s: list[float] = []
        """When each partition took a pulse; empty while none is sent."""
        self._behind_s = (-math.inf, -math.inf)
        """Begin and newest moment of being behind, short breaks ignored."""

    async def run(self) -> None:
        """Send pulses until cancelled. Start it when beats are accepted."""
        partitions = range(self._store.partitions)
        self._taken_s = [monotonic_s() for _ in partitions]
        async with asyncio.TaskGroup() as group:
            for asked in cycle(partitions):  # one in turn is asked for the daemons that pulse: one may be broken
                # A pulse does not wait for the answer to another one: a store that answers late is slow, not blind.
                behind = self._is_behind()
                if behind:
                    now_s = monotonic_s()
                    begun_s = now_s if now_s > self._behind_s[1] + CALM_S else self._behind_s[0]
                    self._behind_s = begun_s, now_s
                for partition in partitions:
                    if self._in_flight[partition] < IN_FLIGHT:
                        self._in_flight[partition] += 1
                        group.create_task(self._send(partition, behind=behind, asks=partition == asked))
                await asyncio.sleep(PULSE_MS / 1_000)

    async def end(self) -> None:
        """Report that no beats are accepted from now on, and give the leases up. Call it after ``run`` was cancelled.

        Where that fails, the gap without pulses shows it a moment later, and the lease ends.
        """
        self._taken_s = []
        await asyncio.gather(*(self._send(partition, ends=True) for partition in range(self._store.partitions)))

    def age_s(self) -> float:
        """Return the time since each partition has taken a pulse of this daemon, in seconds; NaN while none is sent."""
        return monotonic_s() - min(self._taken_s, default=math.nan)

    def skew_s(self) -> float:
        """Return by how much store time is ahead of the server's clock, in seconds."""
        return max(self._skews_ms) / 1_000

    def failing(self) -> list[str]:
        """Return the partitions that take no pulses while others do."""
        now_s = monotonic_s()
        found = [f"partition {one}" for one, taken_s in enumerate(self._taken_s) if now_s - taken_s > BLIND_S]
        return found if len(found) < len(self._taken_s) else []

    def reasons(self) -> list[str]:
        """Return why the monitor is degraded."""
        found: list[str] = []
        begun_s, behind_s = self._behind_s
        if self.age_s() > BLIND_S or (behind_s > begun_s + BLIND_S and monotonic_s() < behind_s + CALM_S):
            found.append(Reason.BLIND)
        if self.skew_s() > SKEW_MS / 1_000:
            found.append(Reason.CLOCK_SKEW)
        return found

    async def _send(self, partition: int, *, ends: bool = False, behind: bool = False, asks: bool = False) -> None:
        bid = Bid.NONE if ends else self._ownership.bid(partition)
        try:
            result = await self._store.pulse(partition, ends=ends, behind=behind, bid=bid, asks=asks)
        except StoreUnavailableError as error:
            if partition not in self._unavailable:
                log.warning("pulse.store_unavailable", partition=partition, error=str(error))
            self._unavailable.add(partition)
            if isinstance(error, StoreFullError):
                with suppress(StoreUnavailableError):
                    self._note(partition, bid, await self._store.lease(partition, bid=bid))
        else:
            self._unavailable.discard(partition)
            if self._taken_s and not behind:
                self._taken_s[partition] = monotonic_s()
            self._skews_ms[partition] = result.skew_ms
            self._sums = max(self._sums[0], result.windows), max(self._sums[1], result.blind_ms)
            self._on_sums(*self._sums)
            self._log_window(partition, result)
            self._note(partition, bid, result.lease)
        finally:
            self._in_flight[partition] -= 1

    def _note(self, partition: int, bid: Bid, lease: Lease) -> None:
        self._ownership.note(partition, bid, lease)
        if lease.token and lease.waiting_ms:
            self._on_waiting(partition)

    def _log_window(self, partition: int, result: PulseResult) -> None:
        """Log a new blind window once. Windows that had ended before this daemon started are not logged."""
        window, cause = result.window, result.cause
        known_ms = self._known_ms[partition]
        self._known_ms[partition] = max(known_ms, 0 if window is None else window.end_ms)
        if window is None or cause is None or window.end_ms <= known_ms:
            return
        if known_ms >= 0 or window.end_ms == result.now_ms:
            log.warning(
                "monitor.was_blind",
                partition=partition,
                cause=cause.value,
                begin=rfc3339(window.begin_ms),
                seconds=(window.end_ms - window.begin_ms) / 1_000,
            )
