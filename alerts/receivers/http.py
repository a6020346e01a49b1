"""HTTP of the receivers: one request and its result, and what a receiver makes of it."""

import asyncio
import errno
import re
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import Any, Final, cast
from urllib.parse import urlsplit

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import AddrInfoType
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from alerts.errors import Cause, DeliveryError, PermanentDeliveryError, TransientDeliveryError, cause_of
from alerts.receivers.ssrf import AddressRefusedError, guarded_socket
from alerts.retry import retry_after_ms

ACCEPTED: Final = range(200, 300)  # RFC 9110, 15.3
REPLY_BYTES: Final = 4_096
"""Maximum bytes read from the body of an accepting answer, so that its connection can be reused."""
EXCERPT_BYTES: Final = 2_048
"""Maximum bytes kept from the body of a refusing answer."""
USER_AGENT: Final = f"lastseen/{metadata.version('lastseen')}"

_CONNECTIONS: Final = 32
_GONE: Final = 410
_TOO_LARGE: Final = 413
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[0-9] ([2-9][0-9]{2})")
_STATUS_BYTES: Final = 12
_UNREACHABLE: Final = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN})


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """An HTTP response. ``body``: the beginning of a refusing answer's body; empty for an accepting one."""

    status: int
    headers: Mapping[str, str]
    body: str = ""

    @property
    def is_accepting(self) -> bool:
        """Whether the status is a 2xx."""
        return self.status in ACCEPTED


class NoAnswerError(Exception):
    """There was no answer. ``sent``: a part of the request may have been sent."""

    def __init__(self, message: str, *, cause: Cause, sent: bool = False) -> None:
        super().__init__(message)
        self.cause = cause
        self.sent = sent


@dataclass(kw_only=True, slots=True)
class _Attempt:
    """State of a running request. ``sent``: a part of it may have been sent. ``begins``: first bytes of the answer."""

    sent: bool = False
    begins: bytes = b""

    @property
    def status(self) -> int | None:
        found = _STATUS_LINE.match(self.begins)
        return None if found is None else int(found[1])


_attempt: ContextVar[_Attempt] = ContextVar("_attempt")


class _Handler(ResponseHandler):
    """Keeps the first bytes of an answer: the parser gives no status if the rest of the same segment is malformed."""

    _attempt: _Attempt | None = None

    def set_response_params(self, **params: Any) -> None:
        self._attempt = _attempt.get(None)
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        if self._attempt is not None and len(self._attempt.begins) < _STATUS_BYTES:
            self._attempt.begins += data[:_STATUS_BYTES]
        super().data_received(data)


def guarded_session(*, allow_private: bool, timeout_s: float, connections: int) -> aiohttp.ClientSession:
    """A session that connects to private addresses only with ``allow_private``.

    ``timeout_s`` bounds a request, from name resolution to the end of the response. Must be called in the event loop.
    """
    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(_note_sent)
    connector = aiohttp.TCPConnector(
        limit=connections, limit_per_host=connections, socket_factory=None if allow_private else guarded_socket
    )
    connector._factory = cast("partial[ResponseHandler]", partial(_Handler, loop=connector._loop))  # noqa: SLF001 - aiohttp has no public way
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=timeout_s),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        trace_configs=[trace],
    )


async def exchange(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    body: bytes | None = None,
    timeout_s: float,
) -> Answer:
    """Make one request in a session of ``guarded_session``. Redirects are not followed.

    Only the status line counts: if the rest of the answer is malformed, the connection is closed and the status is
    still used. ``url`` is sent byte for byte.

    Raises:
        NoAnswerError: no status was received.
    """
    attempt = _Attempt()
    _attempt.set(attempt)
    try:
        async with session.request(
            method,
            URL(url, encoded=True),
            data=body,
            headers={"user-agent": USER_AGENT, **headers},
            allow_redirects=False,
        ) as response:
            if response.status in ACCEPTED:
                await _read(response, REPLY_BYTES)
                return Answer(status=response.status, headers=response.headers)
            text = (await _read(response, EXCERPT_BYTES)).decode(errors="replace")
            response.close()
            return Answer(status=response.status, headers=response.headers, body=text)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        if attempt.status is not None:
            return Answer(status=attempt.status, headers={})
        cause, text = failure_of(error, timeout_s=timeout_s)
        raise NoAnswerError(text, cause=cause, sent=attempt.sent) from error


async def _note_sent(*_: object) -> None:
    _attempt.get().sent = True


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The beginning of the body. If the answer is longer or broken, its connection is closed."""
    found = b""
    try:
        while len(found) < most and (chunk := await response.content.read(most - len(found))):
            found += chunk
    except (aiohttp.ClientError, OSError):
        response.close()
    if len(found) >= most:
        response.close()
    return found


_FAILURES: Final[tuple[tuple[type[Exception] | tuple[type[Exception], ...], Cause, str], ...]] = (
    (AddressRefusedError, Cause.ADDRESS_REFUSED, "{error}"),
    (ssl.SSLCertVerificationError, Cause.TLS, "TLS: {error.verify_message}"),
    (ssl.SSLError, Cause.TLS, "TLS: {reason}"),
    (socket.gaierror, Cause.DNS, "the name {host} could not be resolved: {error.strerror}"),
    (TimeoutError, Cause.TIMEOUT, "no answer within {timeout_s:g} s"),
    (ConnectionRefusedError, Cause.REFUSED, "connection refused by {where}"),
    (
        (aiohttp.ServerDisconnectedError, ConnectionError),
        Cause.DISCONNECTED,
        "the connection was closed before an answer",
    ),
    (
        (aiohttp.ClientResponseError, aiohttp.ClientPayloadError, HttpProcessingError),
        Cause.NOT_HTTP,
        "the answer is not HTTP",
    ),
    (OSError, Cause.OTHER, "no connection to {where}: {error.strerror}"),
    (Exception, Cause.OTHER, "no request could be made: {name}"),
)
"""The first row that matches an exception is used."""


def failure_of(error: Exception, *, timeout_s: float, where: str = "the server") -> tuple[Cause, str]:
    """Cause and description of a failure, without the URL, which aiohttp puts into some messages."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return failure_of(error.os_error, timeout_s=timeout_s, where=f"{error.host}:{error.port}")
    if isinstance(error, OSError) and error.errno in _UNREACHABLE:
        return Cause.UNREACHABLE, f"no route to {where}"
    _, cause, text = next(one for one in _FAILURES if isinstance(error, one[0]))
    words = {"host": where.rpartition(":")[0], "where": where, "timeout_s": timeout_s, "name": type(error).__name__}
    reason = str(getattr(error, "reason", None) or "no handshake").lower().replace("_", " ")
    return cause, text.format(error=error, reason=reason, **words)


class Poster:
    """POSTs to one URL; a 2xx is an acceptance. Must be closed with ``close``.

    410 disables the receiver. 413, and an answer for which ``blames_body`` is true, reject this body permanently.
    Every other status and every network error is transient: refused credentials, an unknown path or a bad request can
    be fixed at the receiver or in its configuration, and the pages wait for that. Redirects are not followed, because
    the body would go to a server that is not configured. Connections are reused; proxies from the environment are not
    used.
    """

    def __init__(
        self,
        *,
        name: str,
        url: str,
        allow_private: bool,
        timeout_s: float,
        blames_body: Callable[[int, Mapping[str, str]], bool] = lambda *_: False,
    ) -> None:
        self._name = name
        self._url = url
        self._allow_private = allow_private
        self._timeout_s = timeout_s
        self._blames_body = blames_body
        self._session: aiohttp.ClientSession | None = None

    async def post(self, body: bytes, headers: Mapping[str, str], *, now_ms: int) -> None:
        """Make one request with a JSON body.

        Raises:
            TransientDeliveryError: the body may be accepted later.
            PermanentDeliveryError: the body will never be accepted.
        """
        if self._session is None:
            self._session = guarded_session(
                allow_private=self._allow_private, timeout_s=self._timeout_s, connections=_CONNECTIONS
            )
        try:
            answer = await exchange(
                self._session,
                "POST",
                self._url,
                headers={"content-type": "application/json", **headers},
                body=body,
                timeout_s=self._timeout_s,
            )
        except NoAnswerError as error:
            message = f"receiver {self._name!r}: {error}"
            raise TransientDeliveryError(message, cause=error.cause, unknown=error.sent) from error
        if not answer.is_accepting:
            raise self._refused(answer, now_ms=now_ms)

    async def reach(self) -> None:
        """Connect to the server without sending anything. The connection goes to the very address that was checked.

        Raises:
            TransientDeliveryError: no connection is possible now, or none is permitted.
        """
        parts = urlsplit(self._url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                await self._connect(found)
        except (OSError, ValueError) as error:
            cause, text = failure_of(error, timeout_s=self._timeout_s, where=f"{host}:{port}")
            raise TransientDeliveryError(f"receiver {self._name!r}: {text}", cause=cause) from error

    async def _connect(self, found: "Sequence[AddrInfoType]") -> None:
        """Connect to the first address that answers, and disconnect."""
        failure: OSError | None = None
        for info in found:
            family, kind, protocol, _, address = info
            try:
                made = socket.socket(family, kind, protocol) if self._allow_private else guarded_socket(info)
                with made:
                    made.settimeout(0)
                    await asyncio.get_running_loop().sock_connect(made, address)
            except OSError as error:
                failure = failure or error
            else:
                return
        raise failure or OSError("no address")

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _refused(self, answer: Answer, *, now_ms: int) -> DeliveryError:
        message = f"receiver {self._name!r}: HTTP {answer.status}"
        cause = cause_of(answer.status)
        if answer.status in {_GONE, _TOO_LARGE} or self._blames_body(answer.status, answer.headers):
            return PermanentDeliveryError(message, cause=cause, answer=answer.body, disable=answer.status == _GONE)
        asked = answer.headers.get("retry-after")
        return TransientDeliveryError(
            message,
            cause=cause,
            answer=answer.body,
            retry_after_ms=None if asked is None else retry_after_ms(asked, now_ms=now_ms),
        )
