"""One HTTP request and its result: an answer, or the cause and description of a failure."""

import errno
import re
import socket
import ssl
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import Any, Final, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from alerts.errors import Cause
from alerts.receivers.ssrf import AddressRefusedError, guarded_socket

ACCEPTED: Final = range(200, 300)  # RFC 9110, 15.3
REPLY_BYTES: Final = 4_096
"""Maximum bytes read from the body of an accepting answer, so that its connection can be reused."""
EXCERPT_BYTES: Final = 2_048
"""Maximum bytes kept from the body of a refusing answer."""
USER_AGENT: Final = f"lastseen/{metadata.version('lastseen')}"

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
