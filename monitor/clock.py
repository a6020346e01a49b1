"""The store's time, extrapolated between two answers of the store.

The only module that reads a process clock; all other code gets the time as a parameter. A daemon's wall clock
never decides anything; see ``docs/decisions/``.
"""

import time


class StoreClock:
    """The current store time: the newest answer plus the local monotonic time since then.

    ``observe`` is called with every answer, so drift of the local clock does not accumulate.
    ``now_ms`` never goes back.
    """

    def __init__(self) -> None:
        self._answer_ms = 0
        self._at_ns = 0
        self._floor_ms = 0

    def observe(self, answer_ms: int) -> None:
        """Set the time from an answer of the store, in milliseconds since the epoch."""
        self._answer_ms = answer_ms
        self._at_ns = time.monotonic_ns()

    def now_ms(self) -> int:
        """Return store time in milliseconds since the epoch; 0 before the first answer."""
        if self._answer_ms:
            estimate_ms = self._answer_ms + (time.monotonic_ns() - self._at_ns) // 1_000_000
            self._floor_ms = max(self._floor_ms, estimate_ms)
        return self._floor_ms


monotonic_s = time.monotonic
"""Seconds of a monotonic clock, for durations inside one process."""

monotonic_ns = time.monotonic_ns
"""As ``monotonic_s``, in whole nanoseconds, for arithmetic that must be exact."""


def wall_ms() -> int:
    """Milliseconds since the epoch by this machine's clock.

    Only for values that an operator's command writes down, such as the times in a token that it creates.
    Their validity is judged by store time.
    """
    return time.time_ns() // 1_000_000  # noqa: TID251 - see above
