"""Configurations that a daemon refuses, and its messages."""

import pytest

from tests.support import servers
from tests.support.daemons import ANY_PORT, WEBHOOK_SECRET, Home

FAULTY = f"""[server]
port = 99999

[liveness]
interval = 30
grce = "60s"

[[alerts.receivers]]
name = "ops"
type = "webhook"
url = "https://hooks.example.org/lastseen"
secret_file = "missing"

[[alerts.routes]]
receivers = ["unknown"]

[store]
data_dir = "{WEBHOOK_SECRET}"
partitions = 1.5
"""
FAULTS = (
    "lastseen.toml:2: server.port: ",
    "lastseen.toml:5: liveness.interval: ",
    "lastseen.toml:6: liveness.grce: ",
    "lastseen.toml:12: alerts.receivers[0].secret_file: ",
    "lastseen.toml:19: store.partitions: ",
    "environment LASTSEEN_LIVENESS__SWEEP_INTERVALL: ",
)
UNSHARED = '[store]\nurl = "redis://127.0.0.1:1"\n'


def said_nothing_on_stdout_and_made_nothing(home: Home, command: str, *, env: dict[str, str] | None = None) -> str:
    """Run a command that is refused as misused. Returns its stderr."""
    ended = home.run(command, "--config", "lastseen.toml", env=env)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert not (home.directory / "data").exists()
    return ended.stderr


@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_faulty_configuration_exits_2_and_every_fault_is_one_line_with_file_line_and_key(
    empty_home: Home, command: str
) -> None:
    empty_home.write(FAULTY)
    said = said_nothing_on_stdout_and_made_nothing(
        empty_home, command, env={"LASTSEEN_LIVENESS__SWEEP_INTERVALL": "1s"}
    )
    assert all(any(line.startswith(fault) for line in said.splitlines()) for fault in FAULTS), said
    assert len(said.splitlines()) == len(FAULTS), said
    assert WEBHOOK_SECRET not in said


def test_an_unknown_environment_variable_alone_exits_2(empty_home: Home) -> None:
    empty_home.write(ANY_PORT)
    said = said_nothing_on_stdout_and_made_nothing(empty_home, "serve", env={"LASTSEEN_SERVER__PROT": "1"})
    assert said.startswith("environment LASTSEEN_SERVER__PROT: ")
    assert "LASTSEEN_SERVER__PORT" in said


def test_a_store_of_ones_own_without_keys_exits_2(empty_home: Home) -> None:
    empty_home.write(UNSHARED)
    said = said_nothing_on_stdout_and_made_nothing(empty_home, "serve")
    assert said.startswith("lastseen.toml:2: auth.keys: ")


def test_check_warns_of_what_will_page_too_often_and_exits_0(empty_home: Home) -> None:
    empty_home.write('[liveness]\ninterval = "30s"\ngrace = "10s"\n')
    ended = empty_home.run("check", "--config", "lastseen.toml")
    assert ended.returncode == 0
    assert ended.stdout.startswith("the configuration is valid: ")
    assert ended.stderr.startswith("warning: ")
    assert "grace" in ended.stderr
    assert not (empty_home.directory / "data").exists()


def test_a_store_that_evicts_exits_1_and_says_what_to_set(empty_home: Home) -> None:
    options = ("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru")
    with servers.running(servers.valkey_binary(), *options) as server:
        empty_home.write("k" * 32, "token-secret")
        empty_home.write(
            f'{ANY_PORT}[store]\nurl = "{server.url}"\n'
            f'[[auth.keys]]\nkid = "k1"\nalgorithm = "HS256"\nsecret_file = "token-secret"\n'
        )
        ended = empty_home.run("serve", "--config", "lastseen.toml")
    assert ended.returncode == 1
    (said,) = ended.stderr.splitlines()
    assert said.startswith("lastseen: the store can't be used: ")
    assert all(word in said for word in ("maxmemory-policy", "allkeys-lru", "noeviction"))
