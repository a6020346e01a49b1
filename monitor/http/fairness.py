"""How much of one turn of the event loop goes to requests that have come.

The loop hands over everything that has come at all connections before it does anything else. With ten thousand of
them and a processor that is too slow, such a turn takes many seconds, in which no answer of the store is read and no
pulse is sent: all beats would run into their time limit, and none be stored. So requests have a slice of each turn,
and those that come when it is used up wait, in their order, for the next one; their connections are not read meanwhile.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from monitor.clock import monotonic_s

if TYPE_CHECKING:
    import asyncio

    from monitor.http.stall import Stall

SLICE_S: Final = 0.02


class Waiting(Protocol):
    """A connection with something to be parsed."""

    def go_on(self) -> None:
        """Its turn has come."""
        ...


class Turns:
    """Belongs to one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, stall: Stall) -> None:
        self._loop = loop
        self._stall = stall
        self.open_until_s = 0.0
        """Until when, by ``monotonic_s``, ``admit`` says yes and nothing that is read is old: neither need be asked."""
        self._queue: deque[tuple[Waiting, float]] = deque()
        self._until_s = 0.0
        self._is_begun = False

    def admit(self, connection: Waiting) -> bool:
        """Whether the connection may go on now; else its ``go_on`` is called when its turn has come."""
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
        """How long the request has waited that waits for longest, in seconds; 0 where none does."""
        return monotonic_s() - self._queue[0][1] if self._queue else 0.0

    def _next(self) -> None:
        """Begin a turn: with those that wait, if any do."""
        self._is_begun, self.open_until_s = False, 0.0
        if not self._queue:
            return
        self._begin(monotonic_s())
        while self._queue and monotonic_s() < self._until_s:
            self._queue.popleft()[0].go_on()
