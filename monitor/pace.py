"""Work that takes long is done in pieces, for all requests together one in every fourth turn of the event loop (P29).

A request to the app costs as much as many heartbeats, and a list of a thousand workers as much as dozens of requests.
If all that have come had a piece of each turn, a heartbeat, which needs several turns, would wait for all of them
several times. While no heartbeats come, the turns between two pieces take no time. What asks whether the daemon is well
waits in a queue of its own, which has every other piece: behind thousands of requests its answer would come too late.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, TypeVar
from weakref import WeakKeyDictionary

from monitor.clock import monotonic_s

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TURNS: Final = 4
"""From one piece to the next."""
PIECE_S: Final = 0.0003
"""By the system's clock: the loop's own may be in whole milliseconds."""
PIECE_ITEMS: Final = 10
"""Items that are worked on before the clock is looked at."""
_Item = TypeVar("_Item")
_Made = TypeVar("_Made")

_paces: WeakKeyDictionary[asyncio.AbstractEventLoop, Pace] = WeakKeyDictionary()


class Pace:
    """Of one event loop; ``pace()`` is that of the running one."""

    def __init__(self) -> None:
        self._next_up: deque[Callable[[], bool]] = deque()
        """Of the two queues the one whose turn it is; a queue that is empty leaves its turn to the other."""
        self._other: deque[Callable[[], bool]] = deque()
        self._urgent, self._usual = self._next_up, self._other
        self._left = 0
        """Turns until the next piece may begin."""

    def submit(self, begin: Callable[[], bool], *, urgent: bool = False) -> None:
        """Call ``begin`` in the next turn that is free, or now; it tells whether there was anything to do."""
        if self._left:
            (self._urgent if urgent else self._usual).append(begin)
        elif begin():
            self._take()

    async def turn(self) -> None:
        """Wait for a turn that is free, never less than one turn."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def begin() -> bool:
            if done.done():  # its task was cancelled
                return False
            done.set_result(None)
            return True

        self.submit(begin)
        await done

    def _take(self) -> None:
        self._left = TURNS
        asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self._left -= 1
        if self._left:
            asyncio.get_running_loop().call_soon(self._next)
        while not self._left and (self._next_up or self._other):
            self._next_up, self._other = self._other, self._next_up
            if (self._other or self._next_up).popleft()():
                self._take()


def pace() -> Pace:
    """Of the running event loop."""
    loop = asyncio.get_running_loop()
    found = _paces.get(loop)
    if found is None:
        found = _paces[loop] = Pace()
    return found


class Piece:
    """What one task may do in one turn."""

    def __init__(self) -> None:
        self._until_s = monotonic_s() + PIECE_S

    def is_over(self) -> bool:
        """Whether its time is used up."""
        return monotonic_s() >= self._until_s

    async def rest(self) -> None:
        """Wait for the next."""
        await pace().turn()
        self._until_s = monotonic_s() + PIECE_S


async def in_pieces(work: Callable[[Sequence[_Item]], list[_Made]], items: Sequence[_Item]) -> list[_Made]:
    """What ``work`` makes of the items, which are given to it some at a time."""
    found: list[_Made] = []
    piece = Piece()
    for start in range(0, len(items), PIECE_ITEMS):
        if not start or piece.is_over():
            await piece.rest()
        found += work(items[start : start + PIECE_ITEMS])
    return found
