"""Checks of liveness: no living worker is called stale, each dead one is, once, in time (P1, P2, P3, P8, P9). Pure."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

from tests.chaos.outages import Outages
from tests.chaos.record import Entry, Record, Said, Try, Violation, Worker

SLACK_S: Final = 4.0
"""From the last moment at which a death may be detected to the one at which the oracle calls it lost: 2 s that the
design gives to those who take over from a killed daemon, 2 s for a machine of two cores that runs everything."""
READ_SLACK_S: Final = 4.0
"""How much later the harness may have read an event than it was recorded; only where the store's time says nothing."""
EVIDENCE_S: Final = 1.0
"""A window that began or ended this near to a beat or an event may be reported in the event or not. The reported length
is this exact."""
RECOVERY_S: Final = 6.0
"""After a fault has ended, beats may be refused for so long: connections are made again, with pauses between."""
STALE: Final = frozenset({"worker.stale", "worker.rejected"})
GOODBYES: Final = {Said.CLEAN: "worker.stopped", Said.FAILURE: "worker.failed"}


def false_pages(record: Record, outages: Outages) -> Iterator[Violation]:
    """P1, P8, P13: no stale event for a worker that was heard again before its deadline, outage credit included."""
    for entry in record.entries:
        if entry.kind not in STALE or entry.worker not in record.workers:
            continue
        worker, tries = record.workers[entry.worker], record.of(entry.worker)
        last = next((one for one in tries if one.count == entry.count), None)
        if last is None:
            yield Violation(promise="P9", worker=worker.name, what=f"{entry.kind} names a beat that was never sent")
            continue
        heard = _heard_next(record, outages, tries, last)
        due_s = outages.earliest(worker, last, judged_s=entry.at_s if record.is_clock_stepped else entry.detected_s)
        if heard is not None and heard.ended_s < due_s:
            is_plain = due_s == last.sent_s + worker.patience_s
            yield Violation(
                promise="P13" if _is_stepped(record, last, entry) else "P8" if is_plain else "P1",
                worker=worker.name,
                what=f"{entry.kind} seq {entry.seq}, although beat {last.count} at {last.sent_s:.2f} s was followed by "
                f"{heard.count} at {heard.ended_s:.2f} s, before its deadline at {due_s:.2f} s",
            )


def _is_stepped(record: Record, last: Try, entry: Entry) -> bool:
    """Whether the store's clock jumped in between."""
    return any(
        fault.kind == "store.clock" and last.sent_s <= fault.ended_s and fault.begun_s <= entry.at_s
        for fault in record.faults
    )


def _heard_next(record: Record, outages: Outages, tries: Sequence[Try], last: Try) -> Try | None:
    """The next request that the store has for certain, and got after ``last``. A daemon may read a request whose client
    no longer waits long after it was sent, and after newer ones."""
    after_s = last.sent_s if last.is_stored else outages.applied_by(last)
    for one in tries:
        if one.count > last.count and one.sent_s >= after_s and _is_kept(record, one):
            return one if one.said is Said.BEAT else None
    return None


def _is_kept(record: Record, one: Try) -> bool:
    """It was acknowledged, and no loss can have taken it away."""
    return one.is_stored and not any(loss.covers(one.ended_s) for loss in record.losses)


def unwelcome_pages(record: Record, _outages: Outages) -> Iterator[Violation]:
    """P1: no stale event for a worker that has said goodbye, was answered, and has sent nothing since."""
    for entry in record.entries:
        if entry.kind not in STALE or record.is_clock_stepped:
            continue
        said = [one for one in record.of(entry.worker) if one.sent_s <= entry.detected_s]
        if said and said[-1].said is Said.CLEAN and said[-1].ended_s < entry.detected_s and _is_kept(record, said[-1]):
            what = f"{entry.kind} seq {entry.seq}, although its goodbye was answered at {said[-1].ended_s:.2f} s"
            yield Violation(promise="P1", worker=entry.worker, what=what)


def lost_deaths(record: Record, outages: Outages) -> Iterator[Violation]:
    """P2: every silence that outlasts the latest deadline is reported, once, and in time."""
    for worker in record.workers.values():
        tries = record.of(worker.name)
        for last, following in [*pairwise(tries), *[(one, None) for one in tries[-1:]]]:
            ends_s = record.ended_s if following is None else following.sent_s
            said = [one for one in tries if one.count <= last.count]
            bound_s = detection_bound_s(record, outages, worker, said)
            stored = next((one for one in reversed(said) if _is_kept(record, one)), None)
            if ends_s <= bound_s or stored is None or stored.said is not Said.BEAT:
                continue  # it is back, or the store may not know that it was alive
            if last.said is not Said.BEAT and last.is_stored:
                continue  # a goodbye that is lost
            late = {one.count for one in said if not one.is_stored and outages.applied_by(one) >= stored.sent_s}
            yield from _reported(record, last, {*range(stored.count, last.count + 1), *late}, bound_s)


def detection_bound_s(record: Record, outages: Outages, worker: Worker, tries: Sequence[Try]) -> float:
    """When the silence after the last of these requests must have been detected."""
    bound_s = outages.latest(worker, tries) + record.sweep_s + SLACK_S
    for window in outages.possible:  # a blind monitor detects nothing, and notifies no receiver
        if window.a_s <= bound_s < window.b_s + record.sweep_s + SLACK_S:
            bound_s = window.b_s + record.sweep_s + SLACK_S
    return bound_s


def _reported(record: Record, last: Try, counts: set[int], bound_s: float) -> Iterator[Violation]:
    """``counts`` are the beats that may have been the last one that the store heard."""
    possible = {*STALE, GOODBYES.get(last.said, "")}
    found = [
        entry
        for entry in record.history()
        if entry.worker == last.worker and entry.count in counts and entry.kind in possible
    ]
    where = f"silent after beat {last.count} at {last.sent_s:.2f} s"
    if not found:
        yield Violation(promise="P2", worker=last.worker, what=f"{where}, and no event by {bound_s:.2f} s")
        return
    at_s = found[0].at_s - READ_SLACK_S if record.is_clock_stepped else found[0].detected_s
    if at_s > bound_s:
        yield Violation(
            promise="P2", worker=last.worker, what=f"{where}, reported at {at_s:.2f} s and not by {bound_s:.2f} s"
        )


def evidence(record: Record, outages: Outages) -> Iterator[Violation]:
    """P2: a death says for how long the monitor was blind since the last beat, and does not invent an outage."""
    for entry in record.entries:
        last = next((one for one in record.of(entry.worker) if one.count == entry.count), None)
        if entry.kind not in STALE or record.is_clock_stepped or last is None or not last.is_stored:
            continue
        span = last.ended_s + EVIDENCE_S, entry.detected_s - EVIDENCE_S
        missed_s = sum(window.length_s for window in outages.sure if span[0] <= window.a_s and window.b_s <= span[1])
        said_s = entry.outage_s or 0.0
        if said_s < missed_s - EVIDENCE_S:
            what = f"{entry.kind} seq {entry.seq} says that {said_s:.2f} s were missed, and it was {missed_s:.2f} s"
            yield Violation(promise="P2", worker=entry.worker, what=what)
        if entry.outage_s is not None and not record.is_disturbed(last.sent_s - RECOVERY_S, entry.detected_s):
            what = f"{entry.kind} seq {entry.seq} reports an outage of {said_s:.2f} s that was none"
            yield Violation(promise="P2", worker=entry.worker, what=what)


def one_history(record: Record, _outages: Outages) -> Iterator[Violation]:
    """P3, P9: in the history each life is one chain, numbered without a gap, with one stale for each silence."""
    ids = Counter(record.final)
    for event_id, times in ids.items():
        if times > 1:
            yield Violation(promise="P3", what=f"event {event_id} stands {times} times in the history")
    lives: dict[tuple[str, int], list[Entry]] = {}
    for entry in record.history():
        lives.setdefault(entry.life, []).append(entry)
    for (worker, _), entries in lives.items():
        if [entry.seq for entry in entries] != list(range(1, len(entries) + 1)):
            yield Violation(promise="P9", worker=worker, what=f"seq is {[entry.seq for entry in entries]}")
        for before, after in pairwise(entries):
            if before.new != after.old:
                what = f"{before.kind} to {before.new} is followed by {after.kind} from {after.old}"
                yield Violation(promise="P3", worker=worker, what=what)
        silences = Counter(
            (entry.count, entry.kind if record.refused_of(worker) else "") for entry in entries if entry.kind in STALE
        )
        for (count, _), times in silences.items():
            if times > 1:
                yield Violation(promise="P3", worker=worker, what=f"{times} stale events after beat {count}")


def goodbyes(record: Record, _outages: Outages) -> Iterator[Violation]:
    """P10: a goodbye that was acknowledged is in the history, unless the worker had said it before."""
    for one in record.tries:
        if one.said is Said.BEAT or not one.is_stored or _is_lost(record, one):
            continue
        kinds = {GOODBYES[one.said]}
        found = [
            entry
            for entry in record.history()
            if entry.worker == one.worker and entry.kind in kinds and entry.count <= one.count
        ]
        if not found:
            yield Violation(promise="P10", worker=one.worker, what=f"goodbye {one.count} was acknowledged and is lost")


def _is_lost(record: Record, one: Try) -> bool:
    return any(
        loss.covers(one.ended_s)
        and (loss.is_confirmed or one.said is not Said.FAILURE or record.durability == "memory")
        for loss in record.losses
    )


def refusals(record: Record, _outages: Outages) -> Iterator[Violation]:
    """P10, P21, P28, P29: no beat is refused while nothing is wrong, or only with a receiver or for hostile clients,
    but to who sends too many."""
    for one in record.tries:
        if one.is_stored or (one.said is not Said.BEAT and one.status == 404):
            continue  # a goodbye of a worker whose beats never came through
        if one.status == 429 and record.workers[one.worker].is_hasty:
            continue
        if not record.is_monitor_disturbed(one.sent_s - RECOVERY_S, one.ended_s):
            what = f"beat {one.count} at {one.sent_s:.2f} s was answered {one.status} while nothing was wrong"
            promise = record.bystander(one.sent_s - RECOVERY_S, one.ended_s) or "P10"
            yield Violation(promise=promise, worker=one.worker, what=what)
