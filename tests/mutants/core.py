"""Wrong changes to the pure core: deadlines, outage credit, statuses, evidence, shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.mutants.mutant import Mutant

MUTANTS: Final[tuple[Mutant, ...]] = ()
