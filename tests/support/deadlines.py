"""The arithmetic of deadlines, written from docs/outages.md and docs/events.md and not from the product.

The model of the store uses it, so that a mistake in the library's arithmetic shows.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from monitor.blindness import Window
from monitor.liveness import Liveness

GAP_MS: Final = 750
"""A monitor without a pulse for longer is blind."""
SHORT_CREDITS: Final = 3
"""Maximum windows shorter than the interval that move one deadline."""
STRAGGLER_MS: Final = 5_000
"""A beat so soon after a clean stop may have been under way."""


class Credit(NamedTuple):
    """A deadline after blind windows, and the number of those that did not move it because they are short."""

    deadline_ms: int
    uncredited: int


def credited(due_ms: int, *, allowance_ms: int, interval_ms: int, windows: Sequence[Window]) -> Credit:
    """A deadline that a window finds open is at least ``allowance_ms`` after the window's end."""
    deadline_ms, short_left, uncredited = due_ms, SHORT_CREDITS, 0
    for window in windows:
        gained_ms = window.end_ms + allowance_ms - deadline_ms
        is_short = window.end_ms - window.begin_ms < interval_ms
        if gained_ms <= 0 or deadline_ms <= window.begin_ms:
            continue
        if is_short and not short_left:
            uncredited += 1
            continue
        short_left -= is_short
        deadline_ms += gained_ms
    return Credit(deadline_ms, uncredited)


def shown(
    stored: Liveness, now_ms: int, *, late_ms: int, deadline_ms: int, is_straggler: bool, missed_ms: int | None
) -> Liveness:
    """The liveness that readers must see of a worker. ``missed_ms``: the end of its announced absence."""
    is_missed = missed_ms is not None and missed_ms <= now_ms
    match stored:
        case Liveness.ALIVE if now_ms < late_ms and now_ms < deadline_ms:
            return Liveness.ALIVE
        case Liveness.ALIVE if now_ms < deadline_ms:
            return Liveness.LATE
        case Liveness.ALIVE if not is_straggler or is_missed:
            return Liveness.STALE
        case Liveness.ALIVE:
            return Liveness.STOPPED
        case Liveness.STOPPED if is_missed:
            return Liveness.STALE
        case _:
            return stored
