"""What the storage layout costs, by the number of partitions: at rest, in a mass failure, in memory.

``python -m bench.partitions --help``. Counts depend on the code only; CPU time and seconds also on the machine.
"""

import sys
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from cyclopts import App, Parameter
from redis import Redis

from bench.alerts import STALE, history
from bench.harness import BenchError, CpuMeter, Daemon, daemon, directory, until
from bench.hooks import Arrival, Fleet, Hooks, Told, alerting, metric, moment_ms
from bench.results import Cell, Report
from monitor.clock import monotonic_s, wall_ms

RECEIVER: Final = "ops"
INTERVAL_S: Final = 2.0
GRACE_S: Final = 1.0
CALLS: Final = ("fcall", "fcall_ro")
WAITS: Final = ("wait", "waitaof")
APART: Final = 4
"""Workers of one environment that may fall silent together without a mass failure; the default is 5."""
KNOWN_S: Final = 15.0
"""Interval and grace together of workers that are to be known, and at rest, before they fall silent."""
FURTHER_S: Final = 3.0
LIMIT_S: Final = 120.0

_CONFIG: Final = f"""
[liveness]
interval = "1h"
grace = "1h"
[[alerts.receivers]]
name = "log"
type = "log"
[[alerts.routes]]
receivers = ["log"]
events = ["{STALE}"]
"""

app = App(name="python -m bench.partitions")


class Part(StrEnum):
    """What is measured."""

    IDLE = "idle"
    MASS = "mass"
    MEMORY = "memory"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """How much of it, and for how long."""

    settle_s: float = 5.0
    idle_s: float = 10.0
    dying: int = 2_000
    counted_s: float = 10.0
    """From the first deadline on, how long calls are counted."""
    watched_s: float = 20.0
    """And pages; those of three seconds after the first in any case."""
    known: int = 20_000
    incidents: int = 2_000


SMOKE: Final = Scale(settle_s=1.0, idle_s=1.0, dying=100, counted_s=2.0, watched_s=4.0, known=200, incidents=40)


class Statistics:
    """The daemon's embedded store, asked by a client of its own."""

    def __init__(self, server: Daemon) -> None:
        self._redis = Redis.from_url(server.store_url, decode_responses=True)
        # A rewrite would hit one measurement and not another, and make the file smaller.
        self._redis.config_set("auto-aof-rewrite-percentage", "0")

    def read(self) -> tuple[int, int, int]:
        """Calls of functions, all other commands except waits, those inside of functions included; bytes of the AOF."""
        commands = {name.removeprefix("cmdstat_"): one["calls"] for name, one in self._info("commandstats").items()}
        calls = sum(commands.get(name, 0) for name in CALLS)
        others = sum(number for name, number in commands.items() if name not in {*CALLS, *WAITS, "info"})
        return calls, others, int(self._info("persistence")["aof_current_size"])

    def memory(self) -> int:
        """Bytes allocated."""
        return int(self._info("memory")["used_memory"])

    def _info(self, section: str) -> dict[str, Any]:
        found = self._redis.info(section)
        return dict(found) if isinstance(found, dict) else {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Used:
    """What was used while the daemon did something."""

    seconds: float
    calls: int
    commands: int
    """Other than calls and waits: nearly all of them inside of functions."""
    aof_bytes: int
    daemon_cores: float
    store_cores: float

    def per_s(self) -> list[Cell]:
        """The columns of a table."""
        rates = (self.calls / self.seconds, self.commands / self.seconds, self.aof_bytes / self.seconds)
        return [*rates, self.daemon_cores, self.store_cores]


def used(server: Daemon, store: Statistics, seconds: float) -> Used:
    """Watch from now on for so long."""
    meter, began_s, before = CpuMeter(server.processes()), monotonic_s(), store.read()
    time.sleep(seconds)
    after, took_s, cpu = store.read(), monotonic_s() - began_s, meter.used_s()
    calls, commands, aof_bytes = (now - then for now, then in zip(after, before, strict=True))
    return Used(
        seconds=took_s,
        calls=calls,
        commands=commands,
        aof_bytes=aof_bytes,
        daemon_cores=cpu["daemon"] / took_s,
        store_cores=cpu["store"] / took_s,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A mass failure."""

    calls: int
    """More than an idle daemon makes in the same time."""
    used: Used
    deaths: int
    first_page_s: float
    """From the first deadline."""
    pages: int
    says: list[str]
    """The first page and the last."""


def fail(server: Daemon, hooks: Hooks, store: Statistics, idle: Used, scale: Scale) -> Failure:
    """All workers of one environment beat once more, at once, and never again.

    They were known before, so that only their deaths are measured.

    Raises:
        BenchError: a beat was not taken, or no page came.
    """
    fleet = Fleet(server, lambda _: "production")
    fleet.beat(range(scale.dying))
    time.sleep(scale.settle_s)
    beaten_s = monotonic_s()
    fleet.beat(range(scale.dying), interval_s=INTERVAL_S, grace_s=GRACE_S)
    time.sleep(max(beaten_s + INTERVAL_S + GRACE_S - monotonic_s(), 0))
    deadline_s = monotonic_s()
    during = used(server, store, scale.counted_s)
    until(lambda: hooks.count(RECEIVER), "the first page", limit_s=LIMIT_S)
    time.sleep(max(deadline_s + scale.watched_s - monotonic_s(), FURTHER_S))
    arrivals, events = hooks.arrivals(RECEIVER), history(server, STALE)
    due_ms = min((moment_ms(event["due_at"]) for event in events), default=wall_ms())
    return Failure(
        calls=during.calls - round(idle.calls * during.seconds / idle.seconds),
        used=during,
        deaths=len(events),
        first_page_s=(arrivals[0].at_ms - due_ms) / 1_000,
        pages=len(arrivals),
        says=[_says(arrivals[at]) for at in (0, -1)],
    )


def _says(page: Arrival) -> str:
    content = msgspec.json.decode(page.body)
    counts = content["data"].get("counts")
    return f"{counts['firing']:,} of {counts['expected']:,}" if counts else str(content["type"])


def by_partitions(report: Report, numbers: list[int], scale: Scale, *, failing: bool) -> list[str]:
    """A daemon at rest and in a mass failure, for each number of partitions; the faults found."""
    rests: dict[int, Used] = {}
    failures: dict[int, Failure] = {}
    for partitions in numbers:
        env = {"LASTSEEN_STORE__PARTITIONS": str(partitions)}
        with alerting([Told(name=RECEIVER)], kinds=[STALE], mass_failure=True, env=env) as (server, hooks):
            store = Statistics(server)
            time.sleep(scale.settle_s)
            rests[partitions] = used(server, store, scale.idle_s)
            if failing:
                failures[partitions] = fail(server, hooks, store, rests[partitions], scale)
    report.table(
        f"Idle, for {scale.idle_s:g} s: one daemon, no workers",
        [
            *("partitions", "calls/s", "other commands/s, inside of them", "AOF, bytes/s"),
            *("daemon, cores", "store, cores"),
        ],
        [[partitions, *rest.per_s()] for partitions, rest in rests.items()],
    )
    report.keep("idle", {partitions: asdict(rest) for partitions, rest in rests.items()})
    if not failing:
        return []
    report.table(
        f"{scale.dying:,} workers of one environment fall silent at once (interval {INTERVAL_S:g} s, grace "
        f"{GRACE_S:g} s); calls and CPU of the {scale.counted_s:g} s from the first deadline on, pages of "
        f"{scale.watched_s:g} s",
        [
            *("partitions", "calls more than idle", "daemon, cores", "store, cores", "first deadline to first page, s"),
            *("the first page says", "the last page says", "pages"),
        ],
        [
            [partitions, one.calls, one.used.daemon_cores, one.used.store_cores, one.first_page_s, *one.says, one.pages]
            for partitions, one in failures.items()
        ],
    )
    report.keep("mass", {partitions: asdict(one) for partitions, one in failures.items()})
    return [
        f"{partitions} partitions: {one.deaths} of {scale.dying} deaths are in the history"
        for partitions, one in failures.items()
        if one.deaths != scale.dying
    ]


# Memory ------------------------------------------------------------------------------------------------------------


def memory(report: Report, scale: Scale) -> list[str]:
    """Bytes in the store for a worker without metadata, and for an incident that the log has got; the faults found.

    An incident is all that a death leaves: its event, incident, notification and outcome. Registrations notify nobody.
    """
    with directory() as place:
        config = place / "lastseen.toml"
        config.write_text(_CONFIG, encoding="utf-8")
        return _memory(report, scale, config)


def _memory(report: Report, scale: Scale, config: Path) -> list[str]:
    with daemon({}, "--config", str(config)) as server:
        store = Statistics(server)
        server.settle()
        empty = store.memory()
        Fleet(server, lambda _: "production").beat(range(scale.known))
        server.settle()
        known = store.memory()
        fleet = Fleet(server, lambda worker: f"env-{worker // APART}")
        dying = range(scale.known, scale.known + scale.incidents)
        fleet.beat(dying, interval_s=KNOWN_S * 2 / 3, grace_s=KNOWN_S / 3)
        server.settle()
        alive, early = store.memory(), _logged(server)
        until(lambda: _logged(server) >= scale.incidents, "every incident is notified", limit_s=LIMIT_S)
        server.settle()
        down, logged = store.memory(), _logged(server)
    each_worker, each_incident = (known - empty) / scale.known, (down - alive) / scale.incidents
    report.table(
        "Memory of the store at one partition, without metadata; the log gets the incidents",
        ["", "number", "bytes for each"],
        [["worker", scale.known, each_worker], ["incident, with its worker's event", scale.incidents, each_incident]],
    )
    report.keep("memory", {"worker": each_worker, "incident": each_incident})
    faults = [f"{early:g} incidents were there before the workers were at rest"] if early else []
    if logged != scale.incidents:
        faults.append(f"{logged:g} notifications for {scale.incidents} incidents")
    return faults


def _logged(server: Daemon) -> float:
    return metric(server.text("/metrics"), 'lastseen_deliveries_total{outcome="delivered",receiver="log"}')


def _numbers(text: str) -> list[int]:
    """Raises ``BenchError`` for anything but numbers of partitions."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise BenchError(f"--partitions: must be numbers separated by commas, got {text!r}") from None


@app.default
def main(
    *,
    only: Annotated[Part | None, Parameter(help="Measure this part only.")] = None,
    partitions: Annotated[str, Parameter(help="Numbers of partitions.")] = "1,16,64",
    smoke: Annotated[
        bool, Parameter(negative=(), help="Four partitions, few workers, short times; only errors matter.")
    ] = False,
    json_path: Annotated[Path | None, Parameter(name="--json", help="Write the results to this file too.")] = None,
) -> int:
    """Measure what the storage layout costs.

    The daemon at rest and 2,000 workers of one environment that fall silent at once, by the number of partitions; the
    memory for each worker and incident at one. The daemon is one process on core 0; its store and the receiver share
    core 1. Calls are calls of functions: round trips to the store. Exit status 1: a beat was refused, a death is not
    in the history, or a notification did not come.
    """
    scale = SMOKE if smoke else Scale()
    numbers = [4] if smoke else _numbers(partitions)
    report = Report("partitions")
    faults: list[str] = []
    if only is not Part.MEMORY:
        faults += by_partitions(report, numbers, scale, failing=only is not Part.IDLE)
    if only in {None, Part.MEMORY}:
        faults += memory(report, scale)
    for fault in faults:
        report.note(f"FAULT: {fault}")
    report.save(json_path)
    return 1 if faults else 0


if __name__ == "__main__":
    try:
        sys.exit(app(result_action="return_value"))
    except BenchError as error:
        sys.exit(f"bench.partitions: {error}")
