"""Workers that fall silent and come back again and again: their short outages are not told any more (P20). Pure.

An outage of a worker that has had many lately is told once it has lasted for some time, which is bounded; if it is
over before that, neither its beginning nor its end is told. So nothing is held for ever, and what a receiver was told
last is how it is: an outage that lasts is told, and who was told of one is told of its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from alerts.groups.roles import DOWN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from monitor.liveness import EventKind


@dataclass(frozen=True, kw_only=True, slots=True)
class Flapping:
    """A worker flaps when so many ``outages`` of it began ``within_ms`` before the next, which then has to last
    ``hold_ms`` to be told.
    """

    outages: int = 3
    within_ms: int = 3_600_000
    hold_ms: int = 300_000


@dataclass(frozen=True, kw_only=True, slots=True)
class RecentOutages:
    """Which outage within that time one is, from 1, and what the rule is."""

    number: int
    rule: Flapping

    @property
    def is_flapping(self) -> bool:
        """Whether there were so many before it that it has to last."""
        return self.number > self.rule.outages

    @property
    def is_last_notified(self) -> bool:
        """Whether the next one will have to last."""
        return self.number == self.rule.outages


def begun(transitions: Iterable[tuple[EventKind, int]]) -> list[int]:
    """When each of a worker's outages began, from its transitions (kind, when it was due, ms) in their order before an
    event that tells of a DOWN. The outage that this event only makes worse is left out.
    """
    found: list[int] = []
    is_out = False
    for kind, due_ms in transitions:
        if kind in DOWN and not is_out:
            found.append(due_ms)
        is_out = kind in DOWN
    return found[:-1] if is_out else found
