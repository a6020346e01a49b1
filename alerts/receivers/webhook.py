"""Webhooks, signed as standardwebhooks.com has it."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import aiohttp
from standardwebhooks import Webhook

from alerts.errors import PermanentDeliveryError, TransientDeliveryError
from alerts.receivers.guard import guarded_socket
from alerts.retry import retry_after_ms

if TYPE_CHECKING:
    from alerts.notification import Notification

REPLY_BYTES: Final = 4_096
"""At most this much of a reply is read; nothing in it matters but its status."""

_CONNECTIONS: Final = 32
_PREFIX: Final = "whsec_"
_GONE: Final = 410
_USER_AGENT: Final = f"lastseen/{metadata.version('lastseen')}"


@dataclass(frozen=True, kw_only=True, slots=True)
class WebhookSettings:
    """One webhook. Neither its secrets nor its URL, which may hold a token, show in ``repr``.

    ``secrets`` are Standard Webhooks secrets (base64, with or without ``whsec_``); with several, which is
    how they are rotated, each signs. ``allow_private`` lets it be on a private or loopback address.
    ``timeout_s`` bounds a whole attempt, from the name's resolution to the end of the reply.
    """

    name: str
    url: str = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)
    allow_private: bool = False
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        if not _is_web_address(self.url):
            raise ValueError(f"receiver {self.name!r}: its url is not an http:// or https:// address with a host")
        if not self.secrets:
            raise ValueError(f"receiver {self.name!r}: it has no secret to sign with")
        for number, secret in enumerate(self.secrets, start=1):
            if not _is_secret(secret):
                raise ValueError(f"receiver {self.name!r}: secret {number} is not base64, or is empty")
        if not self.timeout_s > 0:
            raise ValueError(f"receiver {self.name!r}: timeout {self.timeout_s} s")


class WebhookReceiver:
    """POSTs each notification, and takes a 2xx for its acceptance.

    A redirect is a failure: following it would send the body where nobody configured it to go. 410 ends
    the attempts, every other status and every error of the network is transient. Connections are kept;
    proxies of the environment are not used.
    """

    def __init__(self, settings: WebhookSettings) -> None:
        self.name = settings.name
        self.timeout_s = settings.timeout_s
        self._url = settings.url
        self._signers = tuple(Webhook(secret) for secret in settings.secrets)
        self._allow_private = settings.allow_private
        self._session: aiohttp.ClientSession | None = None

    async def send(self, notification: Notification, *, attempt: int, now_ms: int) -> None:  # noqa: ARG002
        """Make one attempt: equal id and body each time, timestamp and signatures of this moment."""
        if self._session is None:
            self._session = self._open()
        try:
            async with self._session.post(
                self._url,
                data=notification.body.encode(),
                headers=self._headers(notification, now_ms=now_ms),
                allow_redirects=False,
            ) as response:
                self._judge(response, now_ms=now_ms)
                await _drain(response)
        except TimeoutError as error:
            raise TransientDeliveryError(f"receiver {self.name!r}: no reply within {self.timeout_s} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise TransientDeliveryError(f"receiver {self.name!r}: {_reason(error)}") from error

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=_CONNECTIONS,
                limit_per_host=_CONNECTIONS,
                socket_factory=None if self._allow_private else guarded_socket,
            ),
            timeout=aiohttp.ClientTimeout(total=self.timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )

    def _headers(self, notification: Notification, *, now_ms: int) -> dict[str, str]:
        timestamp_s = now_ms // 1000
        # The library takes the moment for UTC whatever its zone, and the body only as text.
        moment = datetime.fromtimestamp(timestamp_s, UTC)
        signatures = (signer.sign(notification.nid, moment, notification.body) for signer in self._signers)
        return {
            "webhook-id": notification.nid,
            "webhook-timestamp": str(timestamp_s),
            "webhook-signature": " ".join(signatures),
            "content-type": "application/json",
            "user-agent": _USER_AGENT,
        }

    def _judge(self, response: aiohttp.ClientResponse, *, now_ms: int) -> None:
        if 200 <= response.status < 300:  # noqa: PLR2004 - RFC 9110, 15.3
            return
        message = f"receiver {self.name!r}: HTTP {response.status}"
        response.close()
        if response.status == _GONE:
            raise PermanentDeliveryError(message)
        asked = response.headers.get("retry-after")
        raise TransientDeliveryError(
            message, retry_after_ms=None if asked is None else retry_after_ms(asked, now_ms=now_ms)
        )


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read a short reply to its end, so that its connection can serve again; drop the connection of any other.

    The reply was accepted when its status came: what happens to the rest of it changes nothing.
    """
    room = REPLY_BYTES
    try:
        while room > 0 and (chunk := await response.content.read(room)):
            room -= len(chunk)
    except (aiohttp.ClientError, TimeoutError, OSError):
        room = 0
    if room <= 0:
        response.close()


def _reason(error: Exception) -> str:
    """What went wrong, without the URL, which aiohttp puts into some of its messages."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect to {error.host}:{error.port}: {error.os_error}"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the connection was closed before a reply"
    return type(error).__name__


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _is_secret(secret: str) -> bool:
    text = secret.removeprefix(_PREFIX)
    try:
        return bool(base64.b64decode(text + "=" * (-len(text) % 4), validate=True))
    except (binascii.Error, ValueError):
        return False
