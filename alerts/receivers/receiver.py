"""What a receiver gets, the interface of every type of receiver, and the settings that open a receiver.

Commands that only read the configuration import the modules of all types. Libraries for sending are therefore imported
when a receiver is opened.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Protocol
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StrictBool

from alerts.receivers.ssrf import is_private
from monitor.settings.section import Section
from monitor.settings.units import Duration, lasting
from monitor.settings.urls import WebUrl

LONGEST_NAME: Final = 64
LONGEST_TENANT: Final = 256
"""Maximum length of a tenant's name in the API."""
_NAME_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


@dataclass(frozen=True, kw_only=True, slots=True)
class Notification:
    """One message to one receiver. It does not change after it is created.

    ``nid`` is its stable id, the ``webhook-id`` of every attempt. ``key`` is its group: the notifications of one
    (receiver, group) are delivered in order, at most one of them in flight. ``created_ms`` is when it was created,
    by the store's clock.
    """

    nid: str
    receiver: str
    key: str
    event_type: str
    body: str
    created_ms: int


class Receiver(Protocol):
    """A destination of notifications."""

    @property
    def name(self) -> str:
        """Name in the configuration. The receiver's state is stored under it: a new name means a new, empty queue."""

    @property
    def timeout_s(self) -> float:
        """Maximum duration of an attempt, in seconds."""

    @property
    def resend_ms(self) -> int | None:
        """How often the receiver needs a notification repeated while the outage lasts, in milliseconds.

        It is repeated even if the outage is acknowledged or silenced. None: the receiver gets the reminders of its
        route.
        """

    @property
    def takes_groups(self) -> bool:
        """Whether the receiver accepts notifications about groups; otherwise it gets only those about one worker."""

    async def send(self, notification: Notification, *, attempt: int, now_ms: int) -> None:
        """Make one attempt. If the call returns, the receiver has accepted the notification.

        May be called concurrently, and again for the same notification. The request is then the same except for
        timestamp and signature. ``attempt`` counts from 1.

        Raises:
            TransientDeliveryError: the notification may be accepted later. It may be unknown whether it already was.
            PermanentDeliveryError: the notification will never be accepted.
        """

    async def reach(self) -> None:
        """Check that the receiver is reachable, without sending anything. Called once at the start, to log a warning.

        Raises:
            DeliveryError: the receiver cannot be reached now.
        """

    async def close(self) -> None:
        """Close all connections of the receiver. Idempotent."""


def _checked_name(name: str) -> str:
    if not name or len(name) > LONGEST_NAME or set(name) - _NAME_CHARACTERS:
        raise ValueError(f"must be 1 to {LONGEST_NAME} letters, digits, `_` or `-`")
    return name


def _checked_tenant(name: str) -> str:
    if not 0 < len(name) <= LONGEST_TENANT:
        raise ValueError(f"must be 1 to {LONGEST_TENANT} characters")
    if "*" in name:
        raise ValueError("names a tenant exactly: `*` is no wildcard here")
    return name


class ReceiverSettings(Section, ABC):
    """Settings of one ``[[alerts.receivers]]``. Those of a type derive from it and declare ``type`` as a ``Literal``.

    Secrets are read when the configuration is loaded, into private attributes, so that they are never printed.
    """

    takes_groups: ClassVar[bool] = True
    """As ``Receiver.takes_groups``, known before the receiver is opened."""

    name: Annotated[str, AfterValidator(_checked_name)]
    type: str
    tenants: tuple[Annotated[str, AfterValidator(_checked_tenant)], ...] = ()
    """The tenants that the receiver belongs to: it gets only their events. Empty: all tenants share it."""

    @abstractmethod
    def open(self) -> Receiver:
        """Open the receiver that the settings describe. It connects when it first sends."""

    def warnings(self) -> Iterator[str]:
        """Warnings about valid settings that are probably a mistake, as sentences without the receiver's name."""
        yield from ()


class PostingSettings(ReceiverSettings):
    """Settings of a receiver with a URL. ``allow_private`` permits private and loopback addresses.

    The timeout bounds a whole attempt, from name resolution to the end of the response.
    """

    url: WebUrl
    allow_private: StrictBool = False
    timeout_ms: Annotated[Duration, lasting("1s", "60s")] = Field("10s", validate_default=True)

    def warnings(self) -> Iterator[str]:
        """Warns of a URL with a private address, as far as is known without a resolver."""
        host = urlsplit(self.url).hostname or ""
        if not self.allow_private and is_private(host):
            yield f"its url is on the private address {host}: nothing is sent there without allow_private = true"
