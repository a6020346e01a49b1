"""Sentences of notifications about one worker: what happened, since when and why, in one line. Pure."""

from collections.abc import Sequence
from typing import Final

from alerts.groups.classify import DOWN
from alerts.groups.flapping import RecentOutages
from alerts.rendering.phrases import DAY_MS, SHOWN_CHARS, Style, duration, fitted, own_outage, reminding, shown
from monitor.events import Event
from monitor.liveness import CLEAN_EXITS, REJECTED_INTERVALS, STILL_REJECTED, EnvironmentHealth, EventKind, Liveness

LATE_MS: Final = 60_000
"""A deadline that was noticed this much later is mentioned: the monitor had been away."""


def single_sentence(
    event: Event,
    *,
    reminder: int,
    health: EnvironmentHealth | None,
    previous: Event | None = None,
    recent: RecentOutages | None = None,
    shown_chars: Sequence[int] = SHOWN_CHARS,
) -> str:
    """The sentence about one event of a worker.

    ``previous``: the DOWN that was notified before for the same outage, if any. ``recent``: number of the outage among
    the worker's recent ones.

    Raises:
        ValueError, OverflowError, OSError: a time or a number has no text.
    """

    def made(most: int) -> str:
        # A reminder may be read days after the event, so its times have a date.
        style = Style(most=most, day=None if reminder else event.detected_ms // DAY_MS)
        text = _happened(event, style, health, previous, again=reminder > 0) + _flapping(recent) + "."
        return reminding(reminder, text)

    return fitted(made, shown_chars)


def _happened(
    event: Event, style: Style, health: EnvironmentHealth | None, previous: Event | None, *, again: bool
) -> str:
    who = f"Worker {style.name(event.worker_id)} in {style.name(event.environment_name)}"
    match event.kind:
        case EventKind.STALE:
            text = _stale(event, style, again=again) + _doing(event, style) + _spacing(event)
        case EventKind.REJECTED:
            text = _rejected(event, style, again=again)
        case EventKind.FAILED:
            text = _failed(event, style, again=again)
            text += "; it never sent a heartbeat" if event.old is None else _doing(event, style)
        case EventKind.RECOVERED:
            text = _recovered(event, previous) + _doing(event, style, "status")
        case EventKind.STOPPED:
            text = _stopped(event, style)
        case EventKind.FORGOTTEN:
            text = _forgotten(event, style)
        case EventKind.REGISTERED:
            text = f" sent its first heartbeat at {style.at(event.due_ms)}; one is expected every "
            text += duration(event.interval_ms)
        case EventKind.RESUMED:
            text = f" sends heartbeats again, {duration(event.due_ms - event.since_ms)} after it stopped"
            text += _doing(event, style, "status")
        case EventKind.STATUS_CHANGED:
            text = f" changed its status from {style.name(event.old_status or '')} to {style.name(event.status)}"
            text += f"{_on_task(event, style)} at {style.at(event.due_ms)}"
    return f"{who}{text}{_others(event, style, health)}"


def _flapping(recent: RecentOutages | None) -> str:
    """A note that the worker has had many outages, and which outages do not notify any more."""
    if recent is None or not (recent.is_flapping or recent.is_last_notified):
        return ""
    which = {1: "first", 2: "2nd", 3: "3rd"}.get(recent.number, f"{recent.number}th")
    within, hold = duration(recent.rule.within_ms), duration(recent.rule.hold_ms)
    ones = "the next ones" if recent.is_last_notified else "ones"
    return f"; its {which} outage within {within}: {ones} of less than {hold} are not reported"


def _stale(event: Event, style: Style, *, again: bool) -> str:
    text = f" is {'still ' * again}stale: "
    if event.old is Liveness.STOPPED:
        return text + (
            f"it stopped at {style.at(event.since_ms)} and did not return by {style.at(event.due_ms)} as planned"
            + (f" (detected after {own})" if (own := own_outage(event)) else "")
        )
    if event.old is Liveness.STALE:
        what = f"since {style.at(event.rejected_ms)} it sends no heartbeats at all; those before were rejected"
        if event.reason == STILL_REJECTED:
            what = f"for {REJECTED_INTERVALS} intervals none of its heartbeats was accepted; they are rejected"
        return text + (
            f"{what}: {_why(event, style)} (last accepted {style.at(event.last_seen_ms)}{_late(event, style)})"
        )
    return text + (
        f"no heartbeat since {style.at(event.last_seen_ms)} (deadline {style.clock(event.due_ms)}{_late(event, style)})"
    )


def _rejected(event: Event, style: Style, *, again: bool) -> str:
    text = f" is alive, but its heartbeats are {'still ' * again}rejected: {_why(event, style)} "
    # The time of the last rejection is as old as the event. In a reminder it would suggest that there were none since.
    last = "" if again else f", last rejected {style.at(event.rejected_ms)}"
    return f"{text}(last accepted {style.at(event.last_seen_ms)}{last}{_late(event, style)})"


def _why(event: Event, style: Style) -> str:
    sender = f", sent by {style.name(event.rejected_subject)}" if event.rejected_subject else ""
    return shown(event.rejected_reason or event.reason, style.most) + sender


def _late(event: Event, style: Style) -> str:
    """Why the event was noticed late, if it was."""
    if own := own_outage(event):
        return f", detected after {own}"
    return f", noticed {style.clock(event.detected_ms)}" if event.detected_ms - event.due_ms >= LATE_MS else ""


def _failed(event: Event, style: Style, *, again: bool) -> str:
    when = f"failed at {style.at(event.due_ms)}"
    text = f" is still down: it {when}" if again else f"{_had_been_stale(event, style)} {when}"
    return f"{text}: {_said(event, style)}"


def _recovered(event: Event, previous: Event | None) -> str:
    since_ms = event.due_ms - event.since_ms
    if event.old is Liveness.FAILED:
        return f" is back, {duration(since_ms)} after it failed"
    # The newest gap ends with the beat that ended the outage. Its stored value is bounded.
    gap = duration(max(since_ms, *event.recent_gaps_ms[-1:], 0))
    if previous is None or previous.rejected_reason is None:
        return f" is back after {gap} of silence"
    if previous.kind is EventKind.REJECTED:
        return f" is back: its heartbeats are accepted again, after {gap} ({previous.rejected_reason})"
    return f" is back after {gap} without an accepted heartbeat"


def _stopped(event: Event, style: Style) -> str:
    if event.reason not in CLEAN_EXITS:  # the deadline of a beat that came after the disconnect passed
        return (
            f" has stopped: its last heartbeat, at {style.at(event.last_seen_ms)}, came just after its clean disconnect"
        )
    return f"{_had_been_stale(event, style)} stopped at {style.at(event.due_ms)}: {_said(event, style)}"


def _forgotten(event: Event, style: Style) -> str:
    had_been = "" if event.old is None else f"; it had been {event.old.value} since {style.at(event.since_ms)}"
    return f" was removed at {style.at(event.due_ms)}: {style.name(event.reason)}{had_been}"


def _had_been_stale(event: Event, style: Style) -> str:
    return f", stale since {style.at(event.since_ms)}," if event.old is Liveness.STALE else ""


def _said(event: Event, style: Style) -> str:
    """Exit code, reason and message of a disconnect."""
    parts = [] if event.exit_code is None else [f"exit code {event.exit_code}"]
    parts.append(f"reason {style.name(event.reason)}")
    if event.error_message:
        parts.append(f"message {style.quote(event.error_message)}")
    return ", ".join(parts)


def _doing(event: Event, style: Style, what: str = "last status") -> str:
    """The status and the task that the worker reported last."""
    return f", {what} {style.name(event.status)}{_on_task(event, style)}"


def _on_task(event: Event, style: Style) -> str:
    return "" if event.current_task_id is None else f" on task {style.name(event.current_task_id)}"


def _spacing(event: Event) -> str:
    """Spacing of the last beats, which shows whether the worker had been regular."""
    interval_ms = event.interval_ms
    # A gap beyond the deadline was an outage, the worker's or the monitor's own.
    gaps = sorted(gap for gap in event.recent_gaps_ms if gap < interval_ms + event.grace_ms)
    if not gaps or event.old is not Liveness.ALIVE:
        return ""
    tolerance_ms = interval_ms // 5
    middle_ms = gaps[len(gaps) // 2]
    if gaps[-1] - gaps[0] > tolerance_ms:
        came = f"{duration(gaps[0])} to {duration(gaps[-1])} apart"
    elif abs(middle_ms - interval_ms) > tolerance_ms:
        came = f"every {duration(middle_ms)}"
    else:
        return f"; its beats came every {duration(middle_ms)}, as expected"
    return f"; its beats came {came}, expected every {duration(interval_ms)}"


def _others(event: Event, style: Style, health: EnvironmentHealth | None) -> str:
    """Whether one worker or many are affected: the first thing that a person on call wants to know."""
    if health is None or event.kind not in DOWN or not health.expected:
        return ""
    rejected, there = event.kind is EventKind.REJECTED, style.name(event.environment_name)
    count = health.silent or health.expected
    one = count == 1
    others = f"; {count:,} other{'s' * (not one)}"
    if not health.silent:
        if rejected:
            state = "has its accepted" if one else "have theirs accepted"
        else:
            state = "still sends heartbeats" if one else "still send heartbeats"
        return f"{others} in {there} {state}"
    # For overdue workers it is not known yet whether their heartbeats are rejected too.
    state = "overdue" if rejected else "silent too" if event.kind is EventKind.STALE else "silent"
    return f"{others} of {health.expected:,} in {there} {'is' if one else 'are'} {state}"
