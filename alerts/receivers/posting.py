"""What receivers behind HTTP share: how a request is made, and what its answer or the lack of one means."""

import asyncio
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from types import SimpleNamespace
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from alerts.errors import PermanentDeliveryError, TransientDeliveryError
from alerts.receivers.guard import AddressRefusedError, guarded_socket, is_public
from alerts.retry import retry_after_ms

REPLY_BYTES: Final = 4_096
"""At most this much of a reply is read; nothing in it matters but its status."""

_CONNECTIONS: Final = 32
_GONE: Final = 410
_MAY_PASS: Final = frozenset({408, 425, 429})
"""Of the 4xx: the request came too slowly, too early or too often."""
USER_AGENT: Final = f"lastseen/{metadata.version('lastseen')}"


@dataclass(kw_only=True, slots=True)
class _Attempt:
    """``sent``: something of the request may have left."""

    sent: bool = False


class Poster:
    """POSTs to one URL, and takes a 2xx for acceptance. ``close`` it in the end.

    A redirect is a failure that may pass: following it would send the body where nobody configured it to go.
    410 asks for no more of anything; other 4xx, but for 408, 425 and 429, refuse this request for good; every
    other status and every error of the network may pass. Connections are kept; proxies of the environment
    are not used.
    """

    def __init__(self, *, name: str, url: str, allow_private: bool, timeout_s: float) -> None:
        self._name = name
        self._url = url
        self._allow_private = allow_private
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def post(self, body: bytes, headers: Mapping[str, str], *, now_ms: int) -> None:
        """Make one request with a JSON body.

        Raises:
            TransientDeliveryError: it may be accepted later.
            PermanentDeliveryError: it never will be.
        """
        if self._session is None:
            self._session = self._open()
        attempt = _Attempt()
        try:
            async with self._session.post(
                self._url,
                data=body,
                headers={"content-type": "application/json", "user-agent": USER_AGENT, **headers},
                allow_redirects=False,
                trace_request_ctx=attempt,
            ) as response:
                self._judge(response, now_ms=now_ms)
                await drain(response)
        except TimeoutError as error:
            message = f"receiver {self._name!r}: no reply within {self._timeout_s:g} s"
            raise TransientDeliveryError(message, unknown=attempt.sent) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            message = f"receiver {self._name!r}: {reason_of(error)}"
            raise TransientDeliveryError(message, unknown=attempt.sent) from error

    async def reach(self) -> None:
        """Connect to the server and send nothing.

        Raises:
            TransientDeliveryError: there is no connection to be had now, or none that is permitted.
        """
        parts = urlsplit(self._url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
                addresses = [str(item[4][0]) for item in found]
                if not self._allow_private and not all(map(is_public, addresses)):
                    raise AddressRefusedError(
                        f"address {addresses[0]} is not public; allow_private = true would permit it"
                    )
                _, writer = await asyncio.open_connection(host, port)
                writer.close()
        except TimeoutError as error:
            raise TransientDeliveryError(
                f"receiver {self._name!r}: no connection within {self._timeout_s:g} s"
            ) from error
        except OSError as error:
            raise TransientDeliveryError(
                f"receiver {self._name!r}: cannot connect to {host}:{port}: {error}"
            ) from error

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_note_sent)
        return guarded_session(
            allow_private=self._allow_private, timeout_s=self._timeout_s, connections=_CONNECTIONS, trace=trace
        )

    def _judge(self, response: aiohttp.ClientResponse, *, now_ms: int) -> None:
        status = response.status
        if 200 <= status < 300:  # noqa: PLR2004 - RFC 9110, 15.3
            return
        message = f"receiver {self._name!r}: HTTP {status}"
        response.close()
        if 400 <= status < 500 and status not in _MAY_PASS:  # noqa: PLR2004 - RFC 9110, 15.5
            raise PermanentDeliveryError(message, disable=status == _GONE)
        asked = response.headers.get("retry-after")
        raise TransientDeliveryError(
            message, retry_after_ms=None if asked is None else retry_after_ms(asked, now_ms=now_ms)
        )


def guarded_session(
    *, allow_private: bool, timeout_s: float, connections: int, trace: aiohttp.TraceConfig | None = None
) -> aiohttp.ClientSession:
    """Connections to wherever the configuration says, but not to private addresses unless ``allow_private``.

    ``timeout_s`` bounds a request, from the name's resolution to the end of the reply. Made inside the event loop.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=connections,
            limit_per_host=connections,
            socket_factory=None if allow_private else guarded_socket,
        ),
        timeout=aiohttp.ClientTimeout(total=timeout_s),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        trace_configs=[] if trace is None else [trace],
    )


async def _note_sent(
    _session: aiohttp.ClientSession, context: SimpleNamespace, _params: aiohttp.TraceRequestHeadersSentParams
) -> None:
    context.trace_request_ctx.sent = True


async def drain(response: aiohttp.ClientResponse) -> None:
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


def reason_of(error: Exception) -> str:
    """What went wrong, without the URL, which aiohttp puts into some of its messages."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect to {error.host}:{error.port}: {error.os_error}"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the connection was closed before a reply"
    return type(error).__name__
