"""P29, both halves: what hostile clients do makes no obeying worker stale, and hides or delays no death. Pure.

Judged by what workers sent, and not by when the monitor took beats: an outage that hostile clients bring about excuses
nothing here.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from tests.chaos.lives import RECOVERY_S, STALE
from tests.chaos.outages import Outages
from tests.chaos.record import Record, Said, Try, Violation, Worker

PROMISED_S: Final = 2.0
"""Beside interval, grace and sweep: from the last beat to DOWN."""
MACHINE_S: Final = 1.0
"""For two cores that run the hostile clients too."""
EARLY_S: Final = 0.3
"""Between the harness's clock and the store's time as it was moved to it."""


def fair(record: Record, _outages: Outages) -> Iterator[Violation]:
    """Of each worker of ours, while hostile clients are all that is wrong."""
    if record.is_clock_stepped:
        return
    for worker in record.workers.values():
        if not worker.is_hasty and not any(one.worker == worker.name for one in record.expired):
            yield from _stale_while_beating(record, worker)
            yield from _hidden_or_late(record, worker)


def _stale_while_beating(record: Record, worker: Worker) -> Iterator[Violation]:
    for entry in record.history():
        if entry.worker != worker.name or entry.kind not in STALE:
            continue
        sent = [one for one in record.of(worker.name) if one.sent_s < entry.detected_s - EARLY_S]
        if not sent or sent[-1].said is not Said.BEAT:
            continue
        last = sent[-1]
        due_s = last.sent_s + worker.patience_s
        if entry.detected_s < due_s - EARLY_S and _is_only_hostile(record, last.sent_s - worker.patience_s, due_s):
            what = f"{entry.kind} seq {entry.seq} at {entry.detected_s:.2f} s, although it sent a beat {last.count} at "
            yield Violation(promise="P29", worker=worker.name, what=f"{what}{last.sent_s:.2f} s")


def _hidden_or_late(record: Record, worker: Worker) -> Iterator[Violation]:
    tries = record.of(worker.name)
    for last, following in [*pairwise(tries), *[(one, None) for one in tries[-1:]]]:
        bound_s = last.ended_s + worker.patience_s + record.sweep_s + PROMISED_S + MACHINE_S
        ends_s = record.ended_s if following is None else following.sent_s
        if ends_s <= bound_s or not _is_silence(last) or not _is_only_hostile(record, last.sent_s, bound_s):
            continue
        found = [entry for entry in record.history() if entry.worker == worker.name and entry.count == last.count]
        reported = [entry.detected_s for entry in found if entry.kind in STALE]
        if not reported or reported[0] > bound_s:
            when = f"reported at {reported[0]:.2f} s" if reported else "never reported"
            what = f"silent after beat {last.count} at {last.sent_s:.2f} s, {when}, due by {bound_s:.2f} s"
            yield Violation(promise="P29", worker=worker.name, what=what)


def _is_silence(last: Try) -> bool:
    return last.said is Said.BEAT and last.is_stored


def _is_only_hostile(record: Record, from_s: float, to_s: float) -> bool:
    return record.is_hostile(from_s, to_s) and not record.is_monitor_disturbed(from_s - RECOVERY_S, to_s)
