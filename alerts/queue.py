"""The durable queues, one per receiver. The only module of the package that speaks Redis.

What a call does is one function of ``queue.lua``, which lists the keys too. All of them share one
hash tag per receiver.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar, assert_never

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from alerts.durability import Confirmation, Durability, DurabilityMode
from alerts.errors import StoreUnavailableError
from alerts.notification import Notification

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Sequence

PUT_LIMIT: Final = 100
"""Notifications per call of ``put``, so that the store is never blocked for long."""

CLAIM_LIMIT: Final = 100
DEAD_LETTERS: Final = 10_000
"""About this many dead letters are kept per receiver, the newest."""

OUTCOMES_KEPT_MS: Final = 7 * 86_400_000
OUTCOMES_KEPT: Final = 10_000
"""So many ids with an outcome are remembered whatever their age: more than can be handed over and not
yet acked, so that no outage of ours, however long, lets an id be queued again."""

_TRIM_LIMIT: Final = 100
_CONFIRM_TIMEOUT_MS: Final = 2_000
_UNCONFIRMED_PAUSE_MS: Final = 250
_SOCKET_TIMEOUT_S: Final = 2.0
_COMMAND_CONNECTIONS: Final = 8
_CLAIM_FIELDS: Final = 8
_KNOWN_RECEIVERS_KEY: Final = "la:receivers"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

_SOURCE: Final = resources.files("alerts").joinpath("queue.lua").read_text(encoding="utf-8")
_DIGEST: Final = hashlib.sha256(_SOURCE.encode()).hexdigest()[:12]
_LIBRARY: Final = _SOURCE.replace("DIGEST", _DIGEST)

_TROUBLE: Final = (RedisError, OSError, RuntimeError)
"""No answer, or a refusal. On uvloop a write to a connection that was lost meanwhile is a RuntimeError."""

_T = TypeVar("_T")

Reply: TypeAlias = list[bytes] | set[bytes] | bytes | int
"""What the store answers to the commands used here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Claimed:
    """A notification under lease. ``attempt`` counts from 1 and includes the one about to be made."""

    notification: Notification
    attempt: int
    first_attempt_ms: int
    lease_token: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What a claim brought. With ``UNCONFIRMED`` the items have been given back, and ``items`` is empty."""

    items: tuple[Claimed, ...]
    confirmation: Confirmation


class Finish(StrEnum):
    """What became of an attempt to record an outcome."""

    DONE = "done"
    LEASE_LOST = "lease_lost"
    """The lease ran out and somebody else has claimed it, or has given it back: theirs counts."""
    GONE = "gone"
    """An outcome is recorded already."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueStats:
    """The state of one queue. ``lag_ms`` is for how long the longest due notification has been due."""

    receiver: str
    queued: int
    lag_ms: int
    dead: int


class QueueStore:
    """The connections that all queues share.

    ``redis_url`` is ``redis://``, ``rediss://`` or ``unix://``. ``receivers`` bounds how many claims run
    at once; a claim waits for the disk on a connection of its own, so it has a pool of its own.
    Belongs to one event loop.
    """

    def __init__(self, *, redis_url: str, receivers: int) -> None:
        self._commands = _client(
            redis_url,
            connections=_COMMAND_CONNECTIONS,
            retry=Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.25), 2),
            timeout_s=_SOCKET_TIMEOUT_S,
        )
        # Never re-sent: a claim whose answer was lost has leased something already.
        self._claims = _client(
            redis_url,
            connections=max(1, receivers),
            retry=Retry(NoBackoff(), 0),
            timeout_s=_SOCKET_TIMEOUT_S + _CONFIRM_TIMEOUT_MS / 1000,
        )

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        await self._commands.aclose()
        await self._claims.aclose()

    async def register(self, receivers: Iterable[str]) -> tuple[str, ...]:
        """Remember the configured receivers; answers the names that earlier runs had and this one has not.

        Idempotent. Raises ``StoreUnavailableError``.
        """
        names = frozenset(receivers)
        known = await _answer(_execute(self._commands, "SMEMBERS", _KNOWN_RECEIVERS_KEY))
        if names:
            await _answer(_execute(self._commands, "SADD", _KNOWN_RECEIVERS_KEY, *sorted(names)))
        if not isinstance(known, set | list):
            raise TypeError(f"SMEMBERS answered {known!r}")
        return tuple(sorted({name.decode() for name in known} - names))

    async def forget(self, receiver: str) -> None:
        """Undo ``register`` for a receiver whose queue is empty. Idempotent. Raises ``StoreUnavailableError``."""
        await _answer(_execute(self._commands, "SREM", _KNOWN_RECEIVERS_KEY, receiver))

    async def can_confirm(self, durability: Durability) -> bool:
        """Whether this server can say what ``durability`` asks of it. Raises ``StoreUnavailableError``."""
        if durability.mode is not DurabilityMode.FSYNC:
            return True
        try:
            await _execute(self._commands, "WAITAOF", 1, 0, 1)
        except ResponseError:
            return False
        except _TROUBLE as error:
            raise StoreUnavailableError(f"the store does not answer: {error}") from error
        return True

    async def call(self, function: str, base: str, *args: str | int) -> Reply:
        """Call one function of the library; loads the library when the server does not have it."""
        command = ("FCALL", f"la_{function}_{_DIGEST}", 1, base, *args)
        try:
            return await _execute(self._commands, *command)
        except ResponseError as error:
            if "Function not found" not in str(error):
                raise StoreUnavailableError(f"{function} {base}: {error}") from error
        except _TROUBLE as error:
            raise StoreUnavailableError(f"{function} {base}: {error}") from error
        await self._load()
        return await _answer(_execute(self._commands, *command))

    async def call_confirmed(
        self, durability: Durability, function: str, base: str, *args: str | int
    ) -> tuple[list[bytes], Confirmation]:
        """Call a function, then wait until its writes are as safe as ``durability`` asks.

        Both go down one connection in one pipeline: WAIT and WAITAOF speak of that connection's own
        writes only, and on a connection made anew they would confirm nothing at all, at once.
        """
        for last_try in (False, True):
            pipeline = self._claims.pipeline(transaction=False)
            for command in (("FCALL", f"la_{function}_{_DIGEST}", 1, base, *args), *_wait_command(durability)):
                pipeline.execute_command(*command)
            answer, *waited = await _answer(pipeline.execute(raise_on_error=False))
            if isinstance(answer, ResponseError) and "Function not found" in str(answer) and not last_try:
                await self._load()
                continue
            if isinstance(answer, Exception):
                raise StoreUnavailableError(f"{function} {base}: {answer}") from answer
            return answer, _confirmation(durability, waited[0] if waited else None)
        raise AssertionError  # the second try returns or raises

    async def _load(self) -> None:
        await _answer(_execute(self._commands, "FUNCTION LOAD", "REPLACE", _LIBRARY))


class DeliveryQueue:
    """The queue of one receiver.

    Every method raises ``StoreUnavailableError`` when it is not known to have been done; calling again
    is harmless, but for ``claim``, whose lost items come back when their lease ends. Times are
    milliseconds of the store's clock.

    Args:
        store: the connections; several queues may share them.
        receiver: its name, letters, digits, ``_``, ``.`` and ``-``, at most 64.
    """

    def __init__(self, store: QueueStore, receiver: str) -> None:
        if not _NAME.fullmatch(receiver):
            raise ValueError(f"receiver name {receiver!r} is not 1 to 64 of letters, digits, '_', '.' and '-'")
        self.receiver = receiver
        self._store = store
        self._base = f"{{la:{receiver}}}"

    async def put(self, notifications: Sequence[Notification], *, now_ms: int) -> int:
        """Queue notifications in their order; answers how many were new.

        Idempotent by ``nid``, after its outcome was recorded too.
        """
        new = 0
        for start in range(0, len(notifications), PUT_LIMIT):
            args: list[str | int] = [now_ms]
            for item in notifications[start : start + PUT_LIMIT]:
                args += (item.nid, item.event_type, item.key, item.created_ms, item.body)
            new += _integer(await self._store.call("put", self._base, *args))
        return new

    async def claim(self, *, limit: int, lease_ms: int, now_ms: int, durability: Durability) -> Claim:
        """Lease at most ``limit`` due notifications, longest due first, at most one of each group key.

        They are due again when the lease ends. Nothing is answered that the store has not confirmed at
        ``durability`` (P23): a claim is written after the event that it rests on.
        """
        answer, confirmation = await self._store.call_confirmed(
            durability, "claim", self._base, now_ms, lease_ms, min(limit, CLAIM_LIMIT)
        )
        texts = [field.decode() for field in answer]
        items = tuple(self._claimed(texts[i : i + _CLAIM_FIELDS]) for i in range(0, len(texts), _CLAIM_FIELDS))
        if items and confirmation is Confirmation.UNCONFIRMED:
            due_ms = now_ms + _CONFIRM_TIMEOUT_MS + _UNCONFIRMED_PAUSE_MS
            await asyncio.gather(*(self.release(item, due_ms=due_ms) for item in items))
            return Claim(items=(), confirmation=confirmation)
        return Claim(items=items, confirmation=confirmation)

    async def complete(self, item: Claimed, *, now_ms: int) -> Finish:
        """Record that it was delivered. From then on this id is never claimed or queued again (P6)."""
        return await self._finish("complete", item, now_ms, OUTCOMES_KEPT_MS, OUTCOMES_KEPT, _TRIM_LIMIT)

    async def postpone(self, item: Claimed, *, due_ms: int) -> Finish:
        """End the lease after a failed attempt; the next one is due at ``due_ms``."""
        return await self._finish("postpone", item, due_ms, 0)

    async def release(self, item: Claimed, *, due_ms: int) -> Finish:
        """End the lease of something that was not sent; no attempt is counted."""
        return await self._finish("postpone", item, due_ms, 1)

    async def bury(self, item: Claimed, *, reason: str, now_ms: int) -> Finish:
        """Record that it is given up: body, attempts and reason are kept as a dead letter."""
        return await self._finish(
            "bury", item, now_ms, OUTCOMES_KEPT_MS, OUTCOMES_KEPT, _TRIM_LIMIT, DEAD_LETTERS, reason
        )

    async def reject(self, notification: Notification, *, reason: str, now_ms: int) -> bool:
        """Record a dead letter for something that cannot be queued; False when its id has been seen. Idempotent."""
        new = await self._store.call(
            "reject",
            self._base,
            notification.nid,
            notification.event_type,
            notification.key,
            now_ms,
            DEAD_LETTERS,
            reason,
            notification.body,
        )
        return bool(_integer(new))

    async def stats(self, *, now_ms: int) -> QueueStats:
        """The state of the queue; changes nothing."""
        answer = await self._store.call("stats", self._base, now_ms)
        if not isinstance(answer, list):
            raise TypeError(f"stats of {self.receiver!r} answered {answer!r}")
        queued, lag_ms, dead = (int(value) for value in answer)
        return QueueStats(receiver=self.receiver, queued=queued, lag_ms=lag_ms, dead=dead)

    async def _finish(self, function: str, item: Claimed, *args: str | int) -> Finish:
        answer = await self._store.call(function, self._base, item.notification.nid, item.lease_token, *args)
        if not isinstance(answer, bytes):
            raise TypeError(f"{function} for {self.receiver!r} answered {answer!r}")
        return Finish(answer.decode())

    def _claimed(self, fields: list[str]) -> Claimed:
        nid, event_type, key, body, created_ms, attempts, first_attempt_ms, token = fields
        return Claimed(
            notification=Notification(
                nid=nid,
                receiver=self.receiver,
                key=key,
                event_type=event_type,
                body=body,
                created_ms=int(created_ms),
            ),
            attempt=int(attempts),
            first_attempt_ms=int(first_attempt_ms),
            lease_token=int(token),
        )


def _client(redis_url: str, *, connections: int, retry: Retry, timeout_s: float) -> Redis:
    pool = BlockingConnectionPool.from_url(
        redis_url,
        max_connections=connections,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=_SOCKET_TIMEOUT_S,
        retry=retry,
        # Left on, an idle connection that the server closed fails the next command (redis-py issue 4252).
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )
    return Redis.from_pool(pool)


async def _execute(client: Redis, *command: str | int) -> Reply:
    reply: Reply = await client.execute_command(*command)  # type: ignore[no-untyped-call]
    return reply


async def _answer(call: Awaitable[_T]) -> _T:
    try:
        return await call
    except _TROUBLE as error:
        raise StoreUnavailableError(f"the store does not answer: {error}") from error


def _wait_command(durability: Durability) -> tuple[tuple[str | int, ...], ...]:
    match durability.mode:
        case DurabilityMode.FSYNC:
            return (("WAITAOF", 1, 0, _CONFIRM_TIMEOUT_MS),)
        case DurabilityMode.REPLICAS:
            return (("WAIT", durability.replicas, _CONFIRM_TIMEOUT_MS),)
        case DurabilityMode.MEMORY:
            return ()
        case _:
            assert_never(durability.mode)


def _confirmation(durability: Durability, waited: object) -> Confirmation:
    match durability.mode:
        case DurabilityMode.MEMORY:
            return Confirmation.CONFIRMED
        case DurabilityMode.REPLICAS if isinstance(waited, int):
            return Confirmation.CONFIRMED if waited >= durability.replicas else Confirmation.UNCONFIRMED
        case DurabilityMode.FSYNC if isinstance(waited, list):
            return Confirmation.CONFIRMED if waited[0] >= 1 else Confirmation.UNCONFIRMED
        case DurabilityMode.FSYNC if isinstance(waited, ResponseError):
            return Confirmation.UNAVAILABLE
        case _:
            return Confirmation.UNCONFIRMED


def _integer(answer: Reply) -> int:
    if not isinstance(answer, int):
        raise TypeError(f"a number was expected, not {answer!r}")
    return answer
