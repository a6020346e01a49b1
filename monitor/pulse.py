"""The pulse: this daemon's periodic write to the store that says it accepts beats.

``monitor/blindness.py`` describes what a missing pulse means. A pulse must prove its claim: it is sent by the loop that
serves requests, through the connections that beats use, and a store that refuses beats refuses it too.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final

import structlog

from monitor.blindness import PULSE_MS
from monitor.clock import monotonic_s
from monitor.errors import StoreUnavailableError
from monitor.events import rfc3339
from monitor.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from monitor.store import Store
    from monitor.store.results import PulseResult

log = structlog.get_logger(__name__)

IN_FLIGHT: Final = 4
"""Maximum pulses in flight, so that connections stay free for beats."""
BLIND_S: Final = 2.0
"""Without an accepted pulse for this long, the daemon counts as unable to accept beats."""
CALM_S: Final = 10.0
"""Being behind is over after this long without it; until then breaks are ignored."""
SKEW_MS: Final = 10_000
"""Above this total of backward steps of the server's clock, store time is too far ahead of it."""


class Pulse:
    """Sends pulses. Belongs to one event loop. ``on_sums`` gets the number of blind windows and their length in ms.

    While ``is_behind``, a report of being behind replaces the pulse: beats have come and are not accepted yet.
    """

    def __init__(
        self, store: Store, *, on_sums: Callable[[int, int], None], is_behind: Callable[[], bool] = lambda: False
    ) -> None:
        self._is_behind = is_behind
        self._store = store
        self._on_sums = on_sums
        self._known_ms = [-1] * store.partitions
        """End of the newest blind window seen, by partition."""
        self._taken_s: float | None = None
        self._behind_s = (-math.inf, -math.inf)
        """Begin and newest moment of being behind, short breaks ignored."""
        self._skew_ms = 0
        self._available = True

    async def run(self) -> None:
        """Send pulses until cancelled. Start it when beats are accepted."""
        self._taken_s = monotonic_s()
        sending: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as group:
            while True:
                # A pulse does not wait for the answer to another one: a store that answers late is slow, not blind.
                behind = self._is_behind()
                if behind:
                    now_s = monotonic_s()
                    begun_s = now_s if now_s > self._behind_s[1] + CALM_S else self._behind_s[0]
                    self._behind_s = begun_s, now_s
                if len(sending) < IN_FLIGHT:
                    task = group.create_task(self._send_one(behind=behind))
                    sending.add(task)
                    task.add_done_callback(sending.discard)
                await asyncio.sleep(PULSE_MS / 1_000)

    async def end(self) -> None:
        """Report that no beats are accepted from now on. Call it after ``run`` was cancelled."""
        self._taken_s = None
        try:
            await self._send(ends=True)
        except StoreUnavailableError as error:
            # Then the gap without pulses shows it, a moment later.
            log.warning("pulse.store_unavailable", error=str(error))

    def age_s(self) -> float:
        """Return the time since the store took a pulse of this daemon, in seconds; NaN while none is sent."""
        return math.nan if self._taken_s is None else monotonic_s() - self._taken_s

    def skew_s(self) -> float:
        """Return by how much store time is ahead of the server's clock, in seconds."""
        return self._skew_ms / 1_000

    def reasons(self) -> list[str]:
        """Return why the monitor is degraded."""
        found: list[str] = []
        begun_s, behind_s = self._behind_s
        if self.age_s() > BLIND_S or (behind_s > begun_s + BLIND_S and monotonic_s() < behind_s + CALM_S):
            found.append(Reason.BLIND)
        if self._skew_ms > SKEW_MS:
            found.append(Reason.CLOCK_SKEW)
        return found

    async def _send_one(self, *, behind: bool) -> None:
        try:
            await self._send(behind=behind)
        except StoreUnavailableError as error:
            if self._available:
                log.warning("pulse.store_unavailable", error=str(error))
            self._available = False
        else:
            if not behind:
                self._taken_s = monotonic_s()
            self._available = True

    async def _send(self, *, ends: bool = False, behind: bool = False) -> None:
        results = await asyncio.gather(
            *(self._store.pulse(partition, ends=ends, behind=behind) for partition in range(self._store.partitions))
        )
        self._skew_ms = max(result.skew_ms for result in results)
        self._on_sums(max(result.windows for result in results), max(result.blind_ms for result in results))
        for partition, result in enumerate(results):
            self._log_window(partition, result)

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
