"""Wrong changes to health, vitals, metrics, the watchdog, the sweeper, the scheduler."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

MUTANTS: Final[tuple[Mutant, ...]] = (
    Mutant(
        wrong="health is well while one receiver lags beside another that does not",
        file="monitor/daemon/vitals.py",
        old="if any(one.lag_s > DELIVERY_LAG_S for one in queues)",
        new="if queues and all(one.lag_s > DELIVERY_LAG_S for one in queues)",
        tests=("tests/test_vitals.py",),
    ),
    Mutant(
        wrong="a queue may lag ten minutes before health says so",
        file="monitor/daemon/vitals.py",
        old="DELIVERY_LAG_S: Final = 60.0",
        new="DELIVERY_LAG_S: Final = 600.0",
        tests=("tests/test_vitals.py", "tests/test_docs_reasons.py"),
    ),
)
