"""Checks of groups: a receiver that is notified of an environment as a group knows which workers are down, and gets the
end once (P5, P18). Many workers that fall silent together are one notification (P16). Pure."""

from collections.abc import Iterator, Sequence
from typing import Final

from tests.chaos.alerts import is_lost, is_taken
from tests.chaos.lives import STALE
from tests.chaos.outages import Outages
from tests.chaos.record import CROWD, DOWN, OUT, Arrival, Entry, Record, Violation

GROUP_INTERVAL_S: Final = 60.0
"""What receivers of single workers have between two notifications of a mass failure."""
MOST_SURE: Final = 35
"""The number of deadlines within one interval that is a mass failure for sure, as the daemons are configured. It is
five more than the least, since deadlines on their way from the store count too."""


def groups(record: Record, _outages: Outages) -> Iterator[Violation]:
    """P18: an end comes after a beginning, once. P5: each worker that is down at the end of the run was named, and the
    last notification of its group is not an end."""
    newest = {entry.worker: entry for entry in record.history() if entry.worker in record.workers}
    for environment in sorted({worker.environment for worker in record.workers.values()}):
        down = [
            entry
            for entry in newest.values()
            if entry.new in OUT and record.environment_of(entry.worker) == environment
        ]
        for receiver in sorted(record.groups):
            taken = _taken(record, receiver, environment)
            yield from _in_turn(record, receiver, taken)
            yield from _named(receiver, taken, down)
            yield from _at_the_end(record, receiver, taken, down)
        if environment == CROWD:
            for receiver in sorted(record.receivers):
                taken = _taken(record, receiver, environment)
                yield from _in_turn(record, receiver, taken)
                yield from _has_its_end(record, receiver, taken, down)


def _taken(record: Record, receiver: str, environment: str) -> list[Arrival]:
    taken: dict[str, Arrival] = {}
    for arrival in record.arrivals:
        if arrival.receiver != receiver or not arrival.is_group or not is_taken(arrival):
            continue
        if arrival.data["group"]["environment"] == environment:
            taken.setdefault(arrival.webhook_id, arrival)
    return list(taken.values())


def _in_turn(record: Record, receiver: str, taken: list[Arrival]) -> Iterator[Violation]:
    is_firing = False
    for arrival in taken:
        is_end = arrival.type == "group.resolved"
        if is_end and not is_firing and not record.is_disturbed(0.0, arrival.at_s):
            yield Violation(
                promise="P18", what=f"{receiver}: an end of the group at {arrival.at_s:.2f} s without a DOWN"
            )
        is_firing = not is_end


def _named(receiver: str, taken: list[Arrival], down: list[Entry]) -> Iterator[Violation]:
    named = {event_id for arrival in taken for event_id in arrival.event_ids}
    is_cut = any(arrival.data["truncated"] for arrival in taken)
    for entry in down:
        if entry.kind in DOWN and entry.event_id not in named and not is_cut:
            what = f"{entry.kind} seq {entry.seq} is named in nothing that {receiver} took"
            yield Violation(promise="P5", worker=entry.worker, what=what)


def _at_the_end(record: Record, receiver: str, taken: list[Arrival], down: list[Entry]) -> Iterator[Violation]:
    yield from _has_its_end(record, receiver, taken, down)
    if down and (not taken or taken[-1].type == "group.resolved"):
        yield Violation(promise="P5", what=f"{receiver}: {len(down)} workers are down, and the group had its end")


def _has_its_end(record: Record, receiver: str, taken: list[Arrival], down: list[Entry]) -> Iterator[Violation]:
    last = taken[-1] if taken else None
    if last is not None and not down and last.type == "group.firing" and not is_lost(record, last):
        yield Violation(
            promise="P18", what=f"{receiver}: the group fired at {last.at_s:.2f} s, is over, and had no end"
        )


def mass_failures(record: Record, _outages: Outages) -> Iterator[Violation]:
    """P16: many workers that fall silent within one interval are one notification at each receiver, and one incident.
    Updates come no more often than the group's interval. No worker is notified by itself."""
    crowd = [worker for worker in record.workers.values() if worker.environment == CROWD]
    silent = [entry for entry in record.history() if entry.worker in {one.name for one in crowd}]
    silent = [entry for entry in silent if entry.kind in STALE]
    if not silent or record.losses or record.is_clock_stepped:
        return  # lost events are detected, and notified, again
    due_s = sorted(entry.due_s for entry in silent)
    if len(silent) < MOST_SURE or due_s[-1] - due_s[0] > crowd[0].interval_s:
        return  # outages have moved some deadlines and not others: it may not have been one failure to the monitor
    events = {entry.event_id for entry in silent}
    for receiver in record.receivers:
        if record.of_one.get(receiver, CROWD) == CROWD:
            yield from _as_one(record, receiver, events)


def _as_one(record: Record, receiver: str, events: set[str]) -> Iterator[Violation]:
    notified = [one for one in record.arrivals if one.receiver == receiver and not events.isdisjoint(one.event_ids)]
    for worker in sorted({str(one.data["worker_id"]) for one in notified if not one.is_group}):
        yield Violation(promise="P16", worker=worker, what=f"{receiver} was notified of it by itself in a mass failure")
    firing = _first_of_each([one for one in notified if one.type == "group.firing"])
    if not firing:
        return  # over before anything was sent, or a promise about outcomes is broken
    most = 1 + int((firing[-1].at_s - firing[0].at_s) / GROUP_INTERVAL_S)
    if len(firing) > most:
        yield Violation(promise="P16", what=f"{receiver} was notified {len(firing)} times of one mass failure")
    incidents = {one.data["incident_id"] for one in firing}
    if len(incidents) > 1 or None in incidents:
        yield Violation(promise="P16", what=f"{receiver} was notified of one mass failure as the incidents {incidents}")


def _first_of_each(arrivals: Sequence[Arrival]) -> list[Arrival]:
    first: dict[str, Arrival] = {}
    for arrival in arrivals:
        first.setdefault(arrival.webhook_id, arrival)
    return list(first.values())
