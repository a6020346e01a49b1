"""Fairness in the event loop: limits the time that parsing requests takes in one turn.

The loop delivers all data received on all connections before it does anything else. With ten thousand connections
and a slow processor such a turn takes many seconds. In that time no answer of the store is read and no pulse is
sent: every beat would run into its timeout, and none would be stored. So requests get a time slice of each turn.
Requests that arrive after the slice is used up wait, in order, for the next turn; their connections are not read
meanwhile.
"""

import asyncio
from collections import deque
from typing import Final, Protocol

from monitor.clock import monotonic_s
from monitor.http.stall import Stall

SLICE_S: Final = 0.02


class Waiting(Protocol):
    """A connection with data to parse."""

    def go_on(self) -> None:
        """Parse the data now."""
        ...


class TimeSlices:
    """The time slices of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, stall: Stall) -> None:
        self._loop = loop
        self._stall = stall
        self.open_until_s = 0.0
        """Until this time of ``monotonic_s``, ``admit`` returns True and no read data is old: skip both checks."""
        self._queue: deque[tuple[Waiting, float]] = deque()
        self._until_s = 0.0
        self._is_begun = False

    def admit(self, connection: Waiting) -> bool:
        """Whether the connection may be parsed now. If not, its ``go_on`` is called in a later turn."""
        now_s = monotonic_s()
        if not self._is_begun:
            self._begin(now_s)
            self.open_until_s = min(self._until_s, self._stall.none_until_s(now_s))
            return True
        if now_s < self._until_s and not self._queue:
            return True
        self._queue.append((connection, now_s))
        return False

    def _begin(self, now_s: float) -> None:
        self._is_begun = True
        self._until_s = now_s + SLICE_S
        self._loop.call_soon(self._next)

    def oldest_s(self) -> float:
        """Age of the oldest waiting request in seconds; 0: none waits."""
        return monotonic_s() - self._queue[0][1] if self._queue else 0.0

    def _next(self) -> None:
        """Begin a turn with the waiting connections, if there are any."""
        self._is_begun, self.open_until_s = False, 0.0
        if not self._queue:
            return
        self._begin(monotonic_s())
        while self._queue and monotonic_s() < self._until_s:
            self._queue.popleft()[0].go_on()
