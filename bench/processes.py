"""Several processes behind one port, sweeping, with a dashboard that polls: ``python -m bench.processes --help``."""

import http.client
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final, Self

from cyclopts import App, Parameter

from bench.closed_loop import closed_loop, generator
from bench.harness import BenchError, CpuMeter, Daemon, daemon
from bench.load.outcome import Latencies, figures
from bench.load.plan import Ids, Plan
from bench.load.run import LoadError, run
from bench.results import Cell, Report
from bench.tokens import minted
from monitor.clock import monotonic_s

POLLED: Final = ("/api/v1/workers", "/api/v1/status", "/metrics")
POLL_INTERVAL_S: Final = 1.0
IN_FLIGHT: Final = (8, 16, 32, 64, 128, 256)

app = App(name="python -m bench.processes")


class Dashboard:
    """Polls as a dashboard does, once a second in a thread of its own, while it is entered."""

    def __init__(self, server: Daemon) -> None:
        self._server = server
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.polls = 0
        self.errors: list[str] = []
        self.latencies = Latencies()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.wait(POLL_INTERVAL_S):
            for path in POLLED:
                began_s = monotonic_s()
                try:
                    self._server.text(path)
                except (OSError, http.client.HTTPException, BenchError) as error:
                    self.errors.append(f"{path}: {error!r}")
                self.polls += 1
                self.latencies.record([int((monotonic_s() - began_s) * 1e6)])


def _stale_events(server: Daemon) -> int:
    """How many deaths have been reported; at most a page of them is counted."""
    return len(server.get("/api/v1/events?type=worker.stale&limit=1000")["events"])


def _faults(server: Daemon, dashboard: Dashboard) -> list[str]:
    """What must not be, whatever the load."""
    found = []
    if stale := _stale_events(server):
        found.append(f"{stale} workers were reported stale, and every one was beating")
    if dashboard.errors:
        found.append(f"{len(dashboard.errors)} of {dashboard.polls} polls failed, first: {dashboard.errors[0]}")
    return found


def _cores(used_s: Mapping[str, float], *, seconds: float, per_s: float) -> list[list[Cell]]:
    rows: list[list[Cell]] = [
        [name, used / seconds, used / seconds / max(per_s, 1e-9) * 10_000] for name, used in used_s.items()
    ]
    return [*rows, ["all", *(sum(float(row[column]) for row in rows) for column in (1, 2))]]


def _open_loop(server: Daemon, plan: Plan, report: Report, generators: int) -> list[str]:
    """Hold the plan's rate; the faults found."""
    meter = CpuMeter(server.processes())
    with Dashboard(server) as dashboard:
        outcome = run(plan, processes=generators)
    used_s = {**meter.used_s(), "generator": outcome.cpu_s}
    seconds = max(outcome.elapsed_s, 1e-9)
    rows: list[list[Cell]] = [[name, value] for name, value in figures(outcome, batch=1).items()]
    rows.append(["dashboard polls", dashboard.polls])
    rows.append(["dashboard p99 ms", dashboard.latencies.quantile_ms(99)])
    rows.append(["stale events", _stale_events(server)])
    report.table(f"{plan.rate:,.0f} beats/s for {plan.duration_s:g} s, open loop", ["", "value"], rows)
    report.table(
        "CPU by process",
        ["process", "cores", "cores per 10,000 beats/s"],
        _cores(used_s, seconds=seconds, per_s=outcome.stored / seconds),
    )
    for complaint in outcome.complaints():
        report.note(complaint)
    faults = _faults(server, dashboard)
    if outcome.failed:
        faults.append(
            f"{outcome.failed} of {outcome.planned} beats were not stored: "
            f"{dict(outcome.statuses)} {dict(outcome.errors)}"
        )
    return faults


def _highest(server: Daemon, plan: Plan, report: Report) -> list[str]:
    """The rate for each number of requests in flight, and the highest without an error; return the faults found."""
    rows: list[list[Cell]] = []
    best = 0.0
    cpu: list[list[Cell]] = []
    with Dashboard(server) as dashboard:
        for connections in IN_FLIGHT:
            meter = CpuMeter(server.processes())
            result = closed_loop(replace(plan, connections=connections))
            rows.append([connections, result.per_s, result.p99_ms, result.failed])
            if not result.failed and result.per_s > best:
                best = result.per_s
                used_s = {**meter.used_s(), "generator": result.cpu_s}
                cpu = _cores(used_s, seconds=result.seconds, per_s=result.per_s)
    report.table(
        f"{generator()}, {plan.duration_s:g} s each; the highest rate without an error: {best:,.0f} beats/s",
        ["in flight", "beats/s", "p99 ms (closed loop)", "failed"],
        rows,
    )
    report.table("CPU by process at that rate", ["process", "cores", "cores per 10,000 beats/s"], cpu)
    faults = _faults(server, dashboard)
    if not best:
        faults.append("no run was without an error")
    return faults


@app.default
def main(
    *,
    processes: Annotated[int, Parameter(help="Processes of the daemon.")] = 2,
    rate: Annotated[float, Parameter(help="Beats per second, open loop.")] = 20_000,
    minutes: Annotated[float, Parameter(help="How long.")] = 5.0,
    connections: Annotated[int, Parameter(help="Connections, kept alive.")] = 256,
    workers: Annotated[int, Parameter(help="Different workers.")] = 10_000,
    tokens: Annotated[int, Parameter(help="Different tokens.")] = 1_000,
    generators: Annotated[int, Parameter(help="Processes of the load generator.")] = 1,
    wrk: Annotated[
        bool, Parameter(negative=(), help="Search the highest rate instead, in a closed loop, by wrk if it is there.")
    ] = False,
    seconds: Annotated[int, Parameter(help="With --wrk: length of each run.")] = 10,
    smoke: Annotated[bool, Parameter(negative=(), help="A few seconds at a low rate; only errors matter.")] = False,
    json_path: Annotated[Path | None, Parameter(name="--json", help="Write the results to this file too.")] = None,
) -> int:
    """Load `lastseen serve --processes N` while it sweeps and a dashboard asks it once a second.

    Nothing is pinned: the daemon's processes, the store and the generator share the machine.
    Exit status 1: a beat was not stored, a worker that beats was reported stale, or a poll failed.
    """
    if smoke:
        rate, minutes, seconds, workers, tokens = 200, 3 / 60, 1, 200, 20
    report = Report("processes")
    with daemon(None, "--processes", str(processes)) as server:
        plan = Plan(
            url=server.url,
            tokens=minted(server.config, tokens),
            rate=None if wrk else rate,
            duration_s=seconds if wrk else minutes * 60,
            connections=connections,
            workers=workers,
            ids=Ids.TURN,
        )
        faults = _highest(server, plan, report) if wrk else _open_loop(server, plan, report, generators)
    for fault in faults:
        report.note(f"FAULT: {fault}")
    report.save(json_path)
    return 1 if faults else 0


if __name__ == "__main__":
    try:
        sys.exit(app(result_action="return_value"))
    except (BenchError, LoadError) as error:
        sys.exit(f"bench.processes: {error}")
