"""The store's time, carried between two answers of the store.

The only module that reads a process clock: everything else is given a time. A daemon's wall clock
is never used for a judgement; see ``docs/decisions/``.
"""

from __future__ import annotations

import time


class StoreClock:
    """What the store's clock says now: its newest answer plus our own monotonic time since.

    ``observe`` is called with every answer, so a drift of our own clock never adds up;
    ``now_ms`` never goes back.
    """

    def __init__(self) -> None:
        self._answer_ms = 0
        self._at_ns = 0
        self._floor_ms = 0

    def observe(self, answer_ms: int) -> None:
        """Take in the time that an answer of the store carried, in milliseconds since the epoch."""
        self._answer_ms = answer_ms
        self._at_ns = time.monotonic_ns()

    def now_ms(self) -> int:
        """Milliseconds since the epoch by the store's clock; 0 before its first answer."""
        if self._answer_ms:
            estimate_ms = self._answer_ms + (time.monotonic_ns() - self._at_ns) // 1_000_000
            self._floor_ms = max(self._floor_ms, estimate_ms)
        return self._floor_ms


monotonic_s = time.monotonic
"""Seconds of a clock that only goes forward; for durations inside one process."""

monotonic_ns = time.monotonic_ns
"""As ``monotonic_s``, in whole nanoseconds, for arithmetic that must be exact."""


def wall_ms() -> int:
    """Milliseconds since the epoch by this machine's clock.

    Only for what a person's own command writes down, such as the times in a token that it makes;
    whether they are good is judged by the store's time.
    """
    return time.time_ns() // 1_000_000  # noqa: TID251 - see above
