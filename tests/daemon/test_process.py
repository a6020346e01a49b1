"""One process of several, with the test as its supervisor."""

import contextlib
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from monitor.auth import VerifyingKey
from monitor.daemon.config.model import Config
from monitor.daemon.delivery_labels import delivery_labels
from monitor.daemon.processes.handover import READY, Assignment
from monitor.daemon.processes.supervisor import DIVIDED, divided
from monitor.daemon.serve import usable_cores
from monitor.daemon.signing_key import KeyRing
from monitor.http.listeners import dealt
from monitor.http.server import BACKLOG, listen
from monitor.metrics.registry import Share, Slots
from monitor.metrics.shared_memory import shared_memory
from tests.support.daemons import WAIT_S, call


@pytest.fixture
def start() -> Iterator[Callable[[list[int]], tuple[subprocess.Popen[bytes], socket.socket]]]:
    """Starts a process that inherits some descriptors; its channel comes with it. It is killed in the end."""
    with contextlib.ExitStack() as stack:

        def begin(descriptors: list[int]) -> tuple[subprocess.Popen[bytes], socket.socket]:
            ours, theirs = socket.socketpair()
            stack.enter_context(ours)
            ours.settimeout(WAIT_S)
            with theirs:
                command = [sys.executable, "-P", "-m", "monitor.daemon.processes.child", str(theirs.fileno())]
                process = subprocess.Popen(
                    command,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno(), *descriptors],
                )
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process, ours

        yield begin


def test_it_ends_well_when_its_supervisor_has_gone_before_it_said_anything(
    start: Callable[[list[int]], tuple[subprocess.Popen[bytes], socket.socket]],
) -> None:
    process, channel = start([])
    channel.close()
    assert process.wait(WAIT_S) == 0


def test_it_serves_what_it_was_assigned_and_stops_when_its_supervisor_is_gone(
    start: Callable[[list[int]], tuple[subprocess.Popen[bytes], socket.socket]], store_url: str
) -> None:
    config = Config()
    listeners = dealt(listen("127.0.0.1", 0), count=2, backlog=BACKLOG)
    counters = shared_memory(slots=Slots(delivery_labels(config)).count, rows=2)
    descriptors = [sock.fileno() for sock in listeners]
    process, channel = start([counters, *descriptors])
    assignment = Assignment(
        config=config,
        ring=KeyRing(keys=(VerifyingKey(kid="k", algorithm="HS256", key=b"k" * 32),), generated=None),
        store_url=store_url,
        listeners=tuple(descriptors),
        share=Share(fd=counters, processes=2, process=1, supervisor_pid=os.getpid()),
    )
    channel.sendall(pickle.dumps(assignment))
    assert channel.recv(len(READY), socket.MSG_WAITALL) == READY
    url = f"http://127.0.0.1:{listeners[0].getsockname()[1]}"
    # Half of these are dealt to the other process, which is not there.
    assert {call(url, "GET", "/livez").status for _ in range(20)} == {200}
    assert "process_down" in call(url, "GET", "/healthz").json()["reasons"]
    channel.close()
    assert process.wait(WAIT_S) == 0
    os.close(counters)
    for sock in listeners:
        sock.close()


def test_the_limits_of_one_daemon_are_divided_over_its_processes_and_nothing_else_is() -> None:
    config = Config.model_validate({"limits": {"connections": 10, "pending_beats": 2, "events": 5_000}})
    part = divided(config, 4)
    assert (part.limits.connections, part.limits.pending_beats) == (3, 1)
    same = {name: getattr(config.limits, name) for name in DIVIDED}
    assert part.model_copy(update={"limits": part.limits.model_copy(update=same)}) == config


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("150000 100000", 1), ("50000 100000", 1), ("100000000 100000", None), ("max 100000", None), ("", None)],
)
def test_auto_is_the_cores_that_may_be_used_or_what_the_container_is_granted(
    tmp_path: Path, quota: str, cores: int | None
) -> None:
    here = usable_cores(tmp_path / "absent")
    assert here >= 1
    (tmp_path / "cpu.max").write_text(quota + "\n")
    assert usable_cores(tmp_path / "cpu.max") == (here if cores is None else cores)
