"""Role of an event for a receiver: it begins an outage, ends one, or is a separate fact. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

from monitor.liveness import EventKind, Liveness

if TYPE_CHECKING:
    from monitor.events import Event

DOWN: Final = frozenset({EventKind.STALE, EventKind.FAILED, EventKind.REJECTED})
"""Events that begin an outage or change its kind. A worker whose beats are rejected counts as down, too."""
ENDS: Final = frozenset({EventKind.RECOVERED, EventKind.STOPPED, EventKind.FORGOTTEN})
"""Events that end an outage, if there is one."""
OUT: Final = frozenset({Liveness.STALE, Liveness.FAILED})


class Role(StrEnum):
    """Role of an event, or of its notification, for the receiver."""

    DOWN = "down"
    END = "end"
    """Ends a DOWN. Sent only to the receivers of that DOWN (P18)."""
    FACT = "fact"
    """Any other event. Notified separately and paired with no other event."""


def role_of(event: Event) -> Role:
    """Role of an event."""
    if event.kind in DOWN:
        return Role.DOWN
    if event.kind is EventKind.RECOVERED or (event.kind in ENDS and event.old in OUT):
        return Role.END
    return Role.FACT
