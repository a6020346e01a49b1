"""A restart inserted at any step of a day gives the same sequence of (worker, generation, seq, kind) (P25).

The day is a script on the store's clock, of which every second is a step. It holds registrations, deaths, returns,
clean and failed goodbyes, announced absences that are kept and missed, a straggler, refused beats, changes of status,
an erasure and a purge. It is played once undisturbed and once for each step and each kind of restart.

Silences in it are longer than the credit that a restart gives. That a shorter one may go unreported is the promise, see
docs/outages.md, and not a difference of the sequence that this is about.
"""

import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import pytest
from redis.asyncio import Redis

from monitor.liveness import Trigger
from monitor.store import Store
from monitor.sweeper import Sweeper, SweepSettings
from monitor.workers import Beat, Disconnect, Evidence, Rejection, WorkerKey
from tests.support import servers, stores
from tests.support.fleets import events_of

Sequence4 = Mapping[str, list[tuple[int, int, str]]]

INTERVAL_MS: Final = 1_000
GRACE_MS: Final = 1_000
DAY_S: Final = 46
RETENTION_MS: Final = 20_000
KEPT_MS: Final = 1_000_000
START_MS: Final = 4_000_000_000_000
"""Far ahead of every server's clock, so that each day is the same."""
AWAKE: Final[dict[str, list[tuple[int, int]]]] = {
    "steady": [(0, DAY_S)],
    "returns": [(0, 5), (13, DAY_S)],
    "dies": [(1, 20)],
    "leaves": [(0, 10)],
    "resumes": [(0, 8), (17, DAY_S)],
    "fails": [(0, 12)],
    "fails and returns": [(0, 12), (19, DAY_S)],
    "keeps its word": [(0, 9), (15, DAY_S)],
    "breaks its word": [(0, 9)],
    "straggles": [(0, 14), (15, 15)],
    "busy": [(3, DAY_S)],
    "erased": [(0, 22), (25, DAY_S)],
    "stale and fails": [(0, 24)],
    "refused": [(0, 14), (34, DAY_S)],
}
"""When each worker beats, from and to: every second."""
REFUSED: Final = range(15, 27)
GOODBYES: Final[dict[tuple[int, str], tuple[Trigger, int | None]]] = {
    (11, "leaves"): (Trigger.DISCONNECT_CLEAN, None),
    (9, "resumes"): (Trigger.DISCONNECT_CLEAN, None),
    (13, "fails"): (Trigger.DISCONNECT_FAILURE, None),
    (13, "fails and returns"): (Trigger.DISCONNECT_FAILURE, None),
    (10, "keeps its word"): (Trigger.DISCONNECT_CLEAN, 15_000),
    (10, "breaks its word"): (Trigger.DISCONNECT_CLEAN, 12_000),
    (14, "straggles"): (Trigger.DISCONNECT_CLEAN, None),
    (33, "stale and fails"): (Trigger.DISCONNECT_FAILURE, None),
}
ERASED: Final = (23, "erased")


class Restart(StrEnum):
    """What is restarted."""

    KILLED = "the daemon, killed"
    STOPPED = "the daemon, stopped in order"
    STORE = "the store"
    BOTH = "both"


STRIDES: Final = {Restart.KILLED: 1, Restart.STORE: 1, Restart.STOPPED: 4, Restart.BOTH: 4}
"""The last two hold nothing that the first two do not: for the time that they take, not at every step."""


class Day:
    """One day on one server. The daemon's objects are thrown away and made again."""

    def __init__(self, binary: Path, directory: Path) -> None:
        self.stride = 1 if binary == servers.valkey_binary() else 6
        """Every step on the server that Lastseen carries; the other one is slower, and runs the same library."""
        self._binary = binary
        self._server = servers.start(binary, directory)
        self._redis = Redis.from_url(self._server.url)
        self._store: Store | None = None
        self._started = 0
        self._now_ms = START_MS

    async def close(self) -> None:
        if self._store is not None:
            await self._store.close()
        await self._redis.aclose()
        self._server.kill()

    async def played(self, restart: Restart | None = None, at_s: int = -1) -> Sequence4:
        """The events of the day, by worker, when ``restart`` comes at the end of second ``at_s``."""
        await self._redis.flushall()
        self._now_ms = START_MS
        await self._start()
        for second in range(DAY_S + 1):
            self._now_ms = START_MS + second * 1_000
            await self._pass_by(second)
            self._now_ms += 500
            await self._do(lambda store: store.pulse(0, ends=False))
            if second == at_s and restart is not None:
                await self._restart(restart)
        assert self._store is not None
        reported: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
        for event in await events_of(self._store):
            reported[event.worker_id].append((event.generation - START_MS, event.seq, event.kind))
        await self._store.close()
        self._store = None
        return reported

    async def _start(self) -> None:
        if self._store is not None:
            await self._store.close()
        self._started += 1
        changes: dict[str, Any] = {"daemon": f"d{self._started}", "status_events": True}
        self._store = await Store.open(stores.settings(self._server.url, **changes))
        await self._do(lambda store: store.pulse(0, ends=False))

    async def _restart(self, restart: Restart) -> None:
        if restart is Restart.STOPPED:
            await self._do(lambda store: store.pulse(0, ends=True))
        if restart in {Restart.STORE, Restart.BOTH}:
            await self._written()
            self._server.kill()
            await self._redis.aclose()
            self._server = servers.start(self._binary, self._server.directory)
        if restart is not Restart.STORE:
            await self._start()

    async def _written(self) -> None:
        """Return when the server has handed all to its file: with everysec it keeps some back while a sync is slow, for
        up to 2 s, and a kill then loses that. docs/operations.md says so; it is not what this is about."""
        while int((await self._redis.info("persistence"))["aof_buffer_length"]):
            pass  # each answer is a turn of its loop, in which it tries again

    async def _do(self, call: Callable[[Store], Awaitable[object]]) -> None:
        """One call, at this moment."""
        await self._redis.hset("{ls:0}:meta", mapping={"last": str(self._now_ms), "skew": str(-(10**12))})
        assert self._store is not None
        await call(self._store)

    async def _say(self, goodbye: Disconnect) -> None:
        await self._do(lambda store: store.disconnect(goodbye))

    async def _pass_by(self, second: int) -> None:
        await self._do(lambda store: store.pulse(0, ends=False))
        beats = [_beat(name, second) for name, spans in AWAKE.items() if any(a <= second <= b for a, b in spans)]
        await self._do(lambda store: store.beat(0, beats))
        for (at_s, name), (trigger, back_in_ms) in GOODBYES.items():
            if at_s == second:
                await self._say(_goodbye(name, trigger, back_in_ms))
        if second == ERASED[0]:
            key = WorkerKey("acme", ERASED[1])
            await self._do(lambda store: store.delete(key, allowed=None, reason="deleted"))
        if second in REFUSED:
            refused = Evidence(
                key=WorkerKey("acme", "refused"), allowed=None, rejection=Rejection.TOKEN_EXPIRED, subject="svc"
            )
            await self._do(lambda store: store.evidence(0, [refused]))
        await self._do(lambda store: _sweeper(store).sweep())
        if second % 2:
            await self._do(lambda store: _sweeper(store).tidy())


def _beat(name: str, second: int) -> Beat:
    changes: dict[str, Any] = {"status": "busy" if second // 7 % 2 else "idle"} if name == "busy" else {}
    return stores.beat(name, interval_ms=INTERVAL_MS, grace_ms=GRACE_MS, **changes)


def _goodbye(name: str, trigger: Trigger, back_in_ms: int | None) -> Disconnect:
    return Disconnect(
        key=WorkerKey("acme", name),
        allowed=None,
        trigger=trigger,
        reason="shutdown" if trigger is Trigger.DISCONNECT_CLEAN else "crash",
        exit_code=0 if trigger is Trigger.DISCONNECT_CLEAN else 1,
        error_message=None,
        back_in_ms=back_in_ms,
    )


def _sweeper(store: Store) -> Sweeper:
    """A new one at each pass: it keeps nothing that counts."""
    settings = SweepSettings(chunk=5, retention_ms=RETENTION_MS, event_retention_ms=KEPT_MS, events=100_000)
    return Sweeper(store, settings, on_moved=lambda _moved: None)


@pytest.fixture(params=["valkey", "redis"])
async def day(request: pytest.FixtureRequest) -> AsyncIterator[Day]:
    binary = servers.valkey_binary() if request.param == "valkey" else servers.redis_binary()
    if binary is None:
        pytest.skip("no redis-server on PATH (Debian: apt-get install redis-server)")
    with tempfile.TemporaryDirectory(prefix="ls-") as name:
        made = Day(binary, Path(name))
        try:
            yield made
        finally:
            await made.close()


UNDISTURBED: Final = {
    "steady": ["registered"],
    "returns": ["registered", "stale", "recovered"],
    "dies": ["registered", "stale", "forgotten"],
    "leaves": ["registered", "stopped", "forgotten"],
    "resumes": ["registered", "stopped", "resumed"],
    "fails": ["registered", "failed", "forgotten"],
    "fails and returns": ["registered", "failed", "recovered"],
    "keeps its word": ["registered", "stopped", "resumed"],
    "breaks its word": ["registered", "stopped", "stale", "forgotten"],
    "straggles": ["registered", "stopped", "resumed", "stopped", "forgotten"],
    "busy": ["registered", *["status_changed"] * 6],
    "erased": ["registered", "forgotten", "registered"],
    "stale and fails": ["registered", "stale", "failed"],
    "refused": ["registered", "rejected", "stale", "recovered"],
}


async def test_p25_a_restart_at_any_step_of_a_day_changes_nothing_of_what_is_sent(day: Day) -> None:
    undisturbed = await day.played()
    kinds = {name: [kind.removeprefix("worker.") for _, _, kind in reported] for name, reported in undisturbed.items()}
    assert kinds == UNDISTURBED
    for restart in Restart:
        for second in range(0, DAY_S, max(day.stride, STRIDES[restart])):
            assert await day.played(restart, second) == undisturbed, (restart, second)
