"""Alerts: bad receivers, transition to attempt, a fleet that dies: ``python -m bench.alerts --help``."""

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote

from cyclopts import App, Parameter

from bench.harness import BenchError, CpuMeter, Daemon, can_pin, pin, until
from bench.hooks import (
    BAD,
    GROUP_WAIT_S,
    ONE_BY_ONE,
    OTHER_CORES,
    TOGETHER,
    Fleet,
    Hooks,
    LagWatch,
    Told,
    alerting,
    metric,
    moment_ms,
)
from bench.load.outcome import Latencies, Outcome
from bench.load.plan import Ids, Plan
from bench.load.run import LoadError, run
from bench.results import Cell, Report, alternating
from bench.tokens import minted
from monitor.clock import monotonic_s, wall_ms

GOOD: Final = "good"
ALONE: Final = "the good one alone"
THREE_GOOD: Final = "three more good ones"
THREE_BAD: Final = "three bad ones"
BESIDE: Final = {ALONE: (), THREE_GOOD: ("second", "third", "fourth"), THREE_BAD: BAD}
"""Who gets the same events as the good receiver."""
MOST_ENVIRONMENTS: Final = 1_000
"""Environments of one tenant: the daemon's default limit."""
ARRIVAL_LIMIT_S: Final = 120.0
DEATH_LIMIT_S: Final = 180.0
HISTORY_PAGE: Final = 1_000
FAILED: Final = "worker.failed"
STALE: Final = "worker.stale"
RECOVERED: Final = "worker.recovered"

app = App(name="python -m bench.alerts")


class Part(StrEnum):
    """What is measured."""

    ISOLATION = "isolation"
    TRANSITION = "transition"
    MASS = "mass"


def unique_arrivals(hooks: Hooks, receiver: str, expected: int, *, what: str) -> list[str]:
    """Wait until ``expected`` events have arrived at a receiver, each once; return the faults found."""
    with contextlib.suppress(BenchError):
        until(lambda: _events_at(hooks, receiver) >= expected, what, limit_s=ARRIVAL_LIMIT_S)
    faults = []
    if (found := _events_at(hooks, receiver)) != expected:
        faults.append(f"{what}: {found} of {expected} events arrived")
    if repeated := hooks.repeated(receiver):
        faults.append(f"{what}: {repeated} attempts were repetitions")
    return faults


def _events_at(hooks: Hooks, receiver: str) -> int:
    arrivals = hooks.arrivals(receiver)
    if len(arrivals) and b'"group.' not in arrivals[0].body[:40]:
        return len({arrival.nid for arrival in arrivals})
    return len({event["event_id"] for arrival in arrivals for event in arrival.events()})


def to_arrival(hooks: Hooks, receiver: str, *, after: int = 0) -> Latencies:
    """From the first event of each notification, as committed, to its first attempt; of all from number ``after``."""
    first: dict[str, int] = {}
    for arrival in hooks.arrivals(receiver)[after:]:
        if arrival.nid not in first:
            began_ms = min(moment_ms(event["detected_at"]) for event in arrival.events())
            first[arrival.nid] = arrival.at_ms - began_ms
    latencies = Latencies()
    latencies.record(ms * 1_000 for ms in first.values())
    return latencies


# Isolation ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Isolated:
    """One run beside some receivers."""

    beats_per_s: float
    beat_p50_ms: float
    beat_p99_ms: float
    sweep_lag_s: float
    arrival_p50_ms: float
    arrival_p99_ms: float
    daemon_cores: float
    store_cores: float
    attempts: dict[str, int]
    """At each other receiver."""
    faults: list[str]


FIGURES: Final[dict[str, Callable[[Isolated], float]]] = {
    "beats/s": lambda one: one.beats_per_s,
    "beat p50 ms": lambda one: one.beat_p50_ms,
    "beat p99 ms": lambda one: one.beat_p99_ms,
    "sweep lag, longest, s": lambda one: one.sweep_lag_s,
    "transition to arrival p50 ms": lambda one: one.arrival_p50_ms,
    "transition to arrival p99 ms": lambda one: one.arrival_p99_ms,
    "daemon, cores": lambda one: one.daemon_cores,
    "store, cores": lambda one: one.store_cores,
}


def isolated(variant: str, *, beats_per_s: float, deaths_per_s: float, backlog: int, seconds: float) -> Isolated:
    """Steady beats and steady deaths; the bad receivers, if any, have been bad to ``backlog`` events before."""
    others = BESIDE[variant]
    with alerting([Told(name=name) for name in (GOOD, *others)], kinds=[FAILED]) as (server, hooks):
        steady = round(deaths_per_s * seconds)
        fleet = Fleet(server, lambda worker: f"env-{worker % 10}")
        fleet.beat(range(backlog + steady))
        faults = fleet.fail(range(backlog), per_s=None)
        faults += unique_arrivals(hooks, GOOD, backlog, what=f"{variant}: backlog")
        plan = Plan(
            url=server.url,
            tokens=minted(server.config, 100),
            rate=beats_per_s,
            duration_s=seconds,
            workers=5_000,
            ids=Ids.TURN,
        )
        run(Plan(url=plan.url, tokens=plan.tokens, rate=beats_per_s, duration_s=1.0, workers=5_000, ids=Ids.TURN))
        meter, began_s = CpuMeter(server.processes()), monotonic_s()
        failing = threading.Thread(
            target=lambda: faults.extend(fleet.fail(range(backlog, backlog + steady), per_s=deaths_per_s))
        )
        with LagWatch(server=server) as lag:
            failing.start()
            outcome: Outcome = run(plan, cores=OTHER_CORES if can_pin() else None)
            failing.join()
        used_s, took_s = meter.used_s(), monotonic_s() - began_s
        faults += unique_arrivals(hooks, GOOD, backlog + steady, what=variant)
        faults += lag.faults
        if outcome.failed:
            faults.append(f"{variant}: {outcome.failed} beats failed: {outcome.statuses} {outcome.errors}")
        faults += [f"{variant}: nothing was sent to {name}" for name in others if not hooks.count(name)]
        beats, arrivals = outcome.distribution(), to_arrival(hooks, GOOD, after=backlog)
        return Isolated(
            beats_per_s=outcome.stored / outcome.elapsed_s,
            beat_p50_ms=beats.quantile_ms(50),
            beat_p99_ms=beats.quantile_ms(99),
            sweep_lag_s=lag.longest_s,
            arrival_p50_ms=arrivals.quantile_ms(50),
            arrival_p99_ms=arrivals.quantile_ms(99),
            daemon_cores=used_s["daemon"] / took_s,
            store_cores=used_s["store"] / took_s,
            attempts={name: hooks.count(name) for name in others},
            faults=faults,
        )


def isolation(
    report: Report, *, rounds: int, beats_per_s: float, deaths_per_s: float, backlog: int, seconds: float
) -> list[str]:
    """The good receiver alone and in company, in turn; the faults found."""
    measured = alternating(
        rounds,
        list(BESIDE),
        lambda variant: isolated(
            variant, beats_per_s=beats_per_s, deaths_per_s=deaths_per_s, backlog=backlog, seconds=seconds
        ),
    )
    rows: list[list[Cell]] = [
        [
            name,
            *(str(measured.spread(variant, of)) for variant in BESIDE),
            *(str(measured.ratio(THREE_BAD, to, of)) for to in (ALONE, THREE_GOOD)),
        ]
        for name, of in FIGURES.items()
    ]
    report.table(
        f"Bad receivers beside a good one: {beats_per_s:,.0f} beats/s and {deaths_per_s:g} transitions/s, open loop, "
        f"after {backlog:,} transitions; {rounds} x {seconds:g} s; median (least-most)",
        ["", *BESIDE, f"bad, of {ALONE}", f"bad, of {THREE_GOOD}"],
        rows,
    )
    everyone = [one for ones in measured.measured.values() for one in ones]
    attempts = measured.measured[THREE_BAD][-1].attempts
    report.note(f"Attempts at the bad ones in the last run: {', '.join(f'{n} {c:,}' for n, c in attempts.items())}.")
    report.keep("isolation", {name: [of(one) for one in everyone] for name, of in FIGURES.items()})
    return [fault for one in everyone for fault in one.faults]


# From a transition to its first attempt ----------------------------------------------------------------------------


def transition(report: Report, *, deaths_per_s: float, seconds: float) -> list[str]:
    """At a steady rate of transitions, by how they are gathered; the faults found."""
    rows: list[list[Cell]] = []
    faults: list[str] = []
    count = round(deaths_per_s * seconds)
    for group_by, size in ((ONE_BY_ONE, 100), (TOGETHER, 10), (TOGETHER, 1)):
        single = group_by == ONE_BY_ONE
        name = "single" if single else f"grouped, {size} of a group"
        with alerting([Told(name=GOOD, group_by=group_by)], kinds=[FAILED]) as (server, hooks):
            fleet = Fleet(
                server,
                lambda worker: f"env-{worker // size}",  # noqa: B023 - used within the turn
                per_tenant=MOST_ENVIRONMENTS * size,
            )
            fleet.beat(range(count))
            meter, began_s = CpuMeter(server.processes()), monotonic_s()
            faults += fleet.fail(range(count), per_s=deaths_per_s)
            faults += unique_arrivals(hooks, GOOD, count, what=name)
            used_s, lasted_s = meter.used_s(), monotonic_s() - began_s
            arrivals = hooks.arrivals(GOOD)
            moments = [moment_ms(event["detected_at"]) for one in arrivals for event in one.events()]
            took_s = (max(moments, default=0) - min(moments, default=0)) / 1_000
            latencies = to_arrival(hooks, GOOD)
            rows.append(
                [
                    name,
                    len(moments) / max(took_s, 1e-9),
                    len(arrivals),
                    0.0 if single else GROUP_WAIT_S * 1_000,
                    latencies.quantile_ms(50),
                    latencies.quantile_ms(99),
                    latencies.most_ms(),
                    used_s["daemon"] / lasted_s,
                    used_s["store"] / lasted_s,
                ]
            )
    report.table(
        f"From the committed transition (of a group: its first) to the first attempt; {deaths_per_s:g} transitions/s "
        f"for {seconds:g} s, every group new",
        [
            *("route", "transitions/s", "notifications", "group_wait, ms", "p50 ms", "p99 ms", "longest ms"),
            *("daemon, cores", "store, cores"),
        ],
        rows,
    )
    return faults


# A fleet that dies -------------------------------------------------------------------------------------------------


def history(server: Daemon, kind: str) -> list[dict[str, Any]]:
    """Every event of a kind that was recorded."""
    found: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = server.get(f"/api/v1/events?type={kind}&order=desc&limit={HISTORY_PAGE}{cursor}")
        found += [event["data"] for event in page["events"]]
        cursor = None if page["next_cursor"] is None else f"&cursor={quote(page['next_cursor'])}"
    return found


def mass(report: Report, *, workers: int, hold_quiet_s: float, quiet_s: float) -> list[str]:
    """All workers of one environment fall silent at once, and come back; return the faults found."""
    commits: list[list[Cell]] = []
    pages: list[list[Cell]] = []
    faults: list[str] = []
    told = [Told(name="single"), Told(name="grouped", group_by=TOGETHER)]
    names = [one.name for one in told]
    for enabled in (True, False):
        variant = "on" if enabled else "off"
        with alerting(told, kinds=[STALE, FAILED, RECOVERED], mass_failure=enabled) as (server, hooks):
            fleet = Fleet(server, lambda _: "production")
            fleet.beat(range(workers))
            fleet.beat(range(workers), interval_s=1.0, grace_s=1.0)
            until(lambda: _committed(server, STALE) >= workers, f"all are {STALE}", limit_s=DEATH_LIMIT_S)
            hooks.quiet(names, quiet_s=hold_quiet_s if enabled else quiet_s)
            events = history(server, STALE)
            if len(events) != workers:
                faults.append(f"mass failure {variant}: {len(events)} of {workers} deaths are in the history")
            due = [moment_ms(event["due_at"]) for event in events]
            detected = [moment_ms(event["detected_at"]) for event in events]
            commits.append([variant, len(events), (max(due) - min(due)) / 1e3, (max(detected) - max(due)) / 1e3])
            downs = {name: hooks.arrivals(name) for name in names}
            back_ms = wall_ms()
            fleet.beat(range(workers))
            until(lambda: _committed(server, RECOVERED) >= workers, f"all are {RECOVERED}", limit_s=DEATH_LIMIT_S)
            hooks.quiet(names, quiet_s=max(quiet_s, hold_quiet_s / 2) if enabled else quiet_s)
            for name in names:
                times = [arrival.at_ms for arrival in downs[name]]
                ends = [arrival.at_ms for arrival in hooks.arrivals(name)[len(times) :]]
                if not times or not ends:
                    faults.append(f"mass failure {variant}: {name} got {len(times)} and {len(ends)} notifications")
                    continue
                pages.append(
                    [
                        variant,
                        name,
                        len(times),
                        (times[0] - min(due)) / 1e3,
                        (times[-1] - max(due)) / 1e3,
                        len(ends),
                        (ends[-1] - back_ms) / 1e3,
                    ]
                )
                if repeated := hooks.repeated(name):
                    faults.append(f"mass failure {variant}: {name} got {repeated} repetitions")
    report.table(
        f"{workers:,} workers of one environment fall silent at once (interval 1 s, grace 1 s)",
        ["mass failure", "deaths", "deadlines within, s", "last deadline to last commit, s"],
        commits,
    )
    report.table(
        "Notifications at two receivers",
        [
            *("mass failure", "route", "notifications", "first deadline to first of them, s"),
            *("last deadline to last of them, s", "notifications of the return", "return to last of them, s"),
        ],
        pages,
    )
    return faults


def _committed(server: Daemon, kind: str) -> float:
    return metric(server.text("/metrics"), f'lastseen_transitions_total{{event="{kind}"}}')


@app.default
def main(
    *,
    only: Annotated[Part | None, Parameter(help="Measure this part only.")] = None,
    rounds: Annotated[int, Parameter(help="Isolation: how often each variant is measured.")] = 5,
    seconds: Annotated[float, Parameter(help="Length of one measurement.")] = 15.0,
    beats: Annotated[float, Parameter(help="Isolation: beats per second, open loop.")] = 1_000.0,
    deaths: Annotated[float, Parameter(help="Transitions per second, open loop.")] = 100.0,
    backlog: Annotated[
        int, Parameter(help="Isolation: transitions before, so that the bad ones have a queue.")
    ] = 1_000,
    workers: Annotated[int, Parameter(help="Mass failure: how many die.")] = 10_000,
    smoke: Annotated[bool, Parameter(negative=(), help="A few seconds at low rates; only errors matter.")] = False,
    json_path: Annotated[Path | None, Parameter(name="--json", help="Write the results to this file too.")] = None,
) -> int:
    """Measure how receivers affect the daemon, and how soon and how often they are notified.

    The receivers are in this process, and note when an attempt arrives. The daemon is one process on core 0; its
    store, the load and the receivers share core 1. One of the bad receivers never answers, one answers 500, one
    takes 2 s for each answer. Exit status 1: a beat or a disconnect was refused, or a notification did not come,
    or came twice.
    """
    hold_quiet_s, quiet_s = 130.0, 10.0
    if smoke:
        rounds, seconds, beats, deaths, backlog, workers, hold_quiet_s, quiet_s = 1, 2.0, 100, 50, 20, 100, 3.0, 3.0
    report = Report("alerts")
    if can_pin():
        pin(os.getpid(), OTHER_CORES)
    faults: list[str] = []
    if only in {None, Part.ISOLATION}:
        faults += isolation(
            report, rounds=rounds, beats_per_s=beats, deaths_per_s=deaths, backlog=backlog, seconds=seconds
        )
    if only in {None, Part.TRANSITION}:
        faults += transition(report, deaths_per_s=deaths, seconds=seconds)
    if only in {None, Part.MASS}:
        faults += mass(report, workers=workers, hold_quiet_s=hold_quiet_s, quiet_s=quiet_s)
    for fault in faults:
        report.note(f"FAULT: {fault}")
    report.save(json_path)
    return 1 if faults else 0


if __name__ == "__main__":
    try:
        sys.exit(app(result_action="return_value"))
    except (BenchError, LoadError) as error:
        sys.exit(f"bench.alerts: {error}")
