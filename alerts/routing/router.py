"""Router: moves events from the stream of one partition to the receivers' groups."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol

import structlog
from structlog.typing import FilteringBoundLogger

from alerts.groups.classify import Role, role_of
from alerts.groups.incidents import Membership, UnknownIncidentError
from alerts.groups.mass_failure import SILENT
from alerts.loops import StoreBackoff, Tries, Wakeup, nothing
from alerts.routing.acknowledge import acknowledge_at
from alerts.routing.enqueue import Offer, change_for, offer_all
from alerts.routing.routes import ReceiverTraits, Route, Target, targets_of
from alerts.store.group_store import Change, GroupStore
from alerts.store.incidents import IncidentStore
from alerts.store.mass_failures import CALM, FailureVerdict, MassFailures
from alerts.store.routing import Reading, RoutingStore, Written
from alerts.store.tags import partition_base
from monitor.errors import StoreUnavailableError
from monitor.events import Event, Taken

ROUTER_POLL_S: Final = 2.0
"""How often a router polls without a wakeup. The daemon wakes it when a pulse finds that events wait."""
BATCH: Final = 100
"""Maximum events per pass, so that one store call per receiver holds all their changes."""
TOGETHER: Final = 500
"""Maximum groups of a batch that are written together, so that the store is never blocked for long."""
OFFER_TRIES: Final = 5
"""Maximum tries of a batch for a receiver that fails because of a bug. Then its failing groups are skipped."""

_log: FilteringBoundLogger = structlog.get_logger()


class EventSource(Protocol):
    """The event streams, one per partition. Each has at most one router at a time, which moves its cursor."""

    async def claim(self, partition: int, limit: int) -> Taken | None:
        """The oldest unacknowledged events of the partition, in order, at most ``limit``.

        None: another daemon owns the partition. Events that were claimed and not acknowledged are returned again.
        """

    def owns(self, partition: int) -> bool:
        """Whether this daemon owns a partition."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rest:
    """What is left of a batch when its partition's share is written: it changes what workers share."""

    rest: Mapping[str, Sequence[Offer]]
    """By receiver."""
    lapsed: Mapping[str, Sequence[Offer]]
    """By receiver: those by which an acknowledgement has lapsed, written or not."""
    environments: Sequence[Membership]
    now_ms: int

    @property
    def is_all(self) -> bool:
        """Whether nothing is left: the batch was acknowledged with its write."""
        return not self.rest and not any(self.lapsed.values()) and not self.environments


class Router:
    """Routes the events of one partition to the groups of their receivers.

    What a batch changes in its partition is written in one step, the cursor included: incidents, deaths, and groups of
    one worker. If it also changes what workers share, that is written next, and then the cursor moves. So routing is at
    least once, a group skips an event that it already has, and the end of an outage always finds the receivers of its
    DOWN (P18).

    ``mass_failures`` None: they are not detected. Targets at receivers that are not among ``groups`` are skipped.
    ``now_ms``, the store's time, is read once per pass. ``on_queued`` is called for each receiver and each base under
    which its groups have got events, with the moment at which the first of these groups is due. ``failpoint`` is called
    with the name of each point at which a test may end the process.
    """

    def __init__(
        self,
        *,
        partition: int,
        source: EventSource,
        batches: RoutingStore,
        incidents: IncidentStore,
        mass_failures: MassFailures | None,
        groups: Mapping[str, GroupStore],
        traits: Mapping[str, ReceiverTraits],
        routes: Sequence[Route],
        now_ms: Callable[[], int],
        on_queued: Callable[[str, str, int], None],
        poll_s: float = ROUTER_POLL_S,
        failpoint: Callable[[str], None] = nothing,
    ) -> None:
        self.wakeup = Wakeup()
        self._partition = partition
        self._source = source
        self._batches = batches
        self._incidents = incidents
        self._mass_failures = mass_failures
        self._groups = groups
        self._traits = traits
        self._routes = tuple(routes)
        self._now_ms = now_ms
        self._on_queued = on_queued
        self._poll_s = poll_s
        self._failpoint = failpoint
        self._backoff = StoreBackoff("router.store_unavailable", "router.resumed", partition=partition)
        self._broken: dict[str, int] = {}
        self._lost: set[str] = set()
        """Receivers that have lost events. They are reported as failing until the daemon restarts (P5)."""

    async def run(self) -> NoReturn:
        """Route until cancelled. Cancellation is safe at any point."""
        while True:
            try:
                more = await self.step()
            except StoreUnavailableError as error:
                await asyncio.sleep(self._backoff.failed(error, uniform=random.uniform))
                continue
            self._backoff.over()
            if not more:
                await self.wakeup.wait(self._poll_s)

    async def step(self) -> bool:
        """Route at most ``BATCH`` events. Returns whether more events may be waiting.

        Raises ``StoreUnavailableError``. The next step then gets the same events.
        """
        taken = await self._source.claim(self._partition, BATCH)
        if taken is None or not taken.last:
            return False
        self._failpoint("router.taken")
        is_acked = await self._route(taken) if taken.events else await self._acknowledge(taken)
        if is_acked:
            self._failpoint("router.acked")
        else:
            _log.warning("router.lease_lost", partition=self._partition, position=taken.last)
        return is_acked and len(taken.events) == BATCH

    async def _acknowledge(self, taken: Taken) -> bool:
        """Acknowledge events whose groups and incidents are written; False: the lease is lost."""
        written = await self._batches.write(
            self._partition, Reading(), {}, token=taken.token, position=taken.last, now_ms=self._now_ms()
        )
        return written is Written.DONE

    async def _route(self, taken: Taken) -> bool:
        """Route events and acknowledge them; False: the lease is lost."""
        try:
            left = await self._write(taken, self._receivers_of(taken.events))
        except StoreUnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - one receiver's groups may not cost the others their events
            _log.warning("router.apart", partition=self._partition, error=repr(error), exc_info=error)
            left = await self._write(taken, {})
        if left is None:
            return False
        self._failpoint("router.noted")
        for membership in left.environments:
            await self._incidents.join(membership, now_ms=left.now_ms)
        await self._offer_all(left.rest, now_ms=left.now_ms)
        await self._acknowledge_again(left.lapsed, now_ms=left.now_ms)
        self._failpoint("router.routed")
        return left.is_all or await self._acknowledge(taken)

    async def _write(self, taken: Taken, receivers: Mapping[str, Sequence[str]]) -> _Rest | None:
        """Write what events change in the partition. Returns what is left; None: the lease is lost.

        ``receivers``: of each event, those whose group of its worker is written with the incidents.
        """
        now_ms, tries = self._now_ms(), Tries(f"an incident or a group of partition {self._partition}")
        events = taken.events
        environments = self._environments_of(events)
        while True:
            await tries.begin()
            reading = await self._batches.read(self._partition, events, receivers=receivers, environments=environments)
            offers = await self._offers(reading, now_ms=now_ms)
            changes, rest = _changes(offers, reading, now_ms=now_ms)
            left = _Rest(
                rest=rest,
                lapsed={name: [offer for offer in some if offer.lapsed] for name, some in offers.items()},
                environments=tuple(reading.incidents.environments.values()),
                now_ms=now_ms,
            )
            written = await self._batches.write(
                self._partition,
                reading,
                changes,
                token=taken.token,
                position=taken.last if left.is_all else "",
                now_ms=now_ms,
            )
            if written is Written.LOST:
                return None
            if written is Written.DONE:
                break
        for receiver, some in changes.items():
            dues = [change.due_ms for change in some if change.due_ms is not None]
            if dues:
                self._on_queued(receiver, partition_base(self._partition), min(dues))
        return left

    def _receivers_of(self, events: Sequence[Event]) -> dict[str, list[str]]:
        """The receivers to which routes send events of any kind of each event's worker; none, if they are too many."""
        found = {
            event.event_id: [name for route in self._routes if route.is_for(event) for name in route.receivers]
            for event in events
        }
        return found if sum(map(len, found.values())) <= TOGETHER else {}

    def _environments_of(self, events: Sequence[Event]) -> list[tuple[str, str]]:
        """The environments whose deaths the events change."""
        if self._mass_failures is None:
            return []
        changing = (event for event in events if event.kind in SILENT or role_of(event) is Role.END)
        return list(dict.fromkeys((event.tenant, event.environment_name) for event in changing))

    async def _offers(self, reading: Reading, *, now_ms: int) -> dict[str, list[Offer]]:
        """Build the events for each receiver, and apply them to the incidents."""
        events = reading.events
        verdicts = await self._verdicts(reading, now_ms=now_ms)
        targets: dict[str, dict[str, Target]] = {}
        for event in events:
            state = verdicts.get((event.tenant, event.environment_name), CALM).state
            hold_ms = 0 if self._mass_failures is None else self._mass_failures.hold_ms
            targets[event.event_id] = targets_of(
                event, routes=self._routes, traits=self._traits, state=state, hold_ms=hold_ms
            )
        reading.incidents.fold_all(
            events,
            lambda event: {name: target.key for name, target in targets[event.event_id].items()},
            lambda event: _part_of(event, verdicts),
        )
        offers: defaultdict[str, list[Offer]] = defaultdict(list)
        for event, note in zip(events, reading.incidents.noted, strict=True):
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

    async def _verdicts(self, reading: Reading, *, now_ms: int) -> dict[tuple[str, str], FailureVerdict]:
        """Mass failure verdict for each environment in which workers have fallen silent or are rejected."""
        found = {}
        for where, window in reading.windows.items():
            events = [event for event in reading.events if (event.tenant, event.environment_name) == where]
            deaths = [event for event in events if event.kind in SILENT]
            if self._mass_failures is not None and (deaths or where in reading.stored):
                verdict = await self._mass_failures.judge(
                    window,
                    *where,
                    partition=self._partition,
                    deaths=deaths,
                    returns=[event for event in events if role_of(event) is Role.END],
                    now_ms=now_ms,
                )
                if deaths:
                    found[where] = verdict
        return found

    def failing(self) -> set[str]:
        """Receivers for which routing fails, as ``AlertService.failing`` names them.

        These are receivers for which the last pass failed, and receivers that have lost events.
        """
        return {f"routing to {name}" for name in self._broken} | {f"events lost for {name}" for name in self._lost}

    async def _offer_all(self, offers: Mapping[str, Sequence[Offer]], *, now_ms: int) -> None:
        """Add the events of every receiver. A receiver that fails because of a bug delays others only while retried."""
        calls = [self._offer(receiver, some, now_ms=now_ms) for receiver, some in offers.items()]
        ended = await asyncio.gather(*calls, return_exceptions=True)
        errors = {name: error for name, error in zip(offers, ended, strict=True) if error is not None}
        for error in errors.values():
            if not isinstance(error, Exception) or isinstance(error, StoreUnavailableError):
                raise error
        self._broken = {name: self._broken.get(name, 0) + 1 for name in errors}
        for name, error in errors.items():
            if self._broken[name] < OFFER_TRIES:
                raise error
            await self._offer_singly(name, offers[name], now_ms=now_ms)

    async def _offer_singly(self, receiver: str, offers: Sequence[Offer], *, now_ms: int) -> None:
        """Add the events of a receiver group by group. Events of groups that fail are lost, and logged."""
        groups: defaultdict[str, list[Offer]] = defaultdict(list)
        for offer in offers:
            groups[offer.key].append(offer)
        for key, some in groups.items():
            try:
                await self._offer(receiver, some, now_ms=now_ms)
            except StoreUnavailableError:
                raise
            except Exception as error:  # noqa: BLE001 - no error of one group may cost the others their events
                lost = [offer.event.event_id for offer in some]
                facts = {"receiver": receiver, "group": key, "event_ids": lost, "error": repr(error)}
                self._lost.add(receiver)
                _log.critical("router.events_lost", **facts, exc_info=error)

    async def _offer(self, receiver: str, offers: Sequence[Offer], *, now_ms: int) -> None:
        due_ms = await offer_all(self._groups[receiver], offers, now_ms=now_ms)
        for tag, first_ms in due_ms.items():
            self._on_queued(receiver, tag, first_ms)

    async def _acknowledge_again(self, offers: Mapping[str, Sequence[Offer]], *, now_ms: int) -> None:
        """Record acknowledgements that came after an earlier one of the same incident had lapsed (P19).

        At the time of such an acknowledgement the groups still held the lapsed one, so it did not change them.
        """
        for receiver, some in offers.items():
            for offer in some:
                if offer.incident_id is None:
                    continue
                try:
                    incident = await self._incidents.get(offer.event.tenant, offer.incident_id)
                except UnknownIncidentError:  # the store has lost its last writes
                    continue
                if incident.ack is not None:
                    await acknowledge_at(self._groups[receiver], offer.key, incident, now_ms=now_ms)


def _part_of(event: Event, verdicts: Mapping[tuple[str, str], FailureVerdict]) -> str | None:
    if event.kind not in SILENT:
        return None
    return verdicts.get((event.tenant, event.environment_name), CALM).incident_id


def _changes(
    offers: Mapping[str, Sequence[Offer]], reading: Reading, *, now_ms: int
) -> tuple[dict[str, list[Change]], dict[str, list[Offer]]]:
    """The changes of groups that were read, by receiver; and the offers for other groups."""
    changes: defaultdict[str, list[Change]] = defaultdict(list)
    rest: defaultdict[str, list[Offer]] = defaultdict(list)
    for receiver, some in offers.items():
        by_group: defaultdict[str, list[Offer]] = defaultdict(list)
        for offer in some:
            by_group[offer.key].append(offer)
        for key, of_group in by_group.items():
            if (receiver, key) not in reading.groups:
                rest[receiver] += of_group
                continue
            change = change_for(of_group, *reading.groups[receiver, key], receiver=receiver, now_ms=now_ms)
            if change is not None:
                changes[receiver].append(change)
    return changes, rest
