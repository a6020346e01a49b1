"""Retry of dead-lettered pages when their receiver accepts notifications again (P31)."""

from collections.abc import Iterable
from typing import Final

from alerts.groups.classify import Role
from alerts.groups.state import Draft
from alerts.store.group_store import Change, GroupPart, GroupStore, Want
from monitor.errors import StoreUnavailableError

AGAIN_PAUSE_MS: Final = 1_000
"""Shortest pause between two retries of dead letters."""


class GivenUp:
    """The dead-lettered pages of one receiver.

    ``tags``: bases of the partitions and shards that may have some. ``unasked``: those that the last acceptance has not
    offered yet.
    """

    def __init__(self, groups: GroupStore) -> None:
        self._groups = groups
        self.tags: set[str] = set()
        self.unasked: set[str] = set()
        self._accepted_ms = self._again_ms = 0

    def note(self, tags: Iterable[str]) -> None:
        """Note bases that have some. Their pages may have been given up before the last acceptance."""
        self.unasked |= set(tags) - self.tags
        self.tags |= self.unasked

    def accepted(self, now_ms: int) -> None:
        """Note that the receiver has accepted a notification."""
        self._accepted_ms = now_ms
        self.unasked |= self.tags

    async def offer(self, *, now_ms: int) -> list[str]:
        """Make pages due that were given up before the last acceptance. Returns the bases with open dead letters.

        Raises:
            StoreUnavailableError: the changes may not have been written.
        """
        if not (self.unasked and self._accepted_ms) or now_ms < self._again_ms:
            return []
        self._again_ms = now_ms + AGAIN_PAUSE_MS
        asked, self.unasked = self.unasked, set()
        until_ms = self._accepted_ms
        try:
            found = [tag for tag in asked if await _offer(self._groups.parts[tag], until_ms=until_ms, now_ms=now_ms)]
        except StoreUnavailableError:
            self.unasked |= asked
            raise
        self.tags -= asked.difference(found)
        return found


async def _offer(groups: GroupPart, *, until_ms: int, now_ms: int) -> bool:
    """Make pages of at most 100 groups due that were given up until ``until_ms``.

    A group that changes meanwhile is left for the next call. Returns whether there are open dead letters.
    """
    open_dead_letters = await groups.open_dead_letters(now_ms=now_ms)
    given_up = (note for note in open_dead_letters if note.role is Role.DOWN and note.at_ms <= until_ms)
    keys = dict.fromkeys(note.group for note in given_up)
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
