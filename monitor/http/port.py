"""The port of the fast path: through it the application answers requests without an ASGI call."""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

Headers: TypeAlias = list[tuple[bytes, bytes]]
"""Names in lower case."""
Sender: TypeAlias = Any
"""The sender of a request. Opaque to the server, which passes the value back to the fast path."""


class FastPath(Protocol):
    """Answers some requests without the app."""

    @property
    def begins(self) -> bytes:
        """Start of the heads that are worth caching."""
        ...

    def leads(self, target: bytes) -> bool:
        """Whether a POST to this request target may take the fast path."""
        ...

    def sender(self, target: bytes, headers: Headers) -> Sender | None:
        """The sender of a request with this head; None to decline it. The same result each time."""
        ...

    def take(self, sender: Sender, body: bytes, answer: Callable[[bytes, bytes], None]) -> bool:
        """Handle a complete request, or decline it (False) without side effects.

        ``answer`` must be called once, later: with the status line and the headers, each with its line end, and the
        body.
        """
        ...
