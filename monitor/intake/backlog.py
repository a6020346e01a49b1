"""Whether beats that have come are not dealt with in time. Then no pulse may say that they are (P28).

A beat waits for a turn of the loop and then for the store, or, when it was refused for our fault, for the store to note
that. While it waits its worker's deadline comes nearer. So when the waits together are longer than the most impatient
worker can stand, the daemon counts as one that accepts no beats: none of its workers is reported then, and what was
missed is credited as any outage (``monitor/blindness.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from monitor.blindness import GAP_MS
from monitor.clock import monotonic_s

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LIMIT_S: Final = 2.0
"""A longer wait is one that somebody who asks a healthy daemon does not have, whatever the workers' graces."""
KEPT_S: Final = 600.0
"""For at least so long, and at most twice, a worker's grace counts after its beat."""


class Graces:
    """The shortest grace of those that beat, in milliseconds. ``usual_ms`` are those of workers that declare none."""

    def __init__(self, usual_ms: Iterable[int], *, now_s: Callable[[], float] = monotonic_s) -> None:
        self._usual_ms = self._old_ms = self.newest_ms = min(usual_ms)
        self._now_s = now_s
        self._turn_s = now_s() + KEPT_S

    def add(self, grace_ms: int) -> None:
        """A worker with this grace has beaten. Only one below ``newest_ms`` says anything new."""
        self.newest_ms = min(self.newest_ms, grace_ms)

    def shortest_ms(self) -> int:
        """The shortest grace of those that have beaten lately."""
        if self._now_s() >= self._turn_s:
            self._old_ms, self.newest_ms = self.newest_ms, self._usual_ms
            self._turn_s = self._now_s() + KEPT_S
        return min(self._old_ms, self.newest_ms)


class Backlog:
    """How long the one has waited that waits for longest, in seconds: for a turn, for the store, to be noted."""

    def __init__(
        self, graces: Graces, *, turn_s: Callable[[], float], store_s: Callable[[], float], note_s: Callable[[], float]
    ) -> None:
        self._graces = graces
        self._turn_s, self._store_s, self._note_s = turn_s, store_s, note_s

    def __call__(self) -> bool:
        """Whether beats are not dealt with in time."""
        # A gap between pulses shows when it has lasted for GAP_MS: no deadline that it is to move may pass sooner.
        limit_s = min(LIMIT_S, (self._graces.shortest_ms() - GAP_MS) / 1_000)
        return self._turn_s() + max(self._store_s(), self._note_s()) > limit_s
