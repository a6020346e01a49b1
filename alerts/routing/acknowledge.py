"""Stops the reminders of groups when their incident is acknowledged (P19)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alerts.groups.keys import Shape
from alerts.groups.state import Draft
from alerts.store.group_store import Want, change_of

if TYPE_CHECKING:
    from alerts.store.group_store import Change, GroupStore, Seen


async def acknowledge_at(
    groups: GroupStore, key: str, *, tenant: str, worker_id: str | None, incident_id: str, now_ms: int
) -> None:
    """Record in one group that an incident is acknowledged. Idempotent.

    A group that is about another incident does not change.

    Args:
        groups: the receiver's groups.
        key: key of the group that notifies about the incident.
        tenant: the tenant of the incident.
        worker_id: the worker of the incident; None: it is an environment's.
        incident_id: the incident.
        now_ms: the store's time.

    Raises:
        StoreUnavailableError: the change may not have been written.
    """
    mid = None if worker_id is None else f"{len(tenant)}:{tenant}{worker_id}"

    def make(_: Want, seen: Seen) -> Change | None:
        if seen.group is None:
            return None
        draft = Draft(seen.group, now_ms)
        group = draft.group
        if group.shape is Shape.WORKER or mid is None:
            if group.acked or group.incident_id not in {None, incident_id}:
                return None
            group.acked = True
        else:
            [member] = seen.members
            if member is None or member.acked or member.incident_id not in {None, incident_id}:
                return None
            member.acked = True
            draft.set_member(mid, member)
            group.acks += 1
        return change_of(draft, seen, now_ms=now_ms)

    await groups.update([Want(group=key, members=() if mid is None else (mid,))], make, now_ms=now_ms, handed=None)
