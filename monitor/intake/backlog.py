"""Whether the backlog of beats is too old. Then no pulse may claim that beats are accepted (P28).

A beat waits for a turn of the event loop and then for the store. A beat that was refused for our fault waits until the
store has noted the refusal. Meanwhile its worker's deadline comes nearer. So when the total wait exceeds what the
shortest grace allows, the daemon counts as one that accepts no beats: none of its workers is reported, and the missed
time is credited like any outage (``monitor/blindness.py``).
"""

from collections.abc import Callable, Iterable
from typing import Final

from monitor.blindness import GAP_MS
from monitor.clock import monotonic_s

LIMIT_S: Final = 2.0
"""Upper bound on acceptable wait, regardless of grace: a healthy daemon never exceeds it."""
KEPT_S: Final = 600.0
"""How long a worker's grace counts after its beat: at least this long, at most twice."""


class Graces:
    """The shortest grace of recently beating workers, in ms. ``usual_ms``: the graces of workers that declare none."""

    def __init__(self, usual_ms: Iterable[int], *, now_s: Callable[[], float] = monotonic_s) -> None:
        self._usual_ms = self._old_ms = self.newest_ms = min(usual_ms)
        self._now_s = now_s
        self._turn_s = now_s() + KEPT_S

    def add(self, grace_ms: int) -> None:
        """Note the grace of a worker that has beaten. Only values below ``newest_ms`` matter."""
        self.newest_ms = min(self.newest_ms, grace_ms)

    def shortest_ms(self) -> int:
        """Return the shortest grace of the workers that have beaten recently."""
        if self._now_s() >= self._turn_s:
            self._old_ms, self.newest_ms = self.newest_ms, self._usual_ms
            self._turn_s = self._now_s() + KEPT_S
        return min(self._old_ms, self.newest_ms)


def is_too_old(graces: Graces, *, turn_s: float, store_s: float, note_s: float) -> bool:
    """Whether the oldest beat waits for too long: for a turn, and for the store or to be noted as refused."""
    # A gap between pulses counts after GAP_MS. No deadline that the gap is to move may pass sooner.
    limit_s = min(LIMIT_S, (graces.shortest_ms() - GAP_MS) / 1_000)
    return turn_s + max(store_s, note_s) > limit_s
