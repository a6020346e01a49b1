"""What can go wrong on the way to a receiver, by whose fault it is. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class StoreUnavailableError(Exception):
    """The store did not do what was asked of it; whether it was done is unknown. Ask again later."""


class UnrenderableEventError(ValueError):
    """An event has no valid webhook body. Trying again gives the same."""


class Cause(StrEnum):
    """The kind of a failure: what logs, metrics and answers call it."""

    AUTH = "auth"
    """A refused login: 401, 403, 407."""
    NOT_FOUND = "not_found"
    GONE = "gone"
    TOO_LARGE = "too_large"
    INVALID = "invalid"
    """400, 422: it does not like the request, or what it is configured to expect."""
    RATE_LIMITED = "rate_limited"
    REDIRECT = "redirect"
    SERVER_ERROR = "server_error"
    ADDRESS_REFUSED = "address_refused"
    """A private address, which ``allow_private`` would permit."""
    DNS = "dns"
    REFUSED = "refused"
    """The connection was."""
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
    """The kind of a refusal, by its HTTP status."""
    by_class = {3: Cause.REDIRECT, 5: Cause.SERVER_ERROR}
    return _OF_STATUS.get(status) or by_class.get(status // 100, Cause.OTHER)


class DeliveryError(Exception):
    """An attempt that is not known to have been accepted. The message holds no secret and no URL path.

    ``answer`` is the beginning of what the receiver said to it, which may quote the notification.
    """

    def __init__(self, message: str, *, cause: Cause = Cause.OTHER, answer: str = "") -> None:
        super().__init__(message)
        self.cause = cause
        self.answer = answer


class TransientDeliveryError(DeliveryError):
    """The attempt failed in a way that may pass.

    ``retry_after_ms`` is how long the receiver asked to be left alone, in milliseconds, if it did. ``unknown``
    says that the attempt may have been accepted all the same: it was sent, and no answer came.
    """

    def __init__(
        self,
        message: str,
        *,
        cause: Cause = Cause.OTHER,
        answer: str = "",
        retry_after_ms: int | None = None,
        unknown: bool = False,
    ) -> None:
        super().__init__(message, cause=cause, answer=answer)
        self.retry_after_ms = retry_after_ms
        self.unknown = unknown


class PermanentDeliveryError(DeliveryError):
    """The receiver says that it will never accept this; no further attempt is made.

    ``disable`` says that it is gone for good: nothing is to be sent to it until a person enables it again.
    """

    def __init__(self, message: str, *, cause: Cause = Cause.OTHER, answer: str = "", disable: bool = False) -> None:
        super().__init__(message, cause=cause, answer=answer)
        self.disable = disable
