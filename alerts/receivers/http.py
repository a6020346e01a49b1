"""Shared by receivers that use HTTP: sends a request and classifies the response, or the lack of one."""

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from alerts.errors import DeliveryError, PermanentDeliveryError, TransientDeliveryError, cause_of
from alerts.receivers.exchange import Answer, NoAnswerError, exchange, failure_of, guarded_session
from alerts.receivers.ssrf import guarded_socket
from alerts.retry import retry_after_ms

if TYPE_CHECKING:
    from aiohttp import ClientSession
    from aiohttp.connector import AddrInfoType

_CONNECTIONS: Final = 32
_GONE: Final = 410
_TOO_LARGE: Final = 413


class Poster:
    """POSTs to one URL; a 2xx is an acceptance. Must be closed with ``close``.

    410 disables the receiver. 413, and a response for which ``blames_body`` is true, reject this body permanently.
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
        blames_body: Callable[[Answer], bool] = lambda _: False,
    ) -> None:
        self._name = name
        self._url = url
        self._allow_private = allow_private
        self._timeout_s = timeout_s
        self._blames_body = blames_body
        self._session: ClientSession | None = None

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
        if answer.status in {_GONE, _TOO_LARGE} or self._blames_body(answer):
            return PermanentDeliveryError(message, cause=cause, answer=answer.body, disable=answer.status == _GONE)
        asked = answer.headers.get("retry-after")
        return TransientDeliveryError(
            message,
            cause=cause,
            answer=answer.body,
            retry_after_ms=None if asked is None else retry_after_ms(asked, now_ms=now_ms),
        )
