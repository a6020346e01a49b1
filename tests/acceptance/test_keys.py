"""The rule of what is stored: each key has a tag with an anchor, and a line in the tables of docs/operations.md."""

import re
import secrets
import threading
from pathlib import Path
from typing import Final

from redis import Redis

from tests.support.daemons import ANY_PORT, Daemon, Home, Receiver, call, until

PARTITIONS: Final = 4
DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "operations.md"
CONFIG: Final = f"""{ANY_PORT}
[store]
url = "%s"
namespace = "prod"
partitions = {PARTITIONS}
[[auth.keys]]
kid = "k1"
algorithm = "HS256"
secret_file = "token-secret"
[liveness]
interval = "1s"
grace = "1s"
sweep_interval = "200ms"
[limits]
workers_per_tenant = 120
"""
ROUTES: Final = """
[[alerts.routes]]
receivers = ["ops"]
environments = ["together"]
group_by = ["environment"]
[[alerts.routes]]
receivers = ["ops"]
environments = ["*"]
"""
SPECIAL: Final = {"TAG:to:RECEIVER:*"}
"""Lines that are about keys of other lines."""
WIDE: Final = {"TAG:to:RECEIVER:members:*", "TAG:to:RECEIVER:firing:*", "{ls.shared:N}:failure:*"}
"""Lines of keys that name a group or an environment, in which there may be a colon."""
TAG: Final = re.compile(r"\{prod\.(?P<kind>ls|ls\.shared):(?P<number>\d+)\}:(?P<rest>.*)", re.DOTALL)


def documented() -> dict[str, re.Pattern[str]]:
    """The patterns of keys in the tables, each with what it matches, written without the namespace."""
    found = {}
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:4]] if line.startswith("|") else []
        for cell in cells[:2]:
            names = re.findall(r"`([^`]+)`", cell)
            if not names or not names[0].startswith(("TAG:", "{ls")):
                continue
            prefix = re.match(r"(TAG:to:RECEIVER|TAG|\{[^}]*\})", names[0])
            assert prefix is not None
            assert cells[2], f"{names[0]} has no bound"
            for name in names:
                pattern = name if not name.startswith(":") else prefix[0] + name
                if pattern.startswith(("TAG", "{ls")):
                    found[pattern] = _compiled(pattern)
    assert len(found) > 40
    return found


def _compiled(pattern: str) -> re.Pattern[str]:
    text = re.escape(pattern)
    for word, meaning in (
        ("TAG", r"\{ls(?:\.shared)?:\d+\}"),
        ("PARTITION", r"\d+"),
        ("RECEIVER", r"[^:]+"),
        (re.escape("shared:N"), r"shared:\d+"),
        (re.escape("*"), r".*" if pattern in WIDE | SPECIAL else r"[^:]*"),
    ):
        text = text.replace(word, meaning)
    return re.compile(text, re.DOTALL)


def busy(home: Home, daemon: Daemon, receiver: Receiver) -> None:
    """Let everything happen that leaves something in the store."""
    other = home.token("heartbeat:write", "workers:read", "operator", tenant="other")
    base = f"http://127.0.0.1:{daemon.port}"

    def run(*words: str) -> str:
        done = home.run(*words, "--url", base, "--tenant", "acme")
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    run("silence", "add", "--worker-id", "quiet*", "--for", "1h", "--comment", "a deploy")
    run("silence", "end", run("silence", "add", "--worker-id", "other", "--for", "1h").strip())
    assert daemon.call("POST", "/api/v1/receivers/ops/test").status == 200
    run("token", "revoke", "--sub", "gone")
    logs = {"logs": ["a line"], "system_info": {"cpu": 1}, "worker_metadata": {"pool": "a"}}
    for name in ("single", "quiet-1", "back"):
        assert daemon.beat(name, **logs).status == 204
    for number in range(12):
        assert daemon.beat(f"mass-{number}", environment_name="mass").status == 204
        assert daemon.beat(f"together-{number}", environment_name="together").status == 204
    body = {"worker_id": "w", "environment_name": "prod"}
    assert call(base, "POST", "/api/v1/workers/heartbeat", token=other, body=body).status == 204
    assert daemon.disconnect("back", reason="shutdown", back_in_seconds=3_600).status in {200, 204}
    receiver.wait_for("worker.stale", "single")
    until(lambda: [one for one in receiver.attempts if one.type == "group.firing"], "a group's page")
    [incident] = [
        one for one in daemon.get("/api/v1/incidents?state=open")["incidents"] if one["worker_id"] == "single"
    ]
    run("incidents", "ack", incident["id"], "--comment", "on it")
    for number in range(12):  # so that the incident of their environment is over
        assert daemon.beat(f"mass-{number}", environment_name="mass", interval_seconds=3_600).status == 204
    until(lambda: is_over(daemon, "mass"), "the end of the mass failure")
    receiver.answer = 503  # tried again, so that a notification is in flight for a while
    assert daemon.beat("single").status == 204
    daemon.wait_for("delivery.failed", count=2)
    receiver.answer = 413  # given up at once
    daemon.wait_for("delivery.dead_lettered")
    for number in range(110):  # more than the quota, so that it is divided
        assert daemon.beat(f"many-{number}", interval_seconds=3_600).status in {204, 429}


def is_over(daemon: Daemon, environment: str) -> bool:
    found = daemon.get(f"/api/v1/incidents?state=closed&environment={environment}")["incidents"]
    return any(one["kind"] != "worker" for one in found)


def refused(daemon: Daemon) -> bool:
    return daemon.beat("single", tasks_processed="many").status == 422


def is_blind(redis: Redis) -> bool:
    seconds, microseconds = redis.time()
    return seconds * 1_000 + microseconds // 1_000 - int(redis.hget("{prod.ls:0}:meta", "pulse") or 0) > 2_000


def test_each_key_has_a_tag_with_an_anchor_and_a_line_in_the_documentation(
    empty_home: Home, receiver: Receiver, store_url: str
) -> None:
    receiver.open()
    empty_home.write(secrets.token_hex(32), "token-secret")
    text = receiver.section().replace("enabled = false", "enabled = true")
    empty_home.write(CONFIG % store_url + text + ROUTES)
    daemon = empty_home.start()
    patterns, met = documented(), set()
    with Redis.from_url(store_url, decode_responses=True) as redis:
        seen: set[str] = set()
        is_over = threading.Event()

        def look() -> None:
            while not is_over.wait(0.01):
                seen.update(redis.scan_iter(count=1_000))

        looking = threading.Thread(target=look)
        looking.start()
        try:
            busy(empty_home, daemon, receiver)
            # A worker whose beats are refused until its deadline has passed.
            until(lambda: refused(daemon) and any(":refused:" in key for key in list(seen)), "refused beats")
            daemon.kill()
            until(lambda: is_blind(redis), "the last pulse is old")
            daemon = empty_home.start()
            until(lambda: any(":windows" in key for key in list(seen)), "a blind window")
        finally:
            is_over.set()
            looking.join()
        for key in sorted(seen):
            found = TAG.fullmatch(key)
            assert found is not None, f"{key!r} has no tag of a partition or a shard in this namespace"
            assert int(found["number"]) < PARTITIONS, key
            assert redis.exists(f"{{prod.{found['kind']}:{found['number']}}}:meta"), key
            plain = key.replace("{prod.", "{", 1)
            lines = {pattern for pattern, matches in patterns.items() if matches.fullmatch(plain)} - SPECIAL
            assert lines, f"{key!r} has no line in docs/operations.md"
            met |= lines
    assert set(patterns) - met == SPECIAL
    daemon.stop()
