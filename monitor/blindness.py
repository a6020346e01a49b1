"""Blind windows: spans in which the monitor could not accept beats. Terms and limits; pure.

Each daemon writes a pulse to the store every ``PULSE_MS``. A window ``[begin, end)`` is blind when no pulse came for
longer than ``GAP_MS``, or when the last daemon or the store was restarted: since the newest pulse no beat could have
been accepted. A window moves every deadline that was still open at its begin to at least ``interval + grace`` after
its end, since workers retry only at their next interval. A deadline that had passed before the window is not moved.

The function library does the arithmetic (``store/lua/blindness.lua``), also for readers. Times are milliseconds of the
store's clock.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

PULSE_MS: Final = 250
GAP_MS: Final = 750
"""Longest time between two pulses in which the monitor counts as awake: two pulses may be lost."""
SHORT_CREDITS: Final = 3
"""Maximum windows shorter than its interval that move one deadline: a daemon that stalls often must not hide deaths."""
WINDOWS_KEPT: Final = 64
"""Maximum windows stored. Above it, the two windows with the shortest distance are merged."""
WINDOW_AGE_MS: Final = 120 * 86_400_000
"""Age at which a window is dropped. Twice the longest deadline that a beat may ask for by default."""
SLEW: Final = 50
"""After the server's clock was stepped back, store time runs slower by 1/SLEW until the two clocks meet."""
BEHIND_MS: Final = 2_000
"""How long a daemon counts as behind with beats after its last report of being behind."""
DAEMONS_KEPT: Final = 64
"""Maximum gone daemons whose last pulse is kept: workers whose beats they accepted may still have open deadlines."""


class Cause(StrEnum):
    """How a blind window was detected."""

    NO_PULSE = "no_pulse"
    STORE_RESTARTED = "store_restarted"
    DAEMON_STARTED = "daemon_started"
    """The last daemon was gone, and a new one started."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """A span ``[begin_ms, end_ms)`` in which no beat could have been accepted."""

    begin_ms: int
    end_ms: int
