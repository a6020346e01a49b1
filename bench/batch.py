"""Batches of heartbeats through one process, with single beats beside them: ``python -m bench.batch --help``."""

import contextlib
import gzip
import os
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from cyclopts import App, Parameter
from redis import Redis

from bench.harness import BenchError, CpuMeter, Daemon, can_pin, daemon, directory, pin
from bench.load.answers import BadAnswerError, read_answer
from bench.load.outcome import Latencies, Outcome
from bench.load.plan import BATCH_PATH, ENVIRONMENT, FIRST_COUNT, WORKER_ID, Plan, beat_template
from bench.load.run import LoadError, run
from bench.results import Cell, Report
from bench.tokens import minted
from monitor.clock import monotonic_s

SERVER_CORES: Final = {0}
OTHER_CORES: Final = {1}
"""Store and generators: not the core that the daemon has for itself."""
GENERATIONS: Final = 2
"""Every worker's count of tasks differs from one beat to the next."""
SLOW_US: Final = 1_000
"""What keeps the store for longer is in its log."""
CONFIG: Final = """
[[alerts.receivers]]
name = "log"
type = "log"

[[alerts.routes]]
receivers = ["log"]
events = ["worker.stale", "worker.failed", "worker.recovered"]
"""
"""Without it every registration is a notification too, and their deliveries are what is measured after it."""
ANSWER_LIMIT_S: Final = 20.0
_RECEIVE_BYTES: Final = 65_536
_PLAIN: Final = (
    b'{"worker_id":"%%b","environment_name":"%b","status":"busy","tasks_processed":%%d,'
    b'"current_task_id":"0b1f7c52-5d0e-4a57-9a43-6e1f0c3c7d11","worker_metadata":{}}' % ENVIRONMENT.encode()
)

app = App(name="python -m bench.batch")


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One form of batches."""

    beats: int
    lines: bool = False
    packed: bool = False
    labels: bool = False
    """Whether the metadata holds two short labels; else it is empty."""

    def __str__(self) -> str:
        form = "lines" if self.lines else "array"
        return f"{form}{', gzip' if self.packed else ''}{', labels' if self.labels else ''}"

    def requests(self, host: str, token: str, workers: int) -> list[bytes]:
        """Requests that bring a beat of every worker, some times over."""
        template = beat_template(0) if self.labels else _PLAIN
        beats = (
            template % (WORKER_ID.encode() % worker, FIRST_COUNT + generation)
            for generation in range(GENERATIONS)
            for worker in range(workers)
        )
        return list(self._requests(host, token, beats))

    def _requests(self, host: str, token: str, beats: Iterator[bytes]) -> Iterator[bytes]:
        kind = "application/x-ndjson" if self.lines else "application/json"
        while batch := list(islice(beats, self.beats)):
            body = b"\n".join(batch) if self.lines else b"[%b]" % b",".join(batch)
            if self.packed:
                body = gzip.compress(body, 6)
            lines = [
                f"POST {BATCH_PATH} HTTP/1.1",
                f"Host: {host}",
                f"Authorization: Bearer {token}",
                f"Content-Type: {kind}",
                f"Content-Length: {len(body)}",
                *(["Content-Encoding: gzip"] if self.packed else []),
            ]
            yield "\r\n".join([*lines, "", ""]).encode() + body


@dataclass(kw_only=True, slots=True)
class Sent:
    """What the senders of one variant have seen."""

    answered: int = 0
    faults: list[str] = field(default_factory=list)
    microseconds: list[int] = field(default_factory=list)


def send(url: str, requests: Sequence[bytes], *, first: int, until_s: float) -> Sent:
    """One connection, kept: each request leaves when the one before was answered."""
    seen = Sent()
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=ANSWER_LIMIT_S) as connection:
        for request in cycle([*requests[first:], *requests[:first]]):
            began_s = monotonic_s()
            if began_s >= until_s or seen.faults:
                return seen
            connection.sendall(request)
            data = b""
            while (answer := read_answer(data)) is None:
                received = connection.recv(_RECEIVE_BYTES)
                if not received:
                    seen.faults.append("the connection was closed")
                    return seen
                data += received
            seen.microseconds.append(round((monotonic_s() - began_s) * 1e6))
            if answer.status != 200 or answer.rejects:  # noqa: PLR2004 - OK
                seen.faults.append(f"answered {answer.status}: {answer.body[:300]!r}")
            seen.answered += 1
    return seen


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One variant."""

    beats_per_s: float
    batch_p99_ms: float
    single_p99_ms: float
    single_failed: int
    blocked_ms: float
    cpu_us: dict[str, float]
    """For each beat, by process."""
    faults: list[str]


class Bench:
    """One daemon under one variant after another."""

    def __init__(self, server: Daemon, *, connections: int, workers: int, seconds: float, singles: float) -> None:
        self._server = server
        self._token, single_token = minted(server.config, 2)
        self._connections = connections
        self._workers = workers
        self._seconds = seconds
        self._beside = Plan(
            url=server.url, tokens=[single_token], rate=singles, duration_s=seconds, connections=64, workers=100
        )
        self._store = Redis.from_url(server.store_url)
        self._store.config_set("slowlog-log-slower-than", SLOW_US)
        self._store.config_set("slowlog-max-len", 10_000)

    def register(self) -> None:
        """Make every worker known."""
        requests = Variant(beats=1_000).requests(urlsplit(self._server.url).netloc, self._token, self._workers)
        faults = send(self._server.url, requests, first=0, until_s=monotonic_s() + 2).faults
        if faults:
            raise BenchError(f"registration: {faults[0]}")

    def measure(self, variant: Variant) -> Measured:
        """Load the daemon by batches and single beats together."""
        requests = variant.requests(urlsplit(self._server.url).netloc, self._token, self._workers)
        before = self._stored()
        self._store.slowlog_reset()
        singles: list[Outcome | LoadError] = []
        beside = threading.Thread(target=self._send_singles, args=(singles,))
        meter = CpuMeter(self._server.processes())
        beside.start()
        began_s = monotonic_s()
        with ThreadPoolExecutor(self._connections) as pool:
            jobs = [
                pool.submit(
                    send,
                    self._server.url,
                    requests,
                    first=number * len(requests) // self._connections,
                    until_s=began_s + self._seconds,
                )
                for number in range(self._connections)
            ]
            sent = [job.result() for job in jobs]
        took_s = monotonic_s() - began_s
        used_s = meter.used_s()
        beside.join()
        faults = [fault for one in sent for fault in one.faults]
        if not singles or isinstance(singles[0], LoadError):
            raise BenchError(f"single beats: {singles}")
        single = singles[0]
        beats = sum(one.answered for one in sent) * variant.beats
        stored = self._stored() - before - single.stored
        if stored < beats:
            faults.append(f"{beats} beats answered, {stored} stored")
        if single.failed:
            faults.append(
                f"{single.failed} of {single.planned} single beats failed: {single.statuses}, {single.errors}"
            )
        batches = Latencies()
        batches.record(one for part in sent for one in part.microseconds)
        slow: list[dict[str, int]] = self._store.slowlog_get(10_000)
        return Measured(
            beats_per_s=beats / took_s,
            batch_p99_ms=batches.quantile_ms(99),
            single_p99_ms=single.distribution().quantile_ms(99),
            single_failed=single.failed,
            blocked_ms=max((entry["duration"] for entry in slow), default=0) / 1_000,
            cpu_us={name: used / max(beats, 1) * 1e6 for name, used in used_s.items()},
            faults=faults,
        )

    def _send_singles(self, into: list[Outcome | LoadError]) -> None:
        try:
            into.append(run(self._beside, cores=OTHER_CORES if can_pin() else None))
        except LoadError as error:
            into.append(error)

    def _stored(self) -> int:
        name = 'lastseen_beats_total{outcome="stored"}'
        lines = [line for line in self._server.text("/metrics").splitlines() if line.startswith(name)]
        return round(float(lines[0].rpartition(" ")[2])) if lines else 0


@app.default
def main(
    *,
    seconds: Annotated[float, Parameter(help="Length of one measurement.")] = 5.0,
    connections: Annotated[int, Parameter(help="Batches in flight.")] = 4,
    workers: Annotated[int, Parameter(help="Different workers.")] = 10_000,
    singles: Annotated[float, Parameter(help="Single beats per second beside the batches, open loop.")] = 100.0,
    only: Annotated[int | None, Parameter(help="Batches of this many beats only.")] = None,
    smoke: Annotated[bool, Parameter(negative=(), help="Short runs of some forms; only errors matter.")] = False,
    json_path: Annotated[Path | None, Parameter(name="--json", help="Write the results to this file too.")] = None,
) -> int:
    """Measure beats per second in batches, by size and form, with single beats beside them.

    The daemon is one process on core 0; its store and the generators share core 1.
    Exit status 1: a batch or a single beat was not taken, or what was answered is not stored.
    """
    sizes = [100, 1_000, 10_000] if only is None else [only]
    variants = [
        Variant(beats=n, lines=lines, packed=packed)
        for n in sizes
        for lines in (False, True)
        for packed in (False, True)
    ]
    variants += [Variant(beats=n, labels=True) for n in sizes]
    if smoke:
        seconds, workers = 0.5, 1_000
        variants = [Variant(beats=100), Variant(beats=1_000, lines=True, packed=True)]
    report = Report("batch")
    rows: list[list[Cell]] = []
    faults: list[str] = []
    with contextlib.ExitStack() as stack:
        config = stack.enter_context(directory()) / "lastseen.toml"
        config.write_text(CONFIG, encoding="utf-8")
        server = stack.enter_context(daemon(None, "--config", str(config)))
        if can_pin():
            server.pin(cores=SERVER_CORES, store_cores=OTHER_CORES)
            pin(os.getpid(), OTHER_CORES)
        bench = Bench(server, connections=connections, workers=workers, seconds=seconds, singles=singles)
        bench.register()
        for variant in variants:
            one = bench.measure(variant)
            faults += [f"{variant.beats} {variant}: {fault}" for fault in one.faults]
            cpu = [one.cpu_us.get(name, 0.0) for name in ("daemon", "store")]
            rows.append(
                [
                    variant.beats,
                    str(variant),
                    one.beats_per_s,
                    one.batch_p99_ms,
                    one.single_p99_ms,
                    one.blocked_ms,
                    *cpu,
                ]
            )
    report.table(
        f"{connections} connections kept alive, {workers:,} workers, {singles:g} single beats/s beside, "
        f"{seconds:g} s each",
        [
            *("beats per request", "form", "beats/s", "batch p99 ms", "single p99 ms (open loop)"),
            f"store's longest call, ms (0: below {SLOW_US / 1000:g})",
            *("daemon CPU us/beat", "store CPU us/beat"),
        ],
        rows,
    )
    for fault in faults:
        report.note(f"FAULT: {fault}")
    report.save(json_path)
    return 1 if faults else 0


if __name__ == "__main__":
    try:
        sys.exit(app(result_action="return_value"))
    except (BenchError, LoadError, BadAnswerError, OSError) as error:
        sys.exit(f"bench.batch: {error}")
