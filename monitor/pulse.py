"""The pulse: this daemon tells the store, again and again, that it accepts beats.

What the store makes of a missing pulse is told in ``monitor/blindness.py``. A pulse says nothing that is not so: it is
sent by the loop that serves requests, through the connections that beats take, and a store that refuses beats refuses
it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from monitor.blindness import PULSE_MS
from monitor.clock import monotonic_s
from monitor.events import rfc3339
from monitor.store import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from monitor.blindness import Cause, Window
    from monitor.store import Store

log = structlog.get_logger(__name__)

BLIND: Final = "blind"
"""The store took no pulse of this daemon for ``BLIND_S``: it can't accept beats."""
CLOCK_SKEW: Final = "clock_skew"
"""The store's clock has been stepped back, by more than ``SKEW_MS`` in all: time goes on ahead of it."""

BLIND_S: Final = 2.0
SKEW_MS: Final = 10_000


class Pulse:
    """Belongs to one event loop. ``on_window`` is told of each blind window that a pulse of ours has ended."""

    def __init__(self, store: Store, *, on_window: Callable[[Window, Cause], None]) -> None:
        self._store = store
        self._on_window = on_window
        self._taken_s: float | None = None
        self._skew_ms = 0
        self._available = True

    async def run(self) -> None:
        """Send pulses for ever; to be begun when beats are accepted."""
        loop = asyncio.get_running_loop()
        self._taken_s = monotonic_s()
        while True:
            due_s = loop.time() + PULSE_MS / 1_000
            try:
                await self._send(ends=False)
            except StoreUnavailableError as error:
                if self._available:
                    log.warning("pulse.store_unavailable", error=str(error))
                self._available = False
            else:
                self._taken_s = monotonic_s()
                self._available = True
            # At once after a call that took long: each pulse that is missed is a quarter of a second not seen.
            await asyncio.sleep(max(due_s - loop.time(), 0))

    async def end(self) -> None:
        """Say that no beats are accepted from now on; ``run`` was cancelled."""
        self._taken_s = None
        try:
            await self._send(ends=True)
        except StoreUnavailableError as error:
            # Then the gap says it, a moment later.
            log.warning("pulse.store_unavailable", error=str(error))

    def reasons(self) -> list[str]:
        """Why the monitor is not well."""
        found = []
        if self._taken_s is not None and monotonic_s() - self._taken_s > BLIND_S:
            found.append(BLIND)
        if self._skew_ms > SKEW_MS:
            found.append(CLOCK_SKEW)
        return found

    async def _send(self, *, ends: bool) -> None:
        results = await asyncio.gather(
            *(self._store.pulse(partition, ends=ends) for partition in range(self._store.partitions))
        )
        self._skew_ms = max(result.skew_ms for result in results)
        for partition, result in enumerate(results):
            if result.window is not None and result.cause is not None:
                window = result.window
                log.warning(
                    "monitor.was_blind",
                    partition=partition,
                    cause=result.cause.value,
                    begin=rfc3339(window.begin_ms),
                    seconds=(window.end_ms - window.begin_ms) / 1_000,
                )
                self._on_window(window, result.cause)
