"""Actions of an operator on call, with a real daemon: pages, silences, acknowledgements, deliveries, a mass failure."""

import json
from typing import Any

from tests.support.daemons import ANY_PORT, Daemon, Home, Receiver, until

QUICK = '[liveness]\ninterval = "1s"\ngrace = "1s"\nsweep_interval = "200ms"\n'
TOGETHER = 10


def run(home: Home, daemon: Daemon, *command: str) -> str:
    """Run a command as an operator does. Returns its output."""
    done = home.run(*command, "--url", f"http://127.0.0.1:{daemon.port}", "--tenant", "acme")
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def incidents(daemon: Daemon, state: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = daemon.get(f"/api/v1/incidents?state={state}")["incidents"]
    return found


def test_p5_p18_an_outage_is_paged_acknowledged_and_resolved_over_a_restart(home: Home, receiver: Receiver) -> None:
    receiver.open()
    home.write(ANY_PORT + QUICK + receiver.section())
    first = home.start()
    assert first.beat("w", worker_metadata={"pool": "a", "api_token": "hush"}).status == 204
    page = receiver.wait_for("worker.stale", "w")[0]
    assert page.data["summary"].startswith("Worker w in prod is stale: no heartbeat since ")
    assert page.data["worker_metadata"] == {"pool": "a", "api_token": "[redacted]"}
    [incident] = until(lambda: incidents(first, "open"), "an open incident")
    assert incident["id"] == page.data["incident_id"]
    run(home, first, "incidents", "ack", incident["id"], "--comment", "on it")
    assert incidents(first, "open")[0]["ack"]["comment"] == "on it"
    first.stop()

    home.write(ANY_PORT + QUICK + receiver.section() + '[[alerts.routes]]\nreceivers = ["ops"]\ntenants = ["other"]\n')
    second = home.start()
    assert second.beat("w", interval_seconds=60).status == 204
    receiver.wait_for("worker.recovered", "w")
    until(lambda: incidents(second, "closed"), "a closed incident")
    assert incidents(second, "open") == []
    outcomes = run(home, second, "deliveries", "outcomes", page.data["event_id"])
    assert "delivered" in outcomes
    assert [attempt.type for attempt in receiver.attempts] == ["worker.stale", "worker.recovered"]


def test_p17_a_silence_holds_the_page_back_and_its_end_lets_it_go_once(home: Home, receiver: Receiver) -> None:
    receiver.open()
    home.write(ANY_PORT + QUICK + receiver.section())
    daemon = home.start()
    made = run(home, daemon, "silence", "add", "--worker-id", "quiet*", "--for", "1h", "--comment", "a deploy")
    silence_id = next(word for word in made.split() if word.startswith("sil_"))
    for name in ("quiet-1", "quiet-2", "loud"):
        assert daemon.beat(name).status == 204
    receiver.wait_for("worker.stale", "loud")
    until(lambda: daemon.lines("worker.stale", worker_id="quiet-1"), "the death of the silenced worker")
    assert daemon.beat("quiet-2", interval_seconds=60).status == 204
    daemon.wait_for("worker.recovered", worker_id="quiet-2")
    assert [attempt.data["worker_id"] for attempt in receiver.attempts] == ["loud"]
    run(home, daemon, "silence", "end", silence_id)
    receiver.wait_for("worker.stale", "quiet-1")
    daemon.stop()
    assert [attempt.data["worker_id"] for attempt in receiver.attempts] == ["loud", "quiet-1"]


def test_p16_an_environment_that_falls_silent_is_one_page_and_one_resolved(home: Home, receiver: Receiver) -> None:
    receiver.open()
    home.write(ANY_PORT + QUICK + receiver.section().replace("enabled = false", "enabled = true"))
    daemon = home.start()
    names = [f"w-{number}" for number in range(TOGETHER)]
    for name in names:
        assert daemon.beat(name, environment_name="batch").status == 204
    until(lambda: receiver.attempts, "a page")
    until(lambda: len(daemon.lines("worker.stale")) == TOGETHER, "every death")
    for name in names:
        assert daemon.beat(name, environment_name="batch", interval_seconds=60).status == 204
    until(lambda: receiver.attempts[-1].type == "group.resolved", "the resolved")
    daemon.stop()
    assert [attempt.type for attempt in receiver.attempts] == ["group.firing", "group.resolved"]
    firing = json.loads(receiver.attempts[0].body)["data"]
    assert firing["group"] == {"tenant": "acme", "environment": "batch"}
    assert len(firing["events"]) == TOGETHER


def test_a_person_tries_a_receiver_and_replays_a_dead_letter(home: Home, receiver: Receiver) -> None:
    receiver.answer = 413
    receiver.open()
    home.write(ANY_PORT + QUICK + receiver.section())
    daemon = home.start()
    assert daemon.beat("w").status == 204
    nid = daemon.wait_for("delivery.dead_lettered", type="worker.stale")[0]["nid"]
    assert nid in run(home, daemon, "deliveries", "list", "--outcome", "dead_lettered")
    receiver.answer = 204
    tried = home.run("alerts", "test", "ops", "--url", f"http://127.0.0.1:{daemon.port}")
    assert tried.returncode == 0, tried.stderr
    run(home, daemon, "deliveries", "replay", nid)
    daemon.wait_for("delivery.delivered", nid=nid)
    assert daemon.beat("w", interval_seconds=60).status == 204
    receiver.wait_for("worker.recovered", "w")
