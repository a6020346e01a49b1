"""Checks of on-call requests: silences hold back notifications and nothing else (P17). Reminders do not come too often,
and not for incidents that are acknowledged or over (P19). Pure."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from tests.chaos.alerts import end_of, is_lost, is_taken
from tests.chaos.outages import Outages
from tests.chaos.record import DOWN, Ack, Arrival, Entry, Record, Silence, Violation

EARLY_S: Final = 0.3
"""Between what the harness sees of a delivery and what the store records of it."""
ROUTED_S: Final = 15.0
"""Maximum time from the record of an end until it is in its receiver's group, as after a lease of 11 s."""
REMINDED_S: Final = 4.0
"""Maximum delay of a reminder while nothing is wrong, on a machine that runs everything."""


def silences(record: Record, _outages: Outages) -> Iterator[Violation]:
    """P17: a death that a silence covers is not notified while it does; nor later, if the outage was over by then."""
    if record.is_clock_stepped:
        return  # when a silence ends is a matter of the store's clock
    for entry in record.history():
        silent = _covering(record, entry)
        if entry.kind not in DOWN or silent is None:
            continue
        end = end_of(record, entry)
        for arrival in record.arrivals:
            if arrival.is_group or entry.event_id not in arrival.event_ids:
                continue
            where = f"{entry.kind} seq {entry.seq} at {arrival.receiver}, notified at {arrival.at_s:.2f} s"
            if arrival.at_s < silent.kept_s:
                what = f"{where}, although silenced from {silent.begun_s:.2f} to {silent.kept_s:.2f} s"
                yield Violation(promise="P17", worker=entry.worker, what=what)
            elif end is not None and end.detected_s < silent.kept_s:
                what = f"{where}, although it was over at {end.detected_s:.2f} s, within its silence"
                yield Violation(promise="P17", worker=entry.worker, what=what)
    yield from _invented(record)


def _invented(record: Record) -> Iterator[Violation]:
    """Events that are recorded as silenced while no silence matched."""
    known = {entry.event_id: entry for entry in record.history()}
    for outcome in record.outcomes:
        entry = known.get(outcome.event_id)
        if outcome.outcome != "silenced" or entry is None:
            continue
        # An end is silenced with its DOWN, before it.
        from_s = entry.detected_s if entry.kind in DOWN else 0.0
        end = end_of(record, entry) if entry.kind in DOWN else entry
        until_s = record.ended_s if end is None or record.is_clock_stepped else end.detected_s + ROUTED_S
        if not any(one.worker == entry.worker and one.may_be_on(from_s, until_s) for one in record.silences):
            what = f"{entry.kind} seq {entry.seq} is said to be silenced at {outcome.receiver}, and no silence matched"
            yield Violation(promise="P17", worker=entry.worker, what=what)


def _covering(record: Record, entry: Entry) -> Silence | None:
    """A silence that was on for sure when the event was recorded, and that no loss can have taken away."""
    for one in record.silences:
        if one.worker != entry.worker or one.begun_s is None or not one.is_on(entry.detected_s):
            continue
        if not any(loss.covers(one.begun_s) for loss in record.losses):
            return one
    return None


def reminders(record: Record, _outages: Outages) -> Iterator[Violation]:
    """P19: at most one reminder in each interval, over all daemons; none that began after an acknowledgement or the
    end. And reminders do come, while the incident is not acknowledged and nothing is wrong."""
    if record.is_clock_stepped:
        return  # the store's time jumped, and reminders are due by it
    for receiver, repeat_s in record.repeat_s.items():
        by_incident: dict[str, list[Arrival]] = {}
        for arrival in record.arrivals:
            if arrival.receiver == receiver and arrival.type in DOWN and arrival.data.get("incident_id"):
                by_incident.setdefault(str(arrival.data["incident_id"]), []).append(arrival)
        for incident_id, arrivals in by_incident.items():
            acks = [ack for ack in record.acks if ack.incident_id == incident_id]
            yield from _spaced(record, receiver, repeat_s, arrivals, acks)
            yield from _come(record, receiver, repeat_s, arrivals, acks)


def _spaced(
    record: Record, receiver: str, repeat_s: float, arrivals: list[Arrival], acks: list[Ack]
) -> Iterator[Violation]:
    """The next reminder begins an interval after the one before was taken, or its DOWN was."""
    first: dict[str, Arrival] = {}
    taken: dict[str, Arrival] = {}
    for arrival in arrivals:
        first.setdefault(arrival.webhook_id, arrival)
        if is_taken(arrival):
            taken.setdefault(arrival.webhook_id, arrival)
    worker = str(arrivals[0].data["worker_id"])
    for before, after in pairwise(first.values()):
        if not after.reminder or is_lost(record, before) or is_lost(record, after):
            continue
        where = f"reminder {after.reminder} at {receiver} at {after.at_s:.2f} s"
        sent_s = taken[before.webhook_id].at_s if before.webhook_id in taken else before.at_s
        due_s = sent_s + repeat_s - EARLY_S  # it can't have begun sooner
        if after.at_s < due_s:
            yield Violation(promise="P19", worker=worker, what=f"{where}, {after.at_s - sent_s:.2f} s after the last")
        for ack in acks:
            if ack.done_s < due_s and not any(loss.covers(ack.done_s) for loss in record.losses):
                what = f"{where}, although acknowledged at {ack.done_s:.2f} s"
                yield Violation(promise="P19", worker=worker, what=what)
        over_s = _over_s(record, after)
        if over_s is not None and over_s < due_s:
            yield Violation(promise="P19", worker=worker, what=f"{where}, although it was over at {over_s:.2f} s")


def _over_s(record: Record, reminder: Arrival) -> float | None:
    """When the outage was over that it reminds of."""
    down = next((one for one in record.history() if one.event_id in reminder.event_ids), None)
    end = None if down is None else end_of(record, down)
    return None if end is None else end.detected_s


def _come(
    record: Record, receiver: str, repeat_s: float, arrivals: list[Arrival], acks: list[Ack]
) -> Iterator[Violation]:
    """Of the last that was taken: whether the next had to be there by the end."""
    last = next((one for one in reversed(arrivals) if is_taken(one)), None)
    if last is None or acks:
        return
    worker, due_s = str(last.data["worker_id"]), last.at_s + repeat_s + REMINDED_S
    over_s = _over_s(record, last)
    until_s = min(record.ended_s, over_s if over_s is not None else record.ended_s)
    excused = (
        record.is_disturbed(last.at_s - REMINDED_S, due_s)
        or is_lost(record, last)
        or any(one.worker == worker and one.may_be_on(last.at_s, due_s) for one in record.silences)
        or any(one.at_s > last.at_s for one in arrivals)
    )
    newer = [entry for entry in record.history() if entry.worker == worker]
    if due_s < until_s and not excused and newer and newer[-1].event_id in last.event_ids:
        what = f"no reminder at {receiver} by {due_s:.2f} s, the last having come at {last.at_s:.2f} s"
        yield Violation(promise="P19", worker=worker, what=what)
