"""A load by several processes that begin at the same moment, and the sum of what became of it."""

import contextlib
import multiprocessing
import os
import resource
import signal
from collections.abc import Collection
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Final
from urllib.parse import urlsplit

from bench.load.generator import CONNECT_LIMIT_S, Generator
from bench.load.outcome import Outcome, added
from bench.load.plan import Plan, Share
from monitor.clock import monotonic_s

LEAD_S: Final = 0.2
"""From the word to start to the start, so that every process has it in time."""
MARGIN_S: Final = 30.0
SPARE_DESCRIPTORS: Final = 50
MOST_S: Final = 3_600.0


class LoadError(Exception):
    """The load could not be made; the message says what to change."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Failure:
    """Why a process of the generator gave up."""

    message: str


def run(plan: Plan, *, processes: int = 1, cores: Collection[int] | None = None) -> Outcome:
    """Make the load with ``processes`` processes, kept on ``cores`` if given; blocks.

    Takes at most the plan's length, two of its timeouts and half a minute.

    Raises:
        LoadError: the plan can't be carried out, no server listens, or a process failed.
    """
    check(plan, processes)
    context = multiprocessing.get_context("spawn")
    workers: list[tuple[SpawnProcess, Connection]] = []
    try:
        for index in range(processes):
            ours, theirs = context.Pipe()
            worker = context.Process(
                target=_work, args=(plan, Share(index=index, of=processes), cores, theirs), daemon=True
            )
            worker.start()
            theirs.close()
            workers.append((worker, ours))
        per_connection_s = CONNECT_LIMIT_S if plan.keep_alive else 0
        for _, pipe in workers:
            _answer(pipe, within_s=MARGIN_S + per_connection_s)
        start_s = monotonic_s() + LEAD_S
        for _, pipe in workers:
            pipe.send(start_s)
        longest_s = plan.ramp_s + plan.duration_s + 2 * plan.timeout_s + MARGIN_S
        outcomes = [_answer(pipe, within_s=longest_s) for _, pipe in workers]
    finally:
        for worker, _ in workers:
            worker.terminate()
            worker.join()
    return added(outcome for outcome in outcomes if outcome is not None)


def check(plan: Plan, processes: int) -> None:
    """Refuse what can't be carried out.

    Raises:
        LoadError: with the option to change.
    """
    parts = urlsplit(plan.url)
    if parts.scheme != "http" or not parts.hostname or parts.path not in {"", "/"}:
        raise LoadError(f"--url: must be like http://127.0.0.1:8642, without TLS and without a path, got {plan.url!r}")
    least_one = {
        "--connections": plan.connections,
        "--workers": plan.workers,
        "--batch": plan.batch,
        "--processes": processes,
        "--tokens": len(plan.tokens),
    }
    for option, value in least_one.items():
        if value < 1:
            raise LoadError(f"{option}: must be at least 1, got {value}")
    if plan.rate is not None and not plan.rate > 0:
        raise LoadError(f"--rate: must be above 0, got {plan.rate:g}")
    if not (plan.duration_s > 0 and plan.ramp_s >= 0 and plan.timeout_s > 0 and plan.metadata_bytes >= 0):
        raise LoadError("--duration and --timeout must be above 0, --ramp and --metadata-bytes not below 0")
    if plan.duration_s + plan.ramp_s > MOST_S:
        raise LoadError(f"--duration and --ramp: at most {MOST_S:g} s together")
    if plan.connections < processes:
        raise LoadError(f"--connections: each of {processes} processes needs one, got {plan.connections}")


def _answer(pipe: Connection, *, within_s: float) -> Outcome | None:
    """What a process says next: None when it is ready, its outcome when it is done."""
    try:
        if not pipe.poll(within_s):
            raise LoadError(f"a process of the generator said nothing for {within_s:g} s")
        said: Outcome | _Failure | None = pipe.recv()
    except EOFError:
        raise LoadError("a process of the generator ended without a word") from None
    if isinstance(said, _Failure):
        raise LoadError(said.message)
    return said


def _work(plan: Plan, share: Share, cores: Collection[int] | None, pipe: Connection) -> None:
    """A process of the generator."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its processes
    with contextlib.suppress(EOFError, BrokenPipeError):
        if cores is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores)
        try:
            _allow_descriptors(share.connections(plan))
            generator = Generator(plan, share)
            generator.connect()
        except (LoadError, OSError) as error:
            pipe.send(_Failure(message=f"can't connect to {plan.url}: {error}"))
            return
        pipe.send(None)
        pipe.send(generator.run(pipe.recv()))


def _allow_descriptors(connections: int) -> None:
    needed = connections + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise LoadError(f"{connections} connections in one process need {needed} open files, the limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
