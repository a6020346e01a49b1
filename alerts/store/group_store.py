"""The groups of one receiver in the store: each call is one function of ``groups.lua``, which lists the keys.

A group of one worker lies with its worker's partition, any other in a shard of what workers share.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec
import structlog
from structlog.typing import FilteringBoundLogger

from alerts.groups import group_rules, worker_rules
from alerts.groups.classify import Shape
from alerts.groups.fleet import StoredWorker
from alerts.groups.state import AlertGroup, Draft, EventOutcome, Member, NotificationRecord, Outcome
from alerts.loops import Tries
from alerts.store.port import StorePort
from alerts.store.retention import Retention
from alerts.store.tags import base_of_group, bases_of, shard_base
from monitor.durability import Confirmation

CALL_LIMIT: Final = 100
"""Maximum groups in one call, so that the store is never blocked for long."""
PAGE: Final = 500
"""Maximum names of groups in one answer."""

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}|-[A-Za-z0-9_.-]{0,63}")
_PLACES: Final = {Outcome.QUEUED: "open", Outcome.DEAD_LETTERED: "dead"}
_FINISHED: Final = "finished"

_USUAL: Final = Retention()
_T = TypeVar("_T")

_pack = msgspec.msgpack.Encoder().encode
_group = msgspec.json.Decoder(AlertGroup).decode
_member = msgspec.json.Decoder(Member).decode
_outcome = msgspec.json.Decoder(EventOutcome).decode
_note = msgspec.json.Decoder(NotificationRecord).decode

_log: FilteringBoundLogger = structlog.get_logger()


@dataclass(frozen=True, kw_only=True, slots=True)
class Want:
    """What to read of a group: these members, the outcomes of these events, and ``firing`` longest firing members."""

    group: str
    members: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    firing: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A group as it was read. ``version`` 0 and ``group`` None: the group does not exist."""

    version: int
    group: AlertGroup | None
    members: tuple[Member | None, ...]
    outcomes: tuple[EventOutcome | None, ...]
    firing: dict[str, Member]


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A write to a group that was read as ``version``.

    ``token``: token of the held lease, 0 without a lease. ``release``: give the lease back. ``due_ms`` None: the group
    is not due until it changes. ``over``: delete the group.
    """

    draft: Draft
    version: int
    token: int = 0
    release: bool = False
    due_ms: int | None = None
    over: bool = False


def change_of(draft: Draft, seen: Seen, *, now_ms: int) -> Change:
    """The change for a draft; the rules of the group determine when it is due and whether it is over."""
    group = draft.group
    rules = worker_rules if group.shape is Shape.WORKER else group_rules
    due_ms, over = rules.due_ms(group, now_ms), rules.is_over(group)
    return Change(draft=draft, version=seen.version, due_ms=due_ms, over=over)


@dataclass(frozen=True, kw_only=True, slots=True)
class Handed:
    """The current batch of a partition's router for a receiver. Until it is acknowledged it may be repeated."""

    partition: int
    event_ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Claimed:
    """A group under lease, until ``lease_end_ms``; 0: it is not leased.

    ``worker``: of a group of one worker, as the worker store keeps it, see ``Fleet.outage``.
    """

    group: AlertGroup
    version: int
    token: int
    lease_end_ms: int = 0
    worker: StoredWorker | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A notification of a receiver. ``body`` None: it is no longer stored, or was not read."""

    receiver: str
    note: NotificationRecord
    body: str | None = field(repr=False)


class GroupPart:
    """The groups of one receiver in one partition or shard, ``tag``.

    Every method raises ``StoreUnavailableError`` if its call may not have been executed. Times are milliseconds of the
    store's clock. ``history``: how much history is kept.
    """

    def __init__(self, store: StorePort, receiver: str, tag: str, history: Retention) -> None:
        self.receiver = receiver
        self.tag = tag
        self._store = store
        self._base = f"{tag}to:{receiver}:"
        self.turn = asyncio.Lock()
        """Held by a router that changes groups: the routers of one daemon do not collide with each other."""
        self._kept_ms = history.age_ms
        self._bounds = _pack(history.bounds(store.partitions))

    async def read(self, wants: Sequence[Want]) -> list[Seen]:
        """Read groups, in the order of ``wants``."""
        found: list[Seen] = []
        for start in range(0, len(wants), CALL_LIMIT):
            some = [[w.group, w.members, w.events, w.firing] for w in wants[start : start + CALL_LIMIT]]
            found += map(read_group, await self._store.call("look", self._base, _pack(some)))
        return found

    async def save(self, changes: Sequence[Change], *, now_ms: int, handed: Handed | None = None) -> list[bool]:
        """Write changes, even if the store is full. Returns for each whether it was written.

        A change is not written if another process has changed or leased the group meanwhile. The outcomes of the events
        in ``handed`` are kept until the next batch of that partition, whatever the other partitions add.
        """
        done: list[bool] = []
        for start in range(0, len(changes), CALL_LIMIT):
            arguments = self._arguments(changes[start : start + CALL_LIMIT], now_ms, handed)
            done += map(bool, await self._store.call("save", self._base, *arguments))
        return done

    async def save_confirmed(self, changes: Sequence[Change], *, now_ms: int) -> tuple[list[int], Confirmation]:
        """As ``save``, for at most 100 changes; then waits until they are as durable as ``durability`` asks (P23).

        Returns for each the group's new version; 0: it was not written.
        """
        return await self._store.call_confirmed("save", self._base, *self._arguments(changes, now_ms, None))

    async def claim(self, *, limit: int, lease_ms: int, now_ms: int) -> tuple[list[Claimed], int | None]:
        """Lease at most ``limit`` due groups: of each tenant in turn the group that has been due longest.

        The groups are due again when the lease ends. An unreadable group is logged and skipped, so that it does not
        block the others. Also returns when the next group is due; None: none is, or the receiver is disabled.
        """
        next_ms, rows = await self._store.call("claim", self._base, now_ms, lease_ms, min(limit, CALL_LIMIT))
        return self._readable(rows, lease_end_ms=now_ms + lease_ms), next_ms

    async def wake(self, groups: Sequence[str], *, now_ms: int) -> None:
        """Make groups due now, except those under lease."""
        for start in range(0, len(groups), CALL_LIMIT):
            await self._store.call("wake", self._base, now_ms, *groups[start : start + CALL_LIMIT])

    async def wake_tenant(self, tenant: str, *, now_ms: int) -> int:
        """As ``GroupStore.wake_tenant``."""
        waiting: list[str] = []
        while page := await self.due(tenant=tenant, offset=len(waiting), limit=PAGE):
            waiting += page
        await self.wake(waiting, now_ms=now_ms)
        return len(waiting)

    async def due(self, *, tenant: str | None = None, offset: int, limit: int) -> list[str]:
        """Groups of a tenant, or of all, that are due at some time, ordered by it."""
        queue = "queue" if tenant is None else f"queue:{tenant}"
        return [name.decode() for name in await self._store.call("due", self._base, queue, offset, limit)]

    async def some(self) -> list[Claimed]:
        """Read at most 100 arbitrary groups, without leasing them."""
        return self._readable(await self._store.call("some", self._base), lease_end_ms=0)

    async def disable(self, reason: str) -> bool:
        """Stop claims until ``enable``. Returns whether the receiver was enabled before."""
        return bool(await self._store.call("switch", self._base, reason or "disabled"))

    async def enable(self) -> bool:
        """Allow claims again. Returns whether the receiver was disabled before."""
        return bool(await self._store.call("switch", self._base, ""))

    async def retire(self) -> None:
        """Let all data of a receiver that is no longer configured expire after the age of the history."""
        await self._store.call("retire", self._base, self._kept_ms)

    async def unretire(self) -> None:
        """Undo ``retire``: the receiver is configured again."""
        await self._store.call("retire", self._base, "")

    async def notifications(
        self, outcome: Outcome, *, before_ms: int, offset: int, limit: int
    ) -> list[NotificationRecord]:
        """Notifications by outcome, newest first, from ``before_ms`` back. All final outcomes share one list."""
        place = _PLACES.get(outcome, _FINISHED)
        return list(map(_note, await self._store.call("notifications", self._base, place, before_ms, offset, limit)))

    async def open_dead_letters(self, *, now_ms: int) -> list[NotificationRecord]:
        """Dead letters that are not delivered, over, replayed or dropped: the newest, at most ``CALL_LIMIT``."""
        return list(map(_note, await self._store.call("notifications", self._base, "dead_open", now_ms, 0, CALL_LIMIT)))

    async def outcome(self, event_id: str) -> EventOutcome | None:
        """Outcome of an event.

        If the event is part of a group's news, ``nid`` is that of the notification with this news, once it exists.
        """
        [seen] = await self.read([Want(group="", events=(event_id,))])
        known = seen.outcomes[0]
        if known is None or known.nid is None or not group_rules.is_part(known.nid):
            return known
        [seen] = await self.read([Want(group="", events=(known.nid,))])
        named = seen.outcomes[0]
        return msgspec.structs.replace(known, nid=None if named is None else named.nid)

    async def notification(self, nid: str) -> Found | None:
        """One notification; None: it does not exist, or no longer exists."""
        about, body = await self._store.call("notification", self._base, nid)
        if about is None:
            return None
        return Found(receiver=self.receiver, note=_note(about), body=None if body is None else body.decode())

    def _readable(self, rows: Sequence[Sequence[Any]], *, lease_end_ms: int) -> list[Claimed]:
        found = []
        for key, version, token, state, *worker in rows:
            try:
                found.append(
                    Claimed(
                        group=_group(state),
                        version=version,
                        token=token,
                        lease_end_ms=lease_end_ms,
                        worker=StoredWorker(*worker) if worker and key.startswith(b"w") else None,
                    )
                )
            except msgspec.MsgspecError as error:
                name = key.decode(errors="replace")
                _log.error("group.unreadable", receiver=self.receiver, group=name, error=str(error))
        return found

    def _arguments(
        self, changes: Sequence[Change], now_ms: int, handed: Handed | None
    ) -> tuple[int | bytes | str, ...]:
        batch = "" if handed is None else _pack([str(handed.partition), handed.event_ids])
        return now_ms, self._bounds, batch, _pack([packed_change(change) for change in changes])


class GroupStore:
    """Stores the groups of one receiver, see the module. ``parts``: in each partition and shard.

    The methods are those of ``GroupPart``, for groups of any part.
    """

    def __init__(self, store: StorePort, receiver: str, history: Retention = _USUAL) -> None:
        if not _NAME.fullmatch(receiver):
            raise ValueError(f"receiver name {receiver!r} is not 1 to 64 of letters, digits, '_', '.' and '-'")
        self.receiver = receiver
        self.durability = store.durability
        self._store = store
        tags = bases_of(store.partitions)
        self.parts: dict[str, GroupPart] = {tag: GroupPart(store, receiver, tag, history) for tag in tags}
        """By the base of their keys."""

    def part_of(self, group: str) -> GroupPart:
        """The part that has a group."""
        return self.parts[base_of_group(group, self._store.partitions)]

    async def begin_test(self, spacing_ms: int) -> int:
        """Begin a test of the receiver. Returns 0, or how long to wait if one began less than ``spacing_ms`` ago."""
        return int(await self._store.call("begin_test", f"{shard_base(0)}to:{self.receiver}:", spacing_ms))

    async def read(self, wants: Sequence[Want]) -> list[Seen]:
        """Read groups, in the order of ``wants``."""
        found: dict[int, Seen] = {}
        for part, some in self._by_part(wants, lambda want: want.group):
            found |= zip(map(id, some), await part.read(some), strict=True)
        return [found[id(want)] for want in wants]

    async def save(self, changes: Sequence[Change], *, now_ms: int) -> list[bool]:
        """Write changes."""
        done: dict[int, bool] = {}
        for part, some in self._by_part(changes, lambda change: change.draft.group.key):
            done |= zip(map(id, some), await part.save(some, now_ms=now_ms), strict=True)
        return [done[id(change)] for change in changes]

    async def update(
        self, wants: Sequence[Want], make: Callable[[Want, Seen], Change | None], *, now_ms: int, handed: Handed | None
    ) -> dict[str, int]:
        """Read groups, make a change to each, and write it. Those that are not written are read and made again.

        ``make`` returns the change to a group as it was read; None: it stays as it is. ``handed``: as for ``save``.
        Returns when the changed groups are due: the first moment in each part, by the base of the part.
        """
        left, tries, due_ms = wants, Tries(f"a group of receiver {self.receiver!r}"), dict[str, int]()
        while left:
            await tries.begin()
            again: list[Want] = []
            for part, some in self._by_part(left, lambda want: want.group):
                async with part.turn:
                    made = [(want, make(want, seen)) for want, seen in zip(some, await part.read(some), strict=True)]
                    changes = [(want, change) for want, change in made if change is not None]
                    done = await part.save([change for _, change in changes], now_ms=now_ms, handed=handed)
                again += [want for (want, _), written in zip(changes, done, strict=True) if not written]
                dues = [change.due_ms for _, change in changes if change.due_ms is not None]
                if dues:
                    due_ms[part.tag] = min([*dues, due_ms.get(part.tag, dues[0])])
            left = again
        return due_ms

    async def wake_tenant(self, tenant: str, *, now_ms: int) -> int:
        """Make every group of a tenant due that waits for a time. Returns how many.

        Used when a silence ends early, because it is not recorded which groups a silence holds. A group with nothing to
        send waits again.
        """
        return sum([await part.wake_tenant(tenant, now_ms=now_ms) for part in self.parts.values()])

    async def disable(self, reason: str) -> bool:
        """Stop claims until ``enable``. Returns whether the receiver was enabled before."""
        return any([await part.disable(reason) for part in self.parts.values()])

    async def enable(self) -> bool:
        """Allow claims again. Returns whether the receiver was disabled before."""
        return any([await part.enable() for part in self.parts.values()])

    async def notification(self, nid: str) -> Found | None:
        """One notification; None: it does not exist, or no longer exists."""
        found = await asyncio.gather(*(part.notification(nid) for part in self.parts.values()))
        return next((one for one in found if one is not None), None)

    async def outcome(self, event_id: str) -> EventOutcome | None:
        """Outcome of an event."""
        found = await asyncio.gather(*(part.outcome(event_id) for part in self.parts.values()))
        return next((one for one in found if one is not None), None)

    def _by_part(self, items: Sequence[_T], group_of: Callable[[_T], str]) -> list[tuple[GroupPart, list[_T]]]:
        parts: dict[str, list[_T]] = {}
        for item in items:
            parts.setdefault(base_of_group(group_of(item), self._store.partitions), []).append(item)
        return [(self.parts[tag], some) for tag, some in parts.items()]


def packed_change(change: Change) -> list[Any]:
    """A change as ``save`` in ``groups.lua`` takes it."""
    draft = change.draft
    return [
        draft.group.key,
        change.version,
        change.token,
        change.release,
        False if change.over else _text(draft.group),
        False if change.due_ms is None else change.due_ms,
        [[mid, _text(member), member.event.due_ms] for mid, member in draft.members.items()],
        list(draft.gone),
        [[event_id, _text(outcome)] for event_id, outcome in draft.outcomes.items()],
        [[note.nid, _text(note), body or False, _PLACES.get(note.outcome, _FINISHED)] for note, body in draft.records],
        draft.settled,
        draft.group.tenant,
    ]


def _text(value: AlertGroup | Member | EventOutcome | NotificationRecord) -> str:
    return msgspec.json.encode(value).decode()


def read_group(row: list[Any]) -> Seen:
    """A group as ``look`` in ``reading.lua`` answers it."""
    version, state, members, outcomes, firing = row
    return Seen(
        version=version,
        group=None if state is None else _group(state),
        members=tuple(None if one is None else _member(one) for one in members),
        outcomes=tuple(None if one is None else _outcome(one) for one in outcomes),
        firing={
            mid.decode(): _member(about)
            for mid, about in zip(firing[::2], firing[1::2], strict=True)
            if about is not None
        },
    )
