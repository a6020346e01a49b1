"""What an event means to a receiver: it begins an outage, ends one, or is a fact. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

from monitor.liveness import EventKind, Liveness

if TYPE_CHECKING:
    from monitor.events import Event

DOWN: Final = frozenset({EventKind.STALE, EventKind.FAILED, EventKind.REJECTED})
"""What begins an outage, or says that it has become another one. A worker whose beats are rejected is out, too."""
_LEFT: Final = frozenset({EventKind.STOPPED, EventKind.FORGOTTEN})
OUT: Final = frozenset({Liveness.STALE, Liveness.FAILED})


class Role(StrEnum):
    """What an event, or the notification that tells of it, means to the one who is told."""

    DOWN = "down"
    END = "end"
    """It ends a DOWN: told only where the DOWN was (P18)."""
    FACT = "fact"
    """Anything else: told by itself, paired with nothing."""


def role_of(event: Event) -> Role:
    """What an event means."""
    if event.kind in DOWN:
        return Role.DOWN
    if event.kind is EventKind.RECOVERED or (event.kind in _LEFT and event.old in OUT):
        return Role.END
    return Role.FACT
