"""What a handler takes from a request: who calls, the body within its limit, the query's parameters, a cursor."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import parse_qsl

from monitor.auth import Refusal, UnauthenticatedError
from monitor.auth import Scope as TokenScope
from monitor.health import asking_tenant

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from litestar import Request
    from litestar.response.base import ASGIResponse
    from litestar.types import Receive, Scope

    from monitor.api.services import Services
    from monitor.auth import Principal
    from monitor.shares import Holding

    Handler = Callable[[Request[Any, Any, Any]], Coroutine[Any, Any, ASGIResponse]]
    Reader = Callable[[Request[Any, Any, Any], Principal], Coroutine[Any, Any, ASGIResponse]]

MAX_PARAMETERS: Final = 100
MAX_LIMIT: Final = 1_000
DEFAULT_LIMIT: Final = 100
_ECHO_CHARS: Final = 100
EXCHANGE: Final = "lastseen.exchange"
"""The key of a request's scope under which what carries its answer stands."""
BODY_S: Final = 10.0
"""The longest that a client may take over a request's body."""


class BodyTooLargeError(Exception):
    """The request's body is over the limit (413)."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the body is over limits.body_bytes = {limit_bytes}")


class BodyTooSlowError(Exception):
    """The request's body did not come in time (408)."""


class EncodingError(Exception):
    """The body is compressed, and only batches may be (415)."""

    def __init__(self, encoding: str) -> None:
        super().__init__(
            f"the body is no JSON: it has Content-Encoding: {encoding[:_ECHO_CHARS]}. Send it uncompressed;"
            " only POST /api/v1/workers/heartbeats takes gzip"
        )


class ClientGoneError(Exception):
    """The client went away in the middle of its request; nobody reads the answer."""


class ParameterError(Exception):
    """A query parameter cannot be used (422); the message names it and its value."""

    def __init__(self, name: str, value: str, expected: str) -> None:
        super().__init__(f"query parameter {name[:_ECHO_CHARS]!r} is {value[:_ECHO_CHARS]!r}: {expected}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Headers:
    """The request headers that a heartbeat needs, read in one pass."""

    authorization: str | None
    user_key: str | None
    content_type: str | None
    content_length: int | None
    compression: str | None = None
    """The content encoding, if it is any but ``identity``."""


def headers_of(scope: Scope) -> Headers:
    """Read the headers; a credential header that is sent twice with two values is refused.

    Raises:
        UnauthenticatedError: two values of one credential header.
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
    """Who calls, whatever the token's scopes.

    Raises:
        UnauthenticatedError: the token is not good.
    """
    principal = services.authenticator.authenticate(
        authorization=headers.authorization, user_key=headers.user_key, now_ms=services.store.clock.now_ms()
    )
    services.shared.tenants.see(principal.tenant)
    return principal


def principal_of(headers: Headers, services: Services, scope: TokenScope, *, operator: bool = False) -> Principal:
    """Who calls, with this scope; ``operator``: or as an operator. The answer may say how the monitor is.

    Raises:
        UnauthenticatedError: the token is not good.
        ForbiddenError: it lacks the scope.
    """
    principal = identified(headers, services)
    if not (operator and principal.is_operator):
        principal.require(scope)
    asking_tenant.set(principal.tenant)
    return principal


def caller(request: Request[Any, Any, Any], services: Services, scope: TokenScope) -> Principal:
    """``principal_of`` for a handler that needs no other header."""
    return principal_of(headers_of(request.scope), services, scope)


def reads(
    services: Services, scope: TokenScope = TokenScope.WORKERS_READ, *, operator: bool = False
) -> Callable[[Reader], Handler]:
    """Make a handler of what answers a caller while it holds one of the places for reads."""

    def made(read: Reader) -> Handler:
        async def handle(request: Request[Any, Any, Any]) -> ASGIResponse:
            principal = principal_of(headers_of(request.scope), services, scope, operator=operator)
            if (exchange := cast("dict[str, Any]", request.scope).get(EXCHANGE)) is not None:
                exchange.tenant = principal.tenant
            async with services.shared.reads.place(principal.tenant):
                return await read(request, principal)

        return handle

    return made


async def read_body(
    receive: Receive,
    headers: Headers,
    limit_bytes: int,
    *,
    held: Holding,
    read: list[bytes] | None = None,
    limit_s: float = BODY_S,
) -> bytes:
    """The whole body; one that says it is too long is refused unread, one that does not say when it is.

    ``held`` takes what is kept until the rest comes. ``read`` gets what has come, also when an error ends it.

    Raises:
        BodyTooLargeError: over the limit.
        OverShareError, NoRoomError: it came slowly, and there was no room to keep it until it is whole.
        BodyTooSlowError: it took longer than ``limit_s``.
        ClientGoneError: no end came.
    """
    if headers.content_length is not None and headers.content_length > limit_bytes:
        raise BodyTooLargeError(limit_bytes)
    try:
        async with asyncio.timeout(limit_s):
            return await _read(receive, limit_bytes, held, [] if read is None else read)
    except TimeoutError:
        raise BodyTooSlowError(f"the body did not come within {limit_s:g} s") from None


async def _read(receive: Receive, limit_bytes: int, held: Holding, chunks: list[bytes]) -> bytes:
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGoneError
        chunk = message.get("body", b"")
        size += len(chunk)
        chunks.append(chunk)
        if size > limit_bytes:
            raise BodyTooLargeError(limit_bytes)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)
        held.take(len(chunk))


class Query:
    """The query's parameters. A name that the endpoint does not know is refused: a typo must not widen a list.

    Raises:
        ParameterError: an unknown name, too many, or bytes that are not UTF-8.
    """

    def __init__(self, scope: Scope, known: Iterable[str]) -> None:
        text = scope["query_string"].decode("latin-1")
        try:
            pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS)
        except UnicodeDecodeError:
            raise ParameterError("(query)", text, "percent-encoded UTF-8 is expected") from None
        except ValueError:
            raise ParameterError("(query)", text, f"at most {MAX_PARAMETERS} parameters are expected") from None
        self._values: dict[str, list[str]] = {name: [] for name in known}
        for name, value in pairs:
            if name not in self._values:
                raise ParameterError(name, value, f"known are {', '.join(self._values)}")
            self._values[name].append(value)

    def any_of(self, name: str) -> frozenset[str] | None:
        """The values given, of which any may match; None when the parameter is not there."""
        return frozenset(self._values[name]) or None

    def words(self, name: str, known: frozenset[str]) -> frozenset[str] | None:
        """As ``any_of``, for a closed list of words."""
        given = self.any_of(name)
        for word in given or ():
            if word not in known:
                raise ParameterError(name, word, f"one of {', '.join(sorted(known))} is expected")
        return given

    def single(self, name: str) -> str | None:
        """The one value; None when the parameter is not there."""
        values = self._values[name]
        if len(values) > 1:
            raise ParameterError(name, values[1], "it is given more than once")
        return values[0] if values else None

    def limit(self) -> int:
        """The ``limit`` parameter, 1 to ``MAX_LIMIT``."""
        text = self.single("limit")
        if text is None:
            return DEFAULT_LIMIT
        limit = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(MAX_LIMIT)) else 0
        if not 1 <= limit <= MAX_LIMIT:
            raise ParameterError("limit", text, f"an integer from 1 to {MAX_LIMIT} is expected")
        return limit


def encode_cursor(parts: list[int | str]) -> str:
    """An opaque word for a place in a list."""
    return base64.urlsafe_b64encode(json.dumps(parts, separators=(",", ":")).encode()).rstrip(b"=").decode()


def decode_cursor(text: str) -> list[Any]:
    """The parts of a cursor; the caller judges them.

    Raises:
        ParameterError: it is none of ours.
    """
    try:
        raw = text.encode("ascii")
        parts = json.loads(base64.b64decode(raw + b"=" * (-len(raw) % 4), altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        raise bad_cursor(text) from None
    if not isinstance(parts, list):
        raise bad_cursor(text)
    return parts


def bad_cursor(text: str) -> ParameterError:
    """The error for a cursor that this list did not give."""
    return ParameterError("cursor", text, "the next_cursor of an earlier answer is expected")


def narrowed(given: frozenset[str] | None, allowed: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """What a filter leaves of what a token may see; None: no restriction, empty: nothing."""
    if allowed is None:
        return None if given is None else tuple(sorted(given))
    return allowed if given is None else tuple(name for name in allowed if name in given)
