"""A few seeds of the chaos suite, so that CI makes some runs; docs/chaos.md has the long one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tests.chaos import oracle, plan, run, site

if TYPE_CHECKING:
    from pathlib import Path

SEEDS: Final = (3, 6)


@pytest.mark.parametrize("seed", SEEDS)
async def test_no_promise_is_broken_under_the_faults_of_a_seed(seed: int, tmp_path: Path) -> None:
    made = plan.make(seed)
    if made.has_faketime and site.FAKETIME is None:
        pytest.skip("no libfaketime (Debian: apt-get install faketime)")
    record = await run.play(made)
    violations = oracle.judge(record)
    if violations:
        oracle.write(tmp_path / f"seed-{seed}.json", plan.told(made), record, violations)
    assert [str(violation) for violation in violations] == [], (plan.told(made), tmp_path)
    assert len(record.faults) >= len(made.steps)
    assert sum(one.is_stored for one in record.tries) > len(made.lives)
