"""Rate-limited log lines about refusals: which client met which limit, and whose beats are refused and why."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from monitor.clock import monotonic_ns, monotonic_s
from monitor.metrics.registry import Limit
from monitor.rate_limit import NS, Limiter, Rate
from monitor.workers import WorkerKey

log = structlog.get_logger(__name__)

SPACING_S: Final = 60.0
MOST_NAMES: Final = 1_000
"""Maximum clients counted separately between two lines of one limit."""
AGAIN_S: Final = 600.0
"""A refused worker and its reason are not logged again for at least this long, and at most twice as long."""
MOST_LOGGED: Final = 10_000
UNKNOWN_AGAIN_S: Final = 3_600.0
MOST_CHARS: Final = 64
_LINES: Final = Rate(per_s=1, burst=20)
"""Log rate of one tenant."""


class Limits:
    """Counts and logs limits that were met. Belongs to one event loop. ``count`` increments the metric of a limit."""

    def __init__(self, count: Callable[[Limit], None], *, now_s: Callable[[], float] = monotonic_s) -> None:
        self._count = count
        self._now_s = now_s
        self._due_s: dict[Limit, float] = {}
        self._hits: dict[Limit, Counter[str]] = {}
        self._totals: Counter[Limit] = Counter()

    def hit(self, limit: Limit, who: str) -> None:
        """Note that ``limit`` refused a request. ``who`` is the tenant, or the peer address if there is no token."""
        self._count(limit)
        self._totals[limit] += 1
        hits = self._hits.setdefault(limit, Counter())
        if who in hits or len(hits) < MOST_NAMES:
            hits[who] += 1
        now_s = self._now_s()
        if now_s >= self._due_s.get(limit, now_s):
            self._due_s[limit] = now_s + SPACING_S
            most, count = hits.most_common(1)[0]
            log.warning("limit.met", limit=limit.value, who=most, refused=count, refused_in_all=self._totals.pop(limit))
            hits.clear()


class _Seldom:
    """Log deduplication: an item is due again after ``again_s`` at the earliest, and after twice that at the latest."""

    def __init__(self, again_s: float, now_ns: Callable[[], int]) -> None:
        self._again_ns = round(again_s * NS)
        self._now_ns = now_ns
        self._lines = Limiter(_LINES)
        self._young: set[int] = set()
        self._old: set[int] = set()
        self._turn_ns = 0

    def is_due(self, tenant: str | None, what: object) -> bool:
        now_ns = self._now_ns()
        if now_ns >= self._turn_ns or len(self._young) >= MOST_LOGGED:
            late = now_ns >= self._turn_ns + self._again_ns
            self._old, self._young = set() if late else self._young, set()
            self._turn_ns = (now_ns if late else min(now_ns, self._turn_ns)) + self._again_ns
        which = hash((tenant, what))
        if which in self._young or which in self._old or self._lines.wait_ns(hash(tenant), now_ns):
            return False
        self._young.add(which)
        return True


class RefusedBeats:
    """A log line for each worker and reason whose beats are refused. Belongs to one event loop."""

    def __init__(self, *, now_ns: Callable[[], int] = monotonic_ns) -> None:
        self._seldom = _Seldom(AGAIN_S, now_ns)

    def log(self, tenant: str | None, worker_id: str | None, reason: str, detail: str | None = None) -> None:
        """Log that a beat was refused. None: the value is not known."""
        if self._seldom.is_due(tenant, (worker_id, reason)):
            log.warning("beat.refused", tenant=tenant, worker_id=worker_id, reason=str(reason), detail=detail)


class UnknownFieldLog:
    """A log line for each tenant and field that the contract does not know. Belongs to one event loop."""

    def __init__(self, *, now_ns: Callable[[], int] = monotonic_ns) -> None:
        self._seldom = _Seldom(UNKNOWN_AGAIN_S, now_ns)

    def log(self, key: WorkerKey, names: Iterable[str]) -> None:
        """Log these fields, from a beat that registered a worker or from a worker's disconnect."""
        for name in names:
            if self._seldom.is_due(key.tenant, name):
                log.warning("beat.unknown_field", tenant=key.tenant, field=name[:MOST_CHARS], worker_id=key.worker_id)
