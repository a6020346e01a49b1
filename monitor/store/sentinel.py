"""Connections to the primary that Sentinel names, now and after a failover.

By the guidelines for Sentinel clients (https://redis.io/docs/latest/develop/reference/sentinel-clients/) the
Sentinels are asked in their order, the first that answers is asked first from then on, and a server must confirm that
it is a primary before a connection to it is used. redis-py's own classes are not suitable. Its connections look for the
primary in ``connect`` only, and not when a command finds them closed; its pool raises when it is empty; and none
of them leaves a former primary that still answers. That case is normal: after an ordered failover, or after a pause, a
former primary takes writes, which will be lost, until Sentinel demotes it 8 s later. So Sentinel is also polled, and
every connection to another server is cut.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakSet

import structlog
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import SSLConnection
from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.maint_notifications import MaintNotificationsConfig

from monitor.settings.store_urls import SentinelUrl
from monitor.store.fast_connections import SENT_ONCE, TROUBLE, TcpConnection, TlsConnection

WATCH_S: Final = 0.25
"""How often Sentinel is polled for the primary. For this long a former primary may take beats that will be lost."""
_NO_PRIMARY: Final = ("READONLY", "NOREPLICAS", "MASTERDOWN", "You can't write against a read only replica")
"""Errors of a server that is no longer a primary, or that has lost its replicas to another."""

log = structlog.get_logger(__name__)


REFUSALS: Final = (AuthenticationError, AuthorizationError, NoPermissionError)


class PrimaryNotFoundError(RedisConnectionError):
    """No Sentinel knows the primary."""


class SentinelsRefuseUsError(PrimaryNotFoundError):
    """Every Sentinel refuses our credentials."""


class NotPrimaryError(RedisConnectionError):
    """The server does not act as the primary, or no longer does. A retry asks Sentinel again."""


class Primary:
    """Tracks the primary of a service. Belongs to one event loop; ``close`` ends the polling.

    ``limit_s`` bounds one search: each Sentinel gets an equal part of it.
    """

    def __init__(self, place: SentinelUrl, *, limit_s: float) -> None:
        self.address: tuple[str, int] | None = None
        """The primary's address as of the last search."""
        self._service = place.service
        self._sentinels = [_client(place, host, port) for host, port in place.sentinels]
        self._limit_s = limit_s / len(self._sentinels)
        self._connections: WeakSet[PrimaryConnection] = WeakSet()
        self._search: asyncio.Task[tuple[str, int] | PrimaryNotFoundError] | None = None
        self._watch: asyncio.Task[None] | None = None

    async def find(self) -> tuple[str, int]:
        """Return the primary's address, from a Sentinel. Concurrent callers share one search.

        Raises:
            PrimaryNotFoundError: no Sentinel has an answer; bounded in time.
        """
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._look_again(), name="watch the primary")
        found = await self._searched()
        if isinstance(found, PrimaryNotFoundError):
            raise type(found)(*found.args)
        return found

    def made(self, connection: "PrimaryConnection") -> None:
        """Register a connection. It is cut when the primary moves."""
        self._connections.add(connection)

    async def close(self) -> None:
        """End the polling and the connections to the Sentinels. Idempotent."""
        tasks = [task for task in (self._watch, self._search) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _, sentinel in self._sentinels:
            await sentinel.aclose()

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            await self._searched()  # if no Sentinel answers, the present connections stay

    async def _searched(self) -> tuple[str, int] | PrimaryNotFoundError:
        if self._search is None or self._search.done():
            self._search = asyncio.create_task(self._ask_all(), name="find the primary")
        return await asyncio.shield(self._search)

    async def _ask_all(self) -> tuple[str, int] | PrimaryNotFoundError:
        troubles, refusals = [], 0
        for one in tuple(self._sentinels):
            name, sentinel = one
            try:
                async with asyncio.timeout(self._limit_s):
                    found = await _ask(sentinel, self._service)
            except TROUBLE as error:
                refusals += isinstance(error, REFUSALS)
                troubles.append(f"{name}: {error or 'no answer in time'}")
                continue
            if found is None:
                troubles.append(f"{name}: there is no service {self._service!r}")
                continue
            self._sentinels.remove(one)
            self._sentinels.insert(0, one)
            self._is_at(found)
            return found
        kind = SentinelsRefuseUsError if refusals == len(troubles) else PrimaryNotFoundError
        return kind(f"no Sentinel says where the primary is: {'; '.join(troubles)}")

    def _is_at(self, address: tuple[str, int]) -> None:
        if address == self.address:
            return
        was, self.address = self.address, address
        if was is not None:
            log.warning("store.primary_moved", was=_shown(was), now=_shown(address))
        for connection in list(self._connections):
            if (connection.host, connection.port) != address:
                connection.cut()


class PrimaryConnection(TcpConnection):
    """A connection to the present address of ``primary``. It is closed if the server proves not to be the primary."""

    def __init__(self, *, primary: Primary, **settings: Any) -> None:
        self._primary = primary
        super().__init__(**settings)
        primary.made(self)

    def cut(self) -> None:
        """Abort the connection and its call, whose effect may be lost. The next use reconnects."""
        self.mark_for_reconnect()  # type: ignore[no-untyped-call]
        if self._writer is not None:
            self._writer.transport.abort()

    async def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:  # noqa: FBT001, FBT002 - as the base class
        """Connect, unless already connected to the primary."""
        if self.should_reconnect():  # type: ignore[no-untyped-call]
            await self.disconnect(nowait=True)
        await super().connect_check_health(check_health=check_health, retry_socket_connect=retry_socket_connect)

    async def _connect(self) -> None:
        self.host, self.port = await self._primary.find()
        await super()._connect()  # type: ignore[no-untyped-call]
        if self._primary.address != (self.host, self.port):
            await self.disconnect(nowait=True)
            raise NotPrimaryError(f"the primary has moved away from {self._host_error()}")

    async def on_connect_check_health(self, check_health: bool = True) -> None:  # noqa: FBT001, FBT002 - as the base class
        """Authenticate, and check the server's role.

        Raises:
            NotPrimaryError: a replica, though Sentinel has named it: it was demoted, or is not promoted yet.
        """
        await super().on_connect_check_health(check_health=check_health)
        await self.send_command("ROLE", check_health=False)
        role = await self.read_response()
        if role[0] != b"master":
            raise NotPrimaryError(f"Sentinel names {self._host_error()} as the primary, which says that it is none")

    async def read_response(self, *args: Any, **settings: Any) -> Any:
        """Return the answer to a command.

        Raises:
            NotPrimaryError: the server refuses to act as the primary; nothing was applied.
        """
        try:
            return await super().read_response(*args, **settings)
        except ResponseError as error:
            if not _is_no_primary(error):
                raise
            await self.disconnect(nowait=True)
            raise NotPrimaryError(f"{self._host_error()} does not act as the primary: {error}") from error


class PrimaryTlsConnection(PrimaryConnection, SSLConnection):
    """A connection to the primary over TLS."""


def tls_settings(place: SentinelUrl) -> dict[str, Any]:
    """Return the TLS arguments of a connection."""
    return {**dict(place.files), "ssl_check_hostname": place.check_hostname}


def _client(place: SentinelUrl, host: str, port: int) -> tuple[str, Redis]:
    """Return a Sentinel's name and client."""
    over_tls = place.tls == "all"
    pool = ConnectionPool(
        connection_class=TlsConnection if over_tls else TcpConnection,
        host=host,
        port=port,
        username=place.sentinel_username,
        password=place.sentinel_password,
        # The caller sets a timeout around the whole request.
        socket_timeout=None,
        socket_connect_timeout=None,
        retry=SENT_ONCE,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        **(tls_settings(place) if over_tls else {}),
    )
    return _shown((host, port)), Redis.from_pool(pool)


async def _ask(sentinel: Redis, service: str) -> tuple[str, int] | None:
    execute: Callable[..., Any] = sentinel.execute_command
    answer = await execute("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)
    return None if answer is None else (answer[0].decode(), int(answer[1]))


def _shown(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_no_primary(error: ResponseError) -> bool:
    # redis-py strips the code from errors for which it has a type.
    return type(error).__name__ in {"ReadOnlyError", "MasterDownError"} or str(error).startswith(_NO_PRIMARY)
