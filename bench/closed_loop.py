"""The highest rate of a server with a number of connections, each sending as soon as it was answered.

By wrk, which is in C and takes little of the machine from the server, where it is installed; else by the load
generator. Latencies are those of a closed loop: a stall counts once for each connection.
"""

import json
import resource
import shutil
import subprocess
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from bench.harness import BenchError, directory
from bench.load.plan import FIRST_COUNT, WORKER_ID, Plan, beat_template, request_heads
from bench.load.run import check, run

MARGIN_S: Final = 30.0

_SCRIPT: Final = """
local heads, workers = { %(heads)s }, %(workers)d
local before, between, after = %(before)s, %(between)s, %(after)s
local number = -1
function request()
  number = number + 1
  local worker = number %% workers
  return heads[worker %% #heads + 1] .. before .. string.format(%(id)s, worker) .. between
    .. string.format("%%d", %(first)d + number) .. after
end
function done(summary, latency)
  local errors = summary.errors
  io.stderr:write(string.format(
    '{"requests": %%d, "microseconds": %%d, "failed": %%d, "p99_us": %%d}\\n', summary.requests, summary.duration,
    errors.status + errors.connect + errors.read + errors.write + errors.timeout, latency:percentile(99)))
end
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Closed:
    """What a closed loop measured. ``failed`` counts answers above 399 and requests without an answer."""

    answered: int
    failed: int
    seconds: float
    p99_ms: float
    cpu_s: float
    """CPU time of the generator."""

    @property
    def per_s(self) -> float:
        """Answers per second."""
        return self.answered / self.seconds


def generator() -> str:
    """The name of the generator that is used on this machine."""
    return "wrk" if shutil.which("wrk") else "bench.load"


def closed_loop(plan: Plan, *, cores: Collection[int] | None = None) -> Closed:
    """Send single beats of each worker in turn for the plan's duration; its rate, ramp and ids are not used.

    Raises:
        BenchError: the generator failed.
        LoadError: the plan can't be carried out.
    """
    if generator() == "wrk":
        check(plan, 1)
        return _wrk(plan, cores)
    outcome = run(plan, cores=cores)
    return Closed(
        answered=outcome.answered,
        failed=outcome.failed,
        seconds=plan.duration_s,
        p99_ms=outcome.distribution().quantile_ms(99),
        cpu_s=outcome.cpu_s,
    )


def _wrk(plan: Plan, cores: Collection[int] | None) -> Closed:
    on_cores = ["taskset", "-c", ",".join(map(str, cores))] if cores and shutil.which("taskset") else []
    with directory() as place:
        script = place / "beats.lua"
        script.write_text(_lua(plan), encoding="utf-8")
        words = [*on_cores, "wrk", "--threads", "1", "--connections", str(plan.connections)]
        words += ["--duration", f"{max(round(plan.duration_s), 1)}s", "--timeout", f"{max(round(plan.timeout_s), 1)}s"]
        before_s = _children_cpu_s()
        try:
            done = subprocess.run(
                [*words, "--script", str(script), plan.url],
                capture_output=True,
                text=True,
                check=False,
                timeout=plan.duration_s + plan.timeout_s + MARGIN_S,
            )
        except subprocess.TimeoutExpired:
            raise BenchError(f"wrk did not end within {plan.duration_s + plan.timeout_s + MARGIN_S:g} s") from None
        cpu_s = _children_cpu_s() - before_s
    try:
        said = json.loads(done.stderr.splitlines()[-1])
    except (ValueError, IndexError):
        raise BenchError(f"wrk ended with {done.returncode}:\n{done.stdout}{done.stderr}") from None
    return Closed(
        answered=said["requests"],
        failed=said["failed"],
        seconds=said["microseconds"] / 1e6,
        p99_ms=said["p99_us"] / 1_000,
        cpu_s=cpu_s,
    )


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _lua(plan: Plan) -> str:
    before, rest = beat_template(plan.metadata_bytes).decode().split("%b")
    between, after = rest.split("%d")
    values = {
        # A JSON string of printable ASCII, quotes and line ends is a Lua string too.
        "heads": ", ".join(json.dumps(head.decode()) for head in request_heads(plan)),
        "workers": plan.workers,
        "before": json.dumps(before),
        "between": json.dumps(between),
        "after": json.dumps(after),
        "id": json.dumps(WORKER_ID),
        "first": FIRST_COUNT,
    }
    return _SCRIPT % values
