"""The on-call operations on the alert service, restricted to what the caller may see.

What a caller may not see does not exist for it. Every method raises ``StoreUnavailableError`` if the
store does not answer. Then a change may or may not have been made, and a retry is harmless. Times are milliseconds of
the store's clock. Errors of the alerts become those of the API.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from alerts.errors import DeliveryError
from alerts.groups.incidents import IncidentClosedError, IncidentKind, UnknownIncidentError
from alerts.groups.keys import Shape, shape_of
from alerts.groups.silences import TooManySilencesError, UnknownSilenceError
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
from alerts.store.group_store import Want
from monitor.api.admission import RateLimitedError
from monitor.api.errors import ConflictError, NoSuchError, TooManyError
from monitor.api.workers import PAGE_WORKERS
from monitor.auth import ForbiddenError
from monitor.errors import NoRoomError, StoreUnavailableError
from monitor.pace import Piece

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from alerts.groups.incidents import Incident, IncidentState
    from alerts.groups.silences import Silence
    from alerts.groups.state import AlertGroup, EventOutcome, NotificationRecord, Outcome
    from alerts.oncall.dead_letters import Found, Page, Place, Replayed
    from alerts.receivers import Receiver
    from alerts.rendering.payload import Wording
    from alerts.store.group_store import GroupStore, Stats
    from alerts.store.incidents import IncidentStore
    from alerts.store.silences import SilenceStore
    from monitor.auth import Principal
    from monitor.store import Store

MATCHED_WORKERS: Final = 10_000
"""Maximum workers that are scanned to find out whether a silence matches any."""
TEST_SPACING_MS: Final = 10_000
"""Minimum time between two tests of a receiver, across all daemons."""
_MS_DIGITS: Final = 15


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


class OnCall:
    """The on-call operations; see the module. Methods raise ``NoSuchError`` for unknown ids and receivers.

    Args:
        alerts: the alert service.
        store: the store of the workers.
        now_ms: the store's time.
    """

    def __init__(self, alerts: Alerts, *, store: Store, now_ms: Callable[[], int]) -> None:
        self._alerts = alerts
        self._store = store
        self._now_ms = now_ms
        self._dead_letters = DeadLetters(groups=alerts.groups, incidents=alerts.incidents)

    async def incidents(
        self,
        caller: Principal,
        *,
        environments: tuple[str, ...] | None,
        state: IncidentState,
        after: Place | None,
        limit: int,
    ) -> tuple[list[Incident], Place | None]:
        """Incidents by opening time, newest first, and the place of the next page."""
        with _translated_errors():
            page = await self._alerts.incidents.page(
                caller.tenant,
                state=state,
                environments=environments,
                after=None if after is None else f"{after[0]:0{_MS_DIGITS}d}{after[1]}",
                limit=limit,
            )
        last = None if page.after is None else (int(page.after[:_MS_DIGITS]), page.after[_MS_DIGITS:])
        return [one for one in page.incidents if _sees(caller, one)], last

    async def incident(self, caller: Principal, incident_id: str) -> Incident:
        """One incident."""
        with _translated_errors():
            incident = await self._alerts.incidents.get(caller.tenant, incident_id)
            if not _sees(caller, incident):
                raise UnknownIncidentError(incident_id)
            return incident

    async def notifying(self, caller: Principal, incident: Incident) -> list[tuple[str, AlertGroup]]:
        """The groups that notify of an incident, by receiver; none if it is closed.

        A restricted caller does not see groups of many workers, and an unreadable group is left out.
        """
        found: list[tuple[str, AlertGroup]] = []
        for receiver, key in sorted(incident.targets.items()) if incident.is_open else ():
            if (groups := self._alerts.groups.get(receiver)) is not None:
                if caller.is_restricted and shape_of(key) is not Shape.WORKER:
                    continue
                with suppress(msgspec.MsgspecError):
                    [seen] = await groups.read([Want(group=key)])
                    if seen.group is not None:
                        found.append((receiver, seen.group))
        return found

    async def acknowledge(self, caller: Principal, incident_id: str, *, by: str, comment: str) -> Incident:
        """Acknowledge an incident: first in the incident, then in the groups that notify of it.

        No reminder is begun after this returns (P19). Idempotent: the first ack remains.

        Raises:
            ConflictError: the incident is closed.
        """
        await self.incident(caller, incident_id)
        now_ms = self._now_ms()
        with _translated_errors():
            incident = await self._alerts.incidents.acknowledge(
                caller.tenant, incident_id, by=by, comment=comment, now_ms=now_ms
            )
            worker_id = incident.worker_id if incident.kind is IncidentKind.WORKER else None
            # If the incident has closed since the acknowledgement, no reminder is due any more.
            for receiver, key in incident.targets.items() if incident.is_open else ():
                if (groups := self._alerts.groups.get(receiver)) is not None:
                    await acknowledge_at(
                        groups, key, tenant=incident.tenant, worker_id=worker_id, incident_id=incident.id, now_ms=now_ms
                    )
        return incident

    async def silences(self, caller: Principal) -> list[Silence]:
        """Every stored silence, newest first."""
        with _translated_errors():
            found = await self._alerts.silences.list_for(caller.tenant, now_ms=self._now_ms())
        return [one for one in found if _covers(caller, one)]

    async def silence(self, caller: Principal, silence_id: str) -> Silence:
        """One silence."""
        with _translated_errors():
            silence = await self._alerts.silences.get(caller.tenant, silence_id)
            if not _covers(caller, silence):
                raise UnknownSilenceError(silence_id)
            return silence

    async def add_silence(self, silence: Silence) -> tuple[str, ...]:
        """Add a silence. Returns warnings, such as that no worker matches.

        Raises:
            TooManyError: the tenant has too many silences.
        """
        with _translated_errors():
            await self._alerts.silences.add(silence, now_ms=silence.created_ms)
        try:
            return await self._warnings(silence)
        except (StoreUnavailableError, NoRoomError):
            return ("could not check whether any worker matches",)

    async def end_silence(self, caller: Principal, silence_id: str, *, by: str) -> None:
        """End a silence now, and reschedule the groups that wait for its end. Idempotent."""
        await self.silence(caller, silence_id)
        now_ms = self._now_ms()
        with _translated_errors():
            await self._alerts.silences.end(caller.tenant, silence_id, by=by, now_ms=now_ms)
            # Also if it had ended before: the earlier call may have failed before this step.
            for receiver, groups in self._alerts.groups.items():
                if await wake_waiting(groups, caller.tenant, now_ms=now_ms):
                    self._alerts.wake(receiver)

    async def deliveries(
        self, caller: Principal, *, outcome: Outcome, receiver: str | None, after: Place | None, limit: int
    ) -> Page:
        """Notifications to one receiver or to all, newest first, without bodies. All final outcomes share one list."""
        with _translated_errors():
            return await self._dead_letters.page(
                outcome, receiver=receiver, after=after, limit=limit, now_ms=self._now_ms(), sees=_visible_to(caller)
            )

    async def delivery(self, caller: Principal, nid: str, *, receiver: str | None) -> Found:
        """One notification, with its body."""
        with _translated_errors():
            return await self._dead_letters.find(nid, receiver=receiver, sees=_visible_to(caller))

    async def replay(self, caller: Principal, nid: str, *, receiver: str | None, force: bool) -> Found:
        """Requeue a dead letter. Idempotent while it is queued. ``force``: also if it is overtaken.

        Raises:
            ConflictError: not a dead letter, its group has a notification in flight, or it is overtaken.
        """
        with _translated_errors():
            found = await self._dead_letters.replay(
                nid, receiver=receiver, force=force, now_ms=self._now_ms(), sees=_visible_to(caller)
            )
        self._alerts.wake(found.receiver)
        return found

    async def replay_all(self, caller: Principal, receiver: str, *, after: Place | None) -> Replayed:
        """Requeue the visible dead letters of a receiver, a limited number per call."""
        with _translated_errors():
            done = await self._dead_letters.replay_all(
                receiver=receiver, after=after, now_ms=self._now_ms(), sees=_visible_to(caller)
            )
        self._alerts.wake(receiver)
        return done

    async def drop(self, caller: Principal, nid: str, *, receiver: str | None) -> Found:
        """Drop a dead letter. Idempotent.

        Raises:
            ConflictError: not a dead letter.
        """
        with _translated_errors():
            return await self._dead_letters.drop(
                nid, receiver=receiver, now_ms=self._now_ms(), sees=_visible_to(caller)
            )

    async def outcomes(self, event_id: str) -> list[tuple[str, EventOutcome, NotificationRecord | None]]:
        """Outcome of an event at each receiver it was routed to. The caller must have checked its visibility."""
        with _translated_errors():
            return await self._dead_letters.outcomes(event_id)

    async def receivers(self, caller: Principal) -> list[Stats]:
        """The receivers of the caller's tenant, by name; for an operator all receivers.

        Raises:
            ForbiddenError: the token is restricted. ``enable`` and ``test`` raise it for a receiver that tenants share.
        """
        _require_unrestricted(caller)
        now_ms = self._now_ms()
        with _translated_errors():
            mine = [groups for name, groups in self._alerts.groups.items() if self._keeps(caller, name)]
            found = await asyncio.gather(*(one.stats(now_ms=now_ms) for one in mine))
        return sorted(found, key=lambda one: one.receiver)

    async def enable(self, caller: Principal, receiver: str) -> Stats:
        """Enable a disabled receiver. Idempotent."""
        with _translated_errors():
            groups = self._kept(caller, receiver)
            await groups.enable()
            self._alerts.wake(receiver)
            return await groups.stats(now_ms=self._now_ms())

    async def test(self, caller: Principal, receiver: str) -> tuple[str, str | None, int]:
        """Send a test now, bypassing the queue, without retries.

        The timeout is twice the receiver's own, because the test is two notifications.

        Returns:
            The id of the first notification, the error (None: accepted), and the duration in milliseconds.

        Raises:
            RateLimitedError: the receiver was tested a moment ago.
        """
        with _translated_errors():
            wait_ms = await self._kept(caller, receiver).begin_test(TEST_SPACING_MS)
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
        return pair[0].nid, error, max(0, self._now_ms() - began_ms)

    def _keeps(self, caller: Principal, receiver: str) -> bool:
        return caller.is_operator or caller.tenant in self._alerts.owners.get(receiver, ())

    def _kept(self, caller: Principal, receiver: str) -> GroupStore:
        """The groups of a receiver that the caller may test and enable."""
        groups, owners = self._alerts.groups.get(receiver), self._alerts.owners.get(receiver)
        if groups is None or (owners and not self._keeps(caller, receiver)):
            raise UnknownReceiverError(receiver)
        _require_unrestricted(caller)
        if not self._keeps(caller, receiver):
            raise ForbiddenError(f"all tenants share the receiver {receiver!r}: that needs the scope 'operator'")
        return groups

    async def _warnings(self, silence: Silence) -> tuple[str, ...]:
        """Warnings about a silence: no known worker matches."""
        environment = silence.matchers.only(silence.matchers.environment)
        environments = None if environment is None else (environment,)
        looked_at = 0
        for partition in range(self._store.partitions):
            after = ""
            while True:
                page = await self._store.list_workers(
                    partition, silence.tenant, after=after, limit=PAGE_WORKERS, environments=environments, want=None
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
    """Translate errors of the alerts to those of the API."""
    try:
        yield
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


def _require_unrestricted(caller: Principal) -> None:
    if caller.is_restricted:
        raise ForbiddenError("the token is restricted to a worker or to environments and cannot access receivers")


def _sees(caller: Principal, incident: Incident) -> bool:
    return caller.may_see(worker_id=incident.worker_id, environment_name=incident.environment_name)


def _covers(caller: Principal, silence: Silence) -> bool:
    """Whether a silence only matches workers that the caller may see."""
    matchers = silence.matchers
    return caller.may_see(
        worker_id=matchers.only(matchers.worker_id), environment_name=matchers.only(matchers.environment)
    )


def _visible_to(caller: Principal) -> Callable[[NotificationRecord], bool]:
    return lambda note: caller.is_operator or of_tenant(note, caller.tenant, caller.environments, caller.worker_id)
