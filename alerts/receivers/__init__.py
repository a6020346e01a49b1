"""Where notifications go: the port that every kind of receiver fills, and how one is made from its settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias, assert_never

from alerts.receivers.log import LogReceiver, LogSettings
from alerts.receivers.webhook import WebhookReceiver, WebhookSettings

if TYPE_CHECKING:
    from alerts.notification import Notification

__all__ = [
    "LogReceiver",
    "LogSettings",
    "Receiver",
    "ReceiverSettings",
    "WebhookReceiver",
    "WebhookSettings",
    "open_receiver",
]

ReceiverSettings: TypeAlias = LogSettings | WebhookSettings


class Receiver(Protocol):
    """One place that notifications are sent to."""

    @property
    def name(self) -> str:
        """Its name in the configuration, the same for as long as its queue is to be its own."""

    @property
    def timeout_s(self) -> float:
        """The longest that an attempt takes, in seconds."""

    async def send(self, notification: Notification, *, attempt: int, now_ms: int) -> None:
        """Make one attempt; returning means that the receiver has accepted it.

        May be called concurrently, and again for the same notification: what it carries to the receiver
        is the same each time but for what proves the moment. ``attempt`` counts from 1.

        Raises:
            TransientDeliveryError: it may be accepted later.
            PermanentDeliveryError: it never will be.
        """

    async def close(self) -> None:
        """Give back what the receiver holds open. Idempotent."""


def open_receiver(settings: ReceiverSettings) -> Receiver:
    """The receiver that the settings describe. It connects when it first sends.

    Raises:
        ValueError: the settings cannot work.
    """
    match settings:
        case LogSettings():
            return LogReceiver(settings)
        case WebhookSettings():
            return WebhookReceiver(settings)
        case _:
            assert_never(settings)
