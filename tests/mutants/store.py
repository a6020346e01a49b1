"""Wrong changes to the store's Lua and Python: beat, sweep, blindness, commit, revocations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.mutants.mutant import Mutant

MUTANTS: Final[tuple[Mutant, ...]] = ()
