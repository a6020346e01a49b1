"""Ends the groups of a receiver that is no longer configured."""

from typing import Final

from alerts.groups import group_rules
from alerts.groups.attempts import dead_letter, settle
from alerts.groups.state import Draft, Outcome
from alerts.store.group_store import Change, GroupPart, GroupStore

REASON: Final = "undeliverable: receiver removed"


async def end_groups(groups: GroupStore, *, now_ms: int) -> tuple[int, int]:
    """End every group of a receiver. Notifications in flight become dead letters.

    Returns:
        The numbers of pending notifications and events, and of sent DOWNs, which get no RESOLVED.

    Raises:
        StoreUnavailableError: some groups may be left; call again.
    """
    ended = [await _end_part(part, now_ms=now_ms) for part in groups.parts.values()]
    return sum(queued for queued, _ in ended), sum(notified for _, notified in ended)


async def _end_part(groups: GroupPart, *, now_ms: int) -> tuple[int, int]:
    queued = notified = 0
    while some := await groups.some():
        changes = []
        for one in some:
            group = one.group
            queued += len(group.pending) + (group.in_flight is not None) + group.unnotified
            notified += group.notified
            draft = Draft(group, now_ms)
            if group.in_flight is not None:
                dead_letter(draft, reason=REASON)
            settle(draft)
            for event in group.pending:
                draft.set_outcome(event, Outcome.DEAD_LETTERED)
            group_rules.close(draft, receiver=groups.receiver, outcome=Outcome.DEAD_LETTERED, reason=REASON)
            changes.append(Change(draft=draft, version=one.version, over=True))
        await groups.save(changes, now_ms=now_ms)
    return queued, notified
