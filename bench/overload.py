"""Three times what a daemon can take, for a minute: ``python -m bench.overload --help`` (P28)."""

import asyncio
import contextlib
import http.client
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Final, Self

import uvloop
from cyclopts import App, Parameter

from bench.closed_loop import Closed, closed_loop
from bench.harness import BenchError, Daemon, call, daemon
from bench.load.plan import BEAT_PATH, Ids, Plan
from bench.load.run import LoadError
from bench.obedient import ENVIRONMENT, Fleet
from bench.results import Cell, Report
from bench.tokens import minted
from monitor.clock import monotonic_s

TIMES: Final = 3.0
TOKENS: Final = 50
CONNECTIONS: Final = 1_024
"""Of the closed loop that measures the capacity: enough that a pause leaves neither the daemon nor its store without
work. With 256 it is round trips that bound what is stored, and what looks like three times the capacity is less."""
PERIOD_S: Final = 0.1
CALM_S: Final = 10.0
WELL_S: Final = 0.3
"""A beat that is stored within this is a sign that the daemon has recovered; it may meet one pause."""
WELL_IN_A_ROW: Final = 10
RECOVERY_LIMIT_S: Final = 60.0
MOST_WORKERS: Final = 12_000
"""What this generator can be on one core; where three times the capacity needs more, the slowed process is slowed
further."""
TRIES: Final = 6
LEAST_SHARE: Final = 0.01
SLOWED: Final = ("daemon", "store")

app = App(name="python -m bench.overload")


class Slowed:
    """A process that runs for a share of each tenth of a second, so that this machine can overload it."""

    def __init__(self, pids: list[int], share: float) -> None:
        self._pids, self.share = pids, share
        """The share may be changed; with 1 they run as ever."""
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.is_set():
            if self.share < 1:
                self._signal(signal.SIGSTOP)
            self._ending.wait(PERIOD_S * (1 - self.share))
            self._signal(signal.SIGCONT)
            self._ending.wait(PERIOD_S * self.share)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def resident_mib(pid: int) -> float:
    """What a process has in memory (Linux; 0 elsewhere)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1_024 for line in lines if line.startswith("VmRSS:")), 0.0)


@dataclass(kw_only=True)
class Overload:
    """What one run saw. Rates are per second, memory in MiB."""

    slowed: str
    share: float
    """Of the time, that the slowed process ran."""
    capacity: float
    workers: int
    due: float = 0.0
    sent: float = 0.0
    answers: Mapping[str, float] | None = None
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    longest_ms: float = 0.0
    before_mib: float = 0.0
    peak_mib: float = 0.0
    after_mib: float = 0.0
    recovery_s: float = 0.0
    wrong: int = 0
    """Obeying workers that were reported stale, or rejected."""
    evidence: float = 0.0
    blind_windows: float = 0.0

    def rows(self) -> Iterator[list[Cell]]:
        """For the table."""
        yield ["of the time it ran, %", 100 * self.share]
        yield [f"capacity, beats/s (closed loop, {CONNECTIONS} connections)", self.capacity]
        yield ["workers, each on its own connection", self.workers]
        yield ["beats due, per s", self.due]
        yield ["times the capacity", self.due / max(self.capacity, 1e-9)]
        yield ["requests sent, per s", self.sent]
        for answer, per_s in sorted((self.answers or {}).items()):
            yield [f"answered {answer}, per s", per_s]
        yield ["answer p50 ms", self.p50_ms]
        yield ["answer p99 ms", self.p99_ms]
        yield ["answer longest ms", self.longest_ms]
        yield ["daemon MiB before", self.before_mib]
        yield ["daemon MiB peak", self.peak_mib]
        yield ["daemon MiB after", self.after_mib]
        yield ["seconds to recovery", self.recovery_s]
        yield ["refused beats recorded as evidence", self.evidence]
        yield ["blind windows", self.blind_windows]
        yield ["obeying workers reported", self.wrong]


def _closed_loop(plan: Plan) -> Closed:
    """One closed loop, and the end of what it leaves behind: its connections wait to be accepted before those of the
    next one, and a slow process takes as long for one that is closed already as for several beats.

    Raises:
        BenchError: they are not gone within the limit.
    """
    found = closed_loop(plan)
    until_s = monotonic_s() + RECOVERY_LIMIT_S
    while monotonic_s() < until_s:
        with contextlib.suppress(OSError, http.client.HTTPException):
            call(plan.url, "GET", "/healthz")
            return found
    raise BenchError(f"/healthz was not answered within {RECOVERY_LIMIT_S:g} s after a closed loop")


def _capacity(plan: Plan) -> float:
    """Beats stored per second once all connections are there: to make them takes a slow process as long as thousands of
    beats, so it is what a longer run stores more than a shorter one.

    Raises:
        BenchError: there is none.
    """
    short, long = _closed_loop(plan), _closed_loop(replace(plan, duration_s=3 * plan.duration_s))
    stored = (long.answered - long.failed) - (short.answered - short.failed)
    if stored <= 0:
        raise BenchError(f"no capacity to exceed: {short}, {long}")
    return stored / (long.seconds - short.seconds)


class Run:
    """One daemon, overloaded."""

    def __init__(
        self, server: Daemon, *, slowed: str, share: float, seconds: float, interval_s: float, most: int
    ) -> None:
        self._connections = min(CONNECTIONS, most)
        self._server = server
        self._daemons = [pid for name, pid in server.processes().items() if name.startswith("daemon")]
        store = server.store_pid
        victims = self._daemons if slowed == "daemon" or store is None else [store]
        self._slowed, self._share, self._seconds = Slowed(victims, share), share, seconds
        self._name = slowed
        self._interval_s, self._most = interval_s, most
        self._tokens = minted(server.config, TOKENS)
        self._peak_mib = 0.0

    def measure(self) -> Overload:
        """Find the capacity, exceed it, and look at what came of it."""
        plan = Plan(
            url=self._server.url,
            tokens=self._tokens,
            rate=None,
            duration_s=min(self._seconds, 5),
            connections=self._connections,
            workers=self._connections,
            ids=Ids.TURN,
        )
        with self._slowed:
            _closed_loop(plan)  # workers and tokens are new only once
            for _ in range(TRIES):
                capacity = _capacity(plan)
                workers = round(TIMES * capacity * self._interval_s)
                if workers <= self._most or self._most < MOST_WORKERS:
                    break
                self._slowed.share = max(self._slowed.share * 0.9 * self._most / workers, LEAST_SHARE)
            else:
                raise BenchError(f"three times the capacity needs {workers} workers, and there are {self._most}")
            found = Overload(
                slowed=self._name, share=self._slowed.share, capacity=capacity, workers=min(workers, self._most)
            )
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._drive(found))
        found.after_mib = self._resident()
        return found

    async def _drive(self, found: Overload) -> None:
        fleet = Fleet(
            self._server.url,
            self._tokens,
            size=found.workers,
            interval_s=self._interval_s,
            grace_s=2 * self._interval_s,
        )
        await fleet.register(per_s=found.capacity / 8)  # a new connection takes as long as several beats
        found.before_mib = self._peak_mib = self._resident()
        before = self._counters()
        fleet.begin()
        await self._watch(fleet, self._seconds)
        ended_s = monotonic_s()
        self._slowed.share = 1.0
        seconds = self._seconds
        found.due, found.sent = found.workers / self._interval_s, fleet.sent / seconds
        found.answers = {answer: count / seconds for answer, count in fleet.answers.items()}
        found.p50_ms, found.p99_ms, found.longest_ms = (fleet.latencies.quantile_ms(q) for q in (50, 99, 100))
        found.recovery_s = await self._recovered(fleet, ended_s)
        await self._watch(fleet, min(CALM_S, seconds))
        found.peak_mib = self._peak_mib
        found.wrong = await asyncio.to_thread(self._wrong)
        after = await asyncio.to_thread(self._counters)
        found.evidence, found.blind_windows = (after[name] - before[name] for name in ("evidence", "windows"))
        fleet.close()

    async def _watch(self, fleet: Fleet, seconds: float) -> None:
        until_s = monotonic_s() + seconds
        while (left_s := until_s - monotonic_s()) > 0:
            await asyncio.sleep(min(left_s, 0.25))
            fleet.give_up()
            self._peak_mib = max(self._peak_mib, self._resident())

    async def _recovered(self, fleet: Fleet, since_s: float) -> float:
        """After how many seconds beats are stored at once again."""
        well, at_s = 0, since_s
        while well < WELL_IN_A_ROW:
            begun_s = monotonic_s()
            if begun_s > since_s + RECOVERY_LIMIT_S:
                raise BenchError(f"not recovered within {RECOVERY_LIMIT_S:g} s")
            stored = await asyncio.to_thread(self._beat)
            fleet.give_up()
            if stored and monotonic_s() - begun_s < WELL_S:
                well += 1
                at_s = begun_s if well == 1 else at_s
            else:
                well = 0
            await asyncio.sleep(0.02)
        return max(at_s - since_s, 0.0)

    def _beat(self) -> bool:
        body = {"worker_id": "probe", "environment_name": "probe"}
        with contextlib.suppress(OSError, http.client.HTTPException):
            return (
                call(self._server.url, "POST", BEAT_PATH, token=self._tokens[0], body=body).status
                == http.client.NO_CONTENT
            )
        return False

    def _wrong(self) -> int:
        """How many of the workers, which all beat till now, were reported."""
        path = f"/api/v1/events?environment={ENVIRONMENT}&type=worker.stale&type=worker.rejected&order=desc&limit=1000"
        wrong: set[str] = set()
        cursor: str | None = ""
        while cursor is not None:
            page = self._server.get(path + cursor)
            wrong |= {event["data"]["worker_id"] for event in page["events"]}
            cursor = None if page["next_cursor"] is None else f"&cursor={page['next_cursor']}"
        return len(wrong)

    def _resident(self) -> float:
        return sum(map(resident_mib, self._daemons))

    def _counters(self) -> dict[str, float]:
        found = {"evidence": 0.0, "windows": 0.0}
        for line in self._server.text("/metrics").splitlines():
            if line.startswith('lastseen_evidence_total{outcome="recorded"}'):
                found["evidence"] = float(line.split()[-1])
            elif line.startswith("lastseen_blind_windows_total"):
                found["windows"] += float(line.split()[-1])
        return found


@app.default
def main(
    *,
    seconds: Annotated[float, Parameter(help="How long the overload lasts.")] = 60.0,
    interval: Annotated[float, Parameter(help="The workers' interval in seconds; their grace is twice that.")] = 2.0,
    share: Annotated[float, Parameter(help="How much of its time the slowed process runs.")] = 0.15,
    slowed: Annotated[list[str] | None, Parameter(help="What is slow, daemon or store; both in turn.")] = None,
    processes: Annotated[int, Parameter(help="server.processes of the daemon.")] = 1,
    pending_beats: Annotated[int, Parameter(help="limits.pending_beats of the daemon.")] = 20_000,
    smoke: Annotated[bool, Parameter(negative=(), help="A few seconds and workers; only errors matter.")] = False,
    json_path: Annotated[Path | None, Parameter(name="--json", help="Write the results to this file too.")] = None,
) -> int:
    """Overload a daemon threefold with workers that obey it, once where it is slow itself and once where its store is.

    Exit status 1: a worker that was beating was reported, or the daemon did not recover by itself.
    """
    most = MOST_WORKERS
    if smoke:
        seconds, most = 3.0, 200
    report = Report("overload")
    faults = []
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    settings = {
        "LASTSEEN_LIVENESS__INTERVAL": "1h",
        "LASTSEEN_LIMITS__PENDING_BEATS": str(pending_beats),
        "LASTSEEN_SERVER__PROCESSES": str(processes),
    }
    for name in slowed or SLOWED:
        with daemon(settings) as server:
            found = Run(server, slowed=name, share=share, seconds=seconds, interval_s=interval, most=most).measure()
        times = f"{processes} process{'es' * (processes > 1)}; interval {interval:g} s, grace {2 * interval:g} s"
        report.table(f"The {name} is slowed; {seconds:g} s; {times}", ["", "value"], list(found.rows()))
        report.keep(name, asdict(found))
        if found.wrong:
            faults.append(f"{name}: {found.wrong} workers that were beating were reported")
    for fault in faults:
        report.note(f"FAULT: {fault}")
    report.save(json_path)
    return 1 if faults else 0


if __name__ == "__main__":
    try:
        sys.exit(app(result_action="return_value"))
    except (BenchError, LoadError) as error:
        sys.exit(f"bench.overload: {error}")
