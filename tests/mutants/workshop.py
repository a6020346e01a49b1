"""Copies of this checkout in which one wrong change at a time is made and tested."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from enum import Enum
from importlib.util import cache_from_source
from pathlib import Path
from typing import Final

import pytest

from tests.mutants.mutant import Mutant

ROOT: Final = Path(__file__).parent.parent.parent
LIMIT_S: Final = 300.0
"""What the tests of one change may take: a change that makes them hang is seen."""
ALL_LIMIT_S: Final = 3_600.0
"""What all tests together may take without a change."""
SHOWN: Final = 2_000


class Verdict(Enum):
    """Result of the tests of a change."""

    KILLED = "killed"
    SURVIVED = "survived"
    INVALID = "invalid"


class Workshop:
    """A copy of the checkout: what git knows and what it would take."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.output = ""
        """The end of what the last tests wrote."""

    def passes(self, tests: tuple[str, ...], *, jobs: int) -> bool:
        """Whether these tests pass in this copy as it is."""
        return self._test((f"--numprocesses={jobs}", *tests), limit_s=ALL_LIMIT_S) == pytest.ExitCode.OK

    def judge(self, mutant: Mutant) -> Verdict:
        """Make the change, run its tests, take it back.

        ``INVALID`` where the tests were not collected, so that they say nothing of the change.
        """
        path = self.root / mutant.file
        was = path.read_text("utf-8")
        if was.count(mutant.old) != 1:
            self.output = f"{mutant.file} has the text {was.count(mutant.old)} times"
            return Verdict.INVALID
        self._write(path, was.replace(mutant.old, mutant.new))
        try:
            status = self._test(mutant.tests)
        finally:
            self._write(path, was)
        if status == pytest.ExitCode.OK:
            return Verdict.SURVIVED
        return Verdict.KILLED if status in {None, pytest.ExitCode.TESTS_FAILED} else Verdict.INVALID

    def _write(self, path: Path, text: str) -> None:
        """Compiled code counts as fresh when the seconds and the size are those of the source, so it goes."""
        path.write_text(text, "utf-8")
        if path.suffix == ".py":
            Path(cache_from_source(str(path))).unlink(missing_ok=True)

    def _test(self, tests: tuple[str, ...], *, limit_s: float = LIMIT_S) -> int | None:
        """The exit status of pytest; None when it had to be ended."""
        words = [sys.executable, "-m", "pytest", "-x", "-q", "--hypothesis-seed=0", "-p", "no:cacheprovider", *tests]
        # The copy comes before the checkout that the interpreter's environment names, also in the tests' own children.
        environment = {**os.environ, "PYTHONPATH": str(self.root)}
        with (self.root / "output").open("w+b") as out:
            running = subprocess.Popen(
                words,
                cwd=self.root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status: int | None = running.wait(limit_s)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(running.pid, signal.SIGKILL)
                running.wait()
            out.seek(0)
            self.output = out.read().decode("utf-8", "replace")[-SHOWN:]
        return status


@contextlib.contextmanager
def workshop() -> Iterator[Workshop]:
    """A copy that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="ls-mutants-", ignore_cleanup_errors=True) as name:
        root = Path(name) / "checkout"
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
        for file in sorted(filter(None, listed.stdout.decode().split("\0"))):
            if (ROOT / file).is_file():
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / file, root / file)
        yield Workshop(root)
