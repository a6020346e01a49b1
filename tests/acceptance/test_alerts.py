"""From a worker's end to the webhook, with daemons that are killed on the way."""

import secrets

from monitor.clock import monotonic_s
from tests.support.daemons import ANY_PORT, Daemon, Home, Receiver, until

QUICK = '[liveness]\ninterval = "1s"\ngrace = "1s"\nsweep_interval = "200ms"\n'
TAKEOVER_S = 15.0
"""A router's lease is 2 s; the rest is for a machine that has other things to do."""
ATTEMPT_LEASE_S = 60.0
"""An attempt that was cut off is repeated when its lease has ended, 10 s after the receiver's timeout."""


def types(daemon: Daemon, worker_id: str) -> list[str]:
    return [event["type"] for event in daemon.get(f"/api/v1/events?worker_id={worker_id}")["events"]]


# One daemon ---------------------------------------------------------------------------------------------------------


def test_a_failure_that_a_worker_reports_is_sent_at_once_and_a_clean_stop_never(home: Home, receiver: Receiver) -> None:
    receiver.open()
    home.write(ANY_PORT + receiver.section())  # silence would take 95 s
    daemon = home.start()
    for name in ("clean", "failing"):
        assert daemon.beat(name, current_task_id="t-7").status == 204
    assert daemon.disconnect("clean", reason="shutdown", exit_code=0).status == 204
    assert daemon.disconnect("failing", reason="crash", exit_code=137, error_message="killed").status == 204
    data = receiver.wait_for("worker.failed", "failing")[0].data
    assert (data["old"], data["new"], data["current_task_id"]) == ("alive", "failed", "t-7")
    assert (data["reason"], data["exit_code"], data["error_message"]) == ("crash", 137, "killed")
    assert types(daemon, "clean") == ["worker.registered", "worker.stopped"]
    assert types(daemon, "failing") == ["worker.registered", "worker.failed"]
    assert daemon.get("/api/v1/status")["counts"] == {"alive": 0, "late": 0, "stale": 0, "stopped": 1, "failed": 1}
    daemon.stop()
    assert [(attempt.type, attempt.data["worker_id"]) for attempt in receiver.attempts] == [
        ("worker.failed", "failing")
    ]


def test_kill_9_between_event_and_delivery_repeats_id_and_body_until_the_receiver_has_taken_them_once(
    home: Home, receiver: Receiver
) -> None:
    home.write(ANY_PORT + QUICK + receiver.section())

    # The receiver is down, then refuses: the event is recorded, and its deliveries fail.
    first = home.start()
    assert first.beat("w").status == 204
    webhook_id = first.wait_for("delivery.failed", type="worker.stale")[0]["nid"]
    assert receiver.attempts == []
    receiver.answer = 503
    receiver.open()
    refused = receiver.wait_for("worker.stale", "w")[0]
    assert refused.webhook_id == webhook_id
    first.wait_for("delivery.failed", nid=webhook_id, reason="receiver 'ops': HTTP 503")
    first.kill()

    # The receiver takes the request and does not answer: the outcome of that attempt is unknown.
    receiver.answer = None
    second = home.start()
    until(lambda: receiver.attempts[-1].answered is None, "an attempt that is not answered", timeout_s=ATTEMPT_LEASE_S)
    second.kill()

    receiver.answer = 204
    third = home.start()
    third.wait_for("delivery.delivered", nid=webhook_id, timeout_s=ATTEMPT_LEASE_S)
    assert types(third, "w") == ["worker.registered", "worker.stale"]
    third.kill()

    # One more start and one more event: what was taken is not sent again.
    fourth = home.start()
    assert fourth.beat("w", interval_seconds=60).status == 204
    receiver.wait_for("worker.recovered", "w")
    fourth.stop()
    of_down = receiver.of("worker.stale")
    assert {attempt.webhook_id for attempt in of_down} == {webhook_id}
    assert {attempt.body for attempt in of_down} == {refused.body}
    taken = [(attempt.type, attempt.data["seq"]) for attempt in receiver.attempts if attempt.answered == 204]
    assert taken == [("worker.stale", 2), ("worker.recovered", 3)]


# Two daemons on one store -------------------------------------------------------------------------------------------


def shared(home: Home, store_url: str, receiver: Receiver) -> None:
    """A configuration for several daemons."""
    home.write(secrets.token_hex(32), "token-secret")
    home.write(
        f'{ANY_PORT}[store]\nurl = "{store_url}"\n{QUICK}'
        f'[[auth.keys]]\nkid = "k1"\nalgorithm = "HS256"\nsecret_file = "token-secret"\n{receiver.section()}'
    )


def test_two_daemons_on_one_store_report_each_silence_once_and_one_goes_on_when_the_other_is_killed(
    empty_home: Home, store_url: str, receiver: Receiver
) -> None:
    home = empty_home
    receiver.open()
    shared(home, store_url, receiver)
    first = home.start()  # takes the router's lease, and keeps it
    second = home.start()
    assert not (home.directory / "data").exists()
    names = {f"w-{number}" for number in range(20)}
    for number, name in enumerate(sorted(names)):
        assert (first, second)[number % 2].beat(name).status == 204
    assert first.worker_ids() == second.worker_ids() == names

    for name in names:
        receiver.wait_for("worker.stale", name)
    for name in names:
        assert types(second, name) == ["worker.registered", "worker.stale"]
    recorded = [line["worker_id"] for daemon in (first, second) for line in daemon.lines("worker.stale")]
    assert sorted(recorded) == sorted(names)

    first.kill()
    killed_s = monotonic_s()
    assert second.beat("late").status == 204
    assert second.disconnect("late", reason="crash", exit_code=1).status == 204
    receiver.wait_for("worker.failed", "late")
    assert monotonic_s() - killed_s < TAKEOVER_S

    for name in names:
        assert second.beat(name, interval_seconds=60).status == 204
    for name in names:
        receiver.wait_for("worker.recovered", name)
    second.stop()
    ids = [attempt.webhook_id for attempt in receiver.attempts]
    assert len(ids) == len(set(ids))
    for kind in ("worker.stale", "worker.recovered"):
        assert sorted(attempt.data["worker_id"] for attempt in receiver.of(kind)) == sorted(names)
