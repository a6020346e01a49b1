"""Detects stalls of the process, to drop requests whose senders have given up.

After a pause (SIGSTOP, a frozen machine, a blocked loop) the sockets hold requests whose clients have timed out. Their
beats would count from now on: a worker that has meanwhile disconnected through another replica would be alive again,
and would then be reported missing. So for a moment after a stall, a request whose client has closed its side is
dropped. At other times it is accepted: a client may send a beat without waiting for the answer.
"""

import asyncio
import math
import select
from typing import Final

HELD_UP_S: Final = 1.0
"""A loop without a turn for longer than this was stalled."""
CATCHING_UP_S: Final = 2.0
"""How long after a stall read data may be old: connections that waited to be accepted are read turn by turn."""

_HUNG_UP: Final[int] = getattr(select, "POLLRDHUP", 0)
"""Linux only. Elsewhere a closed sending side is only detected after all its data was read."""


class Stall:
    """Whether the loop was stalled recently. Times are the loop's, in seconds."""

    def __init__(self) -> None:
        self._held_up_s = math.inf
        """From this time on the loop counts as stalled, unless it turns before."""
        self._until_s = 0.0

    def turn(self, now_s: float) -> None:
        """Record a turn of the loop. Must be called several times in each ``HELD_UP_S``."""
        if now_s > self._held_up_s:
            self._until_s = now_s + CATCHING_UP_S
        self._held_up_s = now_s + HELD_UP_S

    def is_recent(self, now_s: float) -> bool:
        """Whether data read now may be old."""
        return now_s < self._until_s or now_s > self._held_up_s

    def none_until_s(self, now_s: float) -> float:
        """Until when read data cannot be old; a time in the past if it may be old now."""
        return 0.0 if now_s < self._until_s else self._held_up_s


def has_hung_up(transport: asyncio.BaseTransport) -> bool:
    """Whether the client has closed its sending side, even if there is still unread data."""
    return bool(_HUNG_UP) and _polls(transport, _HUNG_UP)


def has_unread(transport: asyncio.BaseTransport) -> bool:
    """Whether the socket has unread data, or the client's end of stream."""
    return _polls(transport, select.POLLIN)


def _polls(transport: asyncio.BaseTransport, event: int) -> bool:
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return False
    poll = select.poll()
    poll.register(sock.fileno(), event)
    return bool(poll.poll(0))
