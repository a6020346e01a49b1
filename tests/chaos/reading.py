"""Checks of readings: the status API shows the true state at the moment of reading (P10, P22). Pure."""

from collections.abc import Iterator, Sequence
from typing import Final

from tests.chaos.outages import Outages
from tests.chaos.record import Entry, Reading, Record, Said, Try, Violation

ALIVE: Final = frozenset({"alive", "late"})
RECORDED: Final = frozenset({"stale", "failed", "stopped"})
"""What a worker is only by an event; or, stale, by its deadline before there is one."""
SLACK_S: Final = 0.3
"""Between the moment for which the store answered and the one at which the oracle can say that it did."""
BLIND_S: Final = 1.0
"""The uncertainty of the beginning and the end of a window."""


def readings(record: Record, outages: Outages) -> Iterator[Violation]:
    """P22: a worker that beats well reads alive or late; one past the latest deadline does not. P10: stored beats show.

    Of each worker the first wrong reading of a kind is reported.
    """
    reported: set[tuple[str, str]] = set()
    for violation in _every(record, outages):
        if (violation.worker, violation.promise) not in reported:
            reported.add((violation.worker, violation.promise))
            yield violation


def together(record: Record, _outages: Outages) -> Iterator[Violation]:
    """P4: the recorded state of a worker and its newest event are never seen apart. Of each worker the first reading is
    reported that shows one without the other."""
    if record.is_clock_stepped or record.losses:
        return
    events: dict[str, list[Entry]] = {}
    for entry in record.history():
        events.setdefault(entry.worker, []).append(entry)
    reported: set[str] = set()
    for reading in record.readings:
        known = [one for one in events.get(reading.worker, ()) if one.detected_s <= reading.answered_s + SLACK_S]
        if not known or known[-1].detected_s >= reading.asked_s - SLACK_S or reading.worker in reported:
            continue
        says = known[-1].new
        is_apart = reading.liveness != says if says in RECORDED else reading.liveness in RECORDED - {"stale"}
        if is_apart:
            reported.add(reading.worker)
            what = f"{reading.where}: {reading.liveness}, although {known[-1].kind} has made it {says}"
            yield Violation(promise="P4", worker=reading.worker, what=what)


def _every(record: Record, outages: Outages) -> Iterator[Violation]:
    by_worker = {name: record.of(name) for name in record.workers}
    for reading in record.readings:
        tries = by_worker.get(reading.worker)
        if tries is None:
            continue
        stored = _newest_stored(record, tries, reading)
        if stored is not None and reading.count < stored.count and not _came_late(outages, tries, stored, reading):
            what = (
                f"{reading.where}: beat {reading.count}, although {stored.count} was stored at {stored.ended_s:.2f} s"
            )
            yield Violation(promise="P10", worker=reading.worker, what=what)
        if reading.liveness in ALIVE:
            yield from _must_be_down(record, outages, tries, reading)
        elif stored is not None:
            yield from _must_be_alive(record, outages, tries, stored, reading)


def _newest_stored(record: Record, tries: Sequence[Try], reading: Reading) -> Try | None:
    """The newest beat that was acknowledged before the reading began and that no loss can have taken away."""
    stored = [
        one
        for one in tries
        if one.said is Said.BEAT
        and one.is_stored
        and one.ended_s <= reading.asked_s
        and not any(loss.covers(one.ended_s) and loss.kept_s <= reading.answered_s for loss in record.losses)
    ]
    return stored[-1] if stored else None


def _came_late(outages: Outages, tries: Sequence[Try], stored: Try, reading: Reading) -> bool:
    """Whether the reading shows an older beat whose client no longer waited, and that a daemon read after the newer."""
    return any(
        one.count == reading.count and not one.is_stored and outages.applied_by(one) >= stored.sent_s for one in tries
    )


def _must_be_alive(
    record: Record, outages: Outages, tries: Sequence[Try], stored: Try, reading: Reading
) -> Iterator[Violation]:
    worker = record.workers[reading.worker]
    due_s = outages.earliest(worker, stored, judged_s=reading.answered_s)
    said_goodbye = any(
        one.said is not Said.BEAT and one.count > stored.count and one.sent_s <= reading.answered_s for one in tries
    )
    if not said_goodbye and reading.answered_s < due_s:
        what = f"{reading.where}: {reading.liveness}, although beat {stored.count} holds until {due_s:.2f} s"
        yield Violation(promise="P22", worker=reading.worker, what=what)


def _must_be_down(record: Record, outages: Outages, tries: Sequence[Try], reading: Reading) -> Iterator[Violation]:
    worker = record.workers[reading.worker]
    sent = [one for one in tries if one.sent_s <= reading.answered_s]
    if not sent or outages.is_blind(reading.asked_s, reading.answered_s, around_s=BLIND_S):
        return
    last = sent[-1]
    due_s = outages.latest(worker, sent) + SLACK_S
    if reading.asked_s > due_s:
        what = f"{reading.where}: {reading.liveness}, although silent since {last.sent_s:.2f} s, due by {due_s:.2f} s"
        yield Violation(promise="P22", worker=reading.worker, what=what)
