"""Incidents in the store: each call is one function of ``incidents.lua``, which lists the keys.

Incidents of workers are stored with the partition of their events; the router writes them, see ``routing.py``.
Incidents of environments span partitions, so they are stored separately. Updates of their members come from all
partitions, and each counts once, in any order.
"""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from alerts.groups.classify import qualified
from alerts.groups.incidents import Ack, Incident, IncidentClosedError, IncidentState, Membership, UnknownIncidentError
from alerts.loops import Tries
from alerts.store.port import StorePort
from alerts.store.retention import Retention
from alerts.store.tags import base_of_group, bases_of, shared_base
from monitor.liveness import EventKind

MEMBERS_KEPT: Final = 100_000
"""Maximum ended members that are stored individually for an environment's incident. All of them are counted."""

_USUAL: Final = Retention()
_ROUNDS: Final = 8
"""Maximum calls for one page, when its filter leaves little."""

_pack = msgspec.msgpack.Encoder().encode
_incident = msgspec.json.Decoder(Incident).decode


@dataclass(frozen=True, kw_only=True, slots=True)
class IncidentPage:
    """Incidents, newest first. ``after``: cursor of the next page; None: there are no more.

    A page may have fewer incidents than the limit, or none, before the end.
    """

    incidents: tuple[Incident, ...]
    after: str | None


class IncidentStore:
    """Stores incidents. Every method raises ``StoreUnavailableError`` if its call may not have been executed.

    Times are milliseconds of the store's clock. Belongs to one event loop. ``retention``: how long closed incidents
    are kept, and how many of them, the newest.
    """

    def __init__(self, store: StorePort, retention: Retention = _USUAL) -> None:
        self._store = store
        self._retention = retention

    async def join(self, membership: Membership, *, now_ms: int) -> None:
        """Add incidents to the incident of an environment. Idempotent while the incidents are kept."""
        opening = membership.opening
        members = [
            [one.id, True] if one.is_open else [one.id, False, one.closed_ms, one.closed_by, one.closed_by_event]
            for one in membership.members.values()
        ]
        await self._store.call(
            "incidents_join",
            shared_base(qualified(opening.tenant, opening.environment_name), self._store.partitions),
            *(now_ms, self._retention.age_ms, self._retention.incidents, MEMBERS_KEPT, opening.id, _place(opening)),
            *(opening.tenant, opening.environment_name, _text(opening), _pack(members)),
        )

    async def get(self, tenant: str, incident_id: str, *, group: str | None = None) -> Incident:
        """Get one incident. ``group``: the key of a group that notifies of it, where it is looked up; None: everywhere.

        Raises:
            UnknownIncidentError: the tenant has no incident with this id, or no longer has it.
        """
        bases = self._bases() if group is None else [base_of_group(group, self._store.partitions)]
        _, _, incident = await self._find(bases, tenant, incident_id)
        return incident

    async def is_open(self, tenant: str, incident_id: str) -> bool:
        """Whether an incident is stored and not closed."""
        try:
            return (await self.get(tenant, incident_id)).is_open
        except UnknownIncidentError:
            return False

    async def acknowledge(self, tenant: str, incident_id: str, *, by: str, comment: str, now_ms: int) -> Incident:
        """Acknowledge an incident. Idempotent: the first acknowledgement is kept.

        Raises:
            UnknownIncidentError: the tenant has no incident with this id, or no longer has it.
            IncidentClosedError: the incident is closed and was not acknowledged.
        """
        tries = Tries(f"incident {incident_id!r}")
        while True:
            await tries.begin()
            base, version, incident = await self._find(self._bases(), tenant, incident_id)
            if incident.ack is not None:
                return incident
            if not incident.is_open:
                raise IncidentClosedError(f"incident {incident_id!r} is over since {incident.closed_ms}")
            incident = msgspec.structs.replace(incident, ack=Ack(by=by, comment=comment, at_ms=now_ms))
            if await self._store.call("incidents_put", base, incident_id, version, _text(incident)):
                return incident

    async def page(
        self,
        tenant: str,
        *,
        state: IncidentState = IncidentState.ALL,
        environments: Collection[str] | None = None,
        after: str | None = None,
        limit: int,
    ) -> IncidentPage:
        """A tenant's incidents, newest first. ``environments``: their names; None: any.

        ``after``: that of the previous page: when an incident was opened, in 15 digits, and its id.
        """
        if environments is not None and not environments:
            return IncidentPage(incidents=(), after=None)
        bases = self._bases()
        found: list[tuple[str, list[Any]]] = []
        place = after or ""
        for _ in range(_ROUNDS):
            asked = (tenant, state.value, place, limit - len(found), *sorted(environments or ()))
            answers = await asyncio.gather(*(self._store.call("incidents_page", base, *asked) for base in bases))
            # Partitions are scanned to different places. Below the newest of these a partition may have more rows.
            place = max((answer[0].decode() for answer in answers), default="")
            rows = [(at.decode(), row) for answer in answers for at, row in answer[1:]]
            found += [row for row in sorted(rows, key=_at, reverse=True) if _at(row) >= place]
            if not place or len(found) >= limit:
                break
        if len(found) > limit or (len(found) == limit and place):
            place = found[limit - 1][0]
        return IncidentPage(incidents=tuple(read_incident(row) for _, row in found[:limit]), after=place or None)

    def _bases(self) -> list[str]:
        return bases_of(self._store.partitions)

    async def _find(self, bases: Sequence[str], tenant: str, incident_id: str) -> tuple[str, int, Incident]:
        """The base where an incident is, its version, and the incident."""
        rows = await asyncio.gather(*(self._store.call("incidents_get", base, incident_id) for base in bases))
        for base, row in zip(bases, rows, strict=True):
            if row is not None and (incident := read_incident(row)).tenant == tenant:
                return base, row[1], incident
        raise UnknownIncidentError(f"tenant {tenant!r} has no incident {incident_id!r}")


def _place(incident: Incident) -> str:
    return f"{incident.opened_ms:015d}{incident.id}"


def _at(row: tuple[str, Any]) -> str:
    return row[0]


def _text(value: Incident) -> str:
    return msgspec.json.encode(value).decode()


def read_incident(row: list[Any]) -> Incident:
    """An incident as the functions of ``incidents.lua`` answer it."""
    _, _, state, members = row
    incident = _incident(state)
    if members is None:
        return incident
    everyone, still_open, closed_ms, closed_by, closed_by_event = members
    over = still_open == 0
    return msgspec.structs.replace(
        incident,
        members=everyone,
        members_open=still_open,
        closed_ms=closed_ms if over else None,
        closed_by=EventKind(closed_by.decode()) if over else None,
        closed_by_event=closed_by_event.decode() if over else None,
    )


def packed_change(incident: Incident, version: int) -> list[Any]:
    """A change of an incident that was read as ``version``, as ``change_incidents`` in ``incidents.lua`` takes it."""
    later = [event_id for event_id in incident.notified if incident.id != f"inc_{event_id}"]
    mid = qualified(incident.tenant, incident.worker_id)
    where = [_place(incident), incident.tenant, incident.environment_name, mid]
    return [incident.id, version, _text(incident), *where, later, incident.is_open]
