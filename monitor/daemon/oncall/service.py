"""Implements the on-call port on the alert service: maps its types and errors to those of the port."""

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
from monitor.daemon.oncall.mapping import delivery_of, incident_of, receiver_of, silence_of
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
"""Maximum workers that are scanned to find out whether a silence matches any."""
TEST_SPACING_MS: Final = 10_000
"""Minimum time between two tests of a receiver, across all daemons."""
_MS_DIGITS: Final = 15
_PLACES: Final[dict[str, Outcome]] = {
    "queued": Outcome.QUEUED,
    "dead_lettered": Outcome.DEAD_LETTERED,
    "finished": Outcome.DELIVERED,
}


class Alerts(Protocol):
    """The part of the alert service that is used here."""

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
        """The tenants that a receiver belongs to. Receivers without an entry are shared by all tenants."""

    @property
    def wording(self) -> Wording:
        """The wording of notifications."""

    def wake(self, receiver: str) -> None:
        """Wake the delivery loop of a receiver: its groups have changed."""


class _OpenIncidents:
    """Answers whether an incident is open."""

    def __init__(self, incidents: IncidentStore) -> None:
        self._incidents = incidents

    async def is_open(self, tenant: str, incident_id: str) -> bool:
        try:
            return (await self._incidents.get(tenant, incident_id)).is_open
        except UnknownIncidentError:
            return False


class AlertsOnCall:
    """Implements ``monitor.daemon.oncall.models.OnCall``, which documents the methods.

    Args:
        alerts: the alert service.
        store: the store of the workers.
        now_ms: the store's time.
    """

    def __init__(self, alerts: Alerts, *, store: Store, now_ms: Callable[[], int]) -> None:
        self._alerts = alerts
        self._store = store
        self._now_ms = now_ms
        self._dead_letters = DeadLetters(groups=alerts.groups, incidents=_OpenIncidents(alerts.incidents))

    async def incidents(self, viewer: Viewer, *, state: IncidentState, after: Place | None, limit: int) -> IncidentPage:
        """Incidents, newest first."""
        with _translated_errors():
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
        """Acknowledge an incident: first in the incident, then in the groups that notify of it."""
        await self._incident(viewer, incident_id)
        now_ms = self._now_ms()
        with _translated_errors():
            incident = await self._alerts.incidents.acknowledge(
                viewer.tenant, incident_id, by=by, comment=comment, now_ms=now_ms
            )
            worker_id = incident.worker_id if incident.kind is IncidentKind.WORKER else None
            # If the incident has closed since the acknowledgement, no reminder is due any more.
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
        """Every stored silence, newest first."""
        now_ms = self._now_ms()
        with _translated_errors():
            found = await self._alerts.silences.list_for(viewer.tenant, now_ms=now_ms)
        return [silence_of(one, now_ms) for one in found if _covers(viewer, one)]

    async def silence(self, viewer: Viewer, silence_id: str) -> Silence:
        """One silence."""
        return silence_of(await self._silence(viewer, silence_id), self._now_ms())

    async def add_silence(self, viewer: Viewer, new: NewSilence) -> tuple[Silence, tuple[str, ...]]:
        """Add a silence."""
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
        with _translated_errors():
            await self._alerts.silences.add(silence, now_ms=now_ms)
        try:
            warnings = await self._warnings(silence)
        except (StoreUnavailableError, NoRoomError):
            warnings = ("could not check whether any worker matches",)
        return silence_of(silence, now_ms), warnings

    async def end_silence(self, viewer: Viewer, silence_id: str, *, by: str) -> None:
        """End a silence, and reschedule the groups that wait for its end."""
        await self._silence(viewer, silence_id)
        now_ms = self._now_ms()
        with _translated_errors():
            await self._alerts.silences.end(viewer.tenant, silence_id, by=by, now_ms=now_ms)
            # Also if it had ended before: the earlier call may have failed before this step.
            for receiver, groups in self._alerts.groups.items():
                if await wake_waiting(groups, viewer.tenant, now_ms=now_ms):
                    self._alerts.wake(receiver)

    async def deliveries(
        self, viewer: Viewer, *, state: DeliveryState, receiver: str | None, after: Place | None, limit: int
    ) -> DeliveryPage:
        """Notifications, newest first."""
        with _translated_errors():
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
        with _translated_errors():
            found = await self._dead_letters.find(nid, receiver=receiver, sees=lambda note: _sees_note(viewer, note))
        return delivery_of(found)

    async def replay(self, viewer: Viewer, nid: str, *, receiver: str | None, force: bool) -> Delivery:
        """Requeue a dead letter."""
        with _translated_errors():
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
        """Requeue dead letters of a receiver."""
        with _translated_errors():
            done = await self._dead_letters.replay_all(
                receiver=receiver,
                after=after,
                now_ms=self._now_ms(),
                sees=lambda note: _sees_note(viewer, note),
            )
        self._alerts.wake(receiver)
        return Replayed(replayed=done.replayed, over=done.over, left=done.left, last=done.last)

    async def drop(self, viewer: Viewer, nid: str, *, receiver: str | None) -> Delivery:
        """Drop a dead letter."""
        with _translated_errors():
            found = await self._dead_letters.drop(
                nid, receiver=receiver, now_ms=self._now_ms(), sees=lambda note: _sees_note(viewer, note)
            )
        return delivery_of(found)

    async def outcomes(self, event_id: str) -> list[EventOutcome]:
        """Outcomes of an event."""
        with _translated_errors():
            found = await self._dead_letters.outcomes(event_id)
        return [
            EventOutcome(
                receiver=receiver,
                # An event that is part of a notification has the outcome of the notification.
                outcome=one.outcome.value if note is None else note.outcome.value,
                at_ms=one.at_ms if note is None else note.at_ms,
                nid=one.nid,
                reason="" if note is None else note.reason,
            )
            for receiver, one, note in found
        ]

    async def receivers(self, viewer: Viewer) -> list[ReceiverState]:
        """The receivers of the viewer's tenant, or of all tenants for an operator."""
        _require_unrestricted(viewer)
        now_ms = self._now_ms()
        with _translated_errors():
            mine = [groups for name, groups in self._alerts.groups.items() if self._keeps(viewer, name)]
            found = await asyncio.gather(*(one.stats(now_ms=now_ms) for one in mine))
        return [receiver_of(one) for one in sorted(found, key=lambda one: one.receiver)]

    async def enable(self, viewer: Viewer, receiver: str) -> ReceiverState:
        """Enable a disabled receiver."""
        with _translated_errors():
            groups = self._kept(viewer, receiver)
            await groups.enable()
            self._alerts.wake(receiver)
            return receiver_of(await groups.stats(now_ms=self._now_ms()))

    async def test(self, viewer: Viewer, receiver: str) -> Trial:
        """Send a test. The timeout is twice the receiver's own, because the test is two notifications."""
        with _translated_errors():
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
        with _translated_errors():
            incident = await self._alerts.incidents.get(viewer.tenant, incident_id)
            if not _sees(viewer, incident):
                raise UnknownIncidentError(incident_id)
            return incident

    async def _silence(self, viewer: Viewer, silence_id: str) -> StoredSilence:
        with _translated_errors():
            silence = await self._alerts.silences.get(viewer.tenant, silence_id)
            if not _covers(viewer, silence):
                raise UnknownSilenceError(silence_id)
            return silence

    async def _warnings(self, silence: StoredSilence) -> tuple[str, ...]:
        """Warnings about a silence: no known worker matches."""
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
                    return (f"it matches none of the first {looked_at} workers; the others were not checked",)
        return ("it matches no worker that is known now",)


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Translate errors of the alerts to those of the port."""
    try:
        yield
    except AlertStoreError as error:
        raise StoreUnavailableError(str(error)) from error
    except UnknownReceiverError as error:
        raise NoSuchError(f"there is no receiver {error.args[0]!r}") from None
    except UnknownNotificationError as error:
        raise NoSuchError(f"there is no notification {error.args[0]!r}") from None
    except UnknownIncidentError:
        raise NoSuchError("there is no such incident, or it has been deleted") from None
    except UnknownSilenceError:
        raise NoSuchError("there is no such silence, or it has been deleted") from None
    except IncidentClosedError:
        raise ConflictError("the incident is closed and cannot be acknowledged") from None
    except TooManySilencesError as error:
        raise TooManyError(str(error)) from None
    except RefusedError as error:
        hint = "; with force it is sent anyway, on its own" if error.why is Why.OVERTAKEN else ""
        raise ConflictError(f"{error}{hint}") from None


def _require_unrestricted(viewer: Viewer) -> None:
    if viewer.environments is not None or viewer.worker_id is not None:
        raise ForbiddenError("the token is restricted to a worker or to environments and cannot access receivers")


def _sees(viewer: Viewer, incident: StoredIncident) -> bool:
    return (viewer.environments is None or incident.environment_name in viewer.environments) and (
        viewer.worker_id is None or incident.worker_id == viewer.worker_id
    )


def _covers(viewer: Viewer, silence: StoredSilence) -> bool:
    """Whether a silence only matches workers that the viewer may see."""
    matchers = silence.matchers
    return (viewer.environments is None or matchers.only(matchers.environment) in viewer.environments) and (
        viewer.worker_id is None or matchers.only(matchers.worker_id) == viewer.worker_id
    )


def _sees_note(viewer: Viewer, note: NotificationRecord) -> bool:
    return viewer.is_operator or of_tenant(note, viewer.tenant, viewer.environments, viewer.worker_id)
