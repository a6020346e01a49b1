"""When many workers of an environment fall silent at once, or are not listened to (P16). Pure.

Deaths are counted by their deadlines, which lie within one interval of each other when the workers fell silent
together. Before that many deadlines have passed, the store can tell how many workers have missed beats; and before
that many deaths have been counted, how many it has recorded, which may be far more: a fleet that falls silent is
recorded within a second, also while nobody routes. While that looks like a mass failure, the notifications are held.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import ceil
from typing import TYPE_CHECKING, Final

import msgspec

from alerts.groups.keys import digest
from monitor.liveness import EventKind, Liveness

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alerts.groups.fleet import EnvironmentHealth
    from monitor.events import Event

BUCKETS: Final = 30
"""Parts of an interval in which deaths are counted."""
LEAST_BUCKET_MS: Final = 1_000
LONGEST_WINDOW_MS: Final = 600_000
"""Deaths further apart than this are not one failure, however seldom a worker beats: a worker with an interval of a day
must not make one of a day's deaths."""


SILENT: Final = frozenset({EventKind.STALE, EventKind.REJECTED})
"""What is counted as a death: no beat of the worker is stored. Whether that is for want of beats, or because they are
rejected, is for the notification to say: a token that expires for all is one failure too."""


class FailureState(StrEnum):
    """What an environment looks like."""

    CALM = "calm"
    SUSPECTED = "suspected"
    """So many have missed beats that it may be a mass failure: its notifications are held."""
    DECLARED = "declared"
    """So many have died within one interval that they are one incident."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """A mass failure is at least ``least`` workers, and at least ``share`` of those that are expected."""

    share: float = 0.2
    least: int = 5
    hold_ms: int = 120_000

    def threshold(self, expected: int) -> int:
        """So many workers that fall silent within one interval are a mass failure."""
        return max(self.least, ceil(self.share * expected))


class FailureWindow(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The deaths of one environment within about an interval."""

    bucket_ms: int = LEAST_BUCKET_MS
    deaths: dict[str, int] = msgspec.field(default_factory=dict)
    """How many deadlines passed, by the number of the bucket that they lie in."""
    positions: dict[str, str] = msgspec.field(default_factory=dict)
    """How far each partition's stream was counted: events that come again count once."""
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
    rule: Rule,
    now_ms: int,
) -> FailureState:
    """Count deaths and returns of one partition, in the order of its stream; changes ``wave``.

    ``health`` is the environment as the store knows it now, after these deaths.
    """
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
    for event in (*deaths, *returns):
        if _is_new(window, event):
            window.positions[str(event.partition)] = event.position
    is_rejected = any(event.kind is EventKind.REJECTED for event in deaths)
    return _judge(window, health, fallen_of(health, is_rejected=is_rejected), rule=rule, now_ms=now_ms)


def since_of(window: FailureWindow, deaths: Sequence[Event]) -> int | None:
    """From when on deaths count together with these: an interval before the newest; None where there are none."""
    if not deaths:
        return None
    newest_ms = max(window.newest_due_ms, *(event.due_ms for event in deaths))
    return newest_ms - max(window.interval_ms, *(min(event.interval_ms, LONGEST_WINDOW_MS) for event in deaths))


def fallen_of(health: EnvironmentHealth, *, is_rejected: bool) -> int:
    """How many have fallen silent, as the worker store knows it, at the most; where beats of some are rejected, all
    count whose are: since when is not known of them. More than are counted here, while their events wait.
    """
    return health.fallen + (health.rejected if is_rejected else 0)


def silent_now(window: FailureWindow) -> int:
    """How many have died within the last interval."""
    return sum(window.deaths.values())


def _judge(window: FailureWindow, health: EnvironmentHealth, fallen: int, *, rule: Rule, now_ms: int) -> FailureState:
    oldest = (window.newest_due_ms - window.interval_ms) // window.bucket_ms
    window.deaths = {bucket: count for bucket, count in window.deaths.items() if int(bucket) >= oldest and count > 0}
    dead = silent_now(window)
    threshold = rule.threshold(health.size(dead))
    if dead >= threshold:
        if now_ms >= window.declared_until_ms:
            window.incident_id = None  # another one than the last
        window.declared_until_ms = max(window.newest_due_ms, now_ms) + window.interval_ms
        return FailureState.DECLARED
    if now_ms < window.declared_until_ms:
        return FailureState.DECLARED
    window.incident_id = None
    down = max(dead, fallen)
    return FailureState.SUSPECTED if down + health.silent >= rule.threshold(health.size(down)) else FailureState.CALM


def incident_of(window: FailureWindow, tenant: str, environment: str) -> str:
    """The id of the declared failure's incident; the same for as long as it collects deaths."""
    if window.incident_id is None:
        window.incident_id = "inc_" + digest(tenant, environment, str(window.newest_due_ms))
    return window.incident_id


def _is_counted(window: FailureWindow, event: Event) -> bool:
    """Whether a worker that has fallen silent is counted still from when its beats were rejected."""
    return event.old is Liveness.STALE and window.deaths.get(str(event.since_ms // window.bucket_ms), 0) > 0


def _is_new(window: FailureWindow, event: Event) -> bool:
    known = window.positions.get(str(event.partition))
    return known is None or _at(event.position) > _at(known)


def _at(position: str) -> tuple[int, int]:
    ms, _, n = position.partition("-")
    return int(ms), int(n or 0)
