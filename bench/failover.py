"""Two daemons on one store, one of them killed: how long no death is detected and none is notified.

    python -m bench.failover [--rounds N]

Each round has workers beat at the second of two daemons, kills the first, which routes, and in that moment has one
worker say that it failed and the others fall silent. Measured: from a worker's deadline to its committed transition,
from the failure to its webhook, and the longest time without a full sweep.
"""

import contextlib
import secrets
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Final

from cyclopts import App, Parameter

from bench.harness import BenchError, Daemon, directory, stopping, until
from bench.hooks import Hooks, Told, moment_ms
from bench.results import Report
from bench.stores import running
from monitor.clock import wall_ms

app = App(name="python -m bench.failover")

WORKERS: Final = 20
BEATS: Final = 10
FAILS: Final = "fails"
RECEIVER: Final = "ops"
GOAL_S: Final = 2.0
"""From a deadline to its transition, whichever daemon is killed."""
LIMIT_S: Final = 60.0
_BEAT_S: Final = 0.3
_OK: Final = {200, 204}
_CONFIG: Final = """
[liveness]
interval = "1s"
grace = "2s"
[alerts.mass_failure]
enabled = false
[[auth.keys]]
kid = "k1"
algorithm = "HS256"
secret_file = "secret"
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One round, in seconds."""

    detection_s: float
    told_s: float
    sweep_age_s: float


def beat(server: Daemon, names: list[str]) -> None:
    """One beat of each.

    Raises:
        BenchError: they were not stored.
    """
    body = [{"worker_id": name, "environment_name": "prod"} for name in names]
    if server.post("/api/v1/workers/heartbeats", body) not in _OK:
        raise BenchError("beats at the daemon that lives were refused")


@contextlib.contextmanager
def pair(hooks: Hooks) -> Iterator[tuple[Daemon, Daemon]]:
    """Two daemons on one store. The first was there first, and routes; it is to be killed."""
    with contextlib.ExitStack() as stack:
        env = {"LASTSEEN_STORE__URL": stack.enter_context(running()), "BENCH_WEBHOOK_KEY": "whsec_" + "A" * 43 + "="}
        place = stack.enter_context(directory())
        (place / "secret").write_text(secrets.token_hex(32), encoding="ascii")
        file = place / "lastseen.toml"
        told = Told(name=RECEIVER).sections(hooks, ["worker.stale", "worker.failed"])
        file.write_text(_CONFIG + told, encoding="utf-8")
        started = []
        for name in ("first", "second"):
            (place / name).mkdir()
            started.append(Daemon(directory=place / name, env=env, file=file))
        first, second = started
        stack.callback(first.process.wait)
        stack.callback(first.process.kill)
        stack.enter_context(stopping(second))
        yield first, second


def measured(hooks: Hooks) -> Measured:
    """One round."""
    names = [f"w{number}" for number in range(WORKERS)]
    with pair(hooks) as (first, second):
        before = hooks.count(RECEIVER)
        for _ in range(BEATS):
            beat(second, [*names, FAILS])
            threading.Event().wait(_BEAT_S)
        first.process.kill()
        killed_ms = wall_ms()
        second.post(f"/api/v1/workers/{FAILS}/disconnect", {"reason": "crash", "exit_code": 1})
        ages: list[float] = []

        def all_told() -> bool:
            ages.append(second.get("/api/v1/status")["monitor"]["last_sweep_age_seconds"] or 0.0)
            return hooks.count(RECEIVER) - before >= WORKERS + 1

        until(all_told, "every death is notified", limit_s=LIMIT_S)
        arrivals = hooks.arrivals(RECEIVER)[before:]
        history: list[dict[str, Any]] = second.get("/api/v1/events?type=worker.stale&limit=100")["events"]
        late_s = [
            (moment_ms(event["data"]["detected_at"]) - moment_ms(event["data"]["due_at"])) / 1_000 for event in history
        ]
        failed = [arrival for arrival in arrivals if arrival.events()[0]["worker_id"] == FAILS]
        return Measured(detection_s=max(late_s), told_s=(failed[0].at_ms - killed_ms) / 1_000, sweep_age_s=max(ages))


@app.default
def main(
    *,
    rounds: Annotated[int, Parameter(help="How often a daemon is killed.")] = 10,
    smoke: Annotated[bool, Parameter(negative=(), help="One round; only errors matter.")] = False,
    json_path: Annotated[Path | None, Parameter(name="--json", help="Write the results to this file too.")] = None,
) -> int:
    """Kill one of two daemons again and again. Exit status 1: a gap was longer than the goal."""
    report = Report("failover")
    with Hooks() as hooks:
        found = [measured(hooks) for _ in range(1 if smoke else rounds)]
    gaps = {
        "from deadline to committed transition, the longest of a round": [one.detection_s for one in found],
        "from a reported failure to its webhook, in the moment of the kill": [one.told_s for one in found],
        "age of the last full sweep, the highest of a round": [one.sweep_age_s for one in found],
    }
    report.table(
        f"{len(found)} daemons killed with SIGKILL, seconds",
        ["gap", "median", "highest"],
        [[name, median(values), max(values)] for name, values in gaps.items()],
    )
    report.keep("rounds", [asdict(one) for one in found])
    report.save(json_path)
    if smoke or max(one.detection_s for one in found) <= GOAL_S:
        return 0
    report.note(f"FAULT: detection took longer than {GOAL_S:g} s")
    return 1


if __name__ == "__main__":
    try:
        sys.exit(app(result_action="return_value"))
    except BenchError as error:
        sys.exit(f"bench.failover: {error}")
