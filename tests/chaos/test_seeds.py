"""A few seeds of the chaos suite, so that CI makes some runs; docs/chaos.md has the long one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import pytest

from tests.chaos import oracle, plan, run, site
from tests.chaos.plan import Kind

if TYPE_CHECKING:
    from pathlib import Path

TOGETHER: Final = ((943, 2648, 1275), (2392, 2086, 693))
"""Runs wait more than they work, so three go on at a time. Chosen so that they hold most kinds of faults."""


@pytest.mark.parametrize("seeds", TOGETHER, ids=str)
async def test_no_promise_is_broken_under_the_faults_of_some_seeds(seeds: tuple[int, ...], tmp_path: Path) -> None:
    if site.FAKETIME is None:
        pytest.skip("no libfaketime (Debian: apt-get install faketime)")
    plans = [plan.make(seed) for seed in seeds]
    records = await asyncio.gather(*(run.play(made) for made in plans))
    broken: list[str] = []
    for made, record in zip(plans, records, strict=True):
        violations = oracle.judge(record)
        if violations:
            oracle.write(tmp_path / f"seed-{made.seed}.json", plan.told(made), record, violations)
            broken += [plan.told(made), *map(str, violations)]
        assert len(record.faults) >= len(made.steps)
        assert sum(one.is_stored for one in record.tries) > len(made.lives)
    assert broken == [], tmp_path


def test_the_seeds_hold_most_kinds_of_faults() -> None:
    held = {step.kind for seeds in TOGETHER for seed in seeds for step in plan.make(seed).steps}
    assert len(held) >= len(Kind) * 2 // 3, sorted({*Kind} - held)
