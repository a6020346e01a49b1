"""Why a request is not served; ``problems`` says how each is answered."""

from __future__ import annotations

from typing import Final

_ECHO_CHARS: Final = 100


class BodyTooLargeError(Exception):
    """The request's body is over the limit (413)."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the body is over limits.body_bytes = {limit_bytes}")


class BodyTooSlowError(Exception):
    """The request's body did not come in time (408)."""


class EncodingError(Exception):
    """The body is compressed, and only batches may be (415)."""

    def __init__(self, encoding: str) -> None:
        super().__init__(
            f"the body is no JSON: it has Content-Encoding: {encoding[:_ECHO_CHARS]}. Send it uncompressed;"
            " only POST /api/v1/workers/heartbeats takes gzip"
        )


class ClientGoneError(Exception):
    """The client went away in the middle of its request; nobody reads the answer."""


class ParameterError(Exception):
    """A query parameter cannot be used (422); the message names it and its value."""

    def __init__(self, name: str, value: str, expected: str) -> None:
        super().__init__(f"query parameter {name[:_ECHO_CHARS]!r} is {value[:_ECHO_CHARS]!r}: {expected}")


class BodyError(Exception):
    """A body can't be used (422); the message names the field, its value, and what is expected."""

    def __init__(self, field: str, value: object, expected: str) -> None:
        super().__init__(f"{field} is {str(value)[:_ECHO_CHARS]!r}: {expected}")


class UnreadableBodyError(Exception):
    """A body is no JSON of the right form (422); the message says where."""


class MediaTypeError(Exception):
    """The body is not said to be JSON (415)."""


class NoSuchError(LookupError):
    """There is no such thing, or none that the caller may see; the message names it."""


class ConflictError(Exception):
    """It can't be done with the thing as it stands now; nothing was changed. The message says why."""


class TooManyError(Exception):
    """The tenant has as many of them as it may have; the message names the limit."""
