"""Retry of dead-lettered pages when their receiver accepts notifications again (P31)."""

from typing import Final

from alerts.groups.classify import Role
from alerts.groups.state import Draft
from alerts.store.group_store import Change, GroupPart, GroupStore, Want
from monitor.errors import StoreUnavailableError

AGAIN_PAUSE_MS: Final = 1_000
"""Shortest pause between two retries of dead letters."""


class GivenUp:
    """The dead-lettered pages of one receiver.

    ``accepted``: the receiver has accepted a notification since they were last offered. ``tags``: bases of the
    partitions and shards that may have some.
    """

    def __init__(self, groups: GroupStore) -> None:
        self.accepted = False
        self.tags: set[str] = set()
        self._groups = groups
        self._again_ms = 0

    async def offer(self, *, now_ms: int) -> list[str]:
        """Make dead-lettered pages due after the receiver has accepted a notification. Returns the bases with some.

        Raises:
            StoreUnavailableError: the changes may not have been written.
        """
        if not self.accepted or now_ms < self._again_ms:
            return []
        self.accepted, self._again_ms = False, now_ms + AGAIN_PAUSE_MS
        asked = tuple(self.tags)  # others may come meanwhile
        try:
            found = [tag for tag in asked if await _offer(self._groups.parts[tag], now_ms=now_ms)]
        except StoreUnavailableError:
            self.accepted = True
            raise
        self.tags -= set(asked).difference(found)
        return found


async def _offer(groups: GroupPart, *, now_ms: int) -> bool:
    """Make the dead-lettered pages of at most 100 groups due. A group that changes meanwhile is left for the next call.

    Returns whether there are open dead letters.
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
