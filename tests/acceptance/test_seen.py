"""Seen for real: three workers, one is killed, one webhook; it comes back, one webhook more."""

import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from monitor.clock import monotonic_s
from tests.support.daemons import CurlWorker, Daemon, Home, Receiver, until

CONFIG = """
[server]
port = 0

[liveness]
interval = "1s"
grace = "3s"
sweep_interval = "200ms"
"""
JOURNAL = '[[alerts.receivers]]\nname = "journal"\ntype = "log"\n'
NAMES = ("worker-1", "worker-2", "worker-3")


class Transcript:
    """A log of the test's steps, in order, for readers of the test's output."""

    def __init__(self) -> None:
        self._began_s = monotonic_s()

    def say(self, text: str) -> None:
        sys.stdout.write(f"{monotonic_s() - self._began_s:7.2f} s  {text}\n")


@pytest.fixture
def workers() -> Iterator[dict[str, CurlWorker]]:
    """Filled by the test; killed afterwards."""
    started: dict[str, CurlWorker] = {}
    yield started
    for worker in started.values():
        worker.kill()


def which(record: dict[str, Any]) -> tuple[object, object]:
    return record["generation"], record["seq"]


def history(daemon: Daemon, worker_id: str) -> list[str]:
    return [event["type"] for event in daemon.get(f"/api/v1/events?worker_id={worker_id}")["events"]]


def is_up(daemon: Daemon, worker_id: str) -> bool:
    return bool(daemon.get(f"/api/v1/workers/{worker_id}")["liveness"] in {"alive", "late"})


def check_that_all_say_the_same(daemon: Daemon, event: dict[str, Any], kind: str, liveness: str) -> None:
    """The webhook's ``event``, the worker, its history and the log are about one and the same transition."""
    worker_id = event["worker_id"]
    worker = daemon.get(f"/api/v1/workers/{worker_id}")
    assert which(worker) == which(event)
    assert worker["liveness"] == liveness
    last = worker["transitions"][-1]
    assert (last["type"], last["seq"], last["detected_at"]) == (kind, event["seq"], event["detected_at"])
    (recorded,) = daemon.get(f"/api/v1/events?worker_id={worker_id}&type={kind}")["events"]
    assert {name: event[name] for name in recorded["data"]} == recorded["data"]
    (moved,) = daemon.lines(kind, worker_id=worker_id)
    assert which(moved) == which(event)
    (noted,) = daemon.wait_for("notification", worker_id=worker_id, type=kind)
    assert (noted["event_id"], *which(noted)) == (event["event_id"], *which(event))


@pytest.mark.skipif(shutil.which("curl") is None, reason="the workers of this test are made of curl")
def test_one_worker_of_three_is_killed_and_reported_once_and_its_return_once(
    empty_home: Home, receiver: Receiver, workers: dict[str, CurlWorker]
) -> None:
    home, transcript = empty_home, Transcript()
    receiver.open()
    home.write(CONFIG + receiver.section() + JOURNAL)
    daemon = home.start()
    transcript.say(f"lastseen serve: process {daemon.pid} listens on {daemon.url}, webhooks go to {receiver.url}")

    with ThreadPoolExecutor(len(NAMES)) as pool:
        tokens = pool.map(lambda name: home.token("heartbeat:write", worker_id=name), NAMES)
        for name, token in zip(NAMES, tokens, strict=True):
            workers[name] = CurlWorker(daemon.url, token, name, home.directory / f"{name}.log")
    for name, worker in workers.items():
        worker.start()
        transcript.say(f"{name}: process {worker.pid}, sh and curl, beats every 0.3 s; interval 1 s, grace 3 s")
    until(lambda: all(worker.answers()[2:] for worker in workers.values()), "three answers for each worker")
    for name, worker in workers.items():
        transcript.say(
            f"{name}: curl got {' '.join(worker.answers())}; it is {'up' if is_up(daemon, name) else 'DOWN'}"
        )
    assert all(is_up(daemon, name) for name in NAMES)
    assert receiver.attempts == []

    victim = workers["worker-2"]
    victim.kill()
    transcript.say(f"kill -9 {victim.pid}: worker-2 is dead")
    stale = receiver.wait_for("worker.stale", "worker-2")[0]
    event = stale.data
    transcript.say(f"webhook: POST {stale.type} {stale.webhook_id}, signature verified, {stale.body.decode()}")
    assert (event["old"], event["new"], event["status"]) == ("alive", "stale", "busy")
    assert event["last_seen"] < event["due_at"] <= event["detected_at"]
    check_that_all_say_the_same(daemon, event, "worker.stale", "stale")
    status = daemon.get("/api/v1/status")
    transcript.say(f"GET /api/v1/status: {status['counts']}, degraded: {status['monitor']['degraded']}")
    assert (status["total"], status["counts"]["stale"]) == (3, 1)
    assert status["counts"]["alive"] + status["counts"]["late"] == 2
    transcript.say(f"log: {daemon.lines('worker.stale')[0]}")

    victim.start()
    transcript.say(f"worker-2 is back: process {victim.pid}")
    recovered = receiver.wait_for("worker.recovered", "worker-2")[0]
    transcript.say(
        f"webhook: POST {recovered.type} {recovered.webhook_id}, signature verified, seq {recovered.data['seq']}"
    )
    assert recovered.data["generation"] == event["generation"]
    assert recovered.data["seq"] == event["seq"] + 1
    assert (recovered.data["old"], recovered.data["new"]) == ("stale", "alive")
    until(lambda: is_up(daemon, "worker-2"), "worker-2 up again")
    check_that_all_say_the_same(daemon, recovered.data, "worker.recovered", "alive")
    assert history(daemon, "worker-2") == ["worker.registered", "worker.stale", "worker.recovered"]
    assert [history(daemon, name) for name in ("worker-1", "worker-3")] == [["worker.registered"]] * 2

    daemon.stop()
    sent = [(attempt.data["worker_id"], attempt.type) for attempt in receiver.attempts]
    transcript.say(f"SIGTERM: exit status 0; the receiver has got, in all, {sent}")
    assert sent == [("worker-2", "worker.stale"), ("worker-2", "worker.recovered")]
    assert stale.webhook_id != recovered.webhook_id
