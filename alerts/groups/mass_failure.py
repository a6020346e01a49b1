"""Mass failures: many workers of an environment fall silent, or are rejected, at once (P16). Pure.

Deaths are counted by their deadlines, which lie within one interval of each other when the workers fell silent
together. The store gives two earlier signs. Before enough deadlines have passed, it knows how many workers have missed
beats. Before enough deaths have been counted here, it knows how many it has recorded, which may be far more: the death
of a whole fleet is recorded within a second, even while no router runs. While these signs suggest a mass failure,
notifications are held.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil
from typing import Final

import msgspec

from alerts.groups.classify import digest
from monitor.events import Event
from monitor.liveness import EnvironmentHealth, EventKind, Liveness

BUCKETS: Final = 30
"""Buckets per interval in which deaths are counted."""
LEAST_BUCKET_MS: Final = 1_000
LONGEST_WINDOW_MS: Final = 600_000
"""Deaths further apart than this are separate failures, however long a worker's interval is. Otherwise a worker with an
interval of one day would turn all deaths of a day into one failure."""


SILENT: Final = frozenset({EventKind.STALE, EventKind.REJECTED})
"""Events that count as a death: no beats of the worker are stored, because none come or because they are rejected. The
notification says which. Both count: a token that expires for all workers is one failure, too."""


class FailureState(StrEnum):
    """Whether an environment has a mass failure."""

    CALM = "calm"
    SUSPECTED = "suspected"
    """Enough workers have missed beats for a possible mass failure: notifications are held."""
    DECLARED = "declared"
    """Enough workers have died within one interval: they are one incident."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """A mass failure affects at least ``least`` workers, and at least the share ``share`` of the expected ones."""

    share: float = 0.2
    least: int = 5
    hold_ms: int = 120_000

    def threshold(self, expected: int) -> int:
        """Minimum number of workers that must fall silent within one interval for a mass failure."""
        return max(self.least, ceil(self.share * expected))


class FailureWindow(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Deaths in one environment within about one interval: those of one partition, whose stream has their order."""

    bucket_ms: int = LEAST_BUCKET_MS
    deaths: dict[str, int] = msgspec.field(default_factory=dict)
    """Number of passed deadlines in each bucket, by bucket number."""
    position: str = ""
    """Position up to which the stream is counted: a repeated event counts once."""
    newest_due_ms: int = 0
    interval_ms: int = 0
    declared_until_ms: int = 0
    incident_id: str | None = None


def observe(
    window: FailureWindow,
    deaths: Sequence[Event],
    returns: Sequence[Event],
    health: EnvironmentHealth,
    *,
    others: Sequence[FailureWindow] = (),
    rule: Rule,
    now_ms: int,
) -> FailureState:
    """Count deaths and returns of one partition, in the order of its stream. Modifies ``window``.

    ``health``: current health of the environment, after these deaths. ``others``: deaths in the other partitions.
    """
    count(window, deaths, returns)
    is_rejected = any(event.kind is EventKind.REJECTED for event in deaths)
    fallen = fallen_of(health, is_rejected=is_rejected)
    return _judge(window, others, health, fallen, rule=rule, now_ms=now_ms)


def count(window: FailureWindow, deaths: Sequence[Event], returns: Sequence[Event]) -> None:
    """Count deaths and returns of one partition. Idempotent: events that were counted before change nothing."""
    for event in deaths:
        if _is_new(window, event) and not _is_counted(window, event):
            if not window.deaths:
                window.bucket_ms = max(LEAST_BUCKET_MS, min(event.interval_ms, LONGEST_WINDOW_MS) // BUCKETS)
            window.newest_due_ms = max(window.newest_due_ms, event.due_ms)
            window.interval_ms = max(window.interval_ms, min(event.interval_ms, LONGEST_WINDOW_MS))
            bucket = str(event.due_ms // window.bucket_ms)
            window.deaths[bucket] = window.deaths.get(bucket, 0) + 1
    for event in returns:
        bucket = str(event.since_ms // window.bucket_ms)
        if bucket in window.deaths and _is_new(window, event):
            window.deaths[bucket] -= 1
    window.position = max((window.position, *(event.position for event in (*deaths, *returns))), key=_at)


def since_of(window: FailureWindow, deaths: Sequence[Event]) -> int | None:
    """Time since which deaths count together with ``deaths``: one interval before the newest; None: no deaths."""
    if not deaths:
        return None
    newest_ms = max(window.newest_due_ms, *(event.due_ms for event in deaths))
    return newest_ms - max(window.interval_ms, *(min(event.interval_ms, LONGEST_WINDOW_MS) for event in deaths))


def fallen_of(health: EnvironmentHealth, *, is_rejected: bool) -> int:
    """Upper bound of the number of workers that have fallen silent, from the worker store.

    With ``is_rejected``, all workers whose beats are rejected count: the store does not know since when they are. The
    number exceeds the deaths counted here while events wait to be routed.
    """
    return health.fallen + (health.rejected if is_rejected else 0)


def silent_now(window: FailureWindow) -> int:
    """Number of deaths within the last interval."""
    return sum(window.deaths.values())


def is_idle(window: FailureWindow, now_ms: int) -> bool:
    """Whether nothing of the window counts any more."""
    return not silent_now(window) and now_ms >= window.declared_until_ms


def _judge(
    window: FailureWindow,
    others: Sequence[FailureWindow],
    health: EnvironmentHealth,
    fallen: int,
    *,
    rule: Rule,
    now_ms: int,
) -> FailureState:
    newest_ms = max(one.newest_due_ms for one in (window, *others))
    # An old interval of another partition must not make this failure longer.
    recent = [one.interval_ms for one in (window, *others) if newest_ms - one.newest_due_ms <= one.interval_ms]
    interval_ms = max(recent)
    window.deaths = _since(window, newest_ms - interval_ms)
    dead = silent_now(window) + sum(sum(_since(one, newest_ms - interval_ms).values()) for one in others)
    threshold = rule.threshold(health.size(dead))
    if dead >= threshold:
        if now_ms >= window.declared_until_ms:
            window.incident_id = None  # a new failure, not the last one
        window.declared_until_ms = max(newest_ms, now_ms) + interval_ms
        return FailureState.DECLARED
    if now_ms < window.declared_until_ms:
        return FailureState.DECLARED
    window.incident_id = None
    down = max(dead, fallen)
    return FailureState.SUSPECTED if down + health.silent >= rule.threshold(health.size(down)) else FailureState.CALM


def _since(window: FailureWindow, oldest_ms: int) -> dict[str, int]:
    oldest = oldest_ms // window.bucket_ms
    return {bucket: count for bucket, count in window.deaths.items() if int(bucket) >= oldest and count > 0}


def incident_of(window: FailureWindow, tenant: str, environment: str) -> str:
    """Id of the declared failure's incident. It stays the same while the failure collects deaths."""
    if window.incident_id is None:
        window.incident_id = "inc_" + digest(tenant, environment, str(window.newest_due_ms))
    return window.incident_id


def _is_counted(window: FailureWindow, event: Event) -> bool:
    """Whether a worker that has fallen silent is already counted, from when its beats were rejected."""
    return event.old is Liveness.STALE and window.deaths.get(str(event.since_ms // window.bucket_ms), 0) > 0


def _is_new(window: FailureWindow, event: Event) -> bool:
    return _at(event.position) > _at(window.position)


def _at(position: str) -> tuple[int, int]:
    ms, _, n = position.partition("-")
    return int(ms or -1), int(n or 0)
