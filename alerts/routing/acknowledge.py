"""Stops the reminders of groups when their incident is acknowledged (P19)."""

from alerts.groups.classify import Shape, qualified
from alerts.groups.incidents import Incident
from alerts.groups.state import Draft
from alerts.store.group_store import Change, GroupStore, Seen, Want, change_of


async def acknowledge_at(groups: GroupStore, key: str, incident: Incident, *, now_ms: int) -> None:
    """Record in one group, by its key, that an incident is acknowledged. Idempotent.

    A group that is about another incident does not change.

    Raises:
        StoreUnavailableError: the change may not have been written.
    """
    mids = (qualified(incident.tenant, incident.worker_id),) if incident.worker_id else ()

    def make(_: Want, seen: Seen) -> Change | None:
        if seen.group is None:
            return None
        draft = Draft(seen.group, now_ms)
        group = draft.group
        if group.shape is Shape.WORKER or not mids:
            if group.acked or group.incident_id not in {None, incident.id}:
                return None
            group.acked = True
        else:
            [member] = seen.members
            if member is None or member.acked or member.incident_id not in {None, incident.id}:
                return None
            member.acked = True
            draft.set_member(mids[0], member)
            group.acks += 1
        return change_of(draft, seen, now_ms=now_ms)

    await groups.update([Want(group=key, members=mids)], make, now_ms=now_ms, handed=None)
