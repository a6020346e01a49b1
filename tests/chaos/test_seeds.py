"""A few seeds of the chaos suite, so that CI makes some runs; docs/chaos.md has the long one."""

import asyncio
from pathlib import Path
from typing import Final

import pytest

from tests.chaos import oracle, plan, run, site
from tests.chaos.plan import Kind, Plan

TOGETHER: Final = ((943, 2648, 1275), (2392, 2086, 693))
"""Runs wait more than they work, so three go on at a time. Chosen so that they hold most kinds of faults."""
HOSTILE: Final = (14, 4, 28, 1)
"""Of plans in which hostile clients are all that is wrong: one of each kind, each with one daemon."""


@pytest.mark.parametrize("seeds", TOGETHER, ids=str)
async def test_no_promise_is_broken_under_the_faults_of_some_seeds(seeds: tuple[int, ...], tmp_path: Path) -> None:
    if site.FAKETIME is None:
        pytest.skip("no libfaketime (Debian: apt-get install faketime)")
    await _play_together([plan.make(seed) for seed in seeds], tmp_path)


async def test_p29_no_promise_is_broken_beside_hostile_clients(tmp_path: Path) -> None:
    plans = [plan.make(seed, kinds=plan.OF_HOSTILE) for seed in HOSTILE]
    assert {step.kind for made in plans for step in made.steps} == plan.OF_HOSTILE
    await _play_together(plans, tmp_path)


async def _play_together(plans: list[Plan], tmp_path: Path) -> None:
    records = await asyncio.gather(*(run.play(made) for made in plans))
    broken: list[str] = []
    for made, record in zip(plans, records, strict=True):
        violations = oracle.judge(record)
        if violations:
            oracle.write(tmp_path / f"seed-{made.seed}.json", plan.described(made), record, violations)
            broken += [plan.described(made), *map(str, violations)]
        assert len(record.faults) >= len(made.steps)
        assert sum(one.is_stored for one in record.tries) > len(made.lives)
    assert broken == [], tmp_path


def test_the_seeds_hold_most_kinds_of_faults() -> None:
    held = {step.kind for seeds in TOGETHER for seed in seeds for step in plan.make(seed).steps}
    assert len(held) >= len(Kind) * 2 // 3, sorted({*Kind} - held)
