"""What may answer requests without the app, as a server sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from monitor.http.head import Headers

Sender: TypeAlias = Any
"""Who sends a request: the shortcut's own, handed back to it as it is."""


class Shortcut(Protocol):
    """Answers some requests without the app."""

    @property
    def begins(self) -> bytes:
        """How the heads begin that are worth knowing."""
        ...

    def leads(self, target: bytes) -> bool:
        """Whether a POST to this request target may be taken."""
        ...

    def sender(self, target: bytes, headers: Headers) -> Sender | None:
        """Who sends a request with this head, or None to decline it; the same each time."""
        ...

    def take(self, sender: Sender, body: bytes, answer: Callable[[bytes, bytes], None]) -> bool:
        """Take a whole request, or decline it (False) with nothing done.

        ``answer`` is to be called once, later: with the status line and the headers, each line ended, and the body.
        """
        ...
