"""Wrong changes to the alerts' Lua: queue, ledger, mass, reading, and the Python at its side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.mutants.mutant import Mutant

MUTANTS: Final[tuple[Mutant, ...]] = ()
