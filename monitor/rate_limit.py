"""Rate limiting with the generic cell rate algorithm (GCRA, ITU-T I.371), exact and in bounded memory. Pure.

One number is kept for each key, the theoretical arrival time (TAT): when the next request would come if all came
evenly. Its unit is ``1 / per_s`` nanoseconds, in which both the clock and the time between two requests
are whole numbers, so that nothing is ever rounded.
"""

from dataclasses import dataclass
from typing import Final

NS: Final = 1_000_000_000
MOST_KEPT: Final = 131_072
"""Maximum keys, in two generations, at about 170 bytes each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """At most ``per_s`` a second in the long run, and ``burst`` at once after a pause. Both are at least 1."""

    per_s: int
    burst: int


def admitted(rate: Rate, tat: int, *, now_ns: int, count: int = 1) -> tuple[int, int]:
    """Check ``count`` requests that come together at ``now_ns``. Return the new TAT, and 0 if they conform.

    If they do not conform, the TAT is unchanged and the second number is the wait in nanoseconds. More requests than
    the burst conform when the whole burst is free, and the excess is waited for afterwards: a large request is
    slowed down, never impossible.
    """
    now = now_ns * rate.per_s
    begin = max(tat, now)
    over = begin - now + (min(count, rate.burst) - rate.burst) * NS
    if over > 0:
        return tat, -(-over // rate.per_s)
    return begin + count * NS, 0


class Limiter:
    """One rate for each of many keys. A key is a number, such as a hash.

    A TAT that has passed carries no information. So a key is dropped at most two ``horizon_ns`` after its last use;
    in that time even ``most_count`` at once are paid off. Above ``most_kept`` keys they are dropped earlier: bounded
    memory comes first, and some keys may get a second burst.
    """

    def __init__(self, rate: Rate, *, most_count: int = 1, most_kept: int = MOST_KEPT) -> None:
        self._rate = rate
        self._per_s = rate.per_s
        self._slack = (rate.burst - 1) * NS
        self._horizon_ns = -(-(rate.burst + most_count) * NS // rate.per_s)
        self._most = max(most_kept // 2, 1)
        self._young: dict[int, int] = {}
        self._old: dict[int, int] = {}
        self._turn_ns = 0

    def __len__(self) -> int:
        """Return the number of keys kept; some may be counted twice."""
        return len(self._young) + len(self._old)

    def wait_ns(self, key: int, now_ns: int) -> int:
        """Take one request of ``key``, or return the wait in nanoseconds after which it would conform."""
        # The same as ``admitted``, inlined: this runs for every beat.
        tat = self._young.get(key)
        if tat is None or now_ns >= self._turn_ns:
            tat = self._known(key, now_ns)
        now = now_ns * self._per_s
        if tat <= now:
            self._young[key] = now + NS
            return 0
        over = tat - now - self._slack
        if over > 0:
            return -(-over // self._per_s)
        self._young[key] = tat + NS
        return 0

    def wait_for_ns(self, key: int, now_ns: int, count: int) -> int:
        """Do as ``wait_ns`` does, for at most ``most_count`` requests at once."""
        tat, wait_ns = admitted(self._rate, self._known(key, now_ns), now_ns=now_ns, count=count)
        if not wait_ns:
            self._young[key] = tat
        return wait_ns

    def _known(self, key: int, now_ns: int) -> int:
        if now_ns >= self._turn_ns or len(self._young) >= self._most:
            self._turn(now_ns)
        return self._young.get(key) or self._old.get(key, 0)

    def _turn(self, now_ns: int) -> None:
        late = now_ns >= self._turn_ns + self._horizon_ns
        self._old = {} if late else self._young
        self._young = {}
        self._turn_ns = now_ns + self._horizon_ns
