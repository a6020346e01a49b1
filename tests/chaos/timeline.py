"""The run's clock: seconds since its start, and waiting for a moment of the plan or for a condition."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from monitor.clock import monotonic_s, wall_ms

POLL_S: Final = 0.05


class Timeline:
    """Starts when it is made, or made to start again."""

    def __init__(self) -> None:
        self._start_s = monotonic_s()
        self._start_ms = wall_ms()

    def restart(self) -> float:
        """Start again; how long it ran before."""
        before_s = self.now_s()
        self._start_s += before_s
        self._start_ms = wall_ms()
        return before_s

    def now_s(self) -> float:
        return monotonic_s() - self._start_s

    def at_s(self, store_ms: float) -> float:
        """The moment that the store called so; it has this machine's clock, unless that was stepped for it."""
        return (store_ms - self._start_ms) / 1000

    async def reach(self, at_s: float) -> None:
        """Return at that moment; at once when it has passed."""
        await asyncio.sleep(max(0.0, at_s - self.now_s()))

    async def hold(self, condition: Callable[[], Awaitable[bool]], *, within_s: float, every_s: float = POLL_S) -> bool:
        """Whether the condition came to hold within the time."""
        give_up_s = self.now_s() + within_s
        while not await condition():
            if self.now_s() > give_up_s:
                return False
            await asyncio.sleep(every_s)
        return True
