"""The checks that take longer than .ci/run may, and that itself: `.ci/long`, or `.ci/long --only chaos`.

Every step runs, whatever became of those before it. Then `docs/long-check.md` says what was checked, when, at which
commit, and what came of it; commit it. `--only` replaces the rows of its steps, such as one that has failed and was
mended: each row names its commit. The exit status is 1 when a step failed.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "long-check.md"
UV = ROOT / ".uv" / "bin" / "uv"
SEEDS = 30
AT_ONCE = 3
"""Chaos runs beside each other: most of each is waiting."""
BENCHES = (
    *("intake", "intake --one-connection-per-beat", "processes", "processes --wrk", "batch", "store", "sweep"),
    *("growth", "partitions", "alerts", "overload", "failover"),
)
REFERENCE = "f3a5c17"
"""What the speed of single beats is compared with, beside the commit of the last long check."""
RUN = (str(UV), "run", "--frozen")


@dataclass(frozen=True)
class Step:
    """One row of the page. Its commands run beside each other."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    environment: tuple[tuple[str, str], ...] = ()
    says: str = r"."
    """What lines of the output look like that go to the page: of many the last three."""


@dataclass(frozen=True)
class Outcome:
    """What came of a step."""

    name: str
    failed: bool
    seconds: float
    said: str


def interpreters() -> dict[str, str]:
    """Every CPython >= 3.11 that PATH or pyenv has, one path for each minor version."""
    candidates = [shutil.which(f"python3.{minor}") for minor in range(11, 20)] + [sys.executable]
    if shutil.which("pyenv"):
        root = Path(subprocess.run(["pyenv", "root"], capture_output=True, text=True, check=True).stdout.strip())
        candidates += [str(path) for path in sorted(root.glob("versions/*/bin/python3"))]
    found: dict[str, str] = {}
    for path in filter(None, candidates):
        # A shim of pyenv for a version that is not selected ends with an error.
        code = "import sys; print(*sys.version_info[:2], sys.implementation.name)"
        asked = subprocess.run([path, "-c", code], capture_output=True, text=True, check=False)
        words = asked.stdout.split()
        if not asked.returncode and words[2] == "cpython" and (int(words[0]), int(words[1])) >= (3, 11):
            found.setdefault(f"{words[0]}.{words[1]}", path)
    return found


def own_version() -> str:
    """The Python that .ci/run has made its environment of, such as 3.11; empty without one."""
    code = "import sys; print(*sys.version_info[:2], sep='.')"
    python = ROOT / ".venv" / "bin" / "python"
    if not python.exists():
        return ""
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=False).stdout.strip()


def steps(scratch: Path, last_commit: str | None) -> Iterator[Step]:
    """All of them, in their order."""
    first_seed = int(time.time()) // 86_400 * SEEDS
    each = SEEDS // AT_ONCE
    chaos = [
        (*RUN, "python", "-m", "tests.chaos", "--runs", str(each), "--from-seed", str(seed), "--out", str(scratch))
        for seed in range(first_seed, first_seed + SEEDS, each)
    ]
    compared = [commit for commit in (REFERENCE, last_commit) if commit is not None]
    yield Step(".ci/run", ((".ci/run",),), says="all checks passed|failed with")
    for version, path in sorted(interpreters().items()):
        if version != own_version():  # its tests have run
            yield Step(
                f"all tests, CPython {version}",
                ((*RUN, "--python", path, "pytest", "-q", "-n", "auto", "--dist", "worksteal"),),
                (("UV_PROJECT_ENVIRONMENT", str(scratch / f"venv-{version}")),),
                says=" passed| failed",
            )
    yield Step(
        "wrong changes (tests.mutants)",
        ((*RUN, "python", "-m", "tests.mutants", "--known-good"),),
        says="^SURVIVED|wrong changes were caught",
    )
    yield Step(f"chaos, {SEEDS} seeds from {first_seed}", tuple(chaos), says="^violations")
    yield Step("hostile clients, 3 minutes", ((*RUN, "python", "-m", "tests.chaos.hostile"),))
    for commit in compared:
        yield Step(
            f"bench.compare {commit}",
            ((*RUN, "python", "-m", "bench.compare", commit),),
            says=r"^\| (beats/s|CPU of both)",
        )
    for one in BENCHES:
        yield Step(f"bench.{one}", ((*RUN, "python", "-m", *f"bench.{one}".split()),), says=r"^\|")


def run(step: Step, scratch: Path) -> Outcome:
    """Run a step; its output goes to the terminal when it has ended."""
    print(f"\n==> {step.name}", flush=True)
    began = time.monotonic()
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    environment |= {"CI": "true", **dict(step.environment)}
    running = []
    for number, command in enumerate(step.commands):
        out = (scratch / f"output-{number}").open("w+b")
        running.append(
            (subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT), out)
        )
    failed, said = False, []
    for process, out in running:
        failed |= process.wait() != 0
        out.seek(0)
        text = out.read().decode("utf-8", "replace")
        out.close()
        print(text, flush=True)
        said += [line.strip() for line in text.splitlines() if re.search(step.says, line)][-3:]
    seconds = time.monotonic() - began
    print(f"<== {step.name}: {'FAILED' if failed else 'passed'} after {seconds:.0f} s", flush=True)
    return Outcome(name=step.name, failed=failed, seconds=seconds, said="; ".join(said))


def git(*words: str) -> str:
    """What git says."""
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def row(one: Outcome, commit: str) -> str:
    """The row of a step."""
    result, said = "**failed**" if one.failed else "passed", one.said.replace("|", " ").strip()
    return f"| {one.name} | {result} | {one.seconds / 60:.1f} | `{commit}` | {said} |"


def rows_of(text: str) -> dict[str, str]:
    """The rows of a page, by their steps."""
    return {
        found[1]: found[0] for found in re.finditer(r"^\| ([^|]+) \| (?:passed|\*\*failed)[^\n]*$", text, re.MULTILINE)
    }


def page(rows: Mapping[str, str], commit: str) -> str:
    """The page of docs. ``commit``: that of the last whole check."""
    failed = [name for name, line in rows.items() if "| **failed** |" in line]
    minutes = sum(float(line.split("|")[3]) for line in rows.values())
    return "\n".join(
        [
            "# The last long check",
            "",
            "Written by `.ci/long`, which runs what takes longer than `.ci/run` may. Run it before a release, on a",
            "machine with nothing else to do, and commit this page.",
            "",
            f"- Commit: `{commit}`; a row with another commit was checked again there",
            f"- Ended: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, after {minutes:.0f} minutes",
            f"- Machine: {os.cpu_count()} cores, {os.uname().sysname} {os.uname().machine}",
            f"- Result: {'**failed**: ' + ', '.join(failed) if failed else 'passed'}",
            "",
            "| step | result | minutes | commit | what it said last |",
            "|---|---|---|---|---|",
            *rows.values(),
            "",
        ]
    )


def main() -> int:
    """Run the command; its exit status."""
    parser = argparse.ArgumentParser(prog=".ci/long", description=__doc__)
    parser.add_argument(
        "--only", action="append", default=[], help="steps with this in their name, whose rows are replaced"
    )
    asked = parser.parse_args()
    if not UV.exists():
        subprocess.run([sys.executable, "-m", "pip", "install", "-qq", "--target", ".uv", "uv"], cwd=ROOT, check=True)
    scratch = ROOT / "long-check"  # timelines of seeds that failed are still there afterwards
    scratch.mkdir(exist_ok=True)
    before = PAGE.read_text("utf-8") if PAGE.exists() else ""
    found = re.search(r"^- Commit: `([0-9a-f]+)`", before, re.MULTILINE)
    commit = git("describe", "--always", "--dirty", "--abbrev=12")
    outcomes = [
        run(step, scratch)
        for step in steps(scratch, found[1] if found else None)
        if not asked.only or any(word in step.name for word in asked.only)
    ]
    rows = {one.name: row(one, commit) for one in outcomes}
    if not asked.only:
        PAGE.write_text(page(rows, commit), "utf-8")
    elif found is not None:
        PAGE.write_text(page({**rows_of(before), **rows}, found[1]), "utf-8")
    return 1 if any(outcome.failed for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
