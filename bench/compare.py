"""Single heartbeats through this checkout and through another commit, in turn: ``python -m bench.compare --help``."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

from cyclopts import App, Parameter

from bench.closed_loop import generator
from bench.harness import ROOT, BenchError, Checkout, daemon, directory
from bench.intake import OTHER_CORES, SERVER_CORES, Intake, Measured
from bench.load.plan import Ids, Plan
from bench.load.run import LoadError
from bench.results import Report, alternating
from bench.tokens import minted

HERE: Final = "here"
PREPARE_S: Final = 300.0
DEFAULTS: Final = {"LASTSEEN_LIMITS__WORKER_BEATS_PER_SECOND": None}
"""What a commit may not know is left to its default; that of the limit is never met here, and it is asked."""
FIGURES: Final[dict[str, Callable[[Measured], float]]] = {
    "beats/s": lambda one: one.per_s,
    "CPU of the daemon for a beat": lambda one: one.cores["server"],
    "CPU of the store for a beat": lambda one: one.cores["store"],
    "CPU of both for a beat": lambda one: one.cores["server"] + one.cores["store"],
}

app = App(name="python -m bench.compare")


@contextlib.contextmanager
def checked_out(commit: str) -> Iterator[Checkout]:
    """A worktree of that commit, installed.

    Raises:
        BenchError: there is no such commit, or it can't be installed.
    """
    with directory() as place:
        root = place / "worktree"
        _run("git", "worktree", "add", "--quiet", "--detach", str(root), commit)
        try:
            with installed(root) as checkout:
                yield checkout
        finally:
            _run("git", "worktree", "remove", "--force", str(root))


@contextlib.contextmanager
def installed(root: Path) -> Iterator[Checkout]:
    """A checkout with what its own lock file says, and no more, installed for this interpreter's version.

    Raises:
        BenchError: it can't be installed.
    """
    with directory() as place:
        interpreter = str(Path(sys.executable).resolve())
        words = [_uv(), "sync", "--quiet", "--frozen", "--no-dev", "--python", interpreter]
        _run(*words, cwd=root, env={"UV_PROJECT_ENVIRONMENT": str(place / "venv")})
        yield Checkout(root=root, python=place / "venv" / "bin" / "python")


def _uv() -> str:
    own = ROOT / ".uv" / "bin" / "uv"
    found = str(own) if own.exists() else shutil.which("uv")
    if found is None:
        raise BenchError("there is no uv, neither in .uv/bin nor on PATH")
    return found


def _run(*words: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"} | dict(env or {})
    ended = subprocess.run(
        words, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=PREPARE_S
    )
    if ended.returncode:
        raise BenchError(f"{' '.join(words)} ended with {ended.returncode}:\n{ended.stderr.strip()}")
    return ended.stdout.strip()


@app.default
def main(
    commit: Annotated[str, Parameter(help="The other version: anything that names a commit.")],
    *,
    pairs: Annotated[int, Parameter(help="Rounds; each measures both once.")] = 7,
    seconds: Annotated[int, Parameter(help="Length of one measurement.")] = 5,
    connections: Annotated[int, Parameter(help="Requests in flight.")] = 64,
    workers: Annotated[int, Parameter(help="Different workers.")] = 10_000,
    tokens: Annotated[int, Parameter(help="Different tokens.")] = 1_000,
    smoke: Annotated[bool, Parameter(negative=(), help="One short round; only errors matter.")] = False,
    json_path: Annotated[Path | None, Parameter(name="--json", help="Write the results to this file too.")] = None,
) -> int:
    """Measure beats per second and CPU time of one daemon process and its store against those of another commit.

    Both daemons are on core 0, the stores and the generator share core 1; one of them at a time has work.
    Example: python -m bench.compare HEAD~1

    Exit status 1: an answer was not 2xx, or a beat that was answered is not stored.
    """
    if smoke:
        pairs, seconds, workers, tokens = 1, 1, 200, 20
    report = Report("compare")
    other = _run("git", "rev-parse", "--short", "--verify", f"{commit}^{{commit}}")
    described = _run("git", "describe", "--always", "--dirty")
    report.note(f"here: {described}; compared with: {_run('git', 'log', '-1', '--format=%h %s', other)}")
    with contextlib.ExitStack() as stack:
        checkouts = {HERE: stack.enter_context(installed(ROOT)), other: stack.enter_context(checked_out(other))}
        daemons = {name: stack.enter_context(daemon(DEFAULTS, checkout=one)) for name, one in checkouts.items()}
        for one in daemons.values():
            one.pin(cores=SERVER_CORES, store_cores=OTHER_CORES)
        plans = {
            name: Plan(
                url=one.url,
                tokens=minted(one.config, tokens),
                rate=None,
                duration_s=seconds,
                connections=connections,
                workers=workers,
                ids=Ids.TURN,
            )
            for name, one in daemons.items()
        }
        intake = Intake(daemons, plans)
        intake.register()
        for name, one in daemons.items():
            intake.measure(name)  # to warm up
            one.settle()
        rounds = alternating(pairs, list(daemons), intake.measure)
        intake.check_fleet()
    report.table(
        f"{connections} connections kept alive, {workers:,} workers, {tokens:,} tokens; {pairs} x {seconds} s of each "
        f"by {generator()}; median (least-most); CPU in cores per 10,000/s",
        ["", HERE, other, f"{HERE} / {other}"],
        [
            [name, str(rounds.spread(HERE, of)), str(rounds.spread(other, of)), str(rounds.ratio(HERE, other, of))]
            for name, of in FIGURES.items()
        ],
    )
    report.keep("rounds", {name: [asdict(one) for one in found] for name, found in rounds.measured.items()})
    for fault in intake.faults:
        report.note(f"FAULT: {fault}")
    report.save(json_path)
    return 1 if intake.faults else 0


if __name__ == "__main__":
    try:
        sys.exit(app(result_action="return_value"))
    except (BenchError, LoadError) as error:
        sys.exit(f"bench.compare: {error}")
