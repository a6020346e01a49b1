"""Retention: how much history of notifications, event outcomes, incidents and silences is kept (P26). Pure.

Pending notifications are not history, and no bound applies to them.
"""

from dataclasses import dataclass
from typing import Final

OUTCOMES_KEPT: Final = 10_000
"""Minimum number of event outcomes kept per receiver, regardless of age. Outcomes of unacknowledged events are never
dropped: they prevent a second notification of the same event."""
NOTES_KEPT: Final = 1_000
"""Minimum number of notifications kept per receiver, regardless of age."""
DEAD_LETTERS: Final = 10_000
"""Maximum number of dead letters kept per receiver, the newest, regardless of age: they wait for an operator."""
LEAST_KEPT: Final = 200
"""Each partition keeps at least as many, which is more than a batch of the router has."""
_PER_NOTIFICATION: Final = 5
"""Outcomes, and incidents, kept per notification: a group's notification covers many events."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Retention:
    """Bounds that the operator configures. ``age_ms``: maximum age. ``most``: maximum number; beyond it the oldest go.

    ``most`` counts the finished notifications of one receiver. Both bounds are enforced with each write there. Each
    write deletes more than it adds, until the bounds hold.
    """

    age_ms: int = 7 * 86_400_000
    most: int = 20_000

    @property
    def outcomes(self) -> int:
        """Maximum number of event outcomes kept per receiver."""
        return max(OUTCOMES_KEPT, _PER_NOTIFICATION * self.most)

    def bounds(self, partitions: int) -> tuple[int, ...]:
        """The bounds of one partition or shard, as ``save`` in ``groups.lua`` takes them."""
        numbers = (OUTCOMES_KEPT, self.outcomes, NOTES_KEPT, self.most, DEAD_LETTERS)
        return self.age_ms, *(max(LEAST_KEPT, -(-number // partitions)) for number in numbers)

    @property
    def incidents(self) -> int:
        """Maximum number of closed incidents kept per partition."""
        return _PER_NOTIFICATION * self.most
