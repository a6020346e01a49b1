"""Checks of time: deaths are detected in time (P14), and notified in time whatever other receivers do (P21), and so is
the last of many changes (P20). A worker that is put off is not given up (P28). Pure."""

from collections.abc import Iterator
from typing import Final

from tests.chaos.alerts import end_of, is_end, is_taken
from tests.chaos.lives import RECOVERY_S, STALE
from tests.chaos.outages import Outages
from tests.chaos.record import CROWD, DOWN, OUT, RECEIVERS, Arrival, Entry, Record, Try, Violation

DETECTED_S: Final = 0.5
"""Beside the sweep interval: from a deadline to the transition."""
NOTIFIED_S: Final = 2.0
"""From a transition to the receiver, where nothing is wrong with either: the event's confirmation, and this machine."""
MENDED_S: Final = 35.0
"""So long after a receiver's fault its notifications may wait: for a lease of 11 s, or for the 30 s after which one
that has failed five times in a row is tried again."""
EARLY_S: Final = 0.3
"""Between the harness's clock and the store's time as it was moved to it."""


def detected(record: Record, _outages: Outages) -> Iterator[Violation]:
    """P14, P21: a deadline leads to its transition within a sweep and half a second, whatever receivers do. What a
    request took at that moment is added: the machine was busy."""
    for entry in record.history():
        if entry.kind not in STALE or record.is_clock_stepped or entry.worker not in record.workers:
            continue
        if record.is_monitor_disturbed(entry.due_s - RECOVERY_S, entry.detected_s):
            continue
        bound_s = record.sweep_s + DETECTED_S + _busy_s(record, entry.due_s, entry.detected_s)
        if entry.detected_s - entry.due_s > bound_s:
            promise = record.bystander(entry.due_s - RECOVERY_S, entry.detected_s) or "P14"
            what = f"{entry.kind} seq {entry.seq} was due at {entry.due_s:.2f} s, detected at {entry.detected_s:.2f} s"
            yield Violation(promise=promise, worker=entry.worker, what=f"{what}, due by {bound_s:.2f} s after")


def _busy_s(record: Record, from_s: float, to_s: float) -> float:
    """The longest that a probe took in this span."""
    return max(
        (one.ended_s - one.sent_s for one in record.probes if from_s <= one.ended_s and one.sent_s <= to_s), default=0.0
    )


def notified_in_time(record: Record, _outages: Outages) -> Iterator[Violation]:
    """P21, P20: each notification of one worker reaches its receiver in time, if nothing is wrong with the monitor nor
    with this receiver, whatever other receivers do, and however often the worker has changed."""
    if record.is_clock_stepped:
        return
    delivered = {(one.event_id, one.receiver) for one in record.outcomes if one.outcome == "delivered"}
    first: dict[tuple[str, str], Arrival] = {}
    for arrival in record.arrivals:
        for event_id in () if arrival.is_group else arrival.event_ids:
            first.setdefault((event_id, arrival.receiver), arrival)
    for entry in record.history():
        for receiver in record.receivers:
            came = first.get((entry.event_id, receiver))
            if came is None or entry.worker not in record.workers or (entry.event_id, receiver) not in delivered:
                continue
            if _may_wait(record, entry, receiver, came.at_s):
                continue
            held_s = record.hold_s if entry.kind in DOWN and record.is_flapping(entry) else 0.0
            late_s = came.at_s - entry.detected_s - held_s
            if late_s > NOTIFIED_S + _busy_s(record, entry.detected_s, came.at_s):
                promise = record.bystander(entry.detected_s - MENDED_S, came.at_s) or "P20"
                what = f"{entry.kind} seq {entry.seq} came to {receiver} {late_s:.2f} s after it was recorded"
                yield Violation(promise=promise, worker=entry.worker, what=what)


def _may_wait(record: Record, entry: Entry, receiver: str, until_s: float) -> bool:
    of_own = any(
        fault.kind.startswith("receiver.")
        and fault.target == RECEIVERS.index(receiver)
        and fault.begun_s <= until_s
        and fault.ended_s + MENDED_S >= entry.detected_s
        for fault in record.faults
    )
    return (
        of_own
        or record.environment_of(entry.worker) == CROWD
        or record.is_monitor_disturbed(entry.detected_s - MENDED_S, until_s)
        or any(one.worker == entry.worker and one.may_be_on(entry.detected_s, until_s) for one in record.silences)
    )


def damped(record: Record, _outages: Outages) -> Iterator[Violation]:
    """P20: nothing is held back but of workers that flap, and no outage that lasts."""
    if record.is_clock_stepped:
        return
    known = {entry.event_id: entry for entry in record.history()}
    for outcome in record.outcomes:
        entry = known.get(outcome.event_id)
        if outcome.outcome != "damped" or entry is None:
            continue
        where = f"{entry.kind} seq {entry.seq} at {outcome.receiver} was damped"
        if not record.is_flapping(entry):
            yield Violation(promise="P20", worker=entry.worker, what=f"{where}, and its worker does not flap")
            continue
        end = end_of(record, entry)
        over_s = record.ended_s if end is None else end.detected_s
        is_excused = record.is_disturbed(entry.detected_s - MENDED_S, over_s) or any(
            one.worker == entry.worker and one.may_be_on(entry.detected_s, over_s) for one in record.silences
        )
        if entry.kind in DOWN and over_s - entry.detected_s > record.hold_s + NOTIFIED_S and not is_excused:
            what = f"{where}, although it lasted for {over_s - entry.detected_s:.2f} s"
            yield Violation(promise="P20", worker=entry.worker, what=what)


def truth(record: Record, _outages: Outages) -> Iterator[Violation]:
    """P20: however often a worker has changed, the last notification at each receiver shows its newest state."""
    newest: dict[str, Entry] = {entry.worker: entry for entry in record.history() if entry.worker in record.workers}
    for worker, entry in newest.items():
        if record.environment_of(worker) == CROWD:
            continue
        for receiver in record.receivers:
            taken = [
                one
                for one in record.arrivals
                if one.receiver == receiver
                and is_taken(one)
                and not one.is_group
                and one.data["worker_id"] == worker
                and (one.type in DOWN or is_end(one.type, one.data["old"]))
            ]
            if not taken or any(loss.back_s >= taken[-1].at_s for loss in record.losses):
                continue
            last = max(taken, key=lambda one: (int(one.data["generation"]), int(one.data["seq"])))
            is_down = entry.new in OUT
            if (last.type in DOWN) is not is_down:
                what = f"{receiver} was notified of {last.type} last, and it is {entry.new}"
                yield Violation(promise="P20", worker=worker, what=what)


def put_off(record: Record, _outages: Outages) -> Iterator[Violation]:
    """P28: each answer 429 or 503 has a Retry-After. A worker that got one is not reported before its interval and
    grace have passed again, where overload is all that is wrong."""
    for one in record.tries:
        if one.is_put_off and one.retry_after_s is None:
            what = f"beat {one.count} at {one.sent_s:.2f} s was answered {one.status} without Retry-After"
            yield Violation(promise="P28", worker=one.worker, what=what)
    for entry in record.entries:
        last = next((one for one in record.of(entry.worker) if one.count == entry.count), None)
        if entry.kind not in STALE or record.is_clock_stepped or last is None or record.workers[entry.worker].is_hasty:
            continue  # who sends again at once does not obey: of its refused beats one in a few seconds is noted
        refused = [one for one in record.of(entry.worker) if _holds(one, last, entry)]
        if refused and not _is_otherwise_disturbed(record, last.sent_s - RECOVERY_S, entry.detected_s):
            holds_s = refused[-1].sent_s + record.workers[entry.worker].patience_s
            if entry.due_s + EARLY_S < holds_s:
                what = (
                    f"{entry.kind} seq {entry.seq} due at {entry.due_s:.2f} s, although it was put off with beat "
                    f"{refused[-1].count} at {refused[-1].sent_s:.2f} s, which holds until {holds_s:.2f} s"
                )
                yield Violation(promise="P28", worker=entry.worker, what=what)


def _holds(one: Try, last: Try, entry: Entry) -> bool:
    return one.is_put_off and one.count > last.count and one.ended_s < entry.due_s


def _is_otherwise_disturbed(record: Record, from_s: float, to_s: float) -> bool:
    return any(
        fault.begun_s <= to_s
        and fault.ended_s >= from_s
        and fault.kind != "daemon.overload"
        and not fault.kind.startswith("receiver.")
        for fault in record.faults
    )
