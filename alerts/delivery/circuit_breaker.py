"""Circuit breaker for a receiver in trouble. Holds state, does no I/O.

Each group has its own retry schedule, so thousands of groups would keep a failing receiver under load. After several
consecutive failures only one attempt at a time is made, each after a pause that doubles up to a bound. The first
success ends this.
"""

from collections.abc import Callable
from typing import Final

FAILURES: Final = 5
FIRST_PAUSE_MS: Final = 1_000
LONGEST_PAUSE_MS: Final = 30_000


class Breaker:
    """One daemon's view of one receiver. ``uniform(a, b)`` draws from ``[a, b]``."""

    def __init__(self, *, uniform: Callable[[float, float], float]) -> None:
        self._uniform = uniform
        self._failures = 0
        self._until_ms = 0

    @property
    def is_open(self) -> bool:
        """Whether the receiver is in trouble."""
        return self._failures >= FAILURES

    def room(self, most: int, *, in_flight: int, now_ms: int) -> int:
        """How many attempts may be begun now, of at most ``most``."""
        if not self.is_open:
            return most
        return 1 if most > 0 and in_flight == 0 and now_ms >= self._until_ms else 0

    def succeeded(self) -> bool:
        """Record an attempt that the receiver answered. Returns whether that closed the breaker."""
        ended, self._failures = self.is_open, 0
        return ended

    def failed(self, *, now_ms: int) -> bool:
        """Record an attempt that failed. Returns whether that opened the breaker."""
        self._failures += 1
        if not self.is_open:
            return False
        doublings = min(self._failures - FAILURES, 16)
        pause_ms = min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2**doublings)
        self._until_ms = now_ms + round(self._uniform(pause_ms / 2, pause_ms))
        return self._failures == FAILURES
