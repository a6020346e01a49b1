"""Chooses the connection to close when there are too many, or when unfinished requests hold too much memory.

Clients that never finish a request must not displace clients that do. Over the limit, the address (for IPv6: the /64)
with most unfinished requests loses its oldest connection. If no address has two, the oldest unfinished connection of
all is closed, else the one that has been idle for longest. While few requests are unfinished, idle connections are
closed first, because a valid head may take more than one segment. A new connection is refused only if every
connection holds a complete request: then the daemon is behind. Complete requests of one address are not limited, nor
are unfinished ones below the limit: a fleet may share one address, and connect all at once.
"""

import socket
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, MutableSet
from typing import Final, Protocol

from monitor.clock import monotonic_s
from monitor.metrics.registry import Limit
from monitor.reasons import Reason

UNFINISHED_SHARE: Final = 4
"""Idle connections are closed first while at most one in this many connections has an unfinished request."""
HEADS_BYTES: Final = 16_777_216
"""Maximum memory of unfinished heads in one process."""
TRIES: Final = 64
SPARE: Final = 64
"""Connections above ``most`` that are tolerated while unread data may complete requests."""
SCAN_S: Final = 0.05
"""Minimum time between two scans for idle connections."""
FULL_S: Final = 10.0
"""How long the reason ``connections_full`` lasts after a refusal."""
BEHIND_S: Final = 0.5
_MAPPED: Final = socket.inet_pton(socket.AF_INET6, "::ffff:0.0.0.0")[:12]


class Connection(Protocol):
    """One connection, as this module needs it."""

    address: str

    def may_hold_request(self) -> bool:
        """Whether there is received data that was not parsed yet."""
        ...

    def idle_since_s(self) -> float | None:
        """Since when the connection has been idle, by the loop's time; None: a request is in flight."""
        ...

    def drop(self) -> None:
        """Close the connection immediately. Calls ``end`` if its request is unfinished."""
        ...


def network(host: str) -> str:
    """The address to count by: for IPv6 the first 64 bits, because one customer has a /64."""
    if ":" not in host:
        return host
    packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    return packed[12:].hex() if packed.startswith(_MAPPED) else f"{packed[:8].hex(':', 2)}::/64"


class Connections:
    """The connections of one event loop. ``opened`` holds every open connection."""

    def __init__(self, opened: MutableSet[Connection], *, most: int, hit: Callable[[Limit, str], None]) -> None:
        self._opened = opened
        self._most = most
        self.hit: Final = hit
        self._share = most // UNFINISHED_SHARE
        self._unfinished: OrderedDict[Connection, int] = OrderedDict()
        """Connections with an unfinished request, oldest first, and the memory of its head."""
        self._of_address: dict[str, OrderedDict[Connection, int]] = {}
        """The same connections by address."""
        self._addresses: defaultdict[int, OrderedDict[str, None]] = defaultdict(OrderedDict)
        """The addresses by their number of unfinished requests."""
        self._largest = 0
        self._heads_bytes = 0
        self._idle: deque[tuple[float, Connection]] = deque()
        self._scanned_s = self._full_s = -FULL_S

    def admit(self, connection: Connection) -> bool:
        """Make room for a new connection, which is already in ``opened``; False: refuse it."""
        self.begin(connection, 0)
        if not self._is_over() or (not self._is_over(SPARE) and len(self._unfinished) > 1):
            return True
        self._full_s = monotonic_s()
        self.hit(Limit.CONNECTIONS, connection.address)
        return False

    def begin(self, connection: Connection, head_bytes: int) -> None:
        """Register an unfinished request. ``head_bytes``: memory of its head so far, 0 once the head is complete."""
        if connection not in self._unfinished:
            self._unfinished[connection] = 0
            same = self._of_address.setdefault(connection.address, OrderedDict())
            same[connection] = 0
            self._count(connection.address, len(same) - 1, len(same))
        self._heads_bytes += head_bytes - self._unfinished[connection]
        self._unfinished[connection] = head_bytes
        while self._heads_bytes > HEADS_BYTES and self._close_oldest(self._unfinished, newest=connection):
            pass
        if self._is_over():
            self._make_room(connection)

    def head_ended(self, connection: Connection) -> None:
        """The head of an unfinished request is complete."""
        self._heads_bytes -= self._unfinished[connection]
        self._unfinished[connection] = 0

    def end(self, connection: Connection) -> None:
        """An unfinished request is complete now, or its connection has ended."""
        self._heads_bytes -= self._unfinished.pop(connection)
        same = self._of_address[connection.address]
        del same[connection]
        self._count(connection.address, len(same) + 1, len(same))
        if not same:
            del self._of_address[connection.address]

    @property
    def unfinished(self) -> int:
        """Number of connections with an unfinished request."""
        return len(self._unfinished)

    def is_refusing(self) -> bool:
        """Whether a connection was refused within the last ``BEHIND_S``."""
        return monotonic_s() - self._full_s < BEHIND_S

    def reasons(self) -> list[str]:
        """Why the monitor is degraded."""
        return [Reason.CONNECTIONS_FULL] if monotonic_s() - self._full_s < FULL_S else []

    def _count(self, address: str, before: int, after: int) -> None:
        self._addresses[before].pop(address, None)
        if after:
            self._addresses[after][address] = None
        self._largest = max(self._largest, after)
        while self._largest and not self._addresses[self._largest]:
            del self._addresses[self._largest]
            self._largest -= 1

    def _make_room(self, newest: Connection) -> None:
        if len(self._unfinished) <= self._share and self._close_idle():
            return
        crowd = self._of_address[next(iter(self._addresses[self._largest]))] if self._largest > 1 else self._unfinished
        # If all of them may have a complete request in their sockets, this runs again once those are read.
        if not self._close_oldest(crowd, newest=newest) and self._is_over(SPARE):
            _ = self._close_oldest(self._unfinished, newest=newest) or self._close_idle()

    def _is_over(self, spare: int = 0) -> bool:
        return len(self._opened) > self._most + spare

    def _close_oldest(self, order: OrderedDict[Connection, int], *, newest: Connection) -> bool:
        """Close the oldest one, except ``newest`` and connections with unread data in their sockets."""
        for _ in range(TRIES):
            oldest = next(iter(order))
            if oldest is newest:
                return False
            if not oldest.may_hold_request():
                self._close(oldest, Limit.UNFINISHED)
                return True
            order.move_to_end(oldest)
        return False

    def _close_idle(self) -> bool:
        now_s = monotonic_s()
        if not self._idle and now_s - self._scanned_s > SCAN_S:
            self._scanned_s = now_s
            found = [(since_s, one) for one in self._opened if (since_s := one.idle_since_s()) is not None]
            self._idle.extend(sorted(found, key=lambda each: each[0]))
        while self._idle:
            since_s, one = self._idle.popleft()
            if one in self._opened and one.idle_since_s() == since_s and not one.may_hold_request():
                self._close(one, Limit.CONNECTIONS)
                return True
        return False

    def _close(self, connection: Connection, limit: Limit) -> None:
        self._opened.discard(connection)
        connection.drop()
        self.hit(limit, connection.address)
