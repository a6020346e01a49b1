"""docs/tutorial.md: its commands, in their order, do what the page says."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.daemons import LASTSEEN, WAIT_S, Daemon, Home, until
from tests.support.sentinels import free_ports

ROOT: Final = Path(__file__).parents[2]
_FENCE: Final = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS: Final = _FENCE.findall((ROOT / "docs" / "tutorial.md").read_text("utf-8"))
START: Final = _FENCE.findall((ROOT / "README.md").read_text("utf-8"))[0]


class Terminal:
    """A shell in the reader's folder, in which one block is run after the other."""

    def __init__(self, home: Home, *, port: int, hook_port: int) -> None:
        self._ports = {"8642": str(port), "9000": str(hook_port)}
        self._shell = subprocess.Popen(
            ["bash", "--norc"],
            cwd=home.directory,
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("LASTSEEN_")},
                "PATH": f"{Path(LASTSEEN).parent}:{os.environ['PATH']}",
                "LASTSEEN_SERVER__PORT": str(port),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, block: str) -> str:
        """Run the block. Returns its output; its last command must succeed."""
        for page, here in self._ports.items():
            block = block.replace(page, here)
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f'{block}\nstatus=$?; echo; echo "ended with $status"\n')
        self._shell.stdin.flush()
        lines: list[str] = []
        for line in self._shell.stdout:
            if line.startswith("ended with "):
                assert line == "ended with 0\n", (block, lines)
                break
            lines.append(line)
        return "".join(lines)

    def close(self) -> None:
        """End the shell and what it has started."""
        assert self._shell.stdin is not None
        self._shell.stdin.write("kill $(jobs -p) 2>/dev/null\n")
        self._shell.stdin.close()
        self._shell.wait(WAIT_S)
        if self._shell.stdout is not None:
            self._shell.stdout.close()


@pytest.fixture
def ports() -> tuple[int, int]:
    first, second = free_ports(2)
    return first, second


@pytest.fixture
def terminal(empty_home: Home, ports: tuple[int, int]) -> Iterator[Terminal]:
    made = Terminal(empty_home, port=ports[0], hook_port=ports[1])
    yield made
    made.close()


def _start(home: Home, port: int) -> Daemon:
    return home.launch("--processes", "1", env={"LASTSEEN_SERVER__PORT": str(port)}).ready()


def test_the_tutorial_does_what_it_says(empty_home: Home, terminal: Terminal, ports: tuple[int, int]) -> None:
    start, path, heartbeat, incidents, hook, configure, sample, acknowledge, silence = BLOCKS
    assert start == START
    assert hook.endswith("python3 hook.py\n")

    daemon = _start(empty_home, ports[0])
    terminal.run(path)
    assert "HTTP/1.1 204" in terminal.run(heartbeat)
    daemon.wait_for("worker.stale", worker_id="worker-1")
    assert "worker-1" in terminal.run(incidents)
    assert "HTTP/1.1 204" in terminal.run(heartbeat)
    daemon.wait_for("worker.recovered", worker_id="worker-1")
    assert "worker-1" not in terminal.run(incidents)

    terminal.run(hook.replace("python3 hook.py\n", "python3 hook.py > hook.log 2>&1 &\n"))
    terminal.run(configure)
    daemon.stop()
    daemon = _start(empty_home, ports[0])
    hooked = empty_home.directory / "hook.log"
    terminal.run(sample)
    until(lambda: "POST /hook" in hooked.read_text("utf-8"), "the sample at the receiver")
    assert "HTTP/1.1 204" in terminal.run(heartbeat)
    daemon.wait_for("worker.stale", worker_id="worker-1")
    until(lambda: '"worker_id":"worker-1"' in hooked.read_text("utf-8"), "the alert at the receiver")
    assert "worker-1" in terminal.run(incidents)

    terminal.run(acknowledge)
    assert "acknowledged by operator" in terminal.run(incidents)
    assert "sil_" in terminal.run(silence)
    daemon.stop()
