"""The sentences of notifications: one line that says what happened, since when and why. Pure.

What a worker, or the issuer of its token, has named is shown in one line, cut to a sane length, and in quotes
where it could be taken for words of ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from monitor.liveness import CLEAN_REASON, EventKind, Liveness

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from monitor.events import Event

LINE_CHARS: Final = 600
"""Every sentence is shorter."""
SHOWN_CHARS: Final = (120, 60, 30)
"""So many characters of each value are shown: the first that makes the sentence short enough."""
NAMES: Final = 10
"""At most so many workers of a group are named in its sentence."""
LATE_MS: Final = 60_000
"""A deadline that was noticed so much later is worth a word: the monitor had been away."""

_NAMES_CHARS: Final = 240
_READ_CHARS: Final = 1_000
_DAY_MS: Final = 86_400_000
_DOWN: Final = frozenset({EventKind.STALE, EventKind.FAILED})
_PLAIN: Final = re.compile(r"[\w.:/@#+=~-]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """How the environment of a tenant stands when a notification is made.

    ``expected`` workers are to send beats, and ``silent`` of them have missed theirs. Those that are stale, failed
    or stopped are in neither; so a worker that has just been reported as down is none of them.
    """

    expected: int
    silent: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupCounts:
    """How a group stands; ``new`` and ``recovered`` count since the last notification of it.

    ``expected`` is how many workers of the group are expected to send beats, those that are down included, or
    None where nobody knows.
    """

    firing: int
    new: int
    recovered: int
    expected: int | None


def single_sentence(
    event: Event, *, reminder: int, standing: Standing | None, shown_chars: Sequence[int] = SHOWN_CHARS
) -> str:
    """What happened to one worker.

    Raises:
        ValueError, OverflowError, OSError: a time or a number has no text.
    """

    def made(most: int) -> str:
        # A reminder may be read days after what it tells of.
        style = _Style(most=most, day=None if reminder else event.detected_ms // _DAY_MS)
        text = _told(event, style, standing, again=reminder > 0)
        return _reminding(reminder, text)

    return _fitted(made, shown_chars)


def group_sentence(
    *,
    firing: bool,
    group: Mapping[str, str],
    counts: GroupCounts,
    events: Sequence[Event],
    truncated: int,
    since_ms: int,
    now_ms: int,
    reminder: int,
    environment_incident: bool,
) -> str:
    """What happened to many workers; ``truncated`` more than those of the events.

    Of a group that is over the events may be left out: how many there were goes unsaid then. Raises as
    ``single_sentence``.
    """
    latest: dict[tuple[str, str], Event] = {}
    for event in events:
        known = latest.setdefault((event.tenant, event.worker_id), event)
        if (known.generation, known.seq) < (event.generation, event.seq):
            latest[event.tenant, event.worker_id] = event
    members = list(latest.values())

    def made(most: int) -> str:
        style = _Style(most=most, day=now_ms // _DAY_MS)
        if not firing:
            what = "silent" if environment_incident else "down"
            total = len(members) + truncated
            text = _resolved(style, group, members, total=total, what=what, since_ms=since_ms, now_ms=now_ms)
        else:
            down = [event for event in members if event.kind in _DOWN]
            state = _state(down, many=counts.firing != 1, again=reminder > 0, environment=environment_incident)
            text = _firing(style, group, down, counts=counts, state=state, since_ms=since_ms, again=reminder > 0)
        return _reminding(reminder, text)

    return _fitted(made, SHOWN_CHARS)


def duration(ms: int) -> str:
    """A span of time as people say it, in at most two units: ``4 min 10 s``. What is negative counts as nothing."""
    ms = max(0, ms)
    if ms < 9_950:  # noqa: PLR2004 - what rounds to less than 10.0 s
        return f"{round(ms / 100) / 10:g} s"
    seconds = round(ms / 1_000)
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds} s"
    if seconds < 3_600:  # noqa: PLR2004 - an hour
        return _units(seconds, 60, "min", "s")
    minutes = round(seconds / 60)
    if minutes < 1_440:  # noqa: PLR2004 - a day
        return _units(minutes, 60, "h", "min")
    hours = round(minutes / 60)
    days, rest = divmod(hours, 24)
    if days >= 10 or not rest:  # noqa: PLR2004 - the hours of ten days matter to nobody
        days = round(hours / 24)
        return f"{days:,} day{'s' * (days != 1)}"
    return f"{days} day{'s' * (days != 1)} {rest} h"


def shown(text: str, most: int) -> str:
    """At most ``most`` characters of the text in one line, with nothing in it that a terminal would obey."""
    line = " ".join(text[:_READ_CHARS].split())
    line = "".join(character if character.isprintable() else "\ufffd" for character in line)
    return line if len(line) <= most else line[: most - 1] + "…"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Style:
    """How values are shown. ``day``: days since 1970 of the day whose times go without a date; None: there is none."""

    most: int
    day: int | None

    def name(self, text: str) -> str:
        """A name; in quotes, unless it cannot be taken for anything but one word."""
        name = shown(text, self.most)
        return name if _PLAIN.fullmatch(name.removesuffix("…")) else self.quote(name)

    def quote(self, text: str) -> str:
        """What somebody else has said."""
        return '"' + shown(text, self.most).replace('"', "'") + '"'

    def clock(self, ms: int) -> str:
        """A moment in UTC, to the second."""
        form = "%H:%M:%S" if ms // _DAY_MS == self.day else "%Y-%m-%d %H:%M:%S"
        return datetime.fromtimestamp(ms // 1_000, UTC).strftime(form)

    def at(self, ms: int) -> str:
        """As ``clock``, and says that it is UTC."""
        return f"{self.clock(ms)} UTC"


def _told(event: Event, style: _Style, standing: Standing | None, *, again: bool) -> str:
    who = f"Worker {style.name(event.worker_id)} in {style.name(event.environment_name)}"
    match event.kind:
        case EventKind.STALE:
            text = _stale(event, style, again=again) + _doing(event, style) + _spacing(event)
        case EventKind.REJECTED:
            text = f" is alive, but its heartbeats are rejected: {event.rejected_reason}"
        case EventKind.FAILED:
            text = _failed(event, style, again=again) + _doing(event, style)
        case EventKind.RECOVERED:
            text = _recovered(event) + _doing(event, style, "status")
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
    return f"{who}{text}{_others(event, style, standing)}."


def _stale(event: Event, style: _Style, *, again: bool) -> str:
    text = f" is {'still ' * again}stale: "
    if event.old is Liveness.STOPPED:
        return text + (
            f"it stopped at {style.at(event.since_ms)} and did not return by {style.at(event.due_ms)} as planned"
        )
    noticed = f", noticed {style.clock(event.detected_ms)}" if event.detected_ms - event.due_ms >= LATE_MS else ""
    return text + f"no heartbeat since {style.at(event.last_seen_ms)} (deadline {style.clock(event.due_ms)}{noticed})"


def _failed(event: Event, style: _Style, *, again: bool) -> str:
    when = f"failed at {style.at(event.due_ms)}"
    text = f" is still down: it {when}" if again else f"{_had_been_stale(event, style)} {when}"
    return f"{text}: {_said(event, style)}"


def _recovered(event: Event) -> str:
    since_ms = event.due_ms - event.since_ms
    if event.old is Liveness.FAILED:
        return f" is back, {duration(since_ms)} after it failed"
    # The newest gap ends with the beat that ended the outage; it is bounded where it is stored.
    return f" is back after {duration(max(since_ms, *event.recent_gaps_ms[-1:], 0))} of silence"


def _stopped(event: Event, style: _Style) -> str:
    if event.reason != CLEAN_REASON:  # the deadline of a straggler passed
        return (
            f" has stopped: its last heartbeat, at {style.at(event.last_seen_ms)}, came just after its clean disconnect"
        )
    return f"{_had_been_stale(event, style)} stopped at {style.at(event.due_ms)}: {_said(event, style)}"


def _forgotten(event: Event, style: _Style) -> str:
    had_been = "" if event.old is None else f"; it had been {event.old.value} since {style.at(event.since_ms)}"
    return f" was removed at {style.at(event.due_ms)}: {style.name(event.reason)}{had_been}"


def _had_been_stale(event: Event, style: _Style) -> str:
    return f", stale since {style.at(event.since_ms)}," if event.old is Liveness.STALE else ""


def _said(event: Event, style: _Style) -> str:
    """What a disconnect said."""
    parts = [] if event.exit_code is None else [f"exit code {event.exit_code}"]
    parts.append(f"reason {style.name(event.reason)}")
    if event.error_message:
        parts.append(f"message {style.quote(event.error_message)}")
    return ", ".join(parts)


def _doing(event: Event, style: _Style, what: str = "last status") -> str:
    """What the worker said of itself last."""
    return f", {what} {style.name(event.status)}{_on_task(event, style)}"


def _on_task(event: Event, style: _Style) -> str:
    return "" if event.current_task_id is None else f" on task {style.name(event.current_task_id)}"


def _spacing(event: Event) -> str:
    """How the last beats came: whether the worker had been regular."""
    gaps, interval_ms = sorted(event.recent_gaps_ms), event.interval_ms
    if not gaps or event.old is Liveness.STOPPED:
        return ""
    tolerance_ms = max(interval_ms // 5, 1_000)
    middle_ms = gaps[len(gaps) // 2]
    if gaps[-1] - gaps[0] > tolerance_ms:
        came = f"{duration(gaps[0])} to {duration(gaps[-1])} apart"
    elif abs(middle_ms - interval_ms) > tolerance_ms:
        came = f"every {duration(middle_ms)}"
    else:
        return f"; its beats came every {duration(middle_ms)}, as expected"
    return f"; its beats came {came}, expected every {duration(interval_ms)}"


def _others(event: Event, style: _Style, standing: Standing | None) -> str:
    """Whether it is one worker or many: what somebody who was woken wants to know first."""
    if standing is None or event.kind not in _DOWN or not standing.expected:
        return ""
    silent, there = standing.silent, style.name(event.environment_name)
    if not silent:
        one = standing.expected == 1
        return f"; {standing.expected:,} other{'s' * (not one)} in {there} still send{'s' * one} heartbeats"
    one, too = silent == 1, " too" if event.kind is EventKind.STALE else ""
    return (
        f"; {silent:,} other{'s' * (not one)} of {standing.expected:,} in {there} {'is' if one else 'are'} silent{too}"
    )


def _firing(
    style: _Style,
    group: Mapping[str, str],
    down: Sequence[Event],
    *,
    counts: GroupCounts,
    state: str,
    since_ms: int,
    again: bool,
) -> str:
    known = counts.expected is not None and counts.expected >= counts.firing
    of = f" of {counts.expected:,}" if known else ""
    many = (counts.expected if known else counts.firing) != 1
    text = f"{counts.firing:,}{of} worker{'s' * many}{_where(style, group)} {state} since {style.at(since_ms)}"
    if not again and (counts.recovered or counts.new != counts.firing):
        text += f" ({counts.new:,} new, {counts.recovered:,} recovered)"
    return text + _names(style, down, counts.firing) + "."


def _state(down: Sequence[Event], *, many: bool, again: bool, environment: bool) -> str:
    still = "still " * again
    if environment:
        return still + "silent"
    kinds = {event.kind for event in down}
    if kinds == {EventKind.FAILED} and not again:
        return "have failed" if many else "has failed"
    return f"{'are' if many else 'is'} {still}{'stale' if kinds == {EventKind.STALE} else 'down'}"


def _resolved(
    style: _Style,
    group: Mapping[str, str],
    members: Sequence[Event],
    *,
    total: int,
    what: str,
    since_ms: int,
    now_ms: int,
) -> str:
    who = {0: "All workers", 1: "The one worker"}.get(total, f"All {total:,} workers")
    be, were = ("is", "was") if total == 1 else ("are", "were")
    all_known = len(members) == total > 0
    is_back = all_known and all(event.kind is EventKind.RECOVERED for event in members)
    end = "back" if is_back else "back, stopped or removed"
    text = f"{who}{_where(style, group)} that {were} {what} {be} {end}"
    text += f" after {duration(now_ms - since_ms)} (since {style.at(since_ms)})"
    return text + _names(style, members, total) + "."


def _where(style: _Style, group: Mapping[str, str]) -> str:
    """What the workers of the group share; the tenant goes without saying where there is an environment."""
    parts = []
    if (environment := group.get("environment")) is not None:
        parts.append(f"in {style.name(environment)}")
    elif (tenant := group.get("tenant")) is not None:
        parts.append(f"of tenant {style.name(tenant)}")
    parts += [
        f"with {style.name(name)} {style.name(value)}" if value else f"without {style.name(name)}"
        for label, value in group.items()
        for name in (label.removeprefix("metadata."),)
        if label not in {"environment", "tenant"}
    ]
    return "".join(f" {part}" for part in parts)


def _names(style: _Style, events: Sequence[Event], total: int) -> str:
    """The first workers by name, and how many there are beside."""
    names: list[str] = []
    for event in events[:NAMES]:
        name = style.name(event.worker_id)
        if names and len(", ".join([*names, name])) > _NAMES_CHARS:
            break
        names.append(name)
    if not names:
        return ""
    more = f" and {total - len(names):,} more" if total > len(names) else ""
    return ": " + ", ".join(names) + more


def _reminding(reminder: int, text: str) -> str:
    return f"Reminder {reminder}: {text[0].lower()}{text[1:]}" if reminder else text


def _fitted(made: Callable[[int], str], shown_chars: Sequence[int]) -> str:
    text = ""
    for most in shown_chars:
        text = made(most)
        if len(text) < LINE_CHARS:
            return text
    return text[: LINE_CHARS - 2] + "…"


def _units(count: int, per: int, unit: str, part: str) -> str:
    whole, rest = divmod(count, per)
    return f"{whole} {unit} {rest} {part}" if rest else f"{whole} {unit}"
