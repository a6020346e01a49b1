"""The on-call port of the HTTP side, over the alerts: from their words to the port's, and from their errors to its."""

from __future__ import annotations

import asyncio
import json
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from alerts.errors import DeliveryError
from alerts.errors import StoreUnavailableError as AlertStoreError
from alerts.groups.incidents import IncidentClosedError, IncidentKind, UnknownIncidentError
from alerts.groups.incidents import IncidentState as StoredIncidentState
from alerts.groups.silences import Matchers as StoredMatchers
from alerts.groups.silences import Silence as StoredSilence
from alerts.groups.silences import TooManySilencesError, UnknownSilenceError
from alerts.groups.state import Outcome
from alerts.oncall.dead_letters import (
    DeadLetters,
    RefusedError,
    UnknownNotificationError,
    UnknownReceiverError,
    Why,
    of_tenant,
)
from alerts.oncall.reschedule import wake_waiting
from alerts.oncall.sample import send_trial, trial
from alerts.routing.acknowledge import acknowledge_at
from monitor.api.admission import RateLimitedError
from monitor.api.errors import ConflictError, NoSuchError, TooManyError
from monitor.api.workers import PAGE_WORKERS
from monitor.auth import ForbiddenError
from monitor.daemon.oncall.forms import delivery_of, incident_of, receiver_of, silence_of
from monitor.daemon.oncall.models import DeliveryPage, EventOutcome, IncidentPage, Replayed, Trial
from monitor.errors import NoRoomError
from monitor.pace import Piece
from monitor.store import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from alerts.groups.incidents import Incident as StoredIncident
    from alerts.groups.state import NotificationRecord
    from alerts.receivers import Receiver
    from alerts.rendering.payload import Wording
    from alerts.store.group_store import GroupStore
    from alerts.store.incidents import IncidentStore
    from alerts.store.silences import SilenceStore
    from monitor.daemon.oncall.models import (
        Delivery,
        DeliveryState,
        Incident,
        IncidentState,
        NewSilence,
        Place,
        ReceiverState,
        Silence,
        Viewer,
    )
    from monitor.store import Store

MATCHED_WORKERS: Final = 10_000
"""So many workers are looked at to tell whether a silence matches any."""
TEST_SPACING_MS: Final = 10_000
"""A receiver is tested once in this time, over all daemons."""
_MS_DIGITS: Final = 15
_PLACES: Final[dict[str, Outcome]] = {
    "queued": Outcome.QUEUED,
    "dead_lettered": Outcome.DEAD_LETTERED,
    "finished": Outcome.DELIVERED,
}


class Alerts(Protocol):
    """What is needed of the alert service."""

    @property
    def groups(self) -> Mapping[str, GroupStore]:
        """The groups of every configured receiver."""

    @property
    def incidents(self) -> IncidentStore:
        """The incidents."""

    @property
    def silences(self) -> SilenceStore:
        """The silences."""

    @property
    def receivers(self) -> Mapping[str, Receiver]:
        """The configured receivers."""

    @property
    def owners(self) -> Mapping[str, frozenset[str]]:
        """The tenants that a receiver belongs to; one that is not named is shared by all."""

    @property
    def wording(self) -> Wording:
        """The words of notifications."""

    def wake(self, receiver: str) -> None:
        """There is something new among a receiver's groups."""


class _OpenIncidents:
    """Whether an incident goes on."""

    def __init__(self, incidents: IncidentStore) -> None:
        self._incidents = incidents

    async def is_open(self, tenant: str, incident_id: str) -> bool:
        try:
            return (await self._incidents.get(tenant, incident_id)).is_open
        except UnknownIncidentError:
            return False


class AlertsOnCall:
    """Fills ``monitor.daemon.oncall.models.OnCall``, whose methods say what they do.

    Args:
        alerts: the alert service.
        store: where the workers are.
        now_ms: the store's time.
    """

    def __init__(self, alerts: Alerts, *, store: Store, now_ms: Callable[[], int]) -> None:
        self._alerts = alerts
        self._store = store
        self._now_ms = now_ms
        self._dead_letters = DeadLetters(groups=alerts.groups, incidents=_OpenIncidents(alerts.incidents))

    async def incidents(self, viewer: Viewer, *, state: IncidentState, after: Place | None, limit: int) -> IncidentPage:
        """Incidents, newest first."""
        with _told():
            page = await self._alerts.incidents.page(
                viewer.tenant,
                state=StoredIncidentState(state),
                environments=viewer.environments,
                after=None if after is None else f"{after[0]:0{_MS_DIGITS}d}{after[1]}",
                limit=limit,
            )
        return IncidentPage(
            incidents=tuple(incident_of(one) for one in page.incidents if _sees(viewer, one)),
            last=None if page.after is None else (int(page.after[:_MS_DIGITS]), page.after[_MS_DIGITS:]),
        )

    async def incident(self, viewer: Viewer, incident_id: str) -> Incident:
        """One incident."""
        return incident_of(await self._incident(viewer, incident_id))

    async def acknowledge(self, viewer: Viewer, incident_id: str, *, by: str, comment: str) -> Incident:
        """Take an incident over: first in the incident, then in the groups that notify of it."""
        await self._incident(viewer, incident_id)
        now_ms = self._now_ms()
        with _told():
            incident = await self._alerts.incidents.acknowledge(
                viewer.tenant, incident_id, by=by, comment=comment, now_ms=now_ms
            )
            worker_id = incident.worker_id if incident.kind is IncidentKind.WORKER else None
            # Of one that has closed since it was taken over, no reminder is due any more.
            for receiver, key in incident.targets.items() if incident.is_open else ():
                if (groups := self._alerts.groups.get(receiver)) is not None:
                    await acknowledge_at(
                        groups,
                        key,
                        tenant=incident.tenant,
                        worker_id=worker_id,
                        incident_id=incident.id,
                        now_ms=now_ms,
                    )
        return incident_of(incident)

    async def silences(self, viewer: Viewer) -> list[Silence]:
        """Every silence that is kept, newest first."""
        now_ms = self._now_ms()
        with _told():
            found = await self._alerts.silences.list_for(viewer.tenant, now_ms=now_ms)
        return [silence_of(one, now_ms) for one in found if _covers(viewer, one)]

    async def silence(self, viewer: Viewer, silence_id: str) -> Silence:
        """One silence."""
        return silence_of(await self._silence(viewer, silence_id), self._now_ms())

    async def add_silence(self, viewer: Viewer, new: NewSilence) -> tuple[Silence, tuple[str, ...]]:
        """Begin a silence."""
        now_ms = self._now_ms()
        silence = StoredSilence(
            id=f"sil_{secrets.token_hex(16)}",
            tenant=viewer.tenant,
            matchers=StoredMatchers(
                environment=new.matchers.environment,
                worker_id=new.matchers.worker_id,
                metadata=dict(new.matchers.metadata),
                exact=new.matchers.exact,
            ),
            starts_ms=new.starts_ms,
            ends_ms=new.ends_ms,
            comment=new.comment,
            author=new.author,
            created_ms=now_ms,
        )
        with _told():
            await self._alerts.silences.add(silence, now_ms=now_ms)
        try:
            warnings = await self._warnings(silence)
        except (StoreUnavailableError, NoRoomError):
            warnings = ("whether it matches anybody could not be found out",)
        return silence_of(silence, now_ms), warnings

    async def end_silence(self, viewer: Viewer, silence_id: str, *, by: str) -> None:
        """End a silence, and look at whoever waits."""
        await self._silence(viewer, silence_id)
        now_ms = self._now_ms()
        with _told():
            await self._alerts.silences.end(viewer.tenant, silence_id, by=by, now_ms=now_ms)
            # Also when it had ended before: whoever ended it may not have come to this.
            for receiver, groups in self._alerts.groups.items():
                if await wake_waiting(groups, viewer.tenant, now_ms=now_ms):
                    self._alerts.wake(receiver)

    async def deliveries(
        self, viewer: Viewer, *, state: DeliveryState, receiver: str | None, after: Place | None, limit: int
    ) -> DeliveryPage:
        """Notifications, newest first."""
        with _told():
            page = await self._dead_letters.page(
                _PLACES[state],
                receiver=receiver,
                after=after,
                limit=limit,
                now_ms=self._now_ms(),
                sees=lambda note: _sees_note(viewer, note),
            )
        return DeliveryPage(deliveries=tuple(map(delivery_of, page.found)), last=page.last)

    async def delivery(self, viewer: Viewer, nid: str, *, receiver: str | None) -> Delivery:
        """One notification."""
        with _told():
            found = await self._dead_letters.find(nid, receiver=receiver, sees=lambda note: _sees_note(viewer, note))
        return delivery_of(found)

    async def replay(self, viewer: Viewer, nid: str, *, receiver: str | None, force: bool) -> Delivery:
        """Put a dead letter back into the queue."""
        with _told():
            found = await self._dead_letters.replay(
                nid,
                receiver=receiver,
                force=force,
                now_ms=self._now_ms(),
                sees=lambda note: _sees_note(viewer, note),
            )
        self._alerts.wake(found.receiver)
        return delivery_of(found)

    async def replay_all(self, viewer: Viewer, receiver: str, *, after: Place | None) -> Replayed:
        """Put dead letters of a receiver back into the queue."""
        with _told():
            done = await self._dead_letters.replay_all(
                receiver=receiver,
                after=after,
                now_ms=self._now_ms(),
                sees=lambda note: _sees_note(viewer, note),
            )
        self._alerts.wake(receiver)
        return Replayed(replayed=done.replayed, over=done.over, left=done.left, last=done.last)

    async def drop(self, viewer: Viewer, nid: str, *, receiver: str | None) -> Delivery:
        """Throw a dead letter away."""
        with _told():
            found = await self._dead_letters.drop(
                nid, receiver=receiver, now_ms=self._now_ms(), sees=lambda note: _sees_note(viewer, note)
            )
        return delivery_of(found)

    async def outcomes(self, event_id: str) -> list[EventOutcome]:
        """What became of an event."""
        with _told():
            found = await self._dead_letters.outcomes(event_id)
        return [
            EventOutcome(
                receiver=receiver,
                # An event that is part of a notification has become what that has.
                outcome=told.outcome.value if note is None else note.outcome.value,
                at_ms=told.at_ms if note is None else note.at_ms,
                nid=told.nid,
                reason="" if note is None else note.reason,
            )
            for receiver, told, note in found
        ]

    async def receivers(self, viewer: Viewer) -> list[ReceiverState]:
        """The receivers whose whole queues the viewer may see."""
        _require_unrestricted(viewer)
        now_ms = self._now_ms()
        with _told():
            mine = [groups for name, groups in self._alerts.groups.items() if self._keeps(viewer, name)]
            found = await asyncio.gather(*(one.stats(now_ms=now_ms) for one in mine))
        return [receiver_of(one) for one in sorted(found, key=lambda one: one.receiver)]

    async def enable(self, viewer: Viewer, receiver: str) -> ReceiverState:
        """Go on sending to a receiver."""
        with _told():
            groups = self._kept(viewer, receiver)
            await groups.enable()
            self._alerts.wake(receiver)
            return receiver_of(await groups.stats(now_ms=self._now_ms()))

    async def test(self, viewer: Viewer, receiver: str) -> Trial:
        """Send a test, within twice the receiver's own limit: it is two notifications."""
        with _told():
            wait_ms = await self._kept(viewer, receiver).test_wait_ms(TEST_SPACING_MS)
            known = self._alerts.receivers[receiver]
        if wait_ms:
            wait_s = -(-wait_ms // 1_000)
            raise RateLimitedError(f"{receiver} was tested less than {TEST_SPACING_MS // 1_000} s ago", wait_s)
        began_ms = self._now_ms()
        error: str | None = None
        pair = trial(receiver, self._alerts.wording, now_ms=began_ms)
        try:
            async with asyncio.timeout(2 * known.timeout_s):
                await send_trial(known, pair, now_ms=began_ms)
        except DeliveryError as failure:
            error = str(failure)
        except TimeoutError:
            error = f"no answer within {2 * known.timeout_s:g} s"
        return Trial(nid=pair[0].nid, error=error, took_ms=max(0, self._now_ms() - began_ms))

    def _keeps(self, viewer: Viewer, receiver: str) -> bool:
        return viewer.is_operator or viewer.tenant in self._alerts.owners.get(receiver, ())

    def _kept(self, viewer: Viewer, receiver: str) -> GroupStore:
        """The groups of a receiver that the viewer may test and enable."""
        groups, owners = self._alerts.groups.get(receiver), self._alerts.owners.get(receiver)
        if groups is None or (owners and not self._keeps(viewer, receiver)):
            raise UnknownReceiverError(receiver)
        _require_unrestricted(viewer)
        if not self._keeps(viewer, receiver):
            raise ForbiddenError(f"all tenants share the receiver {receiver!r}: that needs the scope 'operator'")
        return groups

    async def _incident(self, viewer: Viewer, incident_id: str) -> StoredIncident:
        with _told():
            incident = await self._alerts.incidents.get(viewer.tenant, incident_id)
            if not _sees(viewer, incident):
                raise UnknownIncidentError(incident_id)
            return incident

    async def _silence(self, viewer: Viewer, silence_id: str) -> StoredSilence:
        with _told():
            silence = await self._alerts.silences.get(viewer.tenant, silence_id)
            if not _covers(viewer, silence):
                raise UnknownSilenceError(silence_id)
            return silence

    async def _warnings(self, silence: StoredSilence) -> tuple[str, ...]:
        """What is odd about a silence: nobody who is known matches it."""
        environment = silence.matchers.only(silence.matchers.environment)
        environments = None if environment is None else (environment,)
        looked_at = 0
        for partition in range(self._store.partitions):
            after = ""
            while True:
                page = await self._store.list_workers(
                    partition,
                    silence.tenant,
                    after=after,
                    limit=PAGE_WORKERS,
                    environments=environments,
                    want=None,
                )
                piece = Piece()
                for worker in page.workers:
                    if piece.is_over():
                        await piece.rest()
                    if silence.matchers.match(
                        worker_id=worker.key.worker_id,
                        environment_name=worker.environment_name,
                        metadata=json.loads(worker.metadata_json) if silence.matchers.metadata else {},
                    ):
                        return ()
                looked_at += PAGE_WORKERS
                after = page.last
                if not after:
                    break
                if looked_at >= MATCHED_WORKERS:
                    return (f"it matches none of the {looked_at} workers that were looked at; there are more",)
        return ("it matches no worker that is known now",)


@contextmanager
def _told() -> Iterator[None]:
    """From the alerts' errors to the port's."""
    try:
        yield
    except AlertStoreError as error:
        raise StoreUnavailableError(str(error)) from error
    except UnknownReceiverError as error:
        raise NoSuchError(f"there is no receiver {error.args[0]!r}") from None
    except UnknownNotificationError as error:
        raise NoSuchError(f"there is no notification {error.args[0]!r}") from None
    except UnknownIncidentError:
        raise NoSuchError("there is no such incident, or not any more") from None
    except UnknownSilenceError:
        raise NoSuchError("there is no such silence, or not any more") from None
    except IncidentClosedError:
        raise ConflictError("the incident is closed: there is nothing to take over") from None
    except TooManySilencesError as error:
        raise TooManyError(str(error)) from None
    except RefusedError as error:
        hint = "; with force it is sent all the same, by itself" if error.why is Why.OVERTAKEN else ""
        raise ConflictError(f"{error}{hint}") from None


def _require_unrestricted(viewer: Viewer) -> None:
    if viewer.environments is not None or viewer.worker_id is not None:
        raise ForbiddenError("the token is restricted to a worker or to environments: a receiver serves others too")


def _sees(viewer: Viewer, incident: StoredIncident) -> bool:
    return (viewer.environments is None or incident.environment_name in viewer.environments) and (
        viewer.worker_id is None or incident.worker_id == viewer.worker_id
    )


def _covers(viewer: Viewer, silence: StoredSilence) -> bool:
    """Whether a silence is about nobody whom the viewer may not see."""
    matchers = silence.matchers
    return (viewer.environments is None or matchers.only(matchers.environment) in viewer.environments) and (
        viewer.worker_id is None or matchers.only(matchers.worker_id) == viewer.worker_id
    )


def _sees_note(viewer: Viewer, note: NotificationRecord) -> bool:
    return viewer.is_operator or of_tenant(note, viewer.tenant, viewer.environments, viewer.worker_id)
