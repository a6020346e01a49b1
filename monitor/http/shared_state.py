"""Settings and state that the connections of one server share."""

from dataclasses import dataclass, field

from monitor.http.connections import Connections
from monitor.http.fairness import TimeSlices
from monitor.http.known_heads import KnownHeads
from monitor.http.port import FastPath, Headers
from monitor.http.stall import Stall


@dataclass(slots=True, kw_only=True)
class SharedState:
    """Settings and state of all connections. Not class attributes of the connection, which are slower to access.

    The head of a request must be complete ``head_s`` after the connection or the request began. A connection without
    a request is closed after ``idle_s``, and so is one whose client reads no answer for as long. Above ``kept`` open
    connections each answer closes its connection, so that idle ones do not keep out others; if that is not enough,
    ``limits`` chooses which to close. A head has at most ``head_bytes`` bytes and ``head_fields`` fields.
    """

    kept: int
    head_bytes: int
    head_fields: int
    head_s: float
    idle_s: float
    fast_path: FastPath | None
    heads: KnownHeads | None
    stall: Stall
    time_slices: TimeSlices
    limits: Connections = field(init=False)
    headers: Headers = field(default_factory=list)
    """uvicorn's default headers, which it renews once a second."""
    lines: bytes = b""
    """The same headers, as lines."""
