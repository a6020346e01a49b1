"""Beats per second of one store core, and what syncing the append-only file costs: ``python -m bench.store --help``."""

import asyncio
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from cyclopts import App, Parameter

from bench import stores
from bench.results import Cell, Report, Spread
from monitor.clock import monotonic_s
from monitor.intake.queue import Intake
from monitor.store import Store
from monitor.workers import Beat

PER_CALL: Final = (1, 16, 64, 128, 256)
REGISTERING, STEADY, RECOVERING = "registering", "steady", "recovering"
POLICIES: Final = ("no", "everysec", "always")
IN_FLIGHT: Final = (64, 256)
READ_PAUSE_S: Final = 0.005

app = App(name="python -m bench.store")


@dataclass(frozen=True, kw_only=True, slots=True)
class Calls:
    """What calls of one kind cost. ``cpu_us``: of the store, for one beat."""

    cpu_us: float
    per_s: float
    longest_ms: float


async def measured(store: Store, server: stores.Server, beats: list[Beat], *, per_call: int) -> Calls:
    """Send every beat once."""
    await server.watch_calls()
    began_s, cpu_s = monotonic_s(), await server.cpu_s()
    await stores.beat_all(store, beats, per_call=per_call)
    used_s, took_s = await server.cpu_s() - cpu_s, monotonic_s() - began_s
    return Calls(cpu_us=used_s / len(beats) * 1e6, per_s=len(beats) / took_s, longest_ms=await server.longest_call_ms())


async def kinds_of_beats(url: str, *, workers: int, rounds: int) -> dict[tuple[str, int], list[Calls]]:
    """Every kind of beat at every size of call, in turn."""
    found: dict[tuple[str, int], list[Calls]] = {
        (kind, size): [] for size in PER_CALL for kind in (REGISTERING, STEADY, RECOVERING)
    }
    first = itertools.count(step=workers)
    async with stores.opened(url) as (store, server):
        for _ in range(rounds):
            for size in PER_CALL:
                own = next(first)
                beats = [stores.beat(number) for number in range(own, own + workers)]
                found[REGISTERING, size].append(await measured(store, server, beats, per_call=size))
                beats = [stores.beat(number, tasks=1) for number in range(own, own + workers)]
                found[STEADY, size].append(await measured(store, server, beats, per_call=size))
                # Late ones, which no sweep has found: each records the outage that it ends, and its end.
                now_ms, _ = await store.swept(0)
                await server.put_clock_on(now_ms + stores.DEADLINE_MS)
                found[RECOVERING, size].append(await measured(store, server, beats, per_call=size))
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Synced:
    """Beats through the intake under one way to sync the file. Percentiles of what one beat, one read waited."""

    per_s: float
    beat_p99_ms: float
    read_p99_ms: float


async def synced(store: Store, beats: list[Beat], *, in_flight: int, seconds: float) -> Synced:
    """Keep ``in_flight`` beats in flight, and read a worker every few milliseconds beside them."""
    intake = Intake(store, capacity=10_000, on_moved=lambda _: None)
    turn = itertools.cycle(beats)
    stop_s = monotonic_s() + seconds
    beat_s: list[float] = []
    read_s: list[float] = []

    async def beating() -> None:
        while (began_s := monotonic_s()) < stop_s:
            await intake.apply(next(turn))
            beat_s.append(monotonic_s() - began_s)

    async def reading() -> None:
        while (began_s := monotonic_s()) < stop_s:
            await store.get(beats[0].key)
            read_s.append(monotonic_s() - began_s)
            await asyncio.sleep(READ_PAUSE_S)

    began_s = monotonic_s()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(reading())
        for _ in range(in_flight):
            tasks.create_task(beating())
    return Synced(
        per_s=len(beat_s) / (monotonic_s() - began_s), beat_p99_ms=_p99_ms(beat_s), read_p99_ms=_p99_ms(read_s)
    )


def _p99_ms(values_s: list[float]) -> float:
    return sorted(values_s)[len(values_s) * 99 // 100] * 1e3


async def ways_to_sync(url: str, *, workers: int, rounds: int, seconds: float) -> dict[tuple[str, int], list[Synced]]:
    """Every policy at every number of beats in flight, in turn; every second round backwards."""
    found: dict[tuple[str, int], list[Synced]] = {(policy, size): [] for size in IN_FLIGHT for policy in POLICIES}
    async with stores.opened(url) as (store, server):
        beats = [stores.beat(number) for number in range(workers)]
        await stores.beat_all(store, beats, per_call=64)
        for number in range(rounds):
            for policy, size in found if number % 2 == 0 else reversed(found):
                await server.redis.config_set("appendfsync", policy)
                found[policy, size].append(await synced(store, beats, in_flight=size, seconds=seconds))
    return found


def _report_kinds(report: Report, name: str, found: dict[tuple[str, int], list[Calls]]) -> None:
    rows: list[list[Cell]] = [
        [
            kind,
            size,
            round(1e6 / Spread.of(one.cpu_us for one in calls).median),
            str(Spread.of(one.cpu_us for one in calls)),
            round(Spread.of(one.per_s for one in calls).median),
            str(Spread.of(one.longest_ms for one in calls)),
        ]
        for kind in (REGISTERING, STEADY, RECOVERING)
        for size in PER_CALL
        for calls in [found[kind, size]]
    ]
    report.table(
        f"Beats through one call of the function library, {name}",
        [
            "beats",
            "per call",
            "beats/s of a store core",
            "store CPU, us a beat",
            "beats/s of one client",
            "longest, ms",
        ],
        rows,
    )


def _report_syncs(report: Report, found: dict[tuple[str, int], list[Synced]]) -> None:
    rows: list[list[Cell]] = [
        [
            policy,
            size,
            str(Spread.of(one.per_s for one in runs)),
            str(Spread.of(one.per_s / no.per_s for one, no in zip(runs, found["no", size], strict=True))),
            str(Spread.of(one.beat_p99_ms for one in runs)),
            str(Spread.of(one.read_p99_ms for one in runs)),
        ]
        for (policy, size), runs in found.items()
    ]
    report.table(
        "Beats through the intake, by appendfsync",
        ["appendfsync", "in flight", "beats/s", "of no", "beat p99, ms", "read p99, ms"],
        rows,
    )


@app.default
def main(
    *,
    workers: Annotated[int, Parameter(help="Workers of each measurement.")] = 10_000,
    rounds: Annotated[int, Parameter(help="Measurements of each kind.")] = 3,
    fsync: Annotated[bool, Parameter(negative=(), help="Measure ways to sync the append-only file instead.")] = False,
    smoke: Annotated[bool, Parameter(negative=(), help="One short round; only errors matter.")] = False,
    json_path: Annotated[Path | None, Parameter(name="--json", help="Write the results to this file too.")] = None,
) -> None:
    """Measure the store under beats that register, renew and recover workers, by the size of the call.

    The store's CPU time is that of its main thread, so that a busy client does not count.
    """
    seconds = 2.0
    if smoke:
        workers, rounds, seconds = 600, 1, 0.2
    report = Report("store")
    if fsync:
        with stores.running() as url:
            _report_syncs(report, asyncio.run(ways_to_sync(url, workers=workers, rounds=rounds, seconds=seconds)))
    else:
        for name, binary in stores.servers().items():
            with stores.running(binary) as url:
                _report_kinds(report, name, asyncio.run(kinds_of_beats(url, workers=workers, rounds=rounds)))
    report.save(json_path)


if __name__ == "__main__":
    app()
