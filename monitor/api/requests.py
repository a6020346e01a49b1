"""Request parsing for handlers: the caller, and the body within its limits."""

import asyncio
import hashlib
from dataclasses import dataclass
from typing import Final

import msgspec
from litestar.types import Receive, Scope

from monitor.api.errors import BodyTooLargeError, BodyTooSlowError, ClientGoneError
from monitor.api.raw_path import unread_of
from monitor.api.services import Services
from monitor.auth import Principal, Refusal, UnauthenticatedError
from monitor.auth import Scope as TokenScope
from monitor.events import rfc3339
from monitor.health import MonitorState, asking_tenant
from monitor.shares import Holding

BODY_S: Final = 10.0
"""Timeout for receiving a request's body."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Headers:
    """The request headers that a heartbeat needs, read in one pass."""

    authorization: str | None
    user_key: str | None
    content_type: str | None
    content_length: int | None
    compression: str | None = None
    """The content encoding; None for ``identity``."""


def headers_of(scope: Scope) -> Headers:
    """Read the headers.

    Raises:
        UnauthenticatedError: a credential header is sent twice with different values.
    """
    found: dict[bytes, str] = {}
    for name, raw in scope["headers"]:
        if name in _READ:
            value = raw.decode("latin-1")
            if name in _CREDENTIALS and found.get(name, value) != value:
                raise UnauthenticatedError(Refusal.MALFORMED)
            found.setdefault(name, value)
    length = found.get(b"content-length", "")
    return Headers(
        authorization=found.get(b"authorization"),
        user_key=found.get(b"userkey"),
        content_type=found.get(b"content-type"),
        compression=encoding if (encoding := found.get(b"content-encoding", "identity")) != "identity" else None,
        content_length=int(length) if length.isascii() and length.isdigit() else None,
    )


_CREDENTIALS: Final = frozenset({b"authorization", b"userkey"})
_READ: Final = _CREDENTIALS | {b"content-type", b"content-encoding", b"content-length"}


def identified(headers: Headers, services: Services) -> Principal:
    """Authenticate the caller, without checking scopes.

    Raises:
        UnauthenticatedError: the token is invalid.
    """
    principal = services.authenticator.authenticate(
        authorization=headers.authorization, user_key=headers.user_key, now_ms=services.store.clock.now_ms()
    )
    services.shared.tenants.add(principal.tenant)
    return principal


def caller(scope: Scope, services: Services, needed: TokenScope, *, operator: bool = False) -> Principal:
    """Authenticate the caller and require this scope; ``operator``: an operator's token is accepted too.

    Sets the tenant for which the answer may report the monitor's state, and whose a large answer is.

    Raises:
        UnauthenticatedError: the token is invalid.
        ForbiddenError: the token lacks the scope.
    """
    principal = identified(headers_of(scope), services)
    if not (operator and principal.is_operator):
        principal.require(needed)
    asking_tenant.set(principal.tenant)
    if (exchange := unread_of(scope)) is not None:
        exchange.tenant = principal.tenant
    return principal


def stamp(scope: Scope, *content: object, now_ms: int, monitor: MonitorState) -> None:
    """Give the answer to a request a weak entity tag, and the store's time for which it is true.

    ``content``: what a poller is to learn of when it changes, in JSON. Of the monitor's state the reasons count.
    """
    if (exchange := unread_of(scope)) is not None:
        text = msgspec.json.encode((content, monitor.reasons))
        exchange.stamp = f'W/"{hashlib.blake2b(text, digest_size=12).hexdigest()}"', rfc3339(now_ms)


async def read_body(
    receive: Receive,
    headers: Headers,
    limit_bytes: int,
    *,
    held: Holding,
    of: str = "body",
    read: list[bytes] | None = None,
    limit_s: float = BODY_S,
) -> bytes:
    """Read the whole body. A body with too large a Content-Length is refused unread, others once over the limit.

    ``held`` reserves memory for an incomplete body. ``of`` is what an error calls it. ``read`` gets the received
    chunks, also if an error is raised.

    Raises:
        BodyTooLargeError: over the limit.
        OverShareError, NoRoomError: no memory to hold the body until it is complete.
        BodyTooSlowError: it took longer than ``limit_s``.
        ClientGoneError: the client disconnected before the end.
    """
    if headers.content_length is not None and headers.content_length > limit_bytes:
        raise _too_large(of, limit_bytes)
    chunks = [] if read is None else read
    size = 0
    try:
        async with asyncio.timeout(limit_s):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise ClientGoneError
                chunk = message.get("body", b"")
                size += len(chunk)
                chunks.append(chunk)
                if size > limit_bytes:
                    raise _too_large(of, limit_bytes)
                if not message.get("more_body", False):
                    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
                held.acquire(len(chunk))
    except TimeoutError:
        raise BodyTooSlowError(f"the body did not arrive within {limit_s:g} s") from None


def _too_large(of: str, limit_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"the {of} is over limits.{of}_bytes = {limit_bytes}")
