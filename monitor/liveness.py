"""The liveness states of a worker and all transitions between them.

Two rules hold. This module reads no clock, no socket and no setting: times are parameters, in milliseconds of the
store's clock. And only this module defines transitions: the store's Lua library and the diagram in the docs are both
generated from ``TRANSITIONS``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Liveness(StrEnum):
    """The state of a worker. ``LATE`` is derived at read time and never stored."""

    ALIVE = "alive"
    LATE = "late"
    STALE = "stale"
    STOPPED = "stopped"
    FAILED = "failed"


class Trigger(StrEnum):
    """What can cause a transition."""

    BEAT = "beat"
    DEADLINE = "deadline"
    DEADLINE_AFTER_STOP = "deadline_after_stop"
    """The deadline of a worker whose last beats came within ``STRAGGLER_MS`` of its clean disconnect."""
    DEADLINE_REJECTED = "deadline_rejected"
    """The deadline of a worker whose beats still arrive and are refused (P11)."""
    REJECTIONS_ENDED = "rejections_ended"
    """No refused beat for interval plus grace, or no beat accepted for ``REJECTED_INTERVALS`` intervals."""
    RETURN_OVERDUE = "return_overdue"
    """The worker did not return by the end of its announced absence."""
    DISCONNECT_CLEAN = "disconnect_clean"
    DISCONNECT_FAILURE = "disconnect_failure"
    FORGET = "forget"


class EventKind(StrEnum):
    """The type of an event, as spelled in the stream, in JSON and in the configuration."""

    REGISTERED = "worker.registered"
    STALE = "worker.stale"
    REJECTED = "worker.rejected"
    """The worker sends beats and they are refused: it is stale, but alive."""
    RECOVERED = "worker.recovered"
    RESUMED = "worker.resumed"
    STOPPED = "worker.stopped"
    FAILED = "worker.failed"
    STATUS_CHANGED = "worker.status_changed"
    FORGOTTEN = "worker.forgotten"


REJECTED_INTERVALS: Final = 3
"""Intervals, plus grace, after the last accepted beat. Then the worker is silent, even if refused beats still come."""

STILL_REJECTED: Final = f"no heartbeat accepted for {REJECTED_INTERVALS} intervals"
"""The reason of the event then."""

STRAGGLER_MS: Final = 5_000
"""A beat this soon after a clean disconnect may come from a client's beat thread that lags behind."""

LONGEST_ABSENCE_MS: Final = 30 * 86_400_000
"""Longest absence that a worker may announce. A worker that never returns is kept, unmissed, for this long."""

CLEAN_EXITS: Final[Mapping[str, frozenset[int | None]]] = {
    "shutdown": frozenset({None, 0, 130, 143, -2, -15}),
    "done": frozenset({0}),
    "completed": frozenset({0}),
}
"""The reasons of a clean stop, each with its exit codes. Python's subprocess reports SIGINT and SIGTERM as -2 and -15,
a shell as 130 and 143.
"""


@dataclass(frozen=True, slots=True)
class Transition:
    """The result of a trigger. ``to`` is None when the worker is removed, ``event`` None when nothing is recorded."""

    to: Liveness | None
    event: EventKind | None = None


class TransitionRefusedError(ValueError):
    """The table has no such pair. The state does not change."""

    def __init__(self, state: Liveness | None, trigger: Trigger) -> None:
        self.state = state
        self.trigger = trigger
        super().__init__(f"no transition from {state.value if state else '(none)'!r} by {trigger.value!r}")


TRANSITIONS: Final[Mapping[tuple[Liveness | None, Trigger], Transition]] = {
    (None, Trigger.BEAT): Transition(Liveness.ALIVE, EventKind.REGISTERED),
    (None, Trigger.DISCONNECT_FAILURE): Transition(Liveness.FAILED, EventKind.FAILED),
    (Liveness.ALIVE, Trigger.BEAT): Transition(Liveness.ALIVE),
    (Liveness.ALIVE, Trigger.DEADLINE): Transition(Liveness.STALE, EventKind.STALE),
    (Liveness.ALIVE, Trigger.DEADLINE_AFTER_STOP): Transition(Liveness.STOPPED, EventKind.STOPPED),
    (Liveness.ALIVE, Trigger.DEADLINE_REJECTED): Transition(Liveness.STALE, EventKind.REJECTED),
    (Liveness.ALIVE, Trigger.DISCONNECT_CLEAN): Transition(Liveness.STOPPED, EventKind.STOPPED),
    (Liveness.ALIVE, Trigger.DISCONNECT_FAILURE): Transition(Liveness.FAILED, EventKind.FAILED),
    (Liveness.ALIVE, Trigger.FORGET): Transition(None, EventKind.FORGOTTEN),
    (Liveness.STALE, Trigger.BEAT): Transition(Liveness.ALIVE, EventKind.RECOVERED),
    (Liveness.STALE, Trigger.REJECTIONS_ENDED): Transition(Liveness.STALE, EventKind.STALE),
    (Liveness.STALE, Trigger.DISCONNECT_CLEAN): Transition(Liveness.STOPPED, EventKind.STOPPED),
    (Liveness.STALE, Trigger.DISCONNECT_FAILURE): Transition(Liveness.FAILED, EventKind.FAILED),
    (Liveness.STALE, Trigger.FORGET): Transition(None, EventKind.FORGOTTEN),
    (Liveness.STOPPED, Trigger.BEAT): Transition(Liveness.ALIVE, EventKind.RESUMED),
    (Liveness.STOPPED, Trigger.RETURN_OVERDUE): Transition(Liveness.STALE, EventKind.STALE),
    (Liveness.STOPPED, Trigger.FORGET): Transition(None, EventKind.FORGOTTEN),
    (Liveness.FAILED, Trigger.BEAT): Transition(Liveness.ALIVE, EventKind.RECOVERED),
    (Liveness.FAILED, Trigger.FORGET): Transition(None, EventKind.FORGOTTEN),
}
"""The state machine. A pair that is not listed is refused, and the state does not change."""


def step(state: Liveness | None, trigger: Trigger) -> Transition:
    """Look up one transition; ``state`` is None for an unknown worker.

    Raises:
        TransitionRefusedError: the pair is not in the table.
    """
    try:
        return TRANSITIONS[state, trigger]
    except KeyError:
        raise TransitionRefusedError(state, trigger) from None


def disconnect_trigger(*, reason: str, exit_code: int | None) -> Trigger:
    """Return whether a disconnect is a clean stop (a deploy must not page) or a failure."""
    is_clean = exit_code in CLEAN_EXITS.get(reason, ())
    return Trigger.DISCONNECT_CLEAN if is_clean else Trigger.DISCONNECT_FAILURE


def liveness_at(
    stored: Liveness, *, now_ms: int, late_ms: int, deadline_ms: int, straggler: bool, missed_ms: int | None
) -> Liveness:
    """Return the liveness to show at ``now_ms``, independent of the last sweep.

    ``stored`` is the state of the last committed transition. A worker stored as alive is ``late`` from ``late_ms`` on;
    from ``deadline_ms`` on it has the state that its deadline gives. A worker that is then stopped and missed since
    ``missed_ms`` (None: no announced return) is ``stale``.
    """
    shown = stored
    if stored is Liveness.ALIVE:
        if now_ms < deadline_ms:
            return Liveness.LATE if now_ms >= late_ms else Liveness.ALIVE
        shown = step(stored, Trigger.DEADLINE_AFTER_STOP if straggler else Trigger.DEADLINE).to or stored
    if shown is Liveness.STOPPED and missed_ms is not None and now_ms >= missed_ms:
        shown = step(shown, Trigger.RETURN_OVERDUE).to or shown
    return shown


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentHealth:
    """Counts of the workers of one environment of a tenant at one moment.

    A worker that was just reported as down is in neither ``expected`` nor ``silent``.
    """

    expected: int
    """Workers that are expected to beat: alive, late or overdue. Not those that are stale, failed or stopped."""
    silent: int
    """Expected workers without a beat for the longer of their interval and their grace."""
    fallen: int = 0
    """Workers that became stale at the requested moment or later, notified or not; 0 without a moment. An upper bound
    if others have stopped or failed since."""
    rejected: int = 0
    """Stale workers whose beats are still being refused, since any time; 0 without a moment."""
    down: int | None = None
    """Workers that became stale or failed at the requested moment or later; all of them, without a moment. None:
    unknown."""

    def size(self, down: int) -> int:
        """Number of workers, given that ``down`` workers are down according to the events.

        A worker that is back but whose event is not routed yet is already in ``expected``. It counts once.
        """
        return self.expected + (down if self.down is None else min(down, self.down))
