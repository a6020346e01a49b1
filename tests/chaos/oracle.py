"""The oracle: from what truly happened and what was observed to the promises that were broken. The rules are pure."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tests.chaos import alerts, expired, fair, groups, lives, prompt, quiet, reading
from tests.chaos.outages import Outages, measured
from tests.chaos.record import Record, Violation

Rule = Callable[[Record, Outages], Iterator[Violation]]

FULL: Final = frozenset({"store.disk_full", "store.memory_full"})
RECOVERY_S: Final = 10.0
"""Maximum time from the end of the last fault to the end of its outage."""


def recovers(record: Record, outages: Outages) -> Iterator[Violation]:
    """P26, P27: when the fault is over, each daemon takes beats again, without a hand."""
    for daemon, windows in enumerate(outages.of_sure):
        for window in windows:
            if window.a_s > 0.0 and not record.is_disturbed(window.b_s - RECOVERY_S, window.b_s):
                what = (
                    f"daemon {daemon} took no beats from {window.a_s:.2f} to {window.b_s:.2f} s, long after any fault"
                )
                full = [fault for fault in record.faults if fault.kind in FULL and fault.begun_s <= window.b_s]
                yield Violation(promise="P26" if full else "P27", what=what)


def settles(record: Record, _outages: Outages) -> Iterator[Violation]:
    """P5, and a run whose end says something."""
    if not record.is_settled:
        yield Violation(promise="P5", what=f"something was still under way at the end, {record.ended_s:.0f} s")
    for trouble in record.trouble:
        yield Violation(promise="harness", what=trouble)


RULES: Final[dict[str, Rule]] = {
    "false pages": lives.false_pages,
    "unwelcome pages": lives.unwelcome_pages,
    "lost deaths": lives.lost_deaths,
    "evidence": lives.evidence,
    "one history": lives.one_history,
    "goodbyes": lives.goodbyes,
    "refusals": lives.refusals,
    "rejected": expired.rejected,
    "recovers": recovers,
    "readings": reading.readings,
    "together": reading.together,
    "signatures": alerts.signatures,
    "complete": alerts.complete,
    "vanished": alerts.vanished,
    "repeats": alerts.repeats,
    "pairs": alerts.pairs,
    "taken": alerts.every_down_taken,
    "groups": groups.groups,
    "mass failures": groups.mass_failures,
    "silences": quiet.silences,
    "reminders": quiet.reminders,
    "detected": prompt.detected,
    "notified in time": prompt.notified_in_time,
    "damped": prompt.damped,
    "truth": prompt.truth,
    "put off": prompt.put_off,
    "fair": fair.fair,
    "settles": settles,
}


def judge(record: Record) -> list[Violation]:
    """Every broken promise, rule by rule."""
    outages = measured(record)
    return [violation for rule in RULES.values() for violation in rule(record, outages)]


def write(path: Path, plan: str, record: Record, violations: list[Violation]) -> None:
    """Write all that is known of a run to a file, for the search for the cause."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {"plan": plan.splitlines(), "violations": [str(one) for one in violations], "record": record.as_json()}
    path.write_text(json.dumps(whole, indent=1), encoding="utf-8")
