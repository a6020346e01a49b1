"""From the event stream into the receivers' groups."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from typing import TYPE_CHECKING, Final, NoReturn, Protocol

import structlog

from alerts.errors import StoreUnavailableError
from alerts.failpoints import nothing
from alerts.groups.incidents import UnknownIncidentError
from alerts.groups.mass_failure import SILENT
from alerts.groups.roles import Role, role_of
from alerts.loops import POLL_S, StoreBackoff, Wakeup
from alerts.routing.acknowledge import acknowledge_at
from alerts.routing.enqueue import Offer, offer_all
from alerts.routing.routes import targets_of
from alerts.store.mass_failures import CALM

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from structlog.typing import FilteringBoundLogger

    from alerts.routing.routes import ReceiverTraits, Route, Target
    from alerts.store.group_store import GroupStore
    from alerts.store.incidents import IncidentStore
    from alerts.store.mass_failures import FailureVerdict, MassFailures
    from monitor.events import Event

BATCH: Final = 100
"""Events per pass, so that one call takes what they change at a receiver."""
OFFER_TRIES: Final = 5
"""How often a receiver is offered a batch that it fails for from a bug before the batch goes on without it."""

_log: FilteringBoundLogger = structlog.get_logger()


class EventSource(Protocol):
    """The event streams, one for each partition, each with at most one router at a time."""

    async def claim(self, partition: int, limit: int) -> list[Event] | None:
        """The oldest events of the partition that are not acked, in order, at most ``limit``.

        The call takes or renews the lease of the partition's router; None means that another daemon has
        it. Events that were taken and not acked come again.
        """

    async def ack(self, partition: int, position: str) -> bool:
        """Mark every event up to ``position`` as handed over.

        False means that the lease was lost and nothing was marked: the daemon that has it now takes the
        same events, and queueing is idempotent. Idempotent.
        """


class Router:
    """Hands one partition's events over to the groups of their receivers.

    The hand-off is at least once: an event is acked after every receiver's group has it, and one that a group has
    is passed over. What it means for incidents is noted first, so that an end always finds whom its DOWN was for (P18).

    Args:
        partition: whose stream to read.
        source: the streams.
        incidents: where incidents are kept.
        masses: judges environments in which many workers die; None: nobody does.
        groups: those of every receiver that a route names, and of every one that was removed with open DOWNs.
        ports: what routing knows of the receivers.
        routes: which events go where.
        now_ms: the store's time, asked once for each pass.
        on_queued: told of each receiver whose groups have got something.
        source_errors: what ``source`` and ``masses`` raise when the store does not answer.
        poll_s: how often to look for events that nobody told of, in seconds.
        failpoint: called with the name of each point at which a test may end the process.
    """

    def __init__(
        self,
        *,
        partition: int,
        source: EventSource,
        incidents: IncidentStore,
        mass_failures: MassFailures | None,
        groups: Mapping[str, GroupStore],
        traits: Mapping[str, ReceiverTraits],
        routes: Sequence[Route],
        now_ms: Callable[[], int],
        on_queued: Callable[[str], None],
        source_errors: tuple[type[Exception], ...] = (),
        poll_s: float = POLL_S,
        failpoint: Callable[[str], None] = nothing,
    ) -> None:
        self.wakeup = Wakeup()
        self._partition = partition
        self._source = source
        self._incidents = incidents
        self._mass_failures = mass_failures
        self._groups = groups
        self._traits = traits
        self._routes = tuple(routes)
        self._now_ms = now_ms
        self._on_queued = on_queued
        self._errors: tuple[type[Exception], ...] = (StoreUnavailableError, *source_errors)
        self._poll_s = poll_s
        self._failpoint = failpoint
        self._backoff = StoreBackoff("router", partition=partition)
        self._broken: dict[str, int] = {}
        self._lost: set[str] = set()
        """Receivers that events were passed over for: a reason until the daemon is started again (P5)."""

    async def run(self) -> NoReturn:
        """Route for ever; ends only by being cancelled, which is safe at any point."""
        while True:
            try:
                more = await self.step()
            except self._errors as error:
                await asyncio.sleep(self._backoff.failed(error, uniform=random.uniform))
                continue
            self._backoff.over()
            if not more:
                await self.wakeup.wait(self._poll_s)

    async def step(self) -> bool:
        """One pass over at most ``BATCH`` events; whether there may be more at once.

        Raises ``StoreUnavailableError`` or one of ``source_errors``; the same events come again.
        """
        events = await self._source.claim(self._partition, BATCH)
        if not events:
            return False
        self._failpoint("router.taken")
        now_ms = self._now_ms()
        offers = await self._offers(events, now_ms=now_ms)
        self._failpoint("router.noted")
        await self._offer_all(offers, now_ms=now_ms)
        await self._acknowledge_again(offers, now_ms=now_ms)
        self._failpoint("router.routed")
        if not await self._source.ack(self._partition, events[-1].position):
            _log.warning("router.lease_lost", partition=self._partition, position=events[-1].position)
            return False
        self._failpoint("router.acked")
        return len(events) == BATCH

    async def _offers(self, events: Sequence[Event], *, now_ms: int) -> dict[str, list[Offer]]:
        """Build the events for each receiver. Incidents are persisted before this returns."""
        verdicts = await self._verdicts(events, now_ms=now_ms)
        targets: dict[str, dict[str, Target]] = {}
        for event in events:
            state = verdicts.get((event.tenant, event.environment_name), CALM).state
            hold_ms = 0 if self._mass_failures is None else self._mass_failures.hold_ms
            targets[event.event_id] = targets_of(
                event, routes=self._routes, traits=self._traits, state=state, hold_ms=hold_ms
            )
        noted = await self._incidents.record(
            self._partition,
            events,
            lambda event: {name: target.key for name, target in targets[event.event_id].items()},
            part_of=lambda event: _part_of(event, verdicts),
            now_ms=now_ms,
        )
        offers: defaultdict[str, list[Offer]] = defaultdict(list)
        for event, note in zip(events, noted, strict=True):
            failure_id = _part_of(event, verdicts)
            for receiver, key in note.targets.items():
                if receiver in self._groups:
                    offer = Offer(
                        event=event,
                        key=key,
                        target=targets[event.event_id].get(receiver),
                        incident_id=note.incident_id,
                        acked=note.acked,
                        lapsed=note.lapsed,
                        failure_id=failure_id,
                    )
                    offers[receiver].append(offer)
        return offers

    async def _verdicts(self, events: Sequence[Event], *, now_ms: int) -> dict[tuple[str, str], FailureVerdict]:
        """How the environments look in which workers have fallen silent, or are not listened to."""
        if self._mass_failures is None:
            return {}
        deaths: defaultdict[tuple[str, str], list[Event]] = defaultdict(list)
        returns: defaultdict[tuple[str, str], list[Event]] = defaultdict(list)
        for event in events:
            where = (event.tenant, event.environment_name)
            if event.kind in SILENT:
                deaths[where].append(event)
            elif role_of(event) is Role.END:
                returns[where].append(event)
        found = {}
        for where in {**deaths, **returns}:
            tenant, environment = where
            verdict = await self._mass_failures.judge(
                tenant, environment, deaths=deaths[where], returns=returns[where], now_ms=now_ms
            )
            if deaths[where]:
                found[where] = verdict
        return found

    def failing(self) -> set[str]:
        """The receivers that the last pass could not hand everything to, as ``AlertService.failing`` names them, and
        those that events were passed over for.
        """
        return {f"routing to {name}" for name in self._broken} | {f"events lost for {name}" for name in self._lost}

    async def _offer_all(self, offers: Mapping[str, Sequence[Offer]], *, now_ms: int) -> None:
        """Hand over to every receiver. One that fails from a bug holds up the others only while it is tried again."""
        calls = [self._offer(receiver, some, now_ms=now_ms) for receiver, some in offers.items()]
        ended = await asyncio.gather(*calls, return_exceptions=True)
        errors = {name: error for name, error in zip(offers, ended, strict=True) if error is not None}
        for error in errors.values():
            if not isinstance(error, Exception) or isinstance(error, self._errors):
                raise error
        self._broken = {name: self._broken.get(name, 0) + 1 for name in errors}
        for name, error in errors.items():
            if self._broken[name] < OFFER_TRIES:
                raise error
            await self._offer_singly(name, offers[name], now_ms=now_ms)

    async def _offer_singly(self, receiver: str, offers: Sequence[Offer], *, now_ms: int) -> None:
        """Hand over group by group, and pass over those that it fails for."""
        groups: defaultdict[str, list[Offer]] = defaultdict(list)
        for offer in offers:
            groups[offer.key].append(offer)
        for key, some in groups.items():
            try:
                await self._offer(receiver, some, now_ms=now_ms)
            except self._errors:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, the other groups are to have theirs
                lost = [offer.event.event_id for offer in some]
                facts = {"receiver": receiver, "group": key, "event_ids": lost, "error": repr(error)}
                self._lost.add(receiver)
                _log.critical("router.events_lost", **facts, exc_info=error)

    async def _offer(self, receiver: str, offers: Sequence[Offer], *, now_ms: int) -> None:
        await offer_all(self._groups[receiver], offers, now_ms=now_ms)
        self._on_queued(receiver)

    async def _acknowledge_again(self, offers: Mapping[str, Sequence[Offer]], *, now_ms: int) -> None:
        """Note in the groups what was acknowledged anew since it was noted that an acknowledgement had lapsed (P19).

        Whoever did it has found the groups acknowledged still, and left them alone.
        """
        for receiver, some in offers.items():
            for offer in some:
                if not offer.lapsed or offer.incident_id is None:
                    continue
                try:
                    incident = await self._incidents.get(offer.event.tenant, offer.incident_id)
                except UnknownIncidentError:  # the store has lost its last writes
                    continue
                if incident.ack is not None:
                    await acknowledge_at(
                        self._groups[receiver],
                        offer.key,
                        tenant=incident.tenant,
                        worker_id=incident.worker_id,
                        incident_id=incident.id,
                        now_ms=now_ms,
                    )


def _part_of(event: Event, verdicts: Mapping[tuple[str, str], FailureVerdict]) -> str | None:
    if event.kind not in SILENT:
        return None
    return verdicts.get((event.tenant, event.environment_name), CALM).incident_id
