"""Cache of parsed request heads of heartbeats.

A fleet sends few different heads: they differ by token and by the length of the body. Parsing and checking a head takes
a sixth of the daemon's CPU time for a heartbeat. Between two requests the same bytes mean the same on every connection,
so a result never expires. The validity of the token is not cached: it is checked for each request.
"""

import os
from hashlib import blake2b
from typing import Final

from monitor.clock import monotonic_s
from monitor.http.port import Sender

MOST: Final = 32_768
"""Maximum cached heads, about 300 bytes each."""
RENEW_S: Final = 600.0
"""Minimum time between two evictions of the whole cache. Until then, heads beyond ``MOST`` are parsed each time."""
_LONGEST: Final = 4_096
_END: Final = b"\r\n\r\n"


class KnownHeads:
    """The cache of one event loop, and of one authenticator, whose digests it holds.

    ``begins``: start of the heads worth caching.
    """

    def __init__(self, begins: bytes, *, most: int = MOST, renew_s: float = RENEW_S) -> None:
        self.begins = begins
        self._most = most
        self._renew_s = renew_s
        self._known: dict[bytes, tuple[Sender, int]] = {}
        # Keyed digests, because a head contains a token, which must not stay in memory, and because without the key
        # a collision cannot be searched for.
        self._hash: Final = blake2b(digest_size=16, key=os.urandom(16))
        self._renewed_s = monotonic_s()

    def find(self, data: bytes) -> tuple[Sender, bytes] | None:
        """The sender and the body of ``data``, if it is exactly one complete request with a cached head."""
        head, end, body = data.partition(_END)
        if not end or len(head) > _LONGEST:
            return None
        known = self._known.get(self._digest(head))
        if known is None or len(body) != known[1]:
            return None
        return known[0], body

    def keep(self, data: bytes, body: bytes, sender: Sender) -> None:
        """Cache the head of ``data``, a complete request with this body. Ignored if ``data`` has other bytes."""
        head, _, rest = data.partition(_END)
        if not body or rest != body or len(head) > _LONGEST:
            return
        if len(self._known) >= self._most:
            if monotonic_s() < self._renewed_s + self._renew_s:
                return
            self._known.clear()
            self._renewed_s = monotonic_s()
        self._known[self._digest(head)] = sender, len(body)

    def _digest(self, head: bytes) -> bytes:
        digest = self._hash.copy()
        digest.update(head)
        return digest.digest()
