"""What can go wrong on the way to a receiver, by whose fault it is. Pure."""

from __future__ import annotations


class StoreUnavailableError(Exception):
    """The store did not do what was asked of it; whether it was done is unknown. Ask again later."""


class UnrenderableEventError(ValueError):
    """An event has no valid webhook body. Trying again gives the same."""


class DeliveryError(Exception):
    """An attempt that is not known to have been accepted. The message holds no secret and no URL path."""


class TransientDeliveryError(DeliveryError):
    """The attempt failed in a way that may pass.

    ``retry_after_ms`` is how long the receiver asked to be left alone, in milliseconds, if it did. ``unknown``
    says that the attempt may have been accepted all the same: it was sent, and no answer came.
    """

    def __init__(self, message: str, *, retry_after_ms: int | None = None, unknown: bool = False) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms
        self.unknown = unknown


class PermanentDeliveryError(DeliveryError):
    """The receiver says that it will never accept this; no further attempt is made.

    ``disable`` says that it is gone for good: nothing is to be sent to it until a person enables it again.
    """

    def __init__(self, message: str, *, disable: bool = False) -> None:
        super().__init__(message)
        self.disable = disable
