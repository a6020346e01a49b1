"""Which events go to which receivers. Pure."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from monitor.liveness import EventKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from monitor.events import Event

DEFAULT_EVENTS: Final = frozenset({EventKind.STALE, EventKind.FAILED, EventKind.RECOVERED})
"""What a route sends when it names no events."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """One rule: events of these kinds, from matching environments and tenants, go to these receivers.

    In a pattern ``*`` is the only wildcard; it stands for any run of characters, an empty one too.
    A route whose patterns are empty matches nothing.
    """

    receivers: tuple[str, ...]
    events: frozenset[EventKind] = DEFAULT_EVENTS
    environments: tuple[str, ...] = ("*",)
    tenants: tuple[str, ...] = ("*",)

    def matches(self, event: Event) -> bool:
        """Whether the event is this route's."""
        return (
            event.kind in self.events
            and any(glob_matches(pattern, event.environment_name) for pattern in self.environments)
            and any(glob_matches(pattern, event.tenant) for pattern in self.tenants)
        )


def receivers_for(routes: Iterable[Route], event: Event) -> tuple[str, ...]:
    """The receivers of an event: every matching route applies, each receiver is named once.

    They come in the order in which the routes name them first, so equal input gives equal output.
    """
    return tuple(dict.fromkeys(name for route in routes if route.matches(event) for name in route.receivers))


def glob_matches(pattern: str, text: str) -> bool:
    """Whether the whole text, case and all, fits the pattern; everything but ``*`` stands for itself."""
    return _compiled(pattern).fullmatch(text) is not None


@functools.lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    # Neighbouring stars are one: "***...x" would otherwise take time exponential in their number.
    parts = re.sub(r"\*+", "*", pattern).split("*")
    return re.compile(".*".join(map(re.escape, parts)), re.DOTALL)
