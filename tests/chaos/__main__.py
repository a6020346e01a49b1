"""``python -m tests.chaos``: one seed again, or many; docs/chaos.md.

Prints what was done and what came of it. The exit status is 1 when a promise was broken; the whole timeline of such a
seed is in a file then.
"""

import argparse
import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from monitor.clock import monotonic_s
from tests.chaos import oracle, plan, run, site
from tests.chaos.record import Record, Violation, from_json

SHOWN: Final = 12


@dataclass(kw_only=True, slots=True)
class Sums:
    """Sums over all runs."""

    runs: int = 0
    failed: list[int] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    promises: Counter[str] = field(default_factory=Counter)
    false_pages: int = 0
    lost_alerts: int = 0
    duplicate_ids: int = 0
    beats: int = 0
    events: int = 0
    arrivals: int = 0
    put_off: int = 0
    refused: int = 0
    silences: int = 0
    silenced: int = 0
    damped: int = 0
    acks: int = 0
    reminders: int = 0
    stalls: int = 0
    crowds: int = 0
    hostile: int = 0

    def add(self, record: Record, violations: list[Violation]) -> None:
        """Add one run."""
        self.runs += 1
        self.faults.update(fault.kind for fault in record.faults)
        self.promises.update(violation.promise for violation in violations)
        self.false_pages += sum(violation.promise in {"P1", "P8", "P13"} for violation in violations)
        self.lost_alerts += sum(violation.promise in {"P2", "P5"} for violation in violations)
        self.duplicate_ids += sum(violation.promise in {"P3", "P6"} for violation in violations)
        self.beats += len(record.tries)
        self.events += len(record.final)
        self.arrivals += len(record.arrivals)
        self.put_off += sum(one.is_put_off for one in record.tries)
        self.refused += len(record.expired)
        self.silences += sum(one.begun_s is not None for one in record.silences)
        self.silenced += len({one.event_id for one in record.outcomes if one.outcome == "silenced"})
        self.damped += len({one.event_id for one in record.outcomes if one.outcome == "damped"})
        self.acks += len(record.acks)
        self.reminders += len({one.webhook_id for one in record.arrivals if one.reminder})
        self.stalls += len(record.stalls)
        self.crowds += any(one.type == "group.firing" and one.receiver == "ops" for one in record.arrivals)
        self.hostile += record.hostile_requests
        if violations:
            self.failed.append(record.seed)

    def report(self, seconds: float) -> str:
        """Summary for people."""
        faults = ", ".join(f"{kind} {count}" for kind, count in sorted(self.faults.items()))
        return (
            f"{self.runs} runs in {seconds:.0f} s: {self.faults.total()} faults, {self.beats} requests of workers, "
            f"{self.events} events, {self.arrivals} webhook requests\n"
            f"{self.put_off} answered 429 or 503, {self.refused} refused for their token; "
            f"{self.silences} silences that held {self.silenced} events, {self.acks} acknowledgements, "
            f"{self.reminders} reminders, {self.damped} events damped, {self.crowds} mass failures notified as one; "
            f"{self.hostile} requests of hostile clients; the machine stalled {self.stalls} times\n"
            f"faults by kind: {faults or 'none'}\n"
            f"violations: {self.promises.total()} {dict(sorted(self.promises.items())) or ''}\n"
            f"false pages: {self.false_pages}, lost alerts: {self.lost_alerts}, duplicate ids: {self.duplicate_ids}\n"
            f"failing seeds: {self.failed or 'none'}"
        )


def main(words: list[str]) -> int:
    """Run the command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this seed once, and show all that it did")
    parser.add_argument("--runs", type=int, default=10, help="how many seeds")
    parser.add_argument("--from-seed", type=int, default=1, help="the first of them")
    parser.add_argument("--minutes", type=float, default=None, help="begin no run after this time")
    parser.add_argument("--only", action="append", default=[], choices=[*plan.Kind], help="these kinds of faults only")
    parser.add_argument("--judge", type=Path, help="judge the timeline in this file again, and run nothing")
    parser.add_argument("--plan", action="store_true", help="show the plans, and do nothing")
    parser.add_argument("--out", type=Path, default=Path("chaos-failures"), help="where timelines of failing seeds go")
    asked = parser.parse_args(words)
    if asked.judge is not None:
        return _judge_again(asked.judge)
    kinds = frozenset(plan.Kind(kind) for kind in asked.only) or frozenset(plan.Kind)
    seeds = [asked.seed] if asked.seed is not None else range(asked.from_seed, asked.from_seed + asked.runs)
    sums, began_s = Sums(), monotonic_s()
    for seed in seeds:
        if asked.minutes is not None and monotonic_s() - began_s > asked.minutes * 60:
            break
        made = plan.make(seed, kinds=kinds, faketime=site.FAKETIME is not None)
        print(plan.described(made), flush=True)
        if asked.plan:
            continue
        record = run.played(made)
        violations = oracle.judge(record)
        sums.add(record, violations)
        _report(made, record, violations, asked.out)
    if not asked.plan:
        print(sums.report(monotonic_s() - began_s))
    return 1 if sums.failed else 0


def _judge_again(path: Path) -> int:
    """Judge a recorded timeline again, as after a change of the oracle."""
    violations = oracle.judge(from_json(json.loads(path.read_text(encoding="utf-8"))["record"]))
    for violation in violations:
        print(violation)
    return 1 if violations else 0


def _report(made: plan.Plan, record: Record, violations: list[Violation], out: Path) -> None:
    for violation in violations[:SHOWN]:
        print(f"  {violation}")
    if len(violations) > SHOWN:
        print(f"  and {len(violations) - SHOWN} more")
    if violations:
        path = out / f"seed-{made.seed}.json"
        oracle.write(path, plan.described(made), record, violations)
        print(f"  the timeline is in {path}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
