"""The alerting half of the daemon, put together."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import structlog

from alerts.delivery.loop import CONCURRENCY, Counted, Delivery
from alerts.delivery.planner import Planner
from alerts.errors import DeliveryError, StoreUnavailableError
from alerts.failpoints import nothing
from alerts.loops import POLL_S, StoreBackoff, cancel_all
from alerts.oncall.removed_receivers import end_threads
from alerts.retry import RetryPolicy
from alerts.routing.router import Router
from alerts.routing.routes import ReceiverTraits
from alerts.store.connection import StoreConnection
from alerts.store.durability import UNAVAILABLE_HINT
from alerts.store.group_store import GroupStore, Stats
from alerts.store.incidents import IncidentStore
from alerts.store.mass_failures import MassFailures
from alerts.store.retention import Retention
from alerts.store.silences import SilenceStore
from alerts.supervision import FIRST_PAUSE_S, Part

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from structlog.typing import FilteringBoundLogger

    from alerts.groups.flapping import Flapping
    from alerts.groups.fleet import EnvironmentHealth, Fleet, WorkerOutage
    from alerts.groups.mass_failure import Rule
    from alerts.receivers import Receiver
    from alerts.rendering.payload import Wording
    from alerts.routing.router import EventSource
    from alerts.routing.routes import Route
    from alerts.store.connection import Pools
    from alerts.store.durability import Durability
    from monitor.events import Event

STOP_TIMEOUT_S: Final = 10.0

_log: FilteringBoundLogger = structlog.get_logger()


class _Answered:
    """A fleet whose trouble is that of the store."""

    def __init__(self, fleet: Fleet, errors: tuple[type[Exception], ...]) -> None:
        self._fleet = fleet
        self._errors = errors

    async def environment_health(self, tenant: str, environment: str, since_ms: int | None = None) -> EnvironmentHealth:
        try:
            return await self._fleet.environment_health(tenant, environment, since_ms)
        except self._errors as error:
            raise StoreUnavailableError(str(error)) from error

    async def outage(self, event: Event, since_ms: int = 0) -> WorkerOutage:
        try:
            return await self._fleet.outage(event, since_ms)
        except self._errors as error:
            raise StoreUnavailableError(str(error)) from error


class AlertService:
    """A router for each partition and a delivery for each receiver, in one event loop.

    Args:
        pools: makes pools of connections to the store.
        receivers: where notifications go. Closed by ``stop``.
        routes: which events go where; they may name these receivers only.
        owners: the tenants that a receiver belongs to; one that is not named is shared by all.
        source: the event streams.
        partitions: how many there are.
        durability: what the store must confirm before anything is sent.
        wording: the words of notifications.
        fleet: what the worker store knows; raises what ``source`` does.
        rule: what a mass failure is; None: nothing is.
        flapping: when a worker flaps; None: never.
        now_ms: the store's time, in milliseconds.
        on_outcome: told of each outcome, ``(receiver, outcome, cause of a failure or "")``; for metrics.
        policy: when to try a failed delivery again.
        history: how much is kept of what is over.
        source_errors: what ``source`` raises when the store does not answer.
        concurrency: attempts in flight at one receiver.
        poll_s: how often each part looks for work that nobody told it of, in seconds.
        failpoint: called with the name of each point at which a test may end the process.

    Raises:
        ValueError: two receivers have one name, or a route names one that there is not.
    """

    def __init__(
        self,
        *,
        pools: Pools,
        receivers: Sequence[Receiver],
        routes: Sequence[Route],
        owners: Mapping[str, frozenset[str]] | None = None,
        source: EventSource,
        partitions: int,
        durability: Durability,
        wording: Wording,
        fleet: Fleet,
        rule: Rule | None,
        flapping: Flapping | None = None,
        now_ms: Callable[[], int],
        on_outcome: Callable[[str, str, str], None],
        policy: RetryPolicy | None = None,
        history: Retention | None = None,
        source_errors: tuple[type[Exception], ...] = (),
        concurrency: int = CONCURRENCY,
        poll_s: float = POLL_S,
        first_pause_s: float = FIRST_PAUSE_S,
        namespace: str = "",
        failpoint: Callable[[str], None] = nothing,
    ) -> None:
        _check(receivers, routes)

        asked = _Answered(fleet, source_errors)
        self._store = StoreConnection(pools=pools, receivers=len(receivers), namespace=namespace)
        self._first_pause_s = first_pause_s
        self._durability = durability
        self._now_ms = now_ms
        self.wording = wording
        self.receivers = {receiver.name: receiver for receiver in receivers}
        self.owners = owners or {}
        self._history = history or Retention()
        self.incidents = IncidentStore(self._store, self._history)
        self.silences = SilenceStore(self._store, self._history)
        self.groups = {name: GroupStore(self._store, name, self._history) for name in self.receivers}
        mass_failures = None if rule is None else MassFailures(self._store, rule=rule, fleet=asked)
        self._planners = {
            name: Planner(
                groups=groups,
                incidents=self.incidents,
                silences=self.silences,
                mass_failures=mass_failures,
                wording=wording,
                fleet=asked,
                flapping=flapping,
                on_unrenderable=lambda name=name: on_outcome(name, Counted.UNRENDERABLE, ""),  # type: ignore[misc]
            )
            for name, groups in self.groups.items()
        }
        self._deliveries = {
            name: Delivery(
                receiver=receiver,
                groups=self.groups[name],
                planner=self._planners[name],
                policy=_policy_for(receiver, policy or RetryPolicy()),
                durability=durability,
                now_ms=now_ms,
                on_outcome=on_outcome,
                concurrency=concurrency,
                poll_s=poll_s,
                failpoint=failpoint,
            )
            for name, receiver in self.receivers.items()
        }
        traits = {
            name: ReceiverTraits(
                name=name,
                takes_groups=receiver.takes_groups,
                resend_ms=receiver.resend_ms,
                tenants=self.owners.get(name, frozenset()),
            )
            for name, receiver in self.receivers.items()
        }
        self._routers = tuple(
            Router(
                partition=partition,
                source=source,
                incidents=self.incidents,
                mass_failures=mass_failures,
                groups=self.groups,
                traits=traits,
                routes=routes,
                now_ms=now_ms,
                on_queued=self.wake,
                source_errors=source_errors,
                poll_s=poll_s,
                failpoint=failpoint,
            )
            for partition in range(partitions)
        )
        self._parts: tuple[Part, ...] = ()
        self._routing: list[asyncio.Task[None]] = []
        self._delivering: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start every part. Does not wait for the store: the parts wait for it themselves, and log it."""
        pause_s = self._first_pause_s
        routing = [Part("survey", self._survey, pause_s)]
        routing += [Part(f"router {number}", router.run, pause_s) for number, router in enumerate(self._routers)]
        delivering = [Part(f"delivery {name}", part.run, pause_s) for name, part in self._deliveries.items()]
        self._parts = (*routing, *delivering)
        self._routing = [asyncio.create_task(part.keep_running(), name=f"alerts {part.name}") for part in routing]
        self._delivering = [asyncio.create_task(part.keep_running(), name=f"alerts {part.name}") for part in delivering]

    def failing(self) -> list[str]:
        """The parts that have failed lately and are being started again, and receivers that routing fails for."""
        routers = [router.failing() for router in self._routers]
        now_ms = self._now_ms()
        planning = [f"planning for {name}" for name, one in self._planners.items() if one.is_failing(now_ms)]
        return [part.name for part in self._parts if part.is_failing] + sorted(set().union(*routers)) + planning

    async def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Stop routing, then let the attempts in flight end within ``timeout_s`` seconds. Idempotent."""
        await cancel_all(self._routing)
        await self._end_deliveries(timeout_s)
        # A claim that was under way when the stop came may have started attempts since.
        if self._delivering:
            await asyncio.wait(self._delivering, timeout=timeout_s)
        await cancel_all(self._delivering)
        await self._end_deliveries(0)
        await _each("close", {name: receiver.close() for name, receiver in self.receivers.items()})
        await self._store.close()

    async def _end_deliveries(self, timeout_s: float) -> None:
        await _each("stop", {name: part.stop(timeout_s) for name, part in self._deliveries.items()})

    def wakeup(self) -> None:
        """There are new events: look for them now and not at the next poll."""
        for router in self._routers:
            router.wakeup()

    def wake(self, receiver: str) -> None:
        """There is something new among a receiver's groups: look now and not at the next poll."""
        self._deliveries[receiver].wakeup()

    async def health(self) -> list[Stats]:
        """The state of each receiver's queue. Raises ``StoreUnavailableError``."""
        now_ms = self._now_ms()
        return list(await asyncio.gather(*(groups.stats(now_ms=now_ms) for groups in self.groups.values())))

    async def _survey(self) -> None:
        """Say once what the store has that was not configured, and what it lacks that was."""
        outage = StoreBackoff("survey")
        while True:
            try:
                if not await self._store.can_confirm(self._durability):
                    mode = self._durability.mode.value
                    _log.warning("durability.unavailable", durability=mode, hint=UNAVAILABLE_HINT)
                for name in await self._store.register(self.groups):
                    await self._end_removed(name)
                await asyncio.gather(*(groups.unretire() for groups in self.groups.values()))
                disabled = [one for one in await self.health() if one.disabled is not None]
            except StoreUnavailableError as error:
                await asyncio.sleep(outage.failed(error, uniform=random.uniform))
                continue
            outage.over()
            break
        for one in disabled:
            _log.warning("receiver.disabled", receiver=one.receiver, reason=one.disabled)
        await asyncio.gather(*(self._reach(receiver) for receiver in self.receivers.values()))

    async def _reach(self, receiver: Receiver) -> None:
        """Say so when a receiver is not there at the start; what it is to be told waits for it."""
        try:
            await receiver.reach()
        except DeliveryError as error:
            _log.warning("receiver.unreachable", receiver=receiver.name, reason=str(error))

    async def _end_removed(self, name: str) -> None:
        """A receiver that is configured no more can't be told of ends (P18): say so, once."""
        groups = GroupStore(self._store, name, self._history)
        ended = await end_threads(groups, now_ms=self._now_ms())
        await groups.retire()
        _log.warning(
            "receiver.removed", receiver=name, queued=ended.queued, open_downs=ended.notified, reason="undeliverable"
        )
        await self._store.forget(name)


async def _each(what: str, calls: Mapping[str, Awaitable[None]]) -> None:
    """Do one thing for every receiver; a failure for one is logged, and stops none of the others."""
    ended = await asyncio.gather(*calls.values(), return_exceptions=True)
    for name, error in zip(calls, ended, strict=True):
        if isinstance(error, Exception):
            _log.error("alerts.part_failed", part=f"{what} {name}", error=repr(error), exc_info=error)


def _policy_for(receiver: Receiver, policy: RetryPolicy) -> RetryPolicy:
    """One that has to hear it again and again is tried as often: what it was told is gone when it comes back."""
    if receiver.resend_ms is None:
        return policy
    longest_ms = min(policy.max_ms, receiver.resend_ms)
    return replace(policy, initial_ms=min(policy.initial_ms, longest_ms), max_ms=longest_ms)


def _check(receivers: Sequence[Receiver], routes: Sequence[Route]) -> None:
    names = [receiver.name for receiver in receivers]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{names.count(name)} receivers are named {name!r}")
    for route in routes:
        for name in route.receivers:
            if name not in names:
                raise ValueError(f"a route names the receiver {name!r}, which is not configured")
