"""Every index and counter of a partition, computed again from its records and compared with what is stored."""

from __future__ import annotations

import struct
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import msgpack
from redis.asyncio import Redis

from monitor.blindness import Window
from monitor.liveness import Liveness
from monitor.store.library import STATE_CODES
from tests.support.deadlines import credited

if TYPE_CHECKING:
    from collections.abc import Mapping

BASE = b"{ls:0}:"
PLAIN = {
    b"m",
    b"r",
    b"x",
    b"y",
    b"g",
    b"a",
    b"b",
    b"c",
    b"h",
    b"q",
    b"e",
    b"u",
    b"j",
    b"k",
    b"p",
    b"w",
    b"lengths",
    b"began",
}
ALIVE, STALE, STOPPED = (STATE_CODES[state].encode() for state in (Liveness.ALIVE, Liveness.STALE, Liveness.STOPPED))
RECORD_HEAD = struct.Struct(">BcI28x6s8x6s")
"""Of a record: version, state, gid, since, last_seen."""


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
        packed: Any = await self.redis.get(BASE + b"w")
        self.windows = [Window(begin_ms=begin, end_ms=end) for begin, end, *_ in msgpack.unpackb(packed or b"\x90")]
        records = {mid: RECORD_HEAD.unpack_from(raw) for mid, raw in (await self.hash(b"r")).items()}
        stored_groups = await self.hash(b"g")
        groups = {int(k): msgpack.unpackb(v, raw=True) for k, v in stored_groups.items() if not k.startswith(b"k")}
        for gid in groups:
            # The one thing that no record says; when it ends is what the model checks.
            for name in (b"b:%d" % gid, b"k:%d" % gid):
                if noted := await self.zset(name):
                    self.absent[name] = noted
            self.downs[gid] = await self.zset(b"d:%d" % gid)
            self.bases[gid] = await self.zset(b"s:%d" % gid)
        self.cold_bytes = {mid: len(packed) for mid, packed in (await self.hash(b"x")).items()}
        self.expect(records, groups)
        assert self.used == set(groups)
        assert {int(v) for k, v in stored_groups.items() if k.startswith(b"k")} == self.used
        assert {int(gid) for gid in await self.zset(b"a")} == self.used
        assert {k: int(v) for k, v in (await self.hash(b"c")).items()} == dict(self.counts)
        for mid in (*await self.hash(b"x"), *await self.hash(b"y"), *await self.hash(b"j")):
            assert mid in records
        await self.compare_keys(groups)
        await self.compare_histories()
        await self.compare_bounds(groups)

    def expect(self, records: Mapping[bytes, Any], groups: Mapping[int, Any]) -> None:
        for mid, record in records.items():
            length, _, rest = mid.partition(b":")
            tenant, worker = rest[: int(length)], rest[int(length) :]
            state, gid = record[1], record[2]
            since, last_seen = (int.from_bytes(part) for part in record[3:])
            self.used.add(gid)
            assert groups[gid][0] == tenant
            back = self.absent.get(b"b:%d" % gid, {}).get(worker)
            if back is not None:
                self.sets[b"b:%d" % gid][worker] = back
                _, _, interval, grace, after_stop = groups[gid]
                assert state == STOPPED or (state == ALIVE and after_stop and back > last_seen + interval + grace)
                since = max(since, int(back))
            ends = self.absent.get(b"k:%d" % gid, {}).get(worker)
            if ends is not None:
                assert state == STALE
                self.sets[b"k:%d" % gid][worker] = ends
                since = int(ends)
            if state == ALIVE:
                # A base may be later than the last beat, never earlier; how much is what the tests of it check.
                self.sets[b"s:%d" % gid][worker] = max(self.bases[gid].get(worker, 0.0), float(last_seen))
            else:
                at = self.downs[gid].get(worker, 0.0)
                if at != since and (back is not None or ends is not None):
                    # Purge has met it, and it was not missed yet.
                    assert since < at <= self.moved(since, groups[gid][2], groups[gid][3])
                    since = int(at)
                self.sets[b"d:%d" % gid][worker] = float(since)
                self.counts[b"%d:%b" % (gid, state)] += 1
            self.tenants[tenant][b"n"] += 1
            self.tenants[tenant][b"b"] += 300 + 4 * len(worker) + self.cold_bytes.get(mid, 0)
            self.tenants[tenant][b"e" + groups[gid][1]] += 1
            self.ids[tenant].add(worker)
        for counter in self.tenants.values():
            counter[b"v"] = sum(1 for name in counter if name.startswith(b"e"))

    async def compare_keys(self, groups: Mapping[int, Any]) -> None:
        keys: list[Any] = await self.redis.keys("*")
        names: set[bytes] = {key.removeprefix(BASE) for key in keys}
        assert {name for name in names if name[:2] in {b"s:", b"d:", b"b:", b"k:"}} == set(self.sets)
        for name in names - PLAIN:
            kind, rest = name[:2], name[2:]
            match kind:
                case b"s:" | b"d:" | b"b:" | b"k:":
                    assert await self.zset(name) == self.sets[name]
                case b"a:":
                    assert {int(gid) for gid in await self.zset(name)} == {g for g in self.used if groups[g][0] == rest}
                case b"i:":
                    assert set(await self.zset(name)) == self.ids[rest]
                case b"t:":
                    assert {k: int(v) for k, v in (await self.hash(name)).items()} == dict(self.tenants[rest])
                case b"e:":
                    self.histories.add(rest)
                case _:
                    raise AssertionError(f"an unknown key: {name!r}")
        assert {name[2:] for name in names if name[:2] == b"t:"} == set(self.tenants)
        assert {name[2:] for name in names if name[:2] == b"i:"} == set(self.ids)

    async def compare_histories(self) -> None:
        lengths, oldest = {}, {}
        for tenant in self.histories:
            entries: Any = await self.redis.xrange(BASE + b"e:" + tenant)
            lengths[tenant], oldest[tenant] = float(len(entries)), float(entries[0][0].partition(b"-")[0])
        assert (await self.zset(b"lengths"), await self.zset(b"began")) == (lengths, oldest)
        assert int((await self.hash(b"m")).get(b"events", 0)) == sum(lengths.values())

    async def compare_bounds(self, groups: Mapping[int, Any]) -> None:
        deadlines, oldest, returns = await self.zset(b"h"), await self.zset(b"q"), await self.zset(b"b")
        ends = await self.zset(b"k")
        assert {int(gid) for gid in (*deadlines, *oldest, *returns, *ends)} <= self.used
        for name, members in self.sets.items():
            gid = name[2:]
            if name.startswith(b"s:"):
                _, _, interval, grace, _ = groups[int(gid)]
                assert deadlines[gid] <= self.moved(min(members.values()) + interval + grace, interval, grace)
            elif name.startswith(b"b:"):
                _, _, interval, grace, _ = groups[int(gid)]
                assert returns[gid] <= self.moved(min(members.values()), interval, grace)
            elif name.startswith(b"k:"):
                _, _, interval, grace, _ = groups[int(gid)]
                assert ends[gid] <= self.moved(min(members.values()), interval, grace)
            else:
                assert oldest[gid] <= min(members.values())
