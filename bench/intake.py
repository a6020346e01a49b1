"""Single heartbeats through one process, in turn with the two references: ``python -m bench.intake --help``."""

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Final

from cyclopts import App, Parameter

from bench.closed_loop import closed_loop, generator
from bench.harness import BenchError, CpuMeter, Daemon, Reference, bare, can_pin, daemon, pin, published
from bench.load.plan import Ids, Plan
from bench.load.run import LoadError, run
from bench.results import Cell, Report, Rounds, alternating
from bench.tokens import minted

SERVER_CORES: Final = {0}
OTHER_CORES: Final = {1}
"""Stores and generator: not the core that the server under measurement has for itself."""
OURS, BARE, PUBLISHED = "lastseen", "bare", "published"
REGISTER_PER_S: Final = 2_000.0
REGISTER_LIMIT_S: Final = 60.0
STORED: Final = 'lastseen_beats_total{outcome="stored"}'

app = App(name="python -m bench.intake")


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One variant in one round."""

    per_s: float
    p99_ms: float
    cores: Mapping[str, float]
    """Cores for 10,000 beats per second, by process."""


class Intake:
    """Servers under one load, each with the plan of its own address and tokens.

    ``faults`` fill with whatever was not as it must be.
    """

    def __init__(self, servers: Mapping[str, Daemon | Reference], plans: Mapping[str, Plan]) -> None:
        self._servers = servers
        self._plans = plans
        self.faults: list[str] = []

    def register(self) -> None:
        """Have every worker beat once at the daemon, so that each is known; no measurement."""
        for variant, server in self._servers.items():
            if not isinstance(server, Daemon):
                continue
            plan = self._plans[variant]
            seconds = plan.workers / REGISTER_PER_S
            outcome = run(replace(plan, rate=REGISTER_PER_S, duration_s=seconds, timeout_s=REGISTER_LIMIT_S))
            if outcome.failed:
                self.faults.append(
                    f"{outcome.failed} first beats failed: {dict(outcome.statuses)} {dict(outcome.errors)}"
                )

    def measure(self, variant: str) -> Measured:
        """Load one server for the plan's duration, and check that it did what it answered."""
        server = self._servers[variant]
        stored = _stored(server)
        meter = CpuMeter(server.processes())
        result = closed_loop(self._plans[variant], cores=OTHER_CORES if can_pin() else None)
        used_s = {**meter.used_s(), "generator": result.cpu_s}
        if result.failed or not result.answered:
            self.faults.append(f"{variant}: {result.failed} of {result.answered + result.failed} requests failed")
        if isinstance(server, Daemon) and _stored(server) - stored < result.answered:
            self.faults.append(f"{variant}: {result.answered} answers, but {_stored(server) - stored} beats stored")
        return Measured(
            per_s=result.per_s,
            p99_ms=result.p99_ms,
            cores={
                "store" if name == "store" else "generator" if name == "generator" else "server": seconds
                / max(result.answered, 1)
                * 10_000
                for name, seconds in used_s.items()
            },
        )

    def check_fleet(self) -> None:
        """Every worker that was to beat is known, and none is stale."""
        for variant, server in self._servers.items():
            if isinstance(server, Daemon):
                status, workers = server.get("/api/v1/status"), self._plans[variant].workers
                if status["total"] != workers or status["counts"]["stale"]:
                    self.faults.append(f"{workers} workers beat at {variant}, the status says {status}")


def _stored(server: Daemon | Reference) -> int:
    """How many beats the daemon says it has stored; 0 for a reference."""
    if not isinstance(server, Daemon):
        return 0
    lines = [line for line in server.text("/metrics").splitlines() if line.startswith(STORED)]
    return round(float(lines[0].rpartition(" ")[2])) if lines else 0


def _rows(rounds: Rounds[Measured]) -> list[list[Cell]]:
    def rate(one: Measured) -> float:
        return one.per_s

    rows: list[list[Cell]] = []
    for variant in rounds.measured:
        row: list[Cell] = [variant, str(rounds.spread(variant, rate))]
        row += [str(rounds.ratio(variant, to, rate)) if to in rounds.measured else "" for to in (BARE, PUBLISHED)]
        row.append(str(rounds.spread(variant, lambda one: one.p99_ms)))
        for part in ("server", "store", "generator"):
            row.append(rounds.spread(variant, lambda one, part=part: one.cores.get(part, 0.0)).median)  # type: ignore[misc]
        rows.append(row)
    return rows


@app.default
def main(
    *,
    pairs: Annotated[int, Parameter(help="Rounds; each measures every variant once.")] = 7,
    seconds: Annotated[int, Parameter(help="Length of one measurement.")] = 5,
    connections: Annotated[int, Parameter(help="Requests in flight.")] = 64,
    workers: Annotated[int, Parameter(help="Different workers.")] = 10_000,
    tokens: Annotated[int, Parameter(help="Different tokens.")] = 1_000,
    one_connection_per_beat: Annotated[
        bool, Parameter(negative=(), help="Connection: close with every beat; without the published way.")
    ] = False,
    smoke: Annotated[bool, Parameter(negative=(), help="One short round; only errors matter.")] = False,
    json_path: Annotated[Path | None, Parameter(name="--json", help="Write the results to this file too.")] = None,
) -> int:
    """Measure beats per second of one daemon process against the bare ASGI app and the published service's way.

    Each server is one process on core 0; the stores and the generator share core 1.
    Exit status 1: an answer was not 2xx, or a beat that was answered is not stored.
    """
    if smoke:
        pairs, seconds, workers, tokens = 1, 1, 200, 20
    report = Report("intake")
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(daemon())
        ours.pin(cores=SERVER_CORES, store_cores=OTHER_CORES)
        servers: dict[str, Daemon | Reference] = {OURS: ours, BARE: stack.enter_context(bare())}
        if not one_connection_per_beat:
            servers[PUBLISHED] = stack.enter_context(published(ours.config))
        for server in servers.values():
            for name, pid in server.processes().items():
                pin(pid, OTHER_CORES if name == "store" else SERVER_CORES)
        plan = Plan(
            url=ours.url,
            tokens=minted(ours.config, tokens),
            rate=None,
            duration_s=seconds,
            connections=connections,
            workers=workers,
            ids=Ids.TURN,
            keep_alive=not one_connection_per_beat,
        )
        intake = Intake(servers, {variant: replace(plan, url=server.url) for variant, server in servers.items()})
        intake.register()
        rounds = alternating(pairs, list(servers), intake.measure)
        intake.check_fleet()
    report.table(
        f"{connections} {'new connections at a time' if one_connection_per_beat else 'connections kept alive'}, "
        f"{workers:,} workers, {tokens:,} tokens; {pairs} x {seconds} s by {generator()}; median (least-most)",
        [
            *("server", "beats/s", "of bare", "of published", "p99 ms (closed loop)"),
            *(f"cores per 10,000/s: {part}" for part in ("server", "store", "generator")),
        ],
        _rows(rounds),
    )
    report.keep("rounds", {variant: [asdict(one) for one in found] for variant, found in rounds.measured.items()})
    for fault in intake.faults:
        report.note(f"FAULT: {fault}")
    report.save(json_path)
    return 1 if intake.faults else 0


if __name__ == "__main__":
    try:
        sys.exit(app(result_action="return_value"))
    except (BenchError, LoadError) as error:
        sys.exit(f"bench.intake: {error}")
