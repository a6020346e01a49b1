"""Errors of requests; ``problems`` maps each to its answer."""

from typing import Final

ECHO_CHARS: Final = 100
"""Maximum characters of a value that a message quotes."""


class BodyTooLargeError(Exception):
    """The body, or a beat of a batch, is over a limit (413); the message names the limit."""


class BodyTooSlowError(Exception):
    """The request's body did not arrive in time (408)."""


class EncodingError(Exception):
    """The body is compressed; only batches may be (415)."""

    def __init__(self, encoding: str) -> None:
        super().__init__(
            f"the body is not JSON: it has Content-Encoding: {encoding[:ECHO_CHARS]}. Send it uncompressed;"
            " only POST /api/v1/workers/heartbeats accepts gzip"
        )


class ClientGoneError(Exception):
    """The client disconnected in the middle of its request; the answer cannot reach it."""


class ParameterError(Exception):
    """A query parameter is invalid (422); the message has its name and value."""

    def __init__(self, name: str, value: str, expected: str) -> None:
        super().__init__(f"query parameter {name[:ECHO_CHARS]!r} is {value[:ECHO_CHARS]!r}: {expected}")


class BodyError(Exception):
    """A field of a body is invalid (422); the message has the field, its value and the expected value."""

    def __init__(self, field: str, value: object, expected: str) -> None:
        super().__init__(f"{field} is {str(value)[:ECHO_CHARS]!r}: {expected}")


class UnreadableBodyError(Exception):
    """A body is not JSON, or does not fit its schema (422); the message says where."""


class MediaTypeError(Exception):
    """The Content-Type of the body is not JSON (415)."""


class NoSuchError(LookupError):
    """Not found, or not visible to the caller (404); the message has the name."""


class ConflictError(Exception):
    """The current state does not allow the operation (409). Nothing was changed; the message has the reason."""


class TooManyError(Exception):
    """The tenant has reached a limit (429); the message names the limit."""
