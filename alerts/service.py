"""The alert service: assembles routing and delivery from their parts."""

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import structlog
from structlog.typing import FilteringBoundLogger

from alerts.delivery.confirmations import UNAVAILABLE_HINT
from alerts.delivery.counts import Counts
from alerts.delivery.loop import CONCURRENCY, Delivery
from alerts.delivery.planner import Planner
from alerts.errors import DeliveryError
from alerts.groups.flapping import Flapping
from alerts.groups.fleet import Fleet
from alerts.groups.mass_failure import Rule
from alerts.loops import FIRST_PAUSE_S, POLL_S, Part, StoreBackoff, cancel_all, nothing
from alerts.oncall.removed_receivers import end_groups
from alerts.receivers import Receiver
from alerts.rendering.payload import Wording
from alerts.retry import RetryPolicy
from alerts.routing.router import ROUTER_POLL_S, EventSource, Router
from alerts.routing.routes import ReceiverTraits, Route
from alerts.store.group_store import GroupStore
from alerts.store.incidents import IncidentStore
from alerts.store.mass_failures import MassFailures
from alerts.store.port import StorePort
from alerts.store.receivers import ReceiverStore, Stats
from alerts.store.retention import Retention
from alerts.store.routing import RoutingStore
from alerts.store.silences import SilenceStore
from alerts.store.tags import bases_of, partition_base, shard_base
from monitor.durability import Confirmation
from monitor.errors import StoreUnavailableError

STOP_TIMEOUT_S: Final = 10.0
LOOKS: Final = 4
"""Polls of the deliveries for each look for due ones in the store."""

_log: FilteringBoundLogger = structlog.get_logger()


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertSettings:
    """The operator's settings for alerts."""

    receivers: Sequence[Receiver]
    """Where notifications go. Closed by ``AlertService.stop``."""
    routes: Sequence[Route]
    """Which events go where; they may name only these receivers."""
    wording: Wording
    """Renders notifications."""
    owners: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """The tenants that a receiver belongs to; a receiver without an entry is shared by all tenants."""
    rule: Rule | None = None
    """When a mass failure is declared; None: never."""
    flapping: Flapping | None = None
    """When a worker flaps; None: never."""
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    """When to retry a failed delivery."""
    history: Retention = field(default_factory=Retention)
    """How long and how much history is kept."""
    concurrency: int = CONCURRENCY
    """Maximum attempts in flight at one receiver."""


class AlertService:
    """A router for each partition and a delivery loop for each receiver, in one event loop.

    ``store`` is closed by ``stop``. ``router_poll_s``: how often routers poll for work that comes without a wakeup.
    ``poll_s``: the same of deliveries; the store is asked for what is due a quarter as often.
    ``first_pause_s``: upper bound of the pause before a failed part is restarted for the first time. ``failpoint`` is
    called with the name of each point at which a test may end the process.
    """

    def __init__(
        self,
        settings: AlertSettings,
        *,
        store: StorePort,
        source: EventSource,
        partitions: int,
        fleet: Fleet,
        now_ms: Callable[[], int],
        counts: Counts,
        poll_s: float = POLL_S,
        router_poll_s: float = ROUTER_POLL_S,
        first_pause_s: float = FIRST_PAUSE_S,
        failpoint: Callable[[str], None] = nothing,
    ) -> None:
        self.owners = settings.owners
        self.wording = settings.wording
        self.receivers = {receiver.name: receiver for receiver in settings.receivers}
        self.incidents = IncidentStore(store, settings.history)
        self.silences = SilenceStore(store, settings.history)
        self.groups = {name: GroupStore(store, name, settings.history) for name in self.receivers}
        self._history = settings.history
        self._store = store
        self._source = source
        self._known = ReceiverStore(store)
        self._now_ms = now_ms
        self._first_pause_s = first_pause_s
        self._poll_s = poll_s
        mass_failures = None if settings.rule is None else MassFailures(store, rule=settings.rule, fleet=fleet)
        self._planners = {
            name: Planner(
                groups=groups,
                incidents=self.incidents,
                silences=self.silences,
                mass_failures=mass_failures,
                wording=self.wording,
                fleet=fleet,
                flapping=settings.flapping,
                counts=counts,
            )
            for name, groups in self.groups.items()
        }
        self._deliveries = {
            name: Delivery(
                receiver=receiver,
                groups=self.groups[name],
                planner=self._planners[name],
                policy=_policy_for(receiver, settings.policy),
                now_ms=now_ms,
                counts=counts,
                concurrency=settings.concurrency,
                poll_s=poll_s,
                failpoint=failpoint,
            )
            for name, receiver in self.receivers.items()
        }
        traits = {
            name: ReceiverTraits(
                takes_groups=receiver.takes_groups,
                resend_ms=receiver.resend_ms,
                tenants=self.owners.get(name, frozenset()),
            )
            for name, receiver in self.receivers.items()
        }
        batches = RoutingStore(store, settings.history)
        self._routers = tuple(
            Router(
                partition=partition,
                source=source,
                batches=batches,
                incidents=self.incidents,
                mass_failures=mass_failures,
                groups=self.groups,
                traits=traits,
                routes=settings.routes,
                now_ms=now_ms,
                on_queued=self._queued,
                poll_s=router_poll_s,
                failpoint=failpoint,
            )
            for partition in range(partitions)
        )
        self._parts: tuple[Part, ...] = ()
        self._routing: list[asyncio.Task[None]] = []
        self._delivering: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start every part. Does not wait for the store: each part waits for it and logs an outage itself."""
        pause_s = self._first_pause_s
        routing = [Part("survey", self._survey, pause_s)]
        routing += [Part(f"router {number}", router.run, pause_s) for number, router in enumerate(self._routers)]
        looks = [functools.partial(self._look, number) for number in range(len(self._routers))]
        routing += [Part(f"queues {number}", look, pause_s) for number, look in enumerate(looks)]
        delivering = [Part(f"delivery {name}", part.run, pause_s) for name, part in self._deliveries.items()]
        self._parts = (*routing, *delivering)
        self._routing = [asyncio.create_task(part.keep_running(), name=f"alerts {part.name}") for part in routing]
        self._delivering = [asyncio.create_task(part.keep_running(), name=f"alerts {part.name}") for part in delivering]

    def failing(self) -> list[str]:
        """Parts that failed recently and are being restarted, and receivers for which routing or planning fails."""
        routers = [router.failing() for router in self._routers]
        now_ms = self._now_ms()
        planning = [f"planning for {name}" for name, one in self._planners.items() if one.is_failing(now_ms)]
        return [part.name for part in self._parts if part.is_failing] + sorted(set().union(*routers)) + planning

    async def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Stop routing, then wait ``timeout_s`` seconds for the attempts in flight. Idempotent."""
        await cancel_all(self._routing)
        await self._end_deliveries(timeout_s)
        # A claim that was running at the stop may have started attempts since.
        if self._delivering:
            await asyncio.wait(self._delivering, timeout=timeout_s)
        await cancel_all(self._delivering)
        await self._end_deliveries(0)
        await _each("close", {name: receiver.close() for name, receiver in self.receivers.items()})
        await self._store.close()

    async def _end_deliveries(self, timeout_s: float) -> None:
        await _each("stop", {name: part.stop(timeout_s) for name, part in self._deliveries.items()})

    def wakeup(self, partition: int | None = None) -> None:
        """Wake the router of a partition, or all routers: there are new events."""
        for router in self._routers if partition is None else (self._routers[partition],):
            router.wakeup()

    async def wake(self) -> None:
        """Find out which deliveries are due: groups have changed."""
        await asyncio.gather(*(self._note_queues(tag) for tag in bases_of(self._store.partitions)))

    def _queued(self, receiver: str, tag: str, due_ms: int) -> None:
        self._deliveries[receiver].note(tag, due_ms)

    async def _look(self, number: int) -> None:
        """Find out periodically which deliveries are due in a partition and the shard of its number.

        Only its owner looks, but any daemon may queue them.
        """
        outage = StoreBackoff("delivery.store_unavailable", "delivery.resumed", partition=number)
        while True:
            try:
                if self._source.owns(number):
                    for tag in (partition_base(number), shard_base(number)):
                        await self._note_queues(tag)
            except StoreUnavailableError as error:
                await asyncio.sleep(outage.failed(error, uniform=random.uniform))
                continue
            outage.over()
            await asyncio.sleep(LOOKS * self._poll_s)

    async def _note_queues(self, tag: str) -> None:
        for one in await self._known.queues(tag):
            if one.receiver in self._deliveries:  # another daemon may have more receivers
                self._deliveries[one.receiver].note(tag, one.due_ms, has_open_dead_letters=one.has_open_dead_letters)

    async def health(self) -> list[Stats]:
        """Queue status of each receiver. Raises ``StoreUnavailableError``.

        Any daemon's next acceptance offers the dead letters that are seen here, in partitions of any owner.
        """
        found = await self.stats(list(self.groups))
        for one in found:
            self._deliveries[one.receiver].note_dead_letters(one.open_in)
        return found

    async def stats(self, receivers: Sequence[str]) -> list[Stats]:
        """Queue status of receivers. Raises ``StoreUnavailableError``."""
        return await self._known.stats(receivers, now_ms=self._now_ms())

    async def _survey(self) -> None:
        """Compare the store with the configuration once: durability, removed, disabled and unreachable receivers."""
        outage = StoreBackoff("survey.store_unavailable", "survey.resumed")
        while True:
            try:
                removed, confirmation = await self._known.register(self.groups)
                if confirmation is Confirmation.UNAVAILABLE:
                    mode = self._store.durability.mode.value
                    _log.warning("durability.unavailable", durability=mode, hint=UNAVAILABLE_HINT)
                for name in removed:
                    await self._end_removed(name)
                parts = [part for groups in self.groups.values() for part in groups.parts.values()]
                await asyncio.gather(*(part.unretire() for part in parts))
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
        """Log a receiver that cannot be reached at the start. Its notifications wait and are retried."""
        try:
            await receiver.reach()
        except DeliveryError as error:
            _log.warning("receiver.unreachable", receiver=receiver.name, reason=str(error))

    async def _end_removed(self, name: str) -> None:
        """End the groups of a receiver that is no longer configured, and log that, once.

        Its open DOWNs get no RESOLVED (P18).
        """
        groups = GroupStore(self._store, name, self._history)
        queued, notified = await end_groups(groups, now_ms=self._now_ms())
        await asyncio.gather(*(part.retire() for part in groups.parts.values()))
        _log.warning("receiver.removed", receiver=name, queued=queued, open_downs=notified, reason="undeliverable")
        await self._known.remove(name)


async def _each(what: str, calls: Mapping[str, Awaitable[None]]) -> None:
    """Await one call for every receiver. A failure of one is logged and does not affect the others."""
    ended = await asyncio.gather(*calls.values(), return_exceptions=True)
    for name, error in zip(calls, ended, strict=True):
        if isinstance(error, Exception):
            _log.error("alerts.part_failed", part=f"{what} {name}", error=repr(error), exc_info=error)


def _policy_for(receiver: Receiver, policy: RetryPolicy) -> RetryPolicy:
    """The retry policy of a receiver. Delays are at most its resend interval, if it has one.

    Such a receiver may have lost its state when it comes back, so a retry must not take longer than a resend.
    """
    if receiver.resend_ms is None:
        return policy
    longest_ms = min(policy.max_ms, receiver.resend_ms)
    return replace(policy, initial_ms=min(policy.initial_ms, longest_ms), max_ms=longest_ms)
