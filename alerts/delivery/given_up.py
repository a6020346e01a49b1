"""Retry of dead-lettered pages when their receiver accepts notifications again (P31)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alerts.groups.classify import Role
from alerts.groups.state import Draft
from alerts.store.group_store import Change, Want

if TYPE_CHECKING:
    from alerts.store.group_store import GroupPart


async def offer_given_up(groups: GroupPart, *, now_ms: int) -> bool:
    """Make the dead-lettered pages of at most 100 groups due. A group that changes meanwhile is left for the next call.

    Returns whether the receiver has open dead letters here.

    Raises:
        StoreUnavailableError: the changes may not have been written.
    """
    open_dead_letters = await groups.open_dead_letters(now_ms=now_ms)
    keys = dict.fromkeys(note.group for note in open_dead_letters if note.role is Role.DOWN)
    changes = []
    for seen in await groups.read([Want(group=key) for key in keys]):
        group = seen.group
        if group is None or group.given_up is None or group.in_flight is not None or group.given_up.due_ms > now_ms:
            continue
        if group.timing.resend:
            group.remind_ms = now_ms
        elif group.again_ms:
            group.again_ms = now_ms
        changes.append(Change(draft=Draft(group, now_ms), version=seen.version, due_ms=now_ms))
    await groups.save(changes, now_ms=now_ms)
    return bool(open_dead_letters)
