"""Who meets which limit: a metric by limit, and a log line a minute that names the one who met it most often."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import structlog

from monitor.clock import monotonic_s

if TYPE_CHECKING:
    from collections.abc import Callable

    from monitor.metrics import Limit

log = structlog.get_logger(__name__)

SPACING_S: Final = 60.0
MOST_NAMES: Final = 1_000
"""Clients that are counted apart between two lines of one limit."""


class Limits:
    """Belongs to one event loop. ``count`` counts a limit that was met, in the metrics."""

    def __init__(self, count: Callable[[Limit], None], *, now_s: Callable[[], float] = monotonic_s) -> None:
        self._count = count
        self._now_s = now_s
        self._due_s: dict[Limit, float] = {}
        self._hits: dict[Limit, Counter[str]] = {}
        self._totals: Counter[Limit] = Counter()

    def hit(self, limit: Limit, who: str) -> None:
        """A request was refused because of ``limit``; ``who`` is its tenant, or its peer address if it has no token."""
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
