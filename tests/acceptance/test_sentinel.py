"""A real daemon on a store behind Sentinel: its primary dies, is paused, and hands over."""

import itertools
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from monitor.clock import monotonic_s
from tests.support import sentinels
from tests.support.daemons import ANY_PORT, BEAT, Daemon, Home, Receiver, call, until
from tests.support.sentinels import Watched

PASSWORD: Final = "swordfish-of-the-store"
LONGEST_GAP_S: Final = 20.0
"""Without any 204: down-after is 0.5 s and a failover takes another second, on a machine with nothing else to do."""


USER: Final = ("--user", "lastseen", "on", f">{PASSWORD}", "~*", "&*", "+@all")


@pytest.fixture
def group() -> Iterator[Watched]:
    with sentinels.watched(replicas=2, sentinels=3, options=USER) as found:
        yield found


def configure(home: Home, group: Watched, *, rest: str = "", durability: str = "replicas:1") -> None:
    url = group.url.replace("//", f"//lastseen:{PASSWORD}@")
    home.write(secrets.token_hex(32), "token-secret")
    home.write(
        f'{ANY_PORT}[store]\nurl = "{url}"\ndurability = "{durability}"\ntimeout = "1s"\n'
        '[[auth.keys]]\nkid = "k1"\nalgorithm = "HS256"\nsecret_file = "token-secret"\n'
        f'[liveness]\ninterval = "1s"\ngrace = "1s"\nsweep_interval = "200ms"\n{rest}'
    )


class Beats:
    """Beats of a few workers in a thread, one every few milliseconds, and when they were answered 204."""

    def __init__(self, daemon: Daemon, token: str) -> None:
        self.stored: list[tuple[float, str, int]] = []
        self.other: set[int] = set()
        self._daemon, self._token = daemon, token
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        number = 0
        while not self._ending.wait(0.005):
            number += 1
            name = f"w-{number % 5}"
            body = {"worker_id": name, "environment_name": "prod", "tasks_processed": number, "interval_seconds": 600}
            status = call(self._daemon.url, "POST", BEAT, token=self._token, body=body).status
            if status == 204:
                self.stored.append((monotonic_s(), name, number))
            else:
                self.other.add(status)

    @property
    def gap_s(self) -> float:
        """The longest time without any 204."""
        times = [at_s for at_s, _, _ in self.stored]
        return max(later - earlier for earlier, later in itertools.pairwise(times))

    def more(self, count: int = 50) -> None:
        enough = len(self.stored) + count
        until(lambda: len(self.stored) >= enough, f"{count} more beats")

    @contextmanager
    def running(self) -> "Iterator[Beats]":
        self._thread.start()
        try:
            yield self
        finally:
            self._ending.set()
            self._thread.join()


def counters(daemon: Daemon) -> dict[str, int]:
    return {one["worker_id"]: one["tasks_processed"] for one in daemon.get("/api/v1/workers")["workers"]}


@pytest.mark.parametrize("fault", ["kill", "pause", "failover"])
def test_a_daemon_survives_the_loss_of_the_primary_and_its_beats_go_on(
    empty_home: Home, group: Watched, fault: str
) -> None:
    configure(empty_home, group)
    daemon = empty_home.start()
    old = group.primary()
    with Beats(daemon, empty_home.master).running() as beats:
        beats.more()
        if fault == "failover":
            group.failover()
        else:
            old.kill() if fault == "kill" else old.pause()
            group.another(than=old)
        beats.more()
        until(lambda: call(daemon.url, "GET", "/readyz").status == 200, "ready again")
        if fault == "pause":
            old.resume()
        since = len(beats.stored)
        beats.more()
    assert beats.gap_s < LONGEST_GAP_S
    assert beats.other <= {503}
    last = {name: number for _, name, number in beats.stored[since:]}
    assert counters(daemon) == last
    (moved,) = daemon.lines("store.primary_moved")
    assert moved["was"] == f"127.0.0.1:{old.port}"
    daemon.stop()
    assert PASSWORD not in daemon.output()


@pytest.mark.parametrize("durability", ["replicas:1", "memory"])
def test_p23_a_death_on_no_replica_is_sent_before_failover_only_under_memory_and_found_again_after_it(
    empty_home: Home, receiver: Receiver, durability: str
) -> None:
    """The primary is killed with an event that no replica has. Under memory it was notified, and is notified again."""
    receiver.open()
    with sentinels.watched(replicas=1, options=USER) as group:
        configure(empty_home, group, rest=receiver.section(), durability=durability)
        daemon = empty_home.start()
        assert daemon.beat("w").status == 204
        assert daemon.beat("other", interval_seconds=600).status == 204
        (primary, replica) = group.nodes
        assert primary.ask("WAIT", 1, 5_000) == 1
        replica.kill()
        first = daemon.wait_for("worker.stale", worker_id="w")[0]
        if durability == "memory":
            # What could not be recorded is remembered by the process, and not sent again.
            daemon.wait_for("delivery.delivered", type="worker.stale")
        else:
            # Deliveries are tried four times a second and not made; a failure that a worker reports has no 204 either.
            assert daemon.disconnect("other", reason="crash", exit_code=1).status == 503
            assert receiver.attempts == []
        before = len(receiver.attempts)
        primary.kill()
        replica.start()
        group.another(than=primary)
        again = daemon.wait_for("worker.stale", worker_id="w", count=2)
        assert [line["event_id"] for line in again] == [first["event_id"]] * 2
        if durability == "replicas:1":
            assert receiver.attempts == []
            primary.start()  # and becomes the replica that has to have it; what it alone had is dropped
        arrived = receiver.wait_for("worker.stale", "w", count=before + 1)
        assert daemon.beat("w", interval_seconds=600).status == 204
        receiver.wait_for("worker.recovered", "w")
        daemon.stop()
        assert {one.data["event_id"] for one in arrived} == {first["event_id"]}
        # A repetition has the same id, so a receiver that knows ids accepts one notification.
        assert len({one.webhook_id for one in receiver.of("worker.stale", "w")}) == 1
        assert len(receiver.of("worker.recovered", "w")) == 1
