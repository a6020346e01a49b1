"""Blind windows: spans in which the monitor could not have accepted a beat, and what they do to deadlines. Pure.

Each daemon writes a pulse to the store every ``PULSE_MS``. Where no pulse came for longer than ``GAP_MS``, and where
the last daemon or the store was started again, nobody could have accepted a beat since the newest pulse: a window
``[begin, end)`` is blind. It moves every deadline that was still open at its begin to at least a whole interval and
grace after its end, since workers try again only at their next interval. A deadline that had passed before is left
alone.

The function library has the same arithmetic (``store/lua/blindness.lua``), for whatever expires there; here it tells
readers what a deadline is. ``tests/store/test_blindness.py`` holds the two against each other. Times are milliseconds
of the store's clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

PULSE_MS: Final = 250
GAP_MS: Final = 750
"""The longest time between two pulses in which the monitor counts as awake: two may be lost."""
SHORT_CREDITS: Final = 3
"""So many windows shorter than its interval move one deadline: a stalling daemon must not hide deaths for ever."""
WINDOWS_KEPT: Final = 64
"""More are not remembered one by one: the two with the least time between them become one."""
WINDOW_AGE_MS: Final = 120 * 86_400_000
"""What ended longer ago is forgotten. Twice the longest deadline that a beat may ask for by default."""
SLEW: Final = 50
"""Where the server's clock was stepped back, time runs slower by one part in so many until the two meet."""
BEHIND_MS: Final = 2_000
"""For so long after it has said that it is behind with beats a daemon counts as one that is."""
DAEMONS_KEPT: Final = 64
"""Daemons whose last pulse is remembered, though they are gone: what they took may still be waited for."""


class Cause(StrEnum):
    """How a blind window was noticed."""

    NO_PULSE = "no_pulse"
    STORE_RESTARTED = "store_restarted"
    DAEMON_STARTED = "daemon_started"
    """The last daemon had gone, and one was started."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """A span ``[begin_ms, end_ms)`` in which no beat could have been accepted."""

    begin_ms: int
    end_ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Credit:
    """What blind windows make of a deadline; ``uncredited`` of them would have moved it, and were too many."""

    deadline_ms: int
    uncredited: int


def credited(due_ms: int, *, reach_ms: int, interval_ms: int, windows: Sequence[Window]) -> Credit:
    """The moment to which ``windows``, oldest first, move a deadline.

    ``reach_ms`` is how long a worker has after a window's end, its interval and grace. Never less than ``due_ms``, and
    never less for a later ``due_ms`` than for an earlier one: so one cut-off tells the due from the others.
    """
    short = uncredited = 0
    for window in windows:
        if due_ms <= window.begin_ms:
            break
        if window.end_ms + reach_ms <= due_ms:
            continue
        if window.end_ms - window.begin_ms < interval_ms:
            if short == SHORT_CREDITS:
                uncredited += 1
                continue
            short += 1
        due_ms = window.end_ms + reach_ms
    return Credit(deadline_ms=due_ms, uncredited=uncredited)
