"""Checks of alerts: every event reaches its receivers, once, in order, with its end (P5, P6, P7, P18, P23). Pure."""

from collections.abc import Iterator
from typing import Final

from tests.chaos.outages import Outages
from tests.chaos.record import CROWD, DOWN, OUT, Arrival, Entry, Record, Violation

LEFT: Final = frozenset({"worker.stopped", "worker.forgotten"})
NOTIFIED: Final = frozenset({"delivered", "superseded"})
SETTLED: Final = NOTIFIED | {"silenced", "damped"}
"""All other outcomes need an operator, or a receiver that refuses for good: no run has either."""
RECORDING_S: Final = 2.0
"""Maximum time from an answer of a receiver to its record in the store, while nothing is wrong."""
TOLERANCE_S: Final = 300.0
"""Maximum age of a signature that receivers accept."""


def is_end(kind: str, old: str | None) -> bool:
    """Whether it ends an outage."""
    return kind == "worker.recovered" or (kind in LEFT and old in OUT)


def end_of(record: Record, entry: Entry) -> Entry | None:
    """The event that ended the outage of ``entry``."""
    for other in record.history():
        if other.life == entry.life and other.seq > entry.seq and is_end(other.kind, other.old):
            return other
    return None


def signatures(record: Record, _outages: Outages) -> Iterator[Violation]:
    """P12: every signature is good, and of now by the right clock, whatever a daemon's clock says."""
    for arrival in record.arrivals:
        if not arrival.is_signed:
            yield Violation(promise="P12", what=f"{arrival.webhook_id} at {arrival.receiver}: bad signature")
        elif abs(arrival.age_s) > TOLERANCE_S and not record.is_clock_stepped:
            what = f"{arrival.webhook_id} at {arrival.receiver}: timestamp {arrival.age_s:.0f} s old"
            yield Violation(promise="P12", what=what)


def complete(record: Record, _outages: Outages) -> Iterator[Violation]:
    """P5: each event has one recorded outcome at each receiver, and the receiver's own record agrees."""
    said = {(outcome.event_id, outcome.receiver): outcome.outcome for outcome in record.outcomes}
    for entry in record.history():
        for receiver in record.receivers:
            outcome = said.get((entry.event_id, receiver))
            if outcome is None and not record.wants(receiver, entry):
                continue
            got = [one for one in record.arrivals if one.receiver == receiver and entry.event_id in one.event_ids]
            where = f"{entry.kind} seq {entry.seq} at {receiver}"
            if outcome not in SETTLED:
                yield Violation(promise="P5", worker=entry.worker, what=f"{where}: outcome {outcome}")
            elif outcome in {"silenced", "damped"} and any(is_taken(one) for one in got):
                yield Violation(promise="P5", worker=entry.worker, what=f"{where}: {outcome}, and it was taken")
            elif outcome == "delivered" and not got and not _counts_as_delivered(record, entry):
                yield Violation(promise="P5", worker=entry.worker, what=f"{where}: delivered, and it never came")
            elif outcome == "superseded" and any(is_taken(one) and not is_lost(record, one) for one in got):
                yield Violation(promise="P5", worker=entry.worker, what=f"{where}: superseded, and it was taken")


def _counts_as_delivered(record: Record, entry: Entry) -> bool:
    """Whether a DOWN counts as delivered without an arrival. It was over while its arrival was unknown: its end
    is sent, and the DOWN is not retried."""
    if record.environment_of(entry.worker) == CROWD and is_end(entry.kind, entry.old):
        return True  # the end of a group need not name whom it was of
    ends = [
        other
        for other in record.history()
        if other.life == entry.life and other.seq > entry.seq and is_end(other.kind, other.old)
    ]
    return entry.kind in DOWN and any(record.is_disturbed(entry.detected_s, end.at_s) for end in ends[:1])


def vanished(record: Record, _outages: Outages) -> Iterator[Violation]:
    """P5, P23: an event that was in the history once, or that a receiver was notified of, is there at the end.

    A loss may remove events of its span. It may remove those that a receiver was notified of only if confirmed writes
    were lost, or if writes needed no confirmation.
    """
    final = set(record.final)
    notified_s = {event_id: one.at_s for one in record.arrivals for event_id in one.event_ids}
    for entry in record.entries:
        if entry.event_id in final:
            continue
        was_notified = entry.event_id in notified_s
        excused = any(
            loss.kept_s <= entry.at_s
            and entry.detected_s <= loss.back_s
            and (loss.is_confirmed or record.durability == "memory" or not was_notified)
            for loss in record.losses
        )
        if not excused:
            what = f"{entry.kind} seq {entry.seq}, {'notified and ' if was_notified else ''}gone from the history"
            yield Violation(promise="P23" if was_notified else "P5", worker=entry.worker, what=what)
    known = {entry.event_id for entry in record.entries}
    for event_id, at_s in notified_s.items():
        lost = any(loss.covers(at_s) and (loss.is_confirmed or record.durability == "memory") for loss in record.losses)
        if event_id not in known and not lost:
            yield Violation(promise="P23", what=f"event {event_id} was notified at {at_s:.2f} s and is in no history")


def repeats(record: Record, _outages: Outages) -> Iterator[Violation]:
    """P6: one id, one body; no more of it after a 2xx that was recorded; no event under two ids."""
    first: dict[tuple[str, str], Arrival] = {}
    taken: dict[tuple[str, str], Arrival] = {}
    named: dict[tuple[str, str], str] = {}
    for arrival in record.arrivals:
        key = arrival.receiver, arrival.webhook_id
        if first.setdefault(key, arrival).body != arrival.body and not _is_forgotten(record, first[key]):
            yield Violation(promise="P6", what=f"{arrival.webhook_id} at {arrival.receiver} came with two bodies")
        before = taken.get(key)
        if before is not None and not _may_repeat(record, before, arrival):
            said = [line for line in record.attempts if arrival.webhook_id in line] or "nothing"
            what = (
                f"{arrival.webhook_id} at {arrival.receiver}, taken at {before.at_s:.2f} s, came again at "
                f"{arrival.at_s:.2f} s; the daemons wrote {said}"
            )
            yield Violation(promise="P6", worker=_worker(arrival), what=what)
        if is_taken(arrival):
            taken[key] = arrival
        if arrival.is_group or arrival.reminder:
            continue  # groups and reminders name a worker as long as it is down
        event = arrival.receiver, str(arrival.data["event_id"])
        other = named.setdefault(event, arrival.webhook_id)
        if other != arrival.webhook_id and not _is_forgotten(record, first[arrival.receiver, other]):
            what = f"event {event[1]} came to {arrival.receiver} as {other} and as {arrival.webhook_id}"
            yield Violation(promise="P6", worker=_worker(arrival), what=what)


def _may_repeat(record: Record, taken: Arrival, again: Arrival) -> bool:
    """Whether what was answered 2xx may have been left unrecorded, or its record lost. Before the run has begun, all
    its processes start on a busy machine: an attempt of then may have been late, and is repeated at once."""
    return (
        (taken.at_s < 0.0 and again.at_s < RECORDING_S)
        or record.is_disturbed(taken.at_s - RECORDING_S, taken.at_s + RECORDING_S)
        or is_lost(record, taken)
    )


def is_lost(record: Record, arrival: Arrival) -> bool:
    """Whether the store may have lost its record of the arrival."""
    return any(loss.covers(arrival.at_s) or loss.covers(arrival.at_s + RECORDING_S) for loss in record.losses)


def _is_forgotten(record: Record, arrival: Arrival) -> bool:
    """Whether a loss may have removed the notified event. Detected again, the event has the same ids, and new times."""
    return any(
        loss.covers(arrival.at_s) and (loss.is_confirmed or record.durability == "memory") for loss in record.losses
    )


def pairs(record: Record, _outages: Outages) -> Iterator[Violation]:
    """P7, P18: at each receiver, of each worker, a DOWN comes before its end, and each has exactly one end."""
    crowd = {worker.name for worker in record.workers.values() if worker.environment == CROWD}
    for receiver in record.receivers:  # workers that fall silent in a crowd are notified as a group
        by_worker: dict[str, list[Arrival]] = {}
        seen: set[str] = set()
        for arrival in _of(record, receiver):
            if _worker(arrival) in crowd or arrival.reminder:
                continue
            if is_taken(arrival) and arrival.webhook_id not in seen:
                seen.add(arrival.webhook_id)
                by_worker.setdefault(_worker(arrival), []).append(arrival)
        for worker, arrivals in by_worker.items():
            yield from _paired(record, receiver, worker, arrivals)


def _paired(record: Record, receiver: str, worker: str, arrivals: list[Arrival]) -> Iterator[Violation]:
    down: Arrival | None = None
    newest = (0, 0)
    for arrival in arrivals:
        where = f"{arrival.type} seq {arrival.data['seq']} at {receiver}"
        order = int(arrival.data["generation"]), int(arrival.data["seq"])
        lost = is_lost(record, arrival) or any(loss.back_s <= arrival.at_s for loss in record.losses)
        if order <= newest and not lost:
            yield Violation(promise="P7", worker=worker, what=f"{where} came after {newest[1]}")
        newest = max(newest, order)
        if arrival.type in DOWN:
            if down is not None and arrival.data["old"] != "stale" and not lost:
                yield Violation(promise="P18", worker=worker, what=f"{where}: the DOWN before it had no end")
            down = arrival
        elif is_end(arrival.type, arrival.data["old"]):
            if down is None and not lost and not _may_have_arrived(record, receiver, arrival):
                yield Violation(promise="P18", worker=worker, what=f"{where}: an end without a DOWN")
            down = None
    final = [entry for entry in record.history() if entry.worker == worker]
    if down is not None and final and final[-1].new not in OUT and not is_lost(record, down):
        what = f"{down.type} seq {down.data['seq']} at {receiver} never got its end; it is {final[-1].new}"
        yield Violation(promise="P18", worker=worker, what=what)


def _may_have_arrived(record: Record, receiver: str, end: Arrival) -> bool:
    """Whether an attempt of the DOWN before ``end`` may have gone unseen, so that ``end`` is right. Either a process
    was killed or cut off in the middle of the attempt, or the attempt came and was not answered."""
    unanswered = any(
        one.answered is None and _worker(one) == _worker(end) and one.at_s < end.at_s for one in _of(record, receiver)
    )
    return unanswered or record.is_disturbed(0.0, end.at_s)


def every_down_taken(record: Record, _outages: Outages) -> Iterator[Violation]:
    """P2, P5: each receiver that wants the DOWN of a worker that is down at the end has taken it. Does not rely on the
    outcomes that the API reports."""
    newest: dict[str, Entry] = {}
    for entry in record.history():
        newest[entry.worker] = entry
    for worker, entry in newest.items():
        if entry.kind not in DOWN or worker not in record.workers:
            continue
        for receiver in record.receivers:
            got = [one for one in record.arrivals if one.receiver == receiver and entry.event_id in one.event_ids]
            if record.wants(receiver, entry) and not any(is_taken(one) for one in got):
                what = f"{entry.kind} seq {entry.seq} was never taken by {receiver}"
                yield Violation(promise="P5", worker=worker, what=what)


def _of(record: Record, receiver: str) -> list[Arrival]:
    """The receiver's notifications of single workers."""
    return [arrival for arrival in record.arrivals if arrival.receiver == receiver and not arrival.is_group]


def is_taken(arrival: Arrival) -> bool:
    """It was answered 2xx."""
    return arrival.answered is not None and 200 <= arrival.answered < 300


def _worker(arrival: Arrival) -> str:
    return str(arrival.data.get("worker_id", ""))
