"""What every type of receiver is: the port that it fills, and the settings that open it.

Commands that only read the configuration load these modules: what a receiver sends with is loaded when one is opened.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Annotated, ClassVar, Final, Protocol
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StrictBool

from alerts.notification import Notification
from alerts.receivers.ssrf import is_private
from monitor.settings.section import Section
from monitor.settings.units import Duration, lasting
from monitor.settings.urls import WebUrl

LONGEST_NAME: Final = 64
LONGEST_TENANT: Final = 256
"""What the API takes."""
_NAME_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


class Receiver(Protocol):
    """One place that notifications are sent to."""

    @property
    def name(self) -> str:
        """Its name in the configuration, the same for as long as its queue is to be its own."""

    @property
    def timeout_s(self) -> float:
        """The longest that an attempt takes, in seconds."""

    @property
    def resend_ms(self) -> int | None:
        """How often it wants to be told again of what is still down, whatever was acknowledged or silenced.

        In milliseconds. None: it gets the reminders of its route.
        """

    @property
    def takes_groups(self) -> bool:
        """Whether it understands notifications about groups; otherwise it gets single ones only."""

    async def send(self, notification: Notification, *, attempt: int, now_ms: int) -> None:
        """Make one attempt; returning means that the receiver has accepted it.

        May be called concurrently, and again for the same notification: what it carries to the receiver
        is the same each time but for what proves the moment. ``attempt`` counts from 1.

        Raises:
            TransientDeliveryError: it may be accepted later; whether it was already may be unknown.
            PermanentDeliveryError: it never will be.
        """

    async def reach(self) -> None:
        """See whether it is there, without telling it anything: asked once, at the start, for a warning in the log.

        Raises:
            DeliveryError: it cannot be reached now.
        """

    async def close(self) -> None:
        """Give back what the receiver holds open. Idempotent."""


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
    """One ``[[alerts.receivers]]``. A type's own settings derive from it and name their ``type`` by a ``Literal``.

    Secrets are read when the configuration is loaded, into private attributes, so that they show nowhere.
    """

    takes_groups: ClassVar[bool] = True
    """As ``Receiver.takes_groups``, known before the receiver is opened."""

    name: Annotated[str, AfterValidator(_checked_name)]
    type: str
    tenants: tuple[Annotated[str, AfterValidator(_checked_tenant)], ...] = ()
    """The tenants that it belongs to: it gets their events only. Empty: all tenants share it."""

    @abstractmethod
    def open(self) -> Receiver:
        """The receiver that the settings describe. It connects when it first sends."""

    def warnings(self) -> Iterator[str]:
        """What is allowed and probably not meant: sentences without the receiver's name."""
        yield from ()


class PostingSettings(ReceiverSettings):
    """Where requests go. ``allow_private`` lets it be on a private or loopback address.

    The timeout bounds a whole attempt, from the name's resolution to the end of the reply.
    """

    url: WebUrl
    allow_private: StrictBool = False
    timeout_ms: Annotated[Duration, lasting("1s", "60s")] = Field("10s", alias="timeout", validate_default=True)

    def warnings(self) -> Iterator[str]:
        """A private address that can be told without asking a resolver."""
        host = urlsplit(self.url).hostname or ""
        if not self.allow_private and is_private(host):
            yield f"its url is on the private address {host}: nothing is sent there without allow_private = true"
