"""What the connections of one server share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from monitor.http.connections import Connections
    from monitor.http.fairness import Turns
    from monitor.http.head import Headers
    from monitor.http.known_heads import KnownHeads
    from monitor.http.shortcut import Shortcut
    from monitor.http.stall import Stall


@dataclass(slots=True, kw_only=True)
class Site:
    """Settings, and what belongs to all connections together. Not in their class, where a look is slower.

    The head of a request must be there ``head_s`` after the connection was made or the request was begun; a
    connection without a request is closed after ``idle_s``, and so is one whose client takes no answer for as long.
    Above ``kept`` open connections each answer closes its own, so that idle ones make room for others; ``limits`` says
    which are closed when that is not enough. A head has at most ``head_bytes`` and ``head_fields`` fields.
    """

    kept: int
    head_bytes: int
    head_fields: int
    head_s: float
    idle_s: float
    shortcut: Shortcut | None
    heads: KnownHeads | None
    stall: Stall
    turns: Turns
    limits: Connections = field(init=False)
    headers: Headers = field(default_factory=list)
    """Those that uvicorn gives every answer, which it makes anew once a second."""
    lines: bytes = b""
    """The same, as lines."""
