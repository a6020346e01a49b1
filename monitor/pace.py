"""Splits long work into pieces. All requests together get one piece in every fourth turn of the event loop (P29).

A request to the app costs as much as many heartbeats, and a list of a thousand workers as much as dozens of requests.
A heartbeat needs several turns. If every waiting request had a piece of each turn, a heartbeat would wait for all of
them several times. While no heartbeats come, the turns between two pieces take no time. Health requests wait in a queue
of their own, which gets every other piece: behind thousands of requests their answers would come too late.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

from monitor.clock import monotonic_s

TURNS: Final = 4
"""Turns from one piece to the next."""
PIECE_S: Final = 0.0003
"""Length of a piece, by the system's clock: the loop's clock may have a resolution of whole milliseconds."""
PIECE_ITEMS: Final = 10
"""Items processed between two looks at the clock."""
AT_ONCE: Final = 32
"""Maximum calls to partitions that one task makes at once."""
_Item = TypeVar("_Item")
_Made = TypeVar("_Made")

_paces: "WeakKeyDictionary[asyncio.AbstractEventLoop, Pace]" = WeakKeyDictionary()


class Pace:
    """The pace of one event loop; ``pace()`` returns that of the running loop."""

    def __init__(self) -> None:
        self._next_up: deque[Callable[[], bool]] = deque()
        """The queue that is next. An empty queue leaves its turn to the other."""
        self._other: deque[Callable[[], bool]] = deque()
        self._urgent, self._usual = self._next_up, self._other
        self._left = 0
        """Turns left until the next piece may begin."""

    def submit(self, begin: Callable[[], bool], *, urgent: bool = False) -> None:
        """Call ``begin`` in the next free turn, or now. ``begin`` returns whether there was work to do."""
        if self._left:
            (self._urgent if urgent else self._usual).append(begin)
        elif begin():
            self._take()

    async def turn(self) -> None:
        """Wait for a free turn, at least one turn."""
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
    """Return the pace of the running event loop."""
    loop = asyncio.get_running_loop()
    found = _paces.get(loop)
    if found is None:
        found = _paces[loop] = Pace()
    return found


class Piece:
    """The time that one task may use in one turn."""

    def __init__(self) -> None:
        self._until_s = monotonic_s() + PIECE_S

    def is_over(self) -> bool:
        """Whether the time is used up."""
        return monotonic_s() >= self._until_s

    async def rest(self) -> None:
        """Wait for the next piece."""
        await pace().turn()
        self._until_s = monotonic_s() + PIECE_S


async def in_pieces(work: Callable[[Sequence[_Item]], list[_Made]], items: Sequence[_Item]) -> list[_Made]:
    """Apply ``work`` to the items in small chunks, one after another. Return all results."""
    found: list[_Made] = []
    piece = Piece()
    for start in range(0, len(items), PIECE_ITEMS):
        if not start or piece.is_over():
            await piece.rest()
        found += work(items[start : start + PIECE_ITEMS])
    return found


async def gathered(call: Callable[[_Item], Awaitable[_Made]], items: Sequence[_Item]) -> list[_Made]:
    """Call for each item, at most ``AT_ONCE`` at once. Return the results in the order of the items."""
    found: list[_Made] = []
    for start in range(0, len(items), AT_ONCE):
        found += await asyncio.gather(*map(call, items[start : start + AT_ONCE]))
    return found
