"""Middleware in front of the router: undecoded paths, HEAD, 304, and bodies that the handler did not read.

Worker ids are opaque: ``a/b`` is sent as ``a%2Fb``, and ``..`` and ``heartbeat`` are valid ids. A server that decodes
the path before routing loses this distinction. So the router gets the undecoded path, and handlers decode the
segment that is an id.
"""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, cast

from litestar.types import ASGIApp, HTTPResponseStartEvent, Message, Receive, Scope, Send

from monitor.api.problems import problem_of
from monitor.errors import SlowDownError
from monitor.shares import Holding, Shares

EXCHANGE: Final = "lastseen.exchange"
"""Key of the request's ``Exchange`` in its scope."""
TIME: Final = b"lastseen-time"
WORKERS: Final = "/api/v1/workers/"
LITERALS: Final = frozenset({"heartbeat", "heartbeats"})
"""Path segments that are POST routes, at the position of a worker id."""

NOWHERE: Final = "/%2F"
"""A path without a route."""
KEEP_ALIVE_BYTES: Final = 1_048_576
"""Maximum unread body after which the connection is kept open."""
DRAIN_BYTES: Final = 67_108_864
DRAIN_S: Final = 10.0
LARGE_BYTES: Final = 65_536
LOOK_BYTES: Final = 65_536
"""Maximum bytes of a dropped body that are inspected."""


class RawPath:
    """ASGI middleware around an app. ``answers``: shares of the memory for large answers that clients read slowly."""

    def __init__(self, app: ASGIApp, *, answers: Shares) -> None:
        self._app = app
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection: requests and the lifespan; WebSockets are closed."""
        connection = cast("dict[str, Any]", scope)
        match connection["type"]:
            case "http":
                method: str = connection["method"]
                raw_path: bytes = connection.get("raw_path") or connection["path"].encode()
                path = routed_path(method, raw_path.decode("utf-8", "surrogateescape"))
                exchange = Exchange(connection, receive, send, answers=self._answers)
                inner = {
                    **connection,
                    "path": path,
                    "method": "GET" if method == "HEAD" else method,
                    EXCHANGE: exchange,
                }
                await self._app(cast("Scope", inner), exchange.receive, exchange.send)
            case "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1000, "reason": ""})
            case _:
                await self._app(scope, receive, send)


def unread_of(scope: Scope) -> "Exchange | None":
    """The exchange of a request, for inspecting a body that the handler does not read."""
    found = cast("dict[str, Any]", scope).get(EXCHANGE)
    return found if isinstance(found, Exchange) else None


def routed_path(method: str, path: str) -> str:
    """The path for the router. An id that equals a route segment is percent-encoded, so that it does not match it."""
    if "//" in path or (path.endswith("/") and path != "/"):
        return NOWHERE  # the router would ignore an empty segment
    if not path.startswith(WORKERS):
        return path
    segment, slash, rest = path[len(WORKERS) :].partition("/")
    if segment in LITERALS and (rest.strip("/") or method in {"GET", "HEAD", "DELETE"}):
        return f"{WORKERS}%{ord(segment[0]):02x}{segment[1:]}{slash}{rest}"
    return path


class Exchange:
    """One request and its answer.

    An early answer, before the body was read (401, 413, ...), is sent at once. The rest of the body is then read and
    dropped, within limits, before the connection may close: if a connection with unread bytes is closed, the kernel
    resets it, and the client may not receive the answer.
    """

    def __init__(self, connection: dict[str, Any], receive: Receive, send: Send, *, answers: Shares) -> None:
        self.tenant = ""
        """Tenant of the caller; empty if not known."""
        self.stamp: tuple[str, str] | None = None
        """The weak tag of the answer and the time for which it is true. A client that has the tag gets a 304."""
        self._known: set[str] = set()
        """The tags that the client has, without ``W/``."""
        self._answers = answers
        self._start: Message | None = None
        self._receive = receive
        self._send = send
        self._is_head = connection["method"] == "HEAD"
        self._expects_continue = False
        self._unread_bytes: float = 0
        self._look: Callable[[bytes], None] | None = None
        self._is_begun = False
        """Whether the app has read some of the body."""
        for name, value in connection["headers"]:
            if name == b"content-length" and value.isdigit():
                self._unread_bytes = int(value)
            elif name == b"transfer-encoding":
                self._unread_bytes = float("inf")
            elif name == b"expect":
                self._expects_continue = True
            elif name == b"if-none-match":
                self._known.update(one.strip().removeprefix("W/") for one in value.decode("latin-1").split(","))

    def look(self, look: Callable[[bytes], None]) -> None:
        """Call ``look`` with the first bytes of the body if the body is dropped unread, after the answer was sent."""
        self._look = look

    async def receive(self) -> Any:
        """The app's ``receive``."""
        self._is_begun = True
        return await self._next()

    async def _next(self) -> Any:
        message = await self._receive()
        self._expects_continue = False
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._unread_bytes = 0
        return message

    async def send(self, message: Message) -> None:
        """The app's ``send``."""
        if message["type"] == "http.response.start":
            if self._unread_bytes and (self._expects_continue or self._unread_bytes > KEEP_ALIVE_BYTES):
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            if self.stamp is not None and message["status"] == HTTPStatus.OK:
                self._put_stamp(message, *self.stamp)
            self._start = message
            return
        if message["type"] == "http.response.body":
            if self._is_head:
                message["body"] = b""
            if self._start is not None:
                start, self._start = self._start, None
                size = len(message["body"])
                if size > LARGE_BYTES and not message["more_body"]:
                    await self._send_large(start, message, size)
                    return
                await self._send(start)
            if self._unread_bytes and not self._expects_continue and not message["more_body"]:
                await self._send({**message, "more_body": True})
                await self._drain()
                message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    def _put_stamp(self, start: HTTPResponseStartEvent, tag: str, time: str) -> None:
        start["headers"] = [*start["headers"], (b"etag", tag.encode()), (TIME, time.encode())]
        if self._known & {tag.removeprefix("W/"), "*"}:
            start["status"] = HTTPStatus.NOT_MODIFIED
            start["headers"] = [one for one in start["headers"] if one[0] not in {b"content-length", b"content-type"}]
            self._is_head = True

    async def _send_large(self, start: Message, message: Message, size: int) -> None:
        """Send a large answer. Memory for it is reserved until the client has read most of it."""
        with Holding(self._answers, self.tenant) as held:
            try:
                held.acquire(size)
            except SlowDownError as error:
                busy = problem_of(error).asgi()
                await busy.start_response(self._send)
                await busy.send_body(self._send, self._receive)
                return
            await self._send(start)
            await self._send(cast("Message", {**message, "more_body": True}))
            # Returns when the client has read most of the data written before.
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _drain(self) -> None:
        dropped = 0
        first: list[bytes] = []
        look = None if self._is_begun else self._look
        try:
            async with asyncio.timeout(DRAIN_S):
                while self._unread_bytes and dropped <= DRAIN_BYTES:
                    message = await self._next()
                    piece = message.get("body", b"")
                    if look is not None and dropped < LOOK_BYTES:
                        first.append(piece[: LOOK_BYTES - dropped])
                    dropped += len(piece)
        except TimeoutError:
            return
        finally:
            if look is not None and first:
                look(b"".join(first))
