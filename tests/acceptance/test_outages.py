"""The monitor's own outages, with real daemons: they cause no page, and hide no death (P1, P2)."""

import os
import signal
import socket
from collections.abc import Callable
from typing import Final

import pytest

from monitor.clock import monotonic_s
from tests.support.daemons import CurlWorker, Daemon, Home, Receiver, until

OUTAGE_S: Final = 5.0
"""More than twice what the workers below have until their deadline."""


def config(port: int) -> str:
    return f'[server]\nport = {port}\n[liveness]\ninterval = "1s"\ngrace = "1s"\nsweep_interval = "200ms"\n'


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def lasting(seconds: float) -> None:
    """The outage itself."""
    end_s = monotonic_s() + seconds
    until(lambda: monotonic_s() >= end_s, "the end of the outage")


def killed(home: Home, daemon: Daemon) -> Daemon:
    daemon.kill()
    lasting(OUTAGE_S)
    return home.start()


def paused(_: Home, daemon: Daemon) -> Daemon:
    daemon.signal(signal.SIGSTOP)
    lasting(OUTAGE_S)
    daemon.signal(signal.SIGCONT)
    return daemon


def without_store(home: Home, daemon: Daemon) -> Daemon:
    store = home.store_pid
    os.kill(store, signal.SIGSTOP)
    lasting(OUTAGE_S)
    os.kill(store, signal.SIGCONT)
    return daemon


def store_killed(home: Home, daemon: Daemon) -> Daemon:
    """The supervisor starts it again within a moment: the shortest of outages."""
    os.kill(home.store_pid, signal.SIGKILL)
    return daemon


@pytest.mark.parametrize("fault", [killed, paused, without_store, store_killed])
def test_p1_p2_an_outage_of_the_monitor_causes_no_false_page_and_hides_no_death(
    home: Home, receiver: Receiver, fault: Callable[[Home, Daemon], Daemon]
) -> None:
    receiver.open()
    home.write(config(free_port()) + receiver.section())
    daemon = home.start()
    lives = CurlWorker(daemon.url, home.master, "lives", home.directory / "lives.log")
    lives.start()
    try:
        until(lambda: lives.answers().count("204") >= 2, "beats of the one that lives")
        assert daemon.beat("dies").status == 204
        daemon = fault(home, daemon)
        data = receiver.wait_for("worker.stale", "dies")[0].data
        outage = data["monitor_outage"]
        assert outage["windows"] >= 1
        if fault is not store_killed:
            assert outage["seconds"] > OUTAGE_S - 1.0
        count = lives.answers().count("204")
        until(lambda: lives.answers().count("204") >= count + 5, "more beats of the one that lives")
    finally:
        lives.kill()
    until(lambda: receiver.of("worker.stale", "lives"), "the death of the one that lived")
    daemon.stop()
    assert [(attempt.type, attempt.data["worker_id"]) for attempt in receiver.attempts] == [
        ("worker.stale", "dies"),
        ("worker.stale", "lives"),
    ]
