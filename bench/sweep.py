"""A fleet in one store: its memory, its sweeps, and what beats feel of them: ``python -m bench.sweep --help``."""

import asyncio
import itertools
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import App, Parameter

from bench import stores
from bench.harness import BenchError
from bench.results import Report
from monitor.clock import monotonic_s
from monitor.events import Moved
from monitor.store import Store
from monitor.sweeper import Sweeper, SweepSettings

PER_CALL: Final = 128
CHUNK: Final = 50
IDLE_SWEEPS: Final = 50
QUIET_S: Final = 2.0
STEPS: Final = 4
"""In which the fleet is expired, with time for beats alone between them."""
REWRITE_LIMIT_S: Final = 120.0

app = App(name="python -m bench.sweep")


@dataclass(frozen=True, kw_only=True, slots=True)
class Beaten:
    """What calls of beats have met in some time."""

    per_s: float
    p50_ms: float
    p99_ms: float
    longest_ms: float


class Beating:
    """Workers that beat without a pause, one call after the other, as a busy intake does."""

    def __init__(self, store: Store, numbers: range) -> None:
        self._store = store
        beats = [stores.beat(number) for number in numbers]
        self._calls = [beats[start : start + PER_CALL] for start in range(0, len(beats), PER_CALL)]
        self._began_s = monotonic_s()
        self._calls_s: list[float] = []
        self._beats = 0
        self._stopping = False

    def stop(self) -> None:
        """End ``run`` with the call that is under way."""
        self._stopping = True

    async def run(self) -> None:
        """Beat until ``stop`` is called."""
        for beats in itertools.cycle(self._calls):
            if self._stopping:
                return
            began_s = monotonic_s()
            await self._store.beat(0, beats)
            self._calls_s.append(monotonic_s() - began_s)
            self._beats += len(beats)

    def taken(self) -> Beaten:
        """What was met since the last time."""
        now_s, calls = monotonic_s(), sorted(self._calls_s) or [0.0]
        beaten = Beaten(
            per_s=self._beats / (now_s - self._began_s),
            p50_ms=calls[len(calls) // 2] * 1e3,
            p99_ms=calls[len(calls) * 99 // 100] * 1e3,
            longest_ms=calls[-1] * 1e3,
        )
        self._began_s, self._calls_s, self._beats = now_s, [], 0
        return beaten


class Fleet:
    """Workers in a store, in the order in which they registered; the last of them go on beating."""

    def __init__(self, store: Store, server: stores.Server, workers: int) -> None:
        self.store = store
        self.server = server
        self.workers = workers
        self.marks: list[tuple[int, int]] = []
        """(how many had registered, the store's time then)"""
        self.committed_s: list[float] = []
        self.began_s = 0.0
        settings = SweepSettings(chunk=CHUNK, retention_ms=10**12, event_retention_ms=10**12, events=10**12)
        self.sweeper = Sweeper(store, settings, on_moved=self._moved)

    def _moved(self, moved: list[Moved]) -> None:
        self.committed_s += [monotonic_s() - self.began_s] * len(moved)

    async def register(self) -> None:
        """Register all workers, every hundredth of the fleet a minute after the one before."""
        part = -(-self.workers // 100)
        for first in range(0, self.workers, part):
            now_ms = 0
            for start in range(first, min(first + part, self.workers), PER_CALL):
                numbers = range(start, min(start + PER_CALL, first + part, self.workers))
                now_ms = (await self.store.beat(0, [stores.beat(number) for number in numbers])).now_ms
            self.marks.append((min(first + part, self.workers), now_ms))
            await self.server.put_clock_on(now_ms + 60_000)

    async def expire_to(self, share: float) -> tuple[int, float]:
        """Let the first share of the fleet be overdue, and sweep. (how many moved, seconds that the pass took)."""
        due_ms = next(now_ms for count, now_ms in self.marks if count >= share * self.workers)
        await self.server.put_clock_on(due_ms + stores.DEADLINE_MS)
        return await self.sweep()

    async def sweep(self) -> tuple[int, float]:
        """One pass: (how many moved, seconds)."""
        self.committed_s.clear()
        self.began_s = monotonic_s()
        await self.sweeper.sweep()
        return len(self.committed_s), monotonic_s() - self.began_s


async def build(fleet: Fleet, report: Report) -> None:
    """Register the fleet; memory."""
    before = (await fleet.server.info("memory"))["used_memory"]
    began_s = monotonic_s()
    await fleet.server.watch_calls()
    await fleet.register()
    took_s = monotonic_s() - began_s
    longest_ms = await fleet.server.longest_call_ms()
    await fleet.server.redis.slowlog_reset()
    used = (await fleet.server.info("memory"))["used_memory"] - before
    streams = ("{ls:0}:outbox", "{ls:0}:history:" + stores.TENANT)
    stream = sum([int(await fleet.server.redis.memory_usage(key, samples=0) or 0) for key in streams])
    report.table(
        f"{fleet.workers:,} workers registered in {took_s:.1f} s",
        ["bytes a worker", "bytes an event in the history", "longest call, ms"],
        [[(used - stream) / fleet.workers, stream / fleet.workers, longest_ms]],
    )


async def idle(fleet: Fleet, report: Report) -> None:
    """Sweeps that find no due worker, before and after the bound of the next deadline has been reached."""
    before = [(await fleet.sweep())[1] * 1e3 for _ in range(IDLE_SWEEPS)]
    report.table(
        "A sweep that finds no due worker", ["median, ms", "longest, ms"], [[statistics.median(before), max(before)]]
    )


async def beats_alone(beating: Beating, quiet_s: float) -> Beaten:
    """Some time without a sweep."""
    beating.taken()
    await asyncio.sleep(quiet_s)
    return beating.taken()


async def expiries(fleet: Fleet, beating: Beating, report: Report, *, quiet_s: float) -> None:
    """One in a hundred, then all the others, with beats going on."""
    rows: list[list[Any]] = []
    ratios = []
    shares = [0.01, *(0.01 + 0.99 * step / STEPS for step in range(1, STEPS + 1))]
    for share in shares:
        alone = await beats_alone(beating, quiet_s)
        await fleet.server.watch_calls()
        moved, took_s = await fleet.expire_to(share)
        beside = beating.taken()
        committed = sorted(fleet.committed_s) or [0.0]
        ratios.append(beside.per_s / alone.per_s)
        rows.append(
            [
                f"to {share:.0%}",
                moved,
                took_s,
                committed[len(committed) * 999 // 1000] * 1e3,
                alone.per_s,
                beside.per_s,
                ratios[-1],
                alone.p99_ms,
                beside.p99_ms,
                await fleet.server.longest_call_ms(),
            ]
        )
    report.table(
        "Sweeps that expire a share of the fleet, beside beats without a pause",
        [
            "expired",
            "workers",
            "seconds",
            "overdue to committed p99.9, ms",
            "beats/s alone",
            "beats/s beside",
            "ratio",
            "call p99 alone, ms",
            "call p99 beside, ms",
            "longest call, ms",
        ],
        rows,
    )
    report.note(f"Median ratio while the fleet expires: {statistics.median(ratios[1:]):.2f}.")


async def file_growth(fleet: Fleet, own: range, report: Report) -> None:
    """Bytes of the append-only file for a beat that renews, by the size of the call."""
    rows = []
    for size in (1, 16, 64, 128, 256):
        count = min(len(own), size * 200)
        some = [stores.beat(number, tasks=7) for number in own[:count]]
        before = (await fleet.server.info("persistence"))["aof_current_size"]
        await stores.beat_all(fleet.store, some, per_call=size)
        after = (await fleet.server.info("persistence"))["aof_current_size"]
        rows.append([size, (after - before) / count])
    report.table("The append-only file", ["beats per call", "bytes a beat"], rows)


async def rewrite(fleet: Fleet, beating: Beating, report: Report, *, quiet_s: float) -> None:
    """Beats while the append-only file is written anew, and without."""
    alone = await beats_alone(beating, quiet_s)
    before = await fleet.server.info("persistence")
    used = (await fleet.server.info("memory"))["used_memory"]
    began_s = monotonic_s()
    beating.taken()
    await fleet.server.redis.bgrewriteaof()
    copied = 0
    while True:
        state = await fleet.server.info("persistence")
        copied = max(copied, state["current_cow_peak"])
        if not state["aof_rewrite_in_progress"] and not state["aof_rewrite_scheduled"]:
            break
        if monotonic_s() - began_s > REWRITE_LIMIT_S:
            raise BenchError(f"the rewrite did not end within {REWRITE_LIMIT_S:g} s")
        await asyncio.sleep(0.02)
    took_s = monotonic_s() - began_s
    beside = beating.taken()
    after = await fleet.server.info("persistence")
    report.table(
        "The append-only file written anew, beside beats",
        [
            "seconds",
            "bytes before",
            "bytes after",
            "copied memory / used",
            "fork, ms",
            "beats/s alone",
            "beats/s beside",
            "call p99 alone, ms",
            "call p99 beside, ms",
            "longest beside, ms",
        ],
        [
            [
                took_s,
                before["aof_current_size"],
                after["aof_base_size"],
                max(copied, after["aof_last_cow_size"]) / used,
                (await fleet.server.info("stats"))["latest_fork_usec"] / 1e3,
                alone.per_s,
                beside.per_s,
                alone.p99_ms,
                beside.p99_ms,
                beside.longest_ms,
            ]
        ],
    )


async def measure(url: str, workers: int, report: Report, *, quiet_s: float) -> None:
    """Everything, on one server."""
    async with stores.opened(url) as (store, server):
        await server.redis.config_set("auto-aof-rewrite-percentage", "0")
        fleet = Fleet(store, server, workers)
        await build(fleet, report)
        await idle(fleet, report)
        own = range(workers, workers + min(workers, 20_000))
        await stores.beat_all(store, [stores.beat(number) for number in own], per_call=PER_CALL)
        await file_growth(fleet, own, report)
        beating = Beating(store, own)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(beating.run())
            try:
                await rewrite(fleet, beating, report, quiet_s=quiet_s)
                await expiries(fleet, beating, report, quiet_s=quiet_s)
            finally:
                beating.stop()


@app.default
def main(
    *,
    workers: Annotated[int, Parameter(help="Workers in the fleet.")] = 1_000_000,
    server: Annotated[str, Parameter(help="valkey, or redis for the redis-server on PATH.")] = "valkey",
    smoke: Annotated[bool, Parameter(negative=(), help="A small fleet; only errors matter.")] = False,
    json_path: Annotated[Path | None, Parameter(name="--json", help="Write the results to this file too.")] = None,
) -> int:
    """Measure a fleet of workers with 36-character ids, the contract's fields and no metadata, all in one environment.

    The fleet is built through the real store and expired by the real sweeper; only the store's clock is put on.
    "Longest call" is the server's own figure for one function call, "call" what a client waits for 128 beats.
    """
    quiet_s = QUIET_S
    if smoke:
        workers, quiet_s = 3_000, 0.1
    found = stores.servers()
    if server not in found:
        print(f"no such server here: {server}", file=sys.stderr)
        return 2
    report = Report(f"sweep on {server}")
    with stores.running(found[server]) as url:
        asyncio.run(measure(url, workers, report, quiet_s=quiet_s))
    report.save(json_path)
    return 0


if __name__ == "__main__":
    sys.exit(app())
