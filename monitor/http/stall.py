"""After the process was paused: who still waits for what it reads now?

A daemon that was stopped for a while (SIGSTOP, a frozen machine, a loop that was held up) finds requests in its sockets
whose senders have given up. Their beats would count from now on: a worker that has said goodbye elsewhere meanwhile
would be alive once more, and missed. So for a moment after a stall, a request whose sender has closed its side is not
taken. At other times it is, as ever: somebody may send a beat and not wait for the answer.
"""

from __future__ import annotations

import math
import select
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

HELD_UP_S: Final = 1.0
"""A loop that has not turned for so long was held up."""
CATCHING_UP_S: Final = 2.0
"""For how long after that what is read may be old: what waited to be accepted is read turn by turn."""

_HUNG_UP: Final[int] = getattr(select, "POLLRDHUP", 0)
"""Linux only: elsewhere nobody is known to have gone before all that they sent was read."""


class Stall:
    """Whether the loop has just been held up. Times are the loop's, in seconds."""

    def __init__(self) -> None:
        self._held_up_s = math.inf
        """When the loop will have been held up, if it does not turn before."""
        self._until_s = 0.0

    def turn(self, now_s: float) -> None:
        """The loop turns; to be called several times in each ``HELD_UP_S``."""
        if now_s > self._held_up_s:
            self._until_s = now_s + CATCHING_UP_S
        self._held_up_s = now_s + HELD_UP_S

    def is_recent(self, now_s: float) -> bool:
        """Whether what is read now may have waited for long."""
        return now_s < self._until_s or now_s > self._held_up_s

    def none_until_s(self, now_s: float) -> float:
        """Until when nothing that is read can have waited for long; a time that has passed, if it can now."""
        return 0.0 if now_s < self._until_s else self._held_up_s


def has_hung_up(transport: asyncio.BaseTransport) -> bool:
    """Whether the other side of a connection sends nothing more, whatever is still to be read of it."""
    return bool(_HUNG_UP) and _polls(transport, _HUNG_UP)


def has_unread(transport: asyncio.BaseTransport) -> bool:
    """Whether bytes have come that were not read yet, or the other side's end."""
    return _polls(transport, select.POLLIN)


def _polls(transport: asyncio.BaseTransport, event: int) -> bool:
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return False
    poll = select.poll()
    poll.register(sock.fileno(), event)
    return bool(poll.poll(0))
