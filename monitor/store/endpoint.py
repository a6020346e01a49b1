"""The store's endpoint, and pools of connections to it.

The endpoint is a server with a fixed address, or the primary that Sentinel names. All users of the store get their
connections here, the alerts too: with Sentinel all of them learn of a failover at once.
"""

from typing import Any, Final, TypeVar

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.maint_notifications import MaintNotificationsConfig

from monitor.settings.store_urls import SentinelUrl, is_sentinel_url, sentinel_url
from monitor.store.fast_connections import GUARDED, SENT_ONCE
from monitor.store.sentinel import Primary, PrimaryConnection, PrimaryTlsConnection, tls_settings

_Pool = TypeVar("_Pool", bound=ConnectionPool)

SEARCH_SHARE: Final = 0.5
"""Part of a call's timeout that the search for the primary may take; the rest is for the call itself."""


class Address:
    """The store at ``url``. Belongs to one event loop.

    ``timeout_s`` bounds a connection attempt; half of it bounds the search for the primary.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._place = sentinel_url(url) if is_sentinel_url(url) else None
        self._primary = None if self._place is None else Primary(self._place, limit_s=timeout_s * SEARCH_SHARE)

    async def close(self) -> None:
        """Stop watching the primary. The owners of the pools close them before. Idempotent."""
        if self._primary is not None:
            await self._primary.close()

    def client(self, connections: int, *, timeout_s: float, retry: Retry) -> Redis:
        """Return a client, which the caller closes. Calls beyond ``connections`` wait for a free one.

        ``timeout_s`` bounds that wait and each answer. ``retry``: ``RESENT`` or ``SENT_ONCE``.
        """
        pool = self._pool(
            BlockingConnectionPool,
            max_connections=connections,
            timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=min(timeout_s, self._timeout_s),
            retry=retry,
        )
        return Redis.from_pool(pool)

    def unlimited(self) -> ConnectionPool:
        """Return a factory of connections without timeouts of their own."""
        return self._pool(ConnectionPool, socket_timeout=None, socket_connect_timeout=None, retry=SENT_ONCE)

    def _pool(self, kind: type[_Pool], **settings: Any) -> _Pool:
        # redis-py 8.1.0 does not replace a connection that the server has closed while idle unless
        # this is off (redis-py issue 4252).
        settings["maint_notifications_config"] = MaintNotificationsConfig(enabled=False)
        if self._place is None:
            pool = kind.from_url(self._url, **settings)
            pool.connection_class = GUARDED[pool.connection_class]
            return pool
        return kind(**_identity(self._place), primary=self._primary, **settings)


def _identity(place: SentinelUrl) -> dict[str, Any]:
    who: dict[str, Any] = {"username": place.username, "password": place.password, "db": place.db}
    if place.tls == "none":
        return {**who, "connection_class": PrimaryConnection}
    return {**who, "connection_class": PrimaryTlsConnection, **tls_settings(place)}
