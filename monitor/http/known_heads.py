"""Heads of heartbeats that were parsed and judged before, and need not be again.

A fleet sends few different heads, again and again: they differ by token and by the length of the body. Parsing one and
judging it is a sixth of the daemon's CPU time for a heartbeat. The same bytes mean the same on each connection that
waits for a request, so what was found of them once holds for good. Whether their token still does is asked each time.
"""

from __future__ import annotations

import os
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from monitor.clock import monotonic_s

if TYPE_CHECKING:
    from monitor.http.shortcut import Sender

MOST: Final = 32_768
"""At about 300 bytes each."""
RENEW_S: Final = 600.0
"""What is known is forgotten no more often than this: with more heads than ``MOST`` the rest is parsed each time."""
_LONGEST: Final = 4_096
_END: Final = b"\r\n\r\n"


class KnownHeads:
    """Belongs to one event loop, and to one authenticator, whose digests it holds.

    ``begins`` is how the heads begin that are worth knowing.
    """

    def __init__(self, begins: bytes, *, most: int = MOST, renew_s: float = RENEW_S) -> None:
        self.begins = begins
        self._most = most
        self._renew_s = renew_s
        self._known: dict[bytes, tuple[Sender, int]] = {}
        # By a keyed digest: a head has a token in it, which does not stay in memory, and without the key no other
        # head with the same digest can be searched for.
        self._hash: Final = blake2b(digest_size=16, key=os.urandom(16))
        self._renewed_s = monotonic_s()

    def find(self, data: bytes) -> tuple[Sender, bytes] | None:
        """Who sends ``data``, and its body, if it is one whole request whose head is known."""
        head, end, body = data.partition(_END)
        if not end or len(head) > _LONGEST:
            return None
        known = self._known.get(self._digest(head))
        if known is None or len(body) != known[1]:
            return None
        return known[0], body

    def keep(self, data: bytes, body: bytes, sender: Sender) -> None:
        """``data`` was a whole request, with this body; nothing is kept if it was anything beside its head and it."""
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
