"""The pulse: this daemon tells the store, again and again, that it accepts beats.

What the store makes of a missing pulse is told in ``monitor/blindness.py``. A pulse says nothing that is not so: it is
sent by the loop that serves requests, through the connections that beats take, and a store that refuses beats refuses
it.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final

import structlog

from monitor.blindness import PULSE_MS
from monitor.clock import monotonic_s
from monitor.events import rfc3339
from monitor.reasons import Reason
from monitor.store import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from monitor.store import Store
    from monitor.store.results import PulseResult

log = structlog.get_logger(__name__)

IN_FLIGHT: Final = 4
"""Pulses that wait for their answers; more are not sent, so that they leave connections to beats."""
BLIND_S: Final = 2.0
"""Without a pulse that the store took, this daemon counts as one that can't accept beats."""
CALM_S: Final = 10.0
"""After so long without being behind it is over; sooner it may come and go."""
SKEW_MS: Final = 10_000
"""By more than this the server's clock was stepped back, in all: store time is ahead of it."""


class Pulse:
    """Belongs to one event loop. ``on_sums`` is told how many blind windows there were, and how long, in ms.

    While ``is_behind`` no pulse is sent: beats have come, and are not accepted. That is said instead.
    """

    def __init__(
        self, store: Store, *, on_sums: Callable[[int, int], None], is_behind: Callable[[], bool] = lambda: False
    ) -> None:
        self._is_behind = is_behind
        self._store = store
        self._on_sums = on_sums
        self._known_ms = [-1] * store.partitions
        """The end of the newest blind window that was told, of each partition."""
        self._taken_s: float | None = None
        self._behind_s = (-math.inf, -math.inf)
        """When this daemon began to be behind, with no long breaks, and when it was last."""
        self._skew_ms = 0
        self._available = True

    async def run(self) -> None:
        """Send pulses for ever; to be begun when beats are accepted."""
        self._taken_s = monotonic_s()
        sending: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as group:
            while True:
                # None waits for the answer to another: a store that answers late is slow, and not blind.
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
        """Say that no beats are accepted from now on; ``run`` was cancelled."""
        self._taken_s = None
        try:
            await self._send(ends=True)
        except StoreUnavailableError as error:
            # Then the gap says it, a moment later.
            log.warning("pulse.store_unavailable", error=str(error))

    def age_s(self) -> float:
        """How long ago the store took a pulse of this daemon, in seconds; NaN while none is sent."""
        return math.nan if self._taken_s is None else monotonic_s() - self._taken_s

    def skew_s(self) -> float:
        """By how much store time is ahead of the server's clock, in seconds."""
        return self._skew_ms / 1_000

    def reasons(self) -> list[str]:
        """Why the monitor is not well."""
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
            self._tell(partition, result)

    def _tell(self, partition: int, result: PulseResult) -> None:
        """Say once that there was a blind window; one that had ended before we began is not ours to tell."""
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
