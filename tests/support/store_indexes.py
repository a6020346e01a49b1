"""Every index and counter of a partition, computed again from its records and compared with what is stored."""

import struct
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import msgpack
from redis.asyncio import Redis

from monitor.blindness import Window
from monitor.liveness import Liveness
from monitor.store.library import STATE_CODES
from tests.support.deadlines import credited

BASE = b"{ls:0}:"
ALERTS = (b"to:", b"incident", b"failures", b"receivers_due")
"""How the keys of the alerts begin, which lie under the same tag."""
PLAIN = {
    b"meta",
    b"records",
    b"cold",
    b"transitions",
    b"cohorts",
    b"cohort_ids",
    b"bounds_absent",
    b"down_counts",
    b"bounds_alive",
    b"bounds_down",
    b"outbox",
    b"router",
    b"rejections",
    b"bounds_refused",
    b"pulses",
    b"windows",
    b"history_lengths",
    b"history_began",
}
ALIVE, STALE, STOPPED = (STATE_CODES[state].encode() for state in (Liveness.ALIVE, Liveness.STALE, Liveness.STOPPED))
RECORD_HEAD = struct.Struct(">BcI28x6s8x6s")
"""Of a record: version, state, cohort_id, since, last_seen."""


async def check_indexes(url: str) -> None:
    """Raises AssertionError where an index says something else than the records do."""
    async with Redis.from_url(url) as redis:
        await _Check(redis).run()


class _Check:
    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.sets: defaultdict[bytes, dict[bytes, float]] = defaultdict(dict)
        self.absent: dict[bytes, dict[bytes, float]] = {}
        self.cold_bytes: dict[bytes, int] = {}
        self.bases: dict[int, dict[bytes, float]] = {}
        self.downs: dict[int, dict[bytes, float]] = {}
        self.windows: list[Window] = []
        self.counts: Counter[bytes] = Counter()
        self.tenants: defaultdict[bytes, Counter[bytes]] = defaultdict(Counter)
        self.ids: defaultdict[bytes, set[bytes]] = defaultdict(set)
        self.used: set[int] = set()
        self.histories: set[bytes] = set()

    async def hash(self, name: bytes) -> Mapping[bytes, bytes]:
        found: Any = await self.redis.hgetall(BASE + name)
        assert isinstance(found, dict)
        return found

    async def zset(self, name: bytes) -> dict[bytes, float]:
        rows: list[Any] = await self.redis.zrange(BASE + name, 0, -1, withscores=True)
        return {member: float(score) for member, score in rows}

    def moved(self, due_ms: float, interval_ms: int, grace_ms: int) -> int:
        """Where blind windows move a deadline."""
        reach_ms = interval_ms + grace_ms
        return credited(int(due_ms), allowance_ms=reach_ms, interval_ms=interval_ms, windows=self.windows).deadline_ms

    async def run(self) -> None:
        packed: Any = await self.redis.get(BASE + b"windows")
        self.windows = [Window(begin_ms=begin, end_ms=end) for begin, end, *_ in msgpack.unpackb(packed or b"\x90")]
        records = {mid: RECORD_HEAD.unpack_from(raw) for mid, raw in (await self.hash(b"records")).items()}
        stored_groups = await self.hash(b"cohorts")
        groups = {int(k): msgpack.unpackb(v, raw=True) for k, v in stored_groups.items() if not k.startswith(b"k")}
        for cohort_id in groups:
            # The one thing that no record says; when it ends is what the model checks.
            for name in (b"absent:%d" % cohort_id, b"refused:%d" % cohort_id):
                if noted := await self.zset(name):
                    self.absent[name] = noted
            self.downs[cohort_id] = await self.zset(b"down:%d" % cohort_id)
            self.bases[cohort_id] = await self.zset(b"alive:%d" % cohort_id)
        self.cold_bytes = {mid: len(packed) for mid, packed in (await self.hash(b"cold")).items()}
        self.expect(records, groups)
        assert self.used == set(groups)
        assert {int(v) for k, v in stored_groups.items() if k.startswith(b"k")} == self.used
        assert {int(cohort_id) for cohort_id in await self.zset(b"cohort_ids")} == self.used
        assert {k: int(v) for k, v in (await self.hash(b"down_counts")).items()} == dict(self.counts)
        for mid in (*await self.hash(b"cold"), *await self.hash(b"transitions"), *await self.hash(b"rejections")):
            assert mid in records
        await self.compare_keys(groups)
        await self.compare_histories()
        await self.compare_bounds(groups)

    def expect(self, records: Mapping[bytes, Any], groups: Mapping[int, Any]) -> None:
        for mid, record in records.items():
            length, _, rest = mid.partition(b":")
            tenant, worker = rest[: int(length)], rest[int(length) :]
            state, cohort_id = record[1], record[2]
            since, last_seen = (int.from_bytes(part) for part in record[3:])
            self.used.add(cohort_id)
            assert groups[cohort_id][0] == tenant
            back = self.absent.get(b"absent:%d" % cohort_id, {}).get(worker)
            if back is not None:
                self.sets[b"absent:%d" % cohort_id][worker] = back
                _, _, interval, grace, after_stop = groups[cohort_id]
                assert state == STOPPED or (state == ALIVE and after_stop and back > last_seen + interval + grace)
                since = max(since, int(back))
            ends = self.absent.get(b"refused:%d" % cohort_id, {}).get(worker)
            if ends is not None:
                assert state == STALE
                self.sets[b"refused:%d" % cohort_id][worker] = ends
                since = int(ends)
            if state == ALIVE:
                # A base may be later than the last beat, never earlier; how much is what the tests of it check.
                self.sets[b"alive:%d" % cohort_id][worker] = max(
                    self.bases[cohort_id].get(worker, 0.0), float(last_seen)
                )
            else:
                at = self.downs[cohort_id].get(worker, 0.0)
                if at != since and (back is not None or ends is not None):
                    # Purge has met it, and it was not missed yet.
                    assert since < at <= self.moved(since, groups[cohort_id][2], groups[cohort_id][3])
                    since = int(at)
                self.sets[b"down:%d" % cohort_id][worker] = float(since)
                self.counts[b"%d:%b" % (cohort_id, state)] += 1
            self.tenants[tenant][b"n"] += 1
            self.tenants[tenant][b"b"] += 300 + 4 * len(worker) + self.cold_bytes.get(mid, 0)
            self.tenants[tenant][b"e" + groups[cohort_id][1]] += 1
            self.ids[tenant].add(worker)
        for counter in self.tenants.values():
            counter[b"v"] = sum(1 for name in counter if name.startswith(b"e"))

    async def compare_keys(self, groups: Mapping[int, Any]) -> None:
        keys: list[Any] = await self.redis.keys(BASE + b"*")
        names: set[bytes] = {key.removeprefix(BASE) for key in keys if not key.removeprefix(BASE).startswith(ALERTS)}
        assert {name for name in names if _kind(name) in {b"alive", b"down", b"absent", b"refused"}} == set(self.sets)
        for name in names - PLAIN:
            rest = _of(name)
            match _kind(name):
                case b"alive" | b"down" | b"absent" | b"refused":
                    assert await self.zset(name) == self.sets[name]
                case b"cohort_ids":
                    assert {int(one) for one in await self.zset(name)} == {g for g in self.used if groups[g][0] == rest}
                case b"names":
                    assert set(await self.zset(name)) == self.ids[rest]
                case b"tenant":
                    assert {k: int(v) for k, v in (await self.hash(name)).items()} == dict(self.tenants[rest])
                case b"history":
                    self.histories.add(rest)
                case _:
                    raise AssertionError(f"an unknown key: {name!r}")
        assert {_of(name) for name in names if _kind(name) == b"tenant"} == set(self.tenants)
        assert {_of(name) for name in names if _kind(name) == b"names"} == set(self.ids)

    async def compare_histories(self) -> None:
        lengths, oldest = {}, {}
        for tenant in self.histories:
            entries: Any = await self.redis.xrange(BASE + b"history:" + tenant)
            lengths[tenant], oldest[tenant] = float(len(entries)), float(entries[0][0].partition(b"-")[0])
        assert (await self.zset(b"history_lengths"), await self.zset(b"history_began")) == (lengths, oldest)
        assert int((await self.hash(b"meta")).get(b"events", 0)) == sum(lengths.values())

    async def compare_bounds(self, groups: Mapping[int, Any]) -> None:
        deadlines, oldest = await self.zset(b"bounds_alive"), await self.zset(b"bounds_down")
        returns = await self.zset(b"bounds_absent")
        ends = await self.zset(b"bounds_refused")
        assert {int(cohort_id) for cohort_id in (*deadlines, *oldest, *returns, *ends)} <= self.used
        for name, members in self.sets.items():
            cohort_id = _of(name)
            if name.startswith(b"alive:"):
                _, _, interval, grace, _ = groups[int(cohort_id)]
                assert deadlines[cohort_id] <= self.moved(min(members.values()) + interval + grace, interval, grace)
            elif name.startswith(b"absent:"):
                _, _, interval, grace, _ = groups[int(cohort_id)]
                assert returns[cohort_id] <= self.moved(min(members.values()), interval, grace)
            elif name.startswith(b"refused:"):
                _, _, interval, grace, _ = groups[int(cohort_id)]
                assert ends[cohort_id] <= self.moved(min(members.values()), interval, grace)
            else:
                assert oldest[cohort_id] <= min(members.values())


def _kind(name: bytes) -> bytes:
    """The part of a key's name before what it is of."""
    return name.partition(b":")[0]


def _of(name: bytes) -> bytes:
    """The cohort or the tenant that a key is of."""
    return name.partition(b":")[2]
