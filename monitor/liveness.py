"""What a worker can be, and every way from one state to another.

Two rules hold in this module. Nothing here reads a clock, a socket or a setting: times are
parameters, in milliseconds of the store's clock. And nothing outside this module says what a
liveness may become: the store's Lua library and the diagram in the docs are both made from
``TRANSITIONS``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


class Liveness(StrEnum):
    """What Lastseen says of a worker. ``LATE`` is derived at read time and never stored."""

    ALIVE = "alive"
    LATE = "late"
    STALE = "stale"
    STOPPED = "stopped"
    FAILED = "failed"


class Trigger(StrEnum):
    """What can move a worker."""

    BEAT = "beat"
    DEADLINE = "deadline"
    DEADLINE_AFTER_STOP = "deadline_after_stop"
    """The deadline of a worker whose last beats came within ``STRAGGLER_MS`` of its clean disconnect."""
    DEADLINE_REJECTED = "deadline_rejected"
    """The deadline of a worker whose beats still come, and are refused (P11)."""
    REJECTIONS_ENDED = "rejections_ended"
    """The refused beats of a worker have ended for its interval and grace, or none was accepted for too long."""
    RETURN_OVERDUE = "return_overdue"
    """The moment passed at which a worker that announced its absence said that it would be back."""
    DISCONNECT_CLEAN = "disconnect_clean"
    DISCONNECT_FAILURE = "disconnect_failure"
    FORGET = "forget"


class EventKind(StrEnum):
    """The type of an event, as it stands in the stream, in JSON and in the configuration."""

    REGISTERED = "worker.registered"
    STALE = "worker.stale"
    REJECTED = "worker.rejected"
    """It sends beats, and they are refused: it is stale, and alive."""
    RECOVERED = "worker.recovered"
    RESUMED = "worker.resumed"
    STOPPED = "worker.stopped"
    FAILED = "worker.failed"
    STATUS_CHANGED = "worker.status_changed"
    FORGOTTEN = "worker.forgotten"


REJECTED_INTERVALS: Final = 3
"""Intervals, plus the grace, after the last accepted beat: then it is silent, whatever beats of it are refused."""

STILL_REJECTED: Final = f"no heartbeat accepted for {REJECTED_INTERVALS} intervals"
"""The reason of that event."""

STRAGGLER_MS: Final = 5_000
"""A beat this soon after a clean disconnect may be a client's beat thread one step behind."""

LONGEST_ABSENCE_MS: Final = 30 * 86_400_000
"""A worker may announce at most this long an absence: for so long one that is gone for good is kept, and not missed."""

CLEAN_EXITS: Final[Mapping[str, frozenset[int | None]]] = {
    "shutdown": frozenset({None, 0, 130, 143, -2, -15}),
    "done": frozenset({0}),
    "completed": frozenset({0}),
}
"""The reasons of a clean stop, each with the exit codes that go with it. -2 and -15 are how Python's subprocess reports
SIGINT and SIGTERM, 130 and 143 how a shell does.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Transition:
    """Where a trigger leads: ``to`` is None when the worker is gone, ``event`` None when nothing is recorded."""

    to: Liveness | None
    event: EventKind | None


class TransitionRefusedError(ValueError):
    """The table has no such pair; the state stays as it was."""

    def __init__(self, state: Liveness | None, trigger: Trigger) -> None:
        self.state = state
        self.trigger = trigger
        super().__init__(f"no transition from {state.value if state else '(none)'!r} by {trigger.value!r}")


def _to(to: Liveness | None, event: EventKind | None = None) -> Transition:
    return Transition(to=to, event=event)


_GONE = _to(None, EventKind.FORGOTTEN)

TRANSITIONS: Final[Mapping[tuple[Liveness | None, Trigger], Transition]] = {
    (None, Trigger.BEAT): _to(Liveness.ALIVE, EventKind.REGISTERED),
    (None, Trigger.DISCONNECT_FAILURE): _to(Liveness.FAILED, EventKind.FAILED),
    (Liveness.ALIVE, Trigger.BEAT): _to(Liveness.ALIVE),
    (Liveness.ALIVE, Trigger.DEADLINE): _to(Liveness.STALE, EventKind.STALE),
    (Liveness.ALIVE, Trigger.DEADLINE_AFTER_STOP): _to(Liveness.STOPPED, EventKind.STOPPED),
    (Liveness.ALIVE, Trigger.DEADLINE_REJECTED): _to(Liveness.STALE, EventKind.REJECTED),
    (Liveness.ALIVE, Trigger.DISCONNECT_CLEAN): _to(Liveness.STOPPED, EventKind.STOPPED),
    (Liveness.ALIVE, Trigger.DISCONNECT_FAILURE): _to(Liveness.FAILED, EventKind.FAILED),
    (Liveness.ALIVE, Trigger.FORGET): _GONE,
    (Liveness.STALE, Trigger.BEAT): _to(Liveness.ALIVE, EventKind.RECOVERED),
    (Liveness.STALE, Trigger.REJECTIONS_ENDED): _to(Liveness.STALE, EventKind.STALE),
    (Liveness.STALE, Trigger.DISCONNECT_CLEAN): _to(Liveness.STOPPED, EventKind.STOPPED),
    (Liveness.STALE, Trigger.DISCONNECT_FAILURE): _to(Liveness.FAILED, EventKind.FAILED),
    (Liveness.STALE, Trigger.FORGET): _GONE,
    (Liveness.STOPPED, Trigger.BEAT): _to(Liveness.ALIVE, EventKind.RESUMED),
    (Liveness.STOPPED, Trigger.RETURN_OVERDUE): _to(Liveness.STALE, EventKind.STALE),
    (Liveness.STOPPED, Trigger.FORGET): _GONE,
    (Liveness.FAILED, Trigger.BEAT): _to(Liveness.ALIVE, EventKind.RECOVERED),
    (Liveness.FAILED, Trigger.FORGET): _GONE,
}
"""The machine. A pair that is not listed is refused, and the state stays as it was."""


def step(state: Liveness | None, trigger: Trigger) -> Transition:
    """Look up one move; ``state`` is None for a worker that is not known.

    Raises:
        TransitionRefusedError: the pair is not in the table.
    """
    try:
        return TRANSITIONS[state, trigger]
    except KeyError:
        raise TransitionRefusedError(state, trigger) from None


def deadline_ms(*, last_seen_ms: int, interval_ms: int, grace_ms: int) -> int:
    """The first moment at which the worker is no longer on time: a beat must be committed before it."""
    return last_seen_ms + interval_ms + grace_ms


def disconnect_trigger(*, reason: str, exit_code: int | None) -> Trigger:
    """Whether a worker's goodbye is a clean stop (a deploy must not page) or a failure."""
    is_clean = exit_code in CLEAN_EXITS.get(reason, ())
    return Trigger.DISCONNECT_CLEAN if is_clean else Trigger.DISCONNECT_FAILURE


def is_straggler(*, beat_ms: int, stopped_ms: int | None) -> bool:
    """Whether a beat came so soon after a clean disconnect that silence after it means "stopped"."""
    return stopped_ms is not None and beat_ms - stopped_ms <= STRAGGLER_MS


def liveness_at(
    stored: Liveness, *, now_ms: int, late_ms: int, deadline_ms: int, straggler: bool, missed_ms: int | None
) -> Liveness:
    """The liveness to show at ``now_ms``, whether or not a sweep has come by since.

    ``stored`` is what the last committed transition left. One that is stored as alive reads ``late`` from ``late_ms``
    on, and from ``deadline_ms`` on what its deadline makes of it. One that is stopped then, and is missed since
    ``missed_ms`` (None: it has announced no return), reads ``stale``.
    """
    shown = stored
    if stored is Liveness.ALIVE:
        if now_ms < deadline_ms:
            return Liveness.LATE if now_ms >= late_ms else Liveness.ALIVE
        shown = step(stored, Trigger.DEADLINE_AFTER_STOP if straggler else Trigger.DEADLINE).to or stored
    if shown is Liveness.STOPPED and missed_ms is not None and now_ms >= missed_ms:
        shown = step(shown, Trigger.RETURN_OVERDUE).to or shown
    return shown
