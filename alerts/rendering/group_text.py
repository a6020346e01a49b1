"""Sentences of notifications about many workers. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from alerts.groups.classify import DOWN
from alerts.rendering.phrases import DAY_MS, SHOWN_CHARS, Style, duration, fitted, own_outage, reminding
from monitor.events import Event
from monitor.liveness import EventKind

NAMES: Final = 10
"""Maximum workers of a group that its sentence names."""

_NAMES_CHARS: Final = 240
_REASONS: Final = 3
_ENDS: Final = {EventKind.RECOVERED: "back", EventKind.STOPPED: "stopped", EventKind.FORGOTTEN: "removed"}


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupCounts:
    """Counts of a group. ``new`` and ``recovered`` count since its last notification.

    ``rejected``: those of the ``firing`` workers that are alive but whose heartbeats are rejected. ``expected``: number
    of the group's workers that should send beats, including those that are down; None: unknown. ``ended``: number of
    notified workers whose outage has ended since the group began, by the kind of event that ended it.
    """

    firing: int
    new: int
    recovered: int
    expected: int | None
    rejected: int = 0
    ended: Mapping[str, int] = field(default_factory=dict)


def group_sentence(
    *,
    firing: bool,
    group: Mapping[str, str],
    counts: GroupCounts,
    events: Sequence[Event],
    since_ms: int,
    now_ms: int,
    reminder: int,
    environment_incident: bool,
) -> str:
    """The sentence about a group of workers.

    For a group that is over, ``events`` may be incomplete. Raises as ``single_sentence``.
    """
    latest: dict[tuple[str, str], Event] = {}
    for event in events:
        known = latest.setdefault((event.tenant, event.worker_id), event)
        if (known.generation, known.seq) < (event.generation, event.seq):
            latest[event.tenant, event.worker_id] = event
    members = list(latest.values())

    def made(most: int) -> str:
        style = Style(most=most, day=now_ms // DAY_MS)
        if not firing:
            text = _resolved(style, group, members, ended=counts.ended, since_ms=since_ms, now_ms=now_ms)
        else:
            down = [event for event in members if event.kind in DOWN]
            state = _state(down, counts, again=reminder > 0, environment=environment_incident)
            text = _firing(style, group, down, counts=counts, state=state, since_ms=since_ms, again=reminder > 0)
        return reminding(reminder, text)

    return fitted(made, SHOWN_CHARS)


def _firing(
    style: Style,
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
    text += _names(style, down, counts.firing)
    late = max(down, key=lambda event: event.outage_ms, default=None)
    if late is not None and (own := own_outage(late)):
        text += f"; detected after {own}"
    return text + "."


def _state(down: Sequence[Event], counts: GroupCounts, *, again: bool, environment: bool) -> str:
    many, still = counts.firing != 1, "still " * again
    if counts.rejected == counts.firing:
        be, their = ("are", "their") if many else ("is", "its")
        return f"{be} alive, but {their} heartbeats are {still}rejected ({_reasons(down, counts)})"
    if counts.rejected:
        other = counts.firing - counts.rejected
        alive = f"{counts.rejected:,} alive, but rejected ({_reasons(down, counts)})"
        what = "silent" if environment else "down"
        return f"are {still}{what} or rejected ({other:,} {what}; {alive})"
    if environment:
        return still + "silent"
    kinds = {event.kind for event in down}
    if kinds == {EventKind.FAILED} and not again:
        return "have failed" if many else "has failed"
    return f"{'are' if many else 'is'} {still}{'stale' if kinds == {EventKind.STALE} else 'down'}"


def _reasons(down: Sequence[Event], counts: GroupCounts) -> str:
    """Why heartbeats are rejected, as far as the given events show."""
    reasons = [event.rejected_reason or "" for event in down if event.kind is EventKind.REJECTED]
    found = list(dict.fromkeys(filter(None, reasons)))
    text = ", ".join(found[:_REASONS]) + ", and others" * (len(found) > _REASONS)
    if not text:
        return "why is not at hand"
    return text if len(reasons) >= counts.rejected else f"the first {len(reasons):,}: {text}"


def _resolved(
    style: Style,
    group: Mapping[str, str],
    members: Sequence[Event],
    *,
    ended: Mapping[str, int],
    since_ms: int,
    now_ms: int,
) -> str:
    counts = [(ended[kind], how) for kind, how in _ENDS.items() if ended.get(kind)]
    total = sum(count for count, _ in counts)
    who = {0: "All workers", 1: "The one worker"}.get(total, f"All {total:,} workers")
    be, were = ("is", "was") if total == 1 else ("are", "were")
    ends = [how if count == total else f"{how} ({count:,})" for count, how in counts]
    end = " or ".join([", ".join(ends[:-1]), *ends[-1:]] if ends[1:] else ends) or "no longer down"
    text = f"{who}{_where(style, group)} that {were} down {be} {end}"
    text += f" after {duration(now_ms - since_ms)} (since {style.at(since_ms)})"
    return text + _names(style, members, total) + "."


def _where(style: Style, group: Mapping[str, str]) -> str:
    """What the workers of the group have in common. The tenant is left out if there is an environment."""
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


def _names(style: Style, events: Sequence[Event], total: int) -> str:
    """Names of the first workers, and the number of the others."""
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
