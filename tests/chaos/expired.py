"""Checks of refused beats: a worker with an expired token is reported as rejected, then as stale once
silent (P11). Pure."""

from collections.abc import Iterator, Sequence
from typing import Final

from tests.chaos.lives import RECOVERY_S, STALE, detection_bound_s
from tests.chaos.outages import Outages
from tests.chaos.record import Entry, Record, Try, Violation, Worker

NOTED_S: Final = 1.0
"""Maximum time from the answer to a refused beat to its record in the store, while nothing is wrong."""
SLACK_S: Final = 0.2
"""Between the harness's clock and the store's time as it was moved to it."""


def rejected(record: Record, outages: Outages) -> Iterator[Violation]:
    """P11: refused beats make it ``rejected``, nothing else does, and it is ``stale`` once they have ended, or for
    three intervals and the grace none was accepted. P24: an
    expired token opens nothing, whatever the clocks."""
    for one in record.expired:
        if one.is_stored:
            what = f"a beat at {one.sent_s:.2f} s was stored for a token that had expired"
            yield Violation(promise="P24", worker=one.worker, what=what)
    for worker in record.workers.values():
        expired = record.refused_of(worker.name)
        reported = [entry for entry in record.history() if entry.worker == worker.name and entry.kind in STALE]
        for entry in reported:
            yield from _of_its_kind(record, worker, expired, entry)
        if expired and reported:
            yield from _ends(record, outages, worker, expired, reported)


def _of_its_kind(record: Record, worker: Worker, expired: Sequence[Try], entry: Entry) -> Iterator[Violation]:
    last = next((one for one in record.of(worker.name) if one.count == entry.count), None)
    if last is None:
        return
    read_s = entry.at_s if record.is_clock_stepped else entry.detected_s
    since = [one for one in expired if last.sent_s <= one.sent_s <= read_s]
    where = f"{entry.kind} seq {entry.seq} after beat {last.count} at {last.sent_s:.2f} s"
    if entry.kind == "worker.rejected":
        if not since:
            yield Violation(promise="P11", worker=worker.name, what=f"{where}, and no beat was refused")
        return
    if record.is_clock_stepped or worker.is_hasty:
        return  # when it was due is not known; or which of its many refused beats were noted, one in a few seconds
    noted = [one for one in since if one.is_refused and one.ended_s + NOTED_S < entry.due_s]
    if noted and not record.is_disturbed(last.sent_s - RECOVERY_S, entry.detected_s):
        limit_s = last.sent_s + 3 * worker.interval_s + worker.grace_s
        alive_s = min(noted[-1].sent_s + worker.patience_s, limit_s)
        if alive_s > entry.due_s + SLACK_S:
            what = f"{where}, due at {entry.due_s:.2f} s, although a refused beat holds until {alive_s:.2f} s"
            yield Violation(promise="P11", worker=worker.name, what=what)


def _ends(
    record: Record, outages: Outages, worker: Worker, expired: Sequence[Try], reported: Sequence[Entry]
) -> Iterator[Violation]:
    """P2: refused beats that have ended are a silence like any other."""
    tries = record.of(worker.name)
    if tries[-1].sent_s > expired[-1].sent_s or reported[-1].kind != "worker.rejected":
        return  # it is back, or was reported as stale
    bound_s = detection_bound_s(record, outages, worker, [*tries, *expired])
    if record.ended_s > bound_s:
        what = f"no stale event by {bound_s:.2f} s after the last refused beat at {expired[-1].sent_s:.2f} s"
        yield Violation(promise="P2", worker=worker.name, what=what)
