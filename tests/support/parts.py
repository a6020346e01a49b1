"""A receiver's groups over all partitions and shards, for what the product asks of one at a time."""

from collections.abc import Sequence

from alerts.groups.state import NotificationRecord, Outcome
from alerts.store.group_store import PAGE, Change, Claimed, GroupPart, GroupStore, Handed
from alerts.store.port import StorePort
from alerts.store.receivers import ReceiverStore, Stats
from alerts.store.retention import Retention
from monitor.durability import Confirmation


def made_of(kind: type[GroupPart], store: StorePort, receiver: str = "ops") -> GroupStore:
    """The groups of a receiver, with parts of another class."""
    groups = GroupStore(store, receiver)
    groups.parts = {tag: kind(store, receiver, tag, Retention()) for tag in groups.parts}
    return groups


async def claim(groups: GroupStore, *, limit: int, lease_ms: int, now_ms: int) -> list[Claimed]:
    """Claim due groups, those of workers first."""
    found: list[Claimed] = []
    for part in groups.parts.values():
        claimed, _ = await part.claim(limit=max(1, limit - len(found)), lease_ms=lease_ms, now_ms=now_ms)
        found += claimed
        if len(found) >= limit:
            break
    return found


async def due(groups: GroupStore, *, tenant: str | None = None, offset: int, limit: int) -> list[str]:
    """Groups that are due at some time, in order within each part."""
    found: list[str] = []
    for part in groups.parts.values():
        first = len(found)
        while page := await part.due(tenant=tenant, offset=len(found) - first, limit=PAGE):
            found += page
    return found[offset : offset + limit]


async def some(groups: GroupStore) -> list[Claimed]:
    """Arbitrary groups."""
    return [one for part in groups.parts.values() for one in await part.some()]


async def stats(groups: GroupStore, *, now_ms: int) -> Stats:
    """Queue status of the receiver."""
    [found] = await ReceiverStore(groups._store).stats([groups.receiver], now_ms=now_ms)
    return found


async def notifications(
    groups: GroupStore, outcome: Outcome, *, before_ms: int, offset: int, limit: int
) -> list[NotificationRecord]:
    """Notifications by outcome, newest first."""
    found = [
        note
        for part in groups.parts.values()
        for note in await part.notifications(outcome, before_ms=before_ms, offset=0, limit=PAGE)
    ]
    found.sort(key=lambda note: (note.at_ms, note.nid), reverse=True)
    return found[offset : offset + limit]


async def open_dead_letters(groups: GroupStore, *, now_ms: int) -> list[NotificationRecord]:
    """Open dead letters of every part."""
    return [note for part in groups.parts.values() for note in await part.open_dead_letters(now_ms=now_ms)]


async def save(
    groups: GroupStore, changes: Sequence[Change], *, now_ms: int, handed: Handed | None = None
) -> list[bool]:
    """Write changes, of a batch that a router has in hand."""
    done = {}
    for change in changes:
        key = change.draft.group.key
        [done[key]] = await groups.part_of(key).save([change], now_ms=now_ms, handed=handed)
    return [done[change.draft.group.key] for change in changes]


async def save_confirmed(
    groups: GroupStore, changes: Sequence[Change], *, now_ms: int
) -> tuple[list[int], Confirmation]:
    """Write changes of groups of one part, and wait until they are durable."""
    return await groups.part_of(changes[0].draft.group.key).save_confirmed(changes, now_ms=now_ms)


async def wake(groups: GroupStore, names: Sequence[str], *, now_ms: int) -> None:
    """Make groups due now."""
    for name in names:
        await groups.part_of(name).wake([name], now_ms=now_ms)


async def retire(groups: GroupStore) -> None:
    """Let all data of the receiver expire."""
    for part in groups.parts.values():
        await part.retire()


async def unretire(groups: GroupStore) -> None:
    """Undo ``retire``."""
    for part in groups.parts.values():
        await part.unretire()
