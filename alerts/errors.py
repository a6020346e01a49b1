"""Errors of delivery. Pure."""

from enum import StrEnum
from typing import Final


class UnrenderableEventError(ValueError):
    """No valid webhook body can be made for an event. A retry gives the same result."""


class Cause(StrEnum):
    """Kind of a delivery failure, as named in logs, metrics and API responses."""

    AUTH = "auth"
    """The credentials were refused: 401, 403, 407."""
    NOT_FOUND = "not_found"
    GONE = "gone"
    TOO_LARGE = "too_large"
    INVALID = "invalid"
    """400, 422: the receiver rejects the request as invalid, possibly because of how the receiver is configured."""
    RATE_LIMITED = "rate_limited"
    REDIRECT = "redirect"
    SERVER_ERROR = "server_error"
    ADDRESS_REFUSED = "address_refused"
    """The address is private; ``allow_private`` would permit it."""
    DNS = "dns"
    REFUSED = "refused"
    """The connection was refused."""
    UNREACHABLE = "unreachable"
    TLS = "tls"
    TIMEOUT = "timeout"
    DISCONNECTED = "disconnected"
    NOT_HTTP = "not_http"
    INTERNAL_ERROR = "internal_error"
    OTHER = "other"


_OF_STATUS: Final = {
    400: Cause.INVALID,
    401: Cause.AUTH,
    403: Cause.AUTH,
    404: Cause.NOT_FOUND,
    407: Cause.AUTH,
    408: Cause.TIMEOUT,
    410: Cause.GONE,
    413: Cause.TOO_LARGE,
    422: Cause.INVALID,
    429: Cause.RATE_LIMITED,
}


def cause_of(status: int) -> Cause:
    """Cause of a refusal, by its HTTP status."""
    by_class = {3: Cause.REDIRECT, 5: Cause.SERVER_ERROR}
    return _OF_STATUS.get(status) or by_class.get(status // 100, Cause.OTHER)


class DeliveryError(Exception):
    """An attempt is not known to have been accepted. The message holds no secret and no URL path.

    ``answer``: beginning of the receiver's response, which may quote the notification. ``retry_after_ms``: delay that
    the receiver asked for, in milliseconds, if any. ``unknown``: the attempt may have been accepted; it was sent, and
    no response came. ``disable``: the receiver is gone permanently. Nothing is sent to it until an operator enables it
    again.
    """

    def __init__(
        self,
        message: str,
        *,
        cause: Cause = Cause.OTHER,
        answer: str = "",
        retry_after_ms: int | None = None,
        unknown: bool = False,
        disable: bool = False,
    ) -> None:
        super().__init__(message)
        self.cause = cause
        self.answer = answer
        self.retry_after_ms = retry_after_ms
        self.unknown = unknown
        self.disable = disable


class TransientDeliveryError(DeliveryError):
    """The attempt failed, and a later one may succeed."""


class PermanentDeliveryError(DeliveryError):
    """The receiver will never accept this notification; no further attempt is made."""
