"""How much of the past is kept: of notifications, of what became of events, of incidents and of silences (P26). Pure.

What is still to be told is none of the past, and no bound touches it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

OUTCOMES_KEPT: Final = 10_000
"""So many outcomes of events at a receiver are kept whatever their age. Those of events that are handed over and not
acked are kept in any case: they are needed so that none is told again."""
NOTES_KEPT: Final = 1_000
"""So many notifications at a receiver are kept whatever their age."""
DEAD_LETTERS: Final = 10_000
"""So many dead letters are kept at a receiver, the newest, whatever their age: they wait for a person."""
_PER_NOTIFICATION: Final = 5
"""So many outcomes, and incidents, for each notification: one of a group tells of many events."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Retention:
    """The bounds that an operator chooses. ``age_ms``: older is forgotten; ``most``: of the rest, the oldest.

    ``most`` counts the finished notifications of one receiver. Both are seen to whenever something is written there:
    each time more goes than comes, until there is no more than that.
    """

    age_ms: int = 7 * 86_400_000
    most: int = 20_000

    @property
    def outcomes(self) -> int:
        """So many outcomes of events are kept at a receiver."""
        return max(OUTCOMES_KEPT, _PER_NOTIFICATION * self.most)

    @property
    def incidents(self) -> int:
        """So many incidents that are over are kept for each partition."""
        return _PER_NOTIFICATION * self.most
