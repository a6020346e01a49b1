"""The tries of a compare-and-set loop, alone and at the groups of a receiver."""

from collections.abc import AsyncIterator, Sequence
from typing import ClassVar

import pytest

from alerts.groups.classify import Shape
from alerts.groups.state import AlertGroup, Draft, Timing
from alerts.loops import TRIES, Tries
from alerts.store.group_store import Change, GroupPart, GroupStore, Seen, Want, change_of
from alerts.store.port import StorePort
from monitor.errors import StoreUnavailableError
from tests.support import parts
from tests.support.alerts_fakes import START_MS
from tests.support.stores import alert_store

KEYS = ("w4:acmea", "w4:acmeb", "w4:acmec")


class Register:
    """A number with a version. Another process adds 100 to it before each of the first ``collisions`` writes."""

    def __init__(self, *, collisions: int) -> None:
        self.number = self.version = self.reads = 0
        self._collisions = collisions

    def read(self) -> tuple[int, int]:
        self.reads += 1
        return self.version, self.number

    def write(self, version: int, number: int) -> bool:
        if self._collisions:
            self._collisions -= 1
            self.version, self.number = self.version + 1, self.number + 100
        if version != self.version:
            return False
        self.version, self.number = version + 1, number
        return True


async def _add_one(register: Register) -> list[float]:
    """Add 1 to the register. Returns the pauses, in seconds; none of them is waited for."""
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    tries = Tries("the register", sleep=pause)
    while True:
        await tries.begin()
        version, number = register.read()
        if register.write(version, number + 1):
            return pauses


@pytest.mark.parametrize("collisions", [0, 1, 2, 5, TRIES - 1])
async def test_a_collision_is_tried_again_with_what_is_there_now(collisions: int) -> None:
    register = Register(collisions=collisions)
    await _add_one(register)
    assert (register.number, register.reads) == (100 * collisions + 1, collisions + 1)


@pytest.mark.parametrize(("collisions", "paused"), [(0, 0), (1, 0), (2, 1), (3, 2), (TRIES - 1, TRIES - 2)])
async def test_pauses_begin_at_the_second_collision_and_stay_short(collisions: int, paused: int) -> None:
    pauses = await _add_one(Register(collisions=collisions))
    assert len(pauses) == paused
    ceilings = [0.005, 0.01, 0.02, 0.04, *([0.05] * TRIES)]
    assert all(0 <= pause <= ceiling for pause, ceiling in zip(pauses, ceilings, strict=False))
    assert sum(ceilings[: TRIES - 2]) < 1


async def test_after_the_last_try_the_error_names_what_kept_changing() -> None:
    register = Register(collisions=TRIES)
    with pytest.raises(StoreUnavailableError, match=r"^the register has changed during each of 20 tries$"):
        await _add_one(register)
    assert (register.number, register.reads) == (100 * TRIES, TRIES)


async def test_a_loop_may_end_by_itself_when_no_try_is_left() -> None:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    tries, begun = Tries("the register", sleep=pause), 0
    while tries.left:
        await tries.begin()
        begun += 1
    assert (begun, len(pauses)) == (TRIES, TRIES - 2)


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[StorePort]:
    opened = alert_store(store_url)
    yield opened
    await opened.close()


async def _reminders(groups: GroupStore) -> list[int | None]:
    seen = await groups.read([Want(group=key) for key in KEYS])
    return [None if one.group is None else one.group.reminders for one in seen]


def _reminded(want: Want, seen: Seen, *, more: int) -> Change:
    group = seen.group or AlertGroup(
        key=want.group, shape=Shape.WORKER, tenant="acme", timing=Timing(), notified=True, reminders=0
    )
    group.reminders += more
    return change_of(Draft(group, START_MS), seen, now_ms=START_MS)


class Interrupted(GroupPart):
    """Groups that another process changes after the first read."""

    by: ClassVar[list[Change]] = []

    async def read(self, wants: Sequence[Want]) -> list[Seen]:
        seen = await super().read(wants)
        await self.save(self.by, now_ms=START_MS)
        self.by.clear()
        return seen


async def test_only_groups_that_another_process_has_changed_are_read_and_made_again(store: StorePort) -> None:
    groups = GroupStore(store, "ops")
    [second] = await groups.read([Want(group=KEYS[1])])
    interrupted = parts.made_of(Interrupted, store)
    Interrupted.by.append(_reminded(Want(group=KEYS[1]), second, more=10))
    made: list[tuple[str, int | None]] = []

    def make(want: Want, seen: Seen) -> Change | None:
        made.append((want.group, None if seen.group is None else seen.group.reminders))
        return None if want.group == KEYS[2] else _reminded(want, seen, more=1)

    await interrupted.update([Want(group=key) for key in KEYS], make, now_ms=START_MS, handed=None)
    assert made == [(KEYS[0], None), (KEYS[1], None), (KEYS[2], None), (KEYS[1], 10)]
    assert await _reminders(groups) == [1, 11, None]


async def test_an_update_without_groups_or_changes_writes_nothing(store: StorePort) -> None:
    groups = GroupStore(store, "ops")
    await groups.update([], lambda want, seen: _reminded(want, seen, more=1), now_ms=START_MS, handed=None)
    await groups.update([Want(group=key) for key in KEYS], lambda _want, _seen: None, now_ms=START_MS, handed=None)
    assert await _reminders(groups) == [None, None, None]
