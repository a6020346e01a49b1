"""Make each wrong change and run its tests: ``python -m tests.mutants --help``."""

import argparse
import sys
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from queue import SimpleQueue
from typing import Final

from monitor.clock import monotonic_s
from tests.mutants.catalog import AREAS, MUTANTS
from tests.mutants.mutant import Mutant
from tests.mutants.workshop import Verdict, Workshop, workshop

DUE: Final = 0.95
"""The share of all changes that tests must catch."""


class Judges:
    """Judges changes in as many copies of the checkout as there are jobs."""

    def __init__(self, copies: Iterable[Workshop]) -> None:
        self._free: SimpleQueue[Workshop] = SimpleQueue()
        for copy in copies:
            self._free.put(copy)
        self._print = threading.Lock()
        self.verdicts: dict[str, Verdict] = {}

    def judge(self, mutant: Mutant) -> None:
        """Run the tests of one change and print the verdict."""
        copy = self._free.get()
        began_s = monotonic_s()
        verdict = copy.judge(mutant)
        with self._print:
            self.verdicts[mutant.wrong] = verdict
            print(f"{verdict.value:9}{monotonic_s() - began_s:6.1f} s  {mutant.wrong}", flush=True)
            if verdict is Verdict.INVALID:
                print(copy.output, flush=True)
        self._free.put(copy)


def _chosen(words: Sequence[str]) -> list[Mutant]:
    """All, or those of the areas that are named; a word that names no area stands for what has it in text or path."""
    if not words:
        return list(MUTANTS)
    texts = [word for word in words if word not in AREAS]
    return [
        mutant
        for area, mutants in AREAS.items()
        for mutant in mutants
        if area in words or any(text in mutant.wrong or text in mutant.file for text in texts)
    ]


def main() -> int:
    """Exit status 1: a change was not caught and has no reason, or has one and was, or too few of all were."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("only", nargs="*", help="areas, or parts of a description or a path; all without")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (2)")
    parser.add_argument("--known-good", action="store_true", help="do not first run the tests without a change")
    parser.add_argument("--list", action="store_true", help="print them and change nothing")
    arguments = parser.parse_args()
    chosen = _chosen(arguments.only)
    if arguments.list:
        for mutant in chosen:
            print(f"{mutant.file}: {mutant.wrong}{f' (survives: {mutant.survives})' if mutant.survives else ''}")
        return 0
    with ExitStack() as stack:
        copies = [stack.enter_context(workshop()) for _ in range(arguments.jobs)]
        tests = tuple(sorted({test for mutant in chosen for test in mutant.tests}))
        if not (arguments.known_good or copies[0].passes(tests, jobs=arguments.jobs)):
            print(f"these tests fail without any change:\n{copies[0].output}", flush=True)
            return 1
        judges = Judges(copies)
        with ThreadPoolExecutor(arguments.jobs) as pool:
            list(pool.map(judges.judge, chosen))
    return _summary(chosen, judges.verdicts)


def _summary(chosen: list[Mutant], verdicts: dict[str, Verdict]) -> int:
    killed = sum(verdicts[mutant.wrong] is Verdict.KILLED for mutant in chosen)
    share = killed / len(chosen) if chosen else 0.0
    wrong = 0
    print(f"\n{killed} of {len(chosen)} wrong changes were caught ({share:.1%}; due {DUE:.0%})")
    for mutant in chosen:
        verdict = verdicts[mutant.wrong]
        if verdict is Verdict.SURVIVED:
            print(f"SURVIVED  {mutant.file}: {mutant.wrong}: {mutant.survives or 'no reason is given'}")
        elif verdict is Verdict.KILLED and mutant.survives:
            print(f"CAUGHT    {mutant.file}: {mutant.wrong}: yet it is said that it survives: {mutant.survives}")
        elif verdict is Verdict.INVALID:
            print(f"INVALID   {mutant.file}: {mutant.wrong}: its tests did not run")
        wrong += verdict is not (Verdict.SURVIVED if mutant.survives else Verdict.KILLED)
    return 1 if wrong or (share < DUE and len(chosen) == len(MUTANTS)) else 0


if __name__ == "__main__":
    sys.exit(main())
