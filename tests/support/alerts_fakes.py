"""What the tests of `alerts` share: events, a manual clock, an event source, receivers, a webhook server."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from alerts.errors import TransientDeliveryError
from alerts.groups.classify import digest
from alerts.groups.fleet import StoredWorker, WorkerOutage
from alerts.groups.state import NotificationRecord, Outcome
from alerts.receivers import Notification
from alerts.store.group_store import GroupStore
from monitor.errors import StoreUnavailableError
from monitor.events import Event, Taken
from monitor.liveness import EnvironmentHealth, EventKind, Liveness
from tests.support import parts
from tests.support.stores import alert_store

START_MS = 1_790_000_000_000
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
WAIT_S = 20.0


async def until(condition: Callable[[], bool | Awaitable[bool]], *, timeout_s: float = WAIT_S) -> None:
    """Return when the condition holds. Fails if it does not within the time limit."""
    async with asyncio.timeout(timeout_s):
        while True:
            held = condition()
            if not isinstance(held, bool):
                held = await held
            if held:
                return
            await asyncio.sleep(0.005)


async def dead_letters(store_url: str, receiver: str = "ops") -> list[NotificationRecord]:
    """The dead letters of a receiver, oldest first."""
    store = alert_store(store_url)
    try:
        groups = GroupStore(store, receiver)
        notes = await parts.notifications(groups, Outcome.DEAD_LETTERED, before_ms=2 * START_MS, offset=0, limit=100)
    finally:
        await store.close()
    return notes[::-1]


def _calm() -> EnvironmentHealth:
    return EnvironmentHealth(expected=1_000, silent=0)


class FakeFleet:
    """A fleet whose health a function gives: by default no worker is silent. A worker that was down is still down,
    unless its event is in ``over``."""

    def __init__(self, health: Callable[[], EnvironmentHealth] = _calm) -> None:
        self._health = health
        self.over: set[str] = set()
        self.outages = 0
        """Number of recent outages of every worker."""

    async def environment_health(
        self, _tenant: str, _environment: str, _since_ms: int | None = None
    ) -> EnvironmentHealth:
        """Health of every environment."""
        return self._health()

    async def outage(self, event: Event, _since_ms: int = 0, *, stored: StoredWorker | None = None) -> WorkerOutage:
        """State of the outage of an event."""
        del stored
        return WorkerOutage(is_ongoing=event.event_id not in self.over, before=self.outages)


CALM: Final = FakeFleet()


def nid_of(item: Event, receiver: str = "ops") -> str:
    """The id of the notification of one event at a receiver."""
    return "ntf_" + digest(receiver, item.event_id)


class Clock:
    """The store's time, moved by hand."""

    def __init__(self, now_ms: int = START_MS) -> None:
        self.ms = now_ms

    def __call__(self) -> int:
        return self.ms


def event(seq: int = 1, *, worker_id: str = "w", **changes: Any) -> Event:
    """A worker gone stale; what is not given is as usual."""
    values: dict[str, Any] = {
        "position": f"{seq}-0",
        "partition": 0,
        "kind": EventKind.STALE,
        "tenant": "acme",
        "worker_id": worker_id,
        "environment_name": "prod",
        "generation": START_MS - 600_000,
        "seq": seq,
        "old": Liveness.ALIVE,
        "new": Liveness.STALE,
        "reason": "deadline",
        "due_ms": START_MS - 10,
        "detected_ms": START_MS + 5,
        "last_seen_ms": START_MS - 90_000,
        "since_ms": START_MS - 600_000,
        "interval_ms": 30_000,
        "grace_ms": 60_000,
        "status": "busy",
        "tasks_processed": 7,
        "current_task_id": None,
        "worker_metadata_json": '{"host":"é"}',
        "worker_metadata_cut": False,
        "recent_gaps_ms": (30_000, 30_012),
        "old_status": None,
        "exit_code": None,
        "error_message": None,
    }
    return Event(**{**values, **changes})


def events(workers: int, each: int) -> list[Event]:
    """`each` events of every one of `workers` workers, interleaved, in stream order; each is notified by itself."""
    return [
        event(
            seq,
            worker_id=f"w{worker}",
            position=f"{seq * 1_000_000 + worker}-0",
            kind=EventKind.RESUMED,
            old=Liveness.STOPPED,
            new=Liveness.ALIVE,
        )
        for seq in range(1, each + 1)
        for worker in range(workers)
    ]


def notification(nid: str = "ntf_1", *, key: str = "4:acmew", receiver: str = "ops") -> Notification:
    """A notification with a body that names it."""
    body = f'{{"type":"worker.stale","timestamp":"2026-11-23T10:00:00.000Z","data":{{"event_id":"{nid}"}}}}'
    return Notification(
        nid=nid, receiver=receiver, key=key, event_type="worker.stale", body=body, created_ms=START_MS - 1
    )


class ListSource:
    """An event source over a list: remembers acks, may be leased by another process, may be down."""

    def __init__(self, stream: list[Event]) -> None:
        self.stream = list(stream)
        self.acked = 0
        self.leased_elsewhere = False
        self.is_owner = True
        self.acks_are_lost = False
        self.refusals = 0
        self.down = False
        self.broken: Exception | None = None

    async def claim(self, partition: int, limit: int) -> Taken | None:
        if self.broken is not None:
            raise self.broken
        if self.down:
            raise StoreUnavailableError("down for the test")
        if partition != 0:
            return None
        if self.leased_elsewhere:
            self.refusals += 1
            return None
        events = self.stream[self.acked : self.acked + limit]
        return Taken(events=events, last=events[-1].position if events else "", token=1)

    def owns(self, partition: int) -> bool:
        del partition
        return self.is_owner

    def routed(self, position: str) -> None:
        """Events up to a position were acknowledged in the store."""
        if not self.acks_are_lost:
            self.acked = 1 + [item.position for item in self.stream].index(position)


@dataclass
class Inbox:
    """A receiver in memory. `answer` may raise; `gate`, when given, holds every attempt back."""

    name: str = "ops"
    timeout_s: float = 5.0
    resend_ms: int | None = None
    takes_groups: bool = True
    answer: Callable[[Notification, int], None] = lambda _notification, _attempt: None
    gate: asyncio.Event | None = None
    attempts: list[Notification] = field(default_factory=list)
    accepted: list[Notification] = field(default_factory=list)
    closed: bool = False
    is_there: bool = True

    async def send(self, notification: Notification, *, attempt: int, now_ms: int) -> None:  # noqa: ARG002
        self.attempts.append(notification)
        if self.gate is not None:
            await self.gate.wait()
        self.answer(notification, attempt)
        self.accepted.append(notification)

    async def reach(self) -> None:
        if not self.is_there:
            raise TransientDeliveryError(f"receiver {self.name!r}: cannot connect")

    async def close(self) -> None:
        self.closed = True

    def ids(self) -> list[str]:
        return [item.nid for item in self.accepted]


@dataclass
class Hook:
    """What a webhook server has got: headers and body of every request."""

    url: str = ""
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.requests]


@asynccontextmanager
async def webhook_server(
    answer: Callable[[web.Request, int], Awaitable[web.StreamResponse]] | None = None,
) -> AsyncIterator[Hook]:
    """A webhook server on loopback; `answer` gets the request and its number from 0, else it is 204."""
    hook = Hook()

    async def handle(request: web.Request) -> web.StreamResponse:
        number = len(hook.requests)
        body = await request.read()
        hook.requests.append(({name.lower(): value for name, value in request.headers.items()}, body))
        return web.Response(status=204) if answer is None else await answer(request, number)

    app = web.Application()
    app.router.add_post("/hook", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        hook.url = f"http://{host}:{port}/hook"
        yield hook
    finally:
        await runner.cleanup()


class Tally:
    """Counts attempts and decisions as `Metrics` does."""

    def __init__(self) -> None:
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.causes: Counter[tuple[str, str]] = Counter()
        self.decisions: Counter[tuple[str, str]] = Counter()

    def delivery(self, receiver: str, outcome: str, cause: str) -> None:
        self.outcomes[receiver, outcome] += 1
        if cause:
            self.causes[receiver, cause] += 1

    def decision(self, receiver: str, decision: str) -> None:
        self.decisions[receiver, decision] += 1
