"""The command line from outside: what stands on which stream, what is in a token, and what the exit status says."""

import os
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
import pytest

from monitor.auth import MIN_SECRET_BYTES, Authenticator, AuthPolicy, Principal, Scope, VerifyingKey
from monitor.daemon.cli.access import PLACES, config_file
from monitor.daemon.commands import COMMANDS, app
from monitor.daemon.signing_key import generated_key
from monitor.settings.key_material import webhook_secret
from monitor.version import version

DAY_S = 86_400
SECRET = "k" * MIN_SECRET_BYTES
PUBLIC_KEY = (
    "-----BEGIN PUBLIC KEY-----\n"
    "MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n"
    "-----END PUBLIC KEY-----\n"
)
PROGRAM = Path(sys.executable).with_name("lastseen")


def lastseen(cwd: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the program as its users do, in a folder of its own and with none of our own settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith("LASTSEEN_")}
    return subprocess.run(
        [str(PROGRAM), *arguments],
        cwd=cwd,
        env={**inherited, **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def created(cwd: Path, *arguments: str, **environ: str) -> str:
    """A token of the key that a daemon has made there; standard output holds it and nothing else."""
    if "--config" not in arguments:
        generated_key(Path(environ.get("LASTSEEN_STORE__DATA_DIR", cwd / "data")))
    ended = lastseen(cwd, "token", "create", *arguments, **environ)
    assert ended.returncode == 0
    assert ended.stderr.startswith("a token for tenant ")
    token, end = ended.stdout[:-1], ended.stdout[-1:]
    assert end == "\n"
    assert token.count(".") == 2
    assert token.split() == [token]
    return token


def claims_of(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


def judged(token: str, *, secret: str, kid: str, now_s: float, tenant_claim: str = "org_id") -> Principal:
    """The principal that a daemon with this key reads from the token."""
    policy = AuthPolicy(
        keys=(VerifyingKey(kid=kid, algorithm="HS256", key=secret.encode()),),
        audience="lastseen",
        issuer="lastseen",
        leeway_s=0,
        tenant_claim=tenant_claim,
    )
    return Authenticator(policy).authenticate(
        authorization=f"Bearer {token}", user_key=None, now_ms=round(now_s * 1_000)
    )


def configuration(folder: Path, text: str) -> str:
    """Write a configuration file; its name."""
    (folder / "lastseen.toml").write_text(text, encoding="utf-8")
    return "lastseen.toml"


def keys(folder: Path, *lines: str) -> str:
    """A configuration with one HS256 key, and further lines above it."""
    (folder / "secret").write_text(SECRET)
    entry = '[[auth.keys]]\nkid = "2026-11"\nalgorithm = "HS256"\nsecret_file = "secret"\n'
    return configuration(folder, "\n".join([*lines, entry]))


# The program


@pytest.mark.parametrize("command", [[str(PROGRAM)], [sys.executable, "-m", "monitor"]])
def test_the_version_is_the_installed_one(command: list[str]) -> None:
    ended = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout == f"{version()}\n"


def test_help_names_each_command_and_changes_nothing(tmp_path: Path) -> None:
    ended = lastseen(tmp_path, "--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    for word in ("check", "serve", "token", "A liveness monitoring daemon"):
        assert word in ended.stdout
    assert list(tmp_path.iterdir()) == []


LOADED = """
import contextlib, io, sys
from monitor.daemon.commands import app
out = io.StringIO()
with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), contextlib.suppress(SystemExit):
    app(sys.argv[1:], result_action="return_value")
print(*sys.modules)
"""


def loaded(cwd: Path, *arguments: str) -> set[str]:
    """The modules that a command loads."""
    ended = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments], cwd=cwd, capture_output=True, text=True, check=True, timeout=60
    )
    return set(ended.stdout.split())


SERVERS = {
    "aiohttp",
    "apscheduler",
    "litestar",
    "prometheus_client",
    "redis",
    "standardwebhooks",
    "structlog",
    "uvicorn",
}


@pytest.mark.parametrize("arguments", [["--version"], ["--help"]])
def test_version_and_help_load_no_command(tmp_path: Path, arguments: list[str]) -> None:
    modules = loaded(tmp_path, *arguments)
    assert {name for name in modules if name.startswith(("monitor", "alerts"))} == {
        "monitor",
        "monitor.daemon",
        "monitor.daemon.commands",
        "monitor.version",
    }
    assert not modules & {*SERVERS, "cryptography", "jwt", "markdown_it", "pydantic", "pygments"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["check"],
        ["token", "create", "--tenant", "acme", "--scope", "admin"],
        ["token", "create", "--help"],
        ["silence", "list", "--tenant", "acme"],
        ["incidents", "list", "--tenant", "acme"],
        ["deliveries", "list", "--tenant", "acme"],
        ["alerts", "list", "--tenant", "acme"],
        ["alerts", "secret"],
        ["serve", "--help"],
        ["backup", "--help"],
    ],
)
def test_only_serve_and_backup_load_servers_clients_and_the_log(tmp_path: Path, arguments: list[str]) -> None:
    generated_key(tmp_path / "data")
    text = (
        'watchdog.url = "http://127.0.0.1:1/"\n[[alerts.receivers]]\nname = "ops"\ntype = "webhook"\n'
        'url = "https://hooks.example.org"\nsecret_file = "ops"\n'
        '[[alerts.receivers]]\nname = "am"\ntype = "alertmanager"\nurl = "https://am.example.org"\n'
        '[[alerts.receivers]]\nname = "log"\ntype = "log"\n'
    )
    (tmp_path / "ops").write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    (tmp_path / "lastseen.toml").write_text(text)
    assert not loaded(tmp_path, *arguments) & SERVERS


def test_each_command_says_in_the_list_what_it_says_itself() -> None:
    for name, (_, what) in COMMANDS.items():
        assert app[name].help == what, name


def test_p6_a_new_secret_is_one_that_a_webhook_takes(tmp_path: Path) -> None:
    made = [lastseen(tmp_path, "alerts", "secret") for _ in range(2)]
    assert [(ended.returncode, ended.stderr, ended.stdout.count("\n")) for ended in made] == [(0, "", 1)] * 2
    assert made[0].stdout != made[1].stdout
    for ended in made:
        assert len(webhook_secret(ended.stdout.strip().encode())) == 32
    assert list(tmp_path.iterdir()) == []


def test_help_on_tokens_names_every_option_and_scope(tmp_path: Path) -> None:
    ended = lastseen(tmp_path, "token", "create", "--help", COLUMNS="200")
    assert (ended.returncode, ended.stderr) == (0, "")
    for word in ("--tenant", "--scope", "--worker-id", "--environment", "--expires", "--subject", "--config", *Scope):
        assert word in ended.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing-like-it"],
        ["check", "--verbose"],
        ["token", "create", "--scope", "admin"],
        ["token", "create", "--tenant", "acme", "--scope", "admin", "extra"],
    ],
)
def test_a_command_line_that_cannot_be_read_is_status_2_and_says_so_on_stderr(
    tmp_path: Path, arguments: list[str]
) -> None:
    ended = lastseen(tmp_path, *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.strip()
    assert list(tmp_path.iterdir()) == []


# check


@pytest.mark.parametrize("command", [["check"], ["token", "create", "--tenant", "acme", "--scope", "admin"]])
def test_the_configuration_is_that_of_the_option_then_of_the_environment_then_of_the_folder(
    tmp_path: Path, command: list[str]
) -> None:
    for name in ("option", "environment", "lastseen"):
        (tmp_path / f"{name}.toml").write_text(f"[server]\nport = {name!r}\n")
    everything = {"LASTSEEN_CONFIG": str(tmp_path / "environment.toml")}
    for arguments, environ, read in (
        (["--config", "option.toml"], everything, "option.toml"),
        ([], everything, str(tmp_path / "environment.toml")),
        ([], {}, "lastseen.toml"),
    ):
        ended = lastseen(tmp_path, *command, *arguments, **environ)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert ended.stderr.startswith(f"{read}:2: server.port: must be a whole number, got ")
    absent = lastseen(tmp_path, *command, LASTSEEN_CONFIG="absent.toml")
    assert (absent.returncode, absent.stdout) == (2, "")
    assert absent.stderr.startswith("absent.toml: cannot read the configuration file: No such file")


def test_the_last_place_is_that_of_the_system() -> None:
    assert (Path("lastseen.toml"), Path("/etc/lastseen/lastseen.toml")) == PLACES


@pytest.mark.parametrize("others", ["owner", "mode"])
def test_a_file_of_others_in_the_working_directory_is_read_only_when_it_is_named(
    others: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LASTSEEN_CONFIG", raising=False)
    place = tmp_path / "lastseen.toml"
    place.touch()
    if others == "mode":
        place.chmod(0o646)
    elif os.geteuid():
        pytest.skip("only root can give a file away")
    else:
        os.chown(place, 65_534, -1)
    with pytest.raises(SystemExit) as ended:
        config_file(None)
    assert ended.value.code == 2
    message = f"{place} is writable by other users: to use it anyway, name it with --config\n"
    assert capsys.readouterr().err == message
    assert config_file(Path("lastseen.toml")) == Path("lastseen.toml")
    monkeypatch.setenv("LASTSEEN_CONFIG", str(place))
    assert config_file(None) == place
    monkeypatch.delenv("LASTSEEN_CONFIG")
    place.chmod(0o644)
    os.chown(place, os.geteuid(), -1)
    assert config_file(None) == Path("lastseen.toml")


def test_a_config_toml_that_is_not_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[server]\nport = 1\n")
    ended = lastseen(tmp_path, "check")
    assert ended.returncode == 0
    assert ended.stderr == (
        f"warning: {tmp_path}/config.toml is not read: give --config config.toml, or name it lastseen.toml\n"
    )
    assert lastseen(tmp_path, "check", "--config", "config.toml").stderr == ""
    (tmp_path / "lastseen.toml").touch()
    assert lastseen(tmp_path, "check").stderr == ""


def test_the_example_of_a_configuration_is_no_configuration_that_is_not_read(tmp_path: Path) -> None:
    example = (Path(__file__).parents[2] / "config.toml").read_text(encoding="utf-8")
    (tmp_path / "config.toml").write_text(example)
    assert lastseen(tmp_path, "check").stderr == ""
    for change in (
        example.replace('interval = "30s"', 'interval = "31s"'),
        example + '[[environments]]\nmatch = "dev"\n',
        "[",
    ):
        assert change != example
        (tmp_path / "config.toml").write_text(change)
        assert "config.toml is not read" in lastseen(tmp_path, "check").stderr


def test_a_good_configuration_is_called_good_and_nothing_is_started_or_made(tmp_path: Path) -> None:
    for where in ("no file: defaults", tmp_path / "lastseen.toml"):
        ended = lastseen(tmp_path, "check")
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout.startswith(f"the configuration is valid: {where}\n")
        configuration(tmp_path, '[liveness]\ninterval = "20s"\n')
    assert [path.name for path in tmp_path.iterdir()] == ["lastseen.toml"]


def test_warnings_go_to_stderr_and_do_not_fail_the_check(tmp_path: Path) -> None:
    ended = lastseen(tmp_path, "check", LASTSEEN_SERVER__HOST="0.0.0.0")  # noqa: S104 - what the warning is about
    assert ended.returncode == 0
    assert ended.stdout.startswith("the configuration is valid: no file: defaults\n")
    assert ended.stderr.startswith("warning: ")
    assert "server.host" in ended.stderr


def test_check_prints_what_the_daemon_will_do_and_no_credential(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "ops").write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    text = (
        '[server]\nhost = "::1"\nport = 0\nprocesses = "auto"\n[store]\nurl = "redis://app:hunter2@h:6379/1"\n'
        '[watchdog]\nurl = "https://hc.example.org/hunter2"\n'
        '[[auth.keys]]\nkid = "k1"\nalgorithm = "HS256"\nsecret_file = "secret"\n'
        '[[alerts.receivers]]\nname = "ops"\ntype = "webhook"\nurl = "https://hooks.example.org/hunter2"\n'
        'secret_file = "ops"\n[[alerts.receivers]]\nname = "log"\ntype = "log"\n'
        '[[alerts.routes]]\nreceivers = ["ops", "log"]\nenvironments = ["prod", "qa-*"]\ntenants = ["acme"]\n'
        'events = ["worker.stale"]\n'
    )
    name = configuration(tmp_path, text)
    ended = lastseen(tmp_path, "check")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [
        f"the configuration is valid: {tmp_path}/{name}",
        "listens on ::1 port any, processes: auto",
        "store: redis://***@h:6379/1",
        "keys: k1 (HS256)",
        "receiver ops: webhook, https://hooks.example.org/***",
        "receiver log: log",
        "route 0: worker.stale of environments prod, qa-* and tenants acme, to ops, log",
        "watchdog: https://hc.example.org/***",
    ]
    (tmp_path / name).unlink()
    assert lastseen(tmp_path, "check").stdout.splitlines() == [
        "the configuration is valid: no file: defaults",
        "listens on 127.0.0.1 port 8642, processes: 1",
        f"store: embedded, in {tmp_path}/data",
        f"keys: its own, {tmp_path}/data/signing-key",
        "receiver log: log",
        "route 0: * of environments * and tenants *, to log",
    ]


@pytest.mark.parametrize("command", [["check"], ["token", "create", "--tenant", "a", "--scope", "admin"], ["serve"]])
def test_a_wrong_configuration_is_status_2_with_file_and_line_of_every_fault(
    tmp_path: Path, command: list[str]
) -> None:
    name = configuration(tmp_path, '[server]\nport = 8642\n\n[liveness]\ninterval = 30\ngrcae = "60s"\n')
    ended = lastseen(tmp_path, *command, "--config", name)
    assert (ended.returncode, ended.stdout) == (2, "")
    lines = ended.stderr.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("lastseen.toml:5: liveness.interval: a duration needs a unit")
    assert lines[1].startswith("lastseen.toml:6: liveness.grcae: unknown key; did you mean liveness.grace?")
    assert [path.name for path in tmp_path.iterdir()] == ["lastseen.toml"]


def test_a_file_that_is_not_there_and_a_variable_that_is_wrong_are_status_2(tmp_path: Path) -> None:
    missing = lastseen(tmp_path, "check", "--config", "absent.toml")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr.startswith("absent.toml: ")
    wrong = lastseen(tmp_path, "check", LASTSEEN_SERVER__PORT="http")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("environment LASTSEEN_SERVER__PORT: ")


# serve


@pytest.mark.parametrize("given", ["0", "-1", "x", "65", "1.5", "", "2 "])
def test_a_number_of_processes_that_cannot_be_is_status_2_and_nothing_is_started(tmp_path: Path, given: str) -> None:
    ended = lastseen(tmp_path, "serve", "--processes", given)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f'--processes: must be a whole number from 1 to 64, or "auto", got {given!r}\n'
    assert list(tmp_path.iterdir()) == []


def test_the_number_of_processes_can_be_configured(tmp_path: Path) -> None:
    for value in ("64", '"auto"'):
        name = configuration(tmp_path, f"[server]\nprocesses = {value}\n")
        assert lastseen(tmp_path, "check", "--config", name).returncode == 0
    assert lastseen(tmp_path, "check", LASTSEEN_SERVER__PROCESSES="auto").returncode == 0
    for value in ("0", "true", '"many"', "1.0"):
        name = configuration(tmp_path, f"[server]\nprocesses = {value}\n")
        ended = lastseen(tmp_path, "check", "--config", name)
        assert (ended.returncode, ended.stdout) == (2, "")
        message = f'lastseen.toml:2: server.processes: must be a whole number from 1 to 64, or "auto", got {value}'
        assert ended.stderr.startswith(message)


# token create


def test_standard_output_is_the_token_and_a_daemon_with_the_same_data_takes_it(tmp_path: Path) -> None:
    token = created(tmp_path, "--tenant", "acme", "--scope", "heartbeat:write")
    header, claims = jwt.get_unverified_header(token), claims_of(token)
    assert header["alg"] == "HS256"
    assert claims["org_id"] == claims["sub"] == "acme"
    assert claims["scope"] == "heartbeat:write"
    assert (claims["aud"], claims["iss"]) == ("lastseen", "lastseen")
    assert "worker_id" not in claims
    assert "environments" not in claims
    principal = judged(
        token, secret=(tmp_path / "data" / "signing-key").read_text().strip(), kid=header["kid"], now_s=claims["iat"]
    )
    assert principal == Principal(
        subject="acme", tenant="acme", scopes=frozenset({"heartbeat:write"}), worker_id=None, environments=None
    )


def test_what_was_made_and_until_when_is_on_stderr_with_a_warning_for_a_token_of_a_whole_fleet(tmp_path: Path) -> None:
    generated_key(tmp_path / "data")
    arguments = ["--tenant", "acme", "--scope", "heartbeat:write", "--scope", "admin"]
    ended = lastseen(tmp_path, "token", "create", *arguments)
    claims = claims_of(ended.stdout.strip())
    until = datetime.fromtimestamp(claims["exp"], UTC)
    assert ended.stderr == (
        f"a token for tenant 'acme', sub 'acme', scope 'heartbeat:write admin', jti {claims['jti']},"
        f" good until {until:%Y-%m-%dT%H:%M:%SZ}\n"
        "warning: without --worker-id its holder can report and stop every worker that it covers\n"
    )
    for quiet in (["--scope", "admin"], ["--scope", "heartbeat:write", "--worker-id", "w"]):
        assert "warning" not in lastseen(tmp_path, "token", "create", "--tenant", "acme", *quiet).stderr


def test_a_token_is_made_for_no_longer_than_the_daemon_takes(tmp_path: Path) -> None:
    file = configuration(tmp_path, '[auth]\nmax_lifetime = "2h"\n')
    generated_key(tmp_path / "data")
    claims = claims_of(created(tmp_path, "--tenant", "acme", "--scope", "admin", "--config", file))
    assert claims["exp"] - claims["iat"] == pytest.approx(7_200, abs=0.001)


def test_a_command_makes_no_key_and_says_where_it_looked(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('[store]\ndata_dir = "kept"\n')
    for arguments in (
        ["token", "create", "--tenant", "acme", "--scope", "admin"],
        ["incidents", "list", "--tenant", "acme"],
        ["silence", "list", "--tenant", "acme"],
    ):
        ended = lastseen(tmp_path, *arguments)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr.startswith(
            f"lastseen: there is no signing key {tmp_path}/data/signing-key (configuration: no file: defaults). "
            "`lastseen serve` creates the key at its first start: "
        )
        ended = lastseen(tmp_path, *arguments, LASTSEEN_CONFIG="mine.toml")
        assert (ended.returncode, ended.stdout) == (1, "")
        assert f"{tmp_path}/kept/signing-key (configuration: {tmp_path}/mine.toml)" in ended.stderr
        assert "A relative store.data_dir depends on the working directory" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


def test_a_daemon_that_is_not_there_is_said_with_where_its_address_is_from(tmp_path: Path) -> None:
    (tmp_path / "lastseen.toml").write_text("[server]\nport = 1\n")
    ended = lastseen(tmp_path, "incidents", "list", LASTSEEN_TOKEN="x.y.z")
    assert (ended.returncode, ended.stdout) == (1, "")
    from_file = f"lastseen: http://127.0.0.1:1 (from the configuration, {tmp_path}/lastseen.toml) does not answer"
    assert ended.stderr.startswith(from_file)
    (tmp_path / "lastseen.toml").write_text("[nonsense]\n")  # needs not be read with both given
    ended = lastseen(tmp_path, "incidents", "list", LASTSEEN_TOKEN="x.y.z", LASTSEEN_URL="http://127.0.0.1:2")
    assert ended.stderr.startswith("lastseen: http://127.0.0.1:2 (from --url or $LASTSEEN_URL) does not answer")


def test_the_same_key_is_used_each_time_where_the_configuration_says(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    arguments = ("--tenant", "acme", "--scope", "admin")
    first = created(tmp_path, *arguments, LASTSEEN_STORE__DATA_DIR=str(elsewhere))
    second = created(tmp_path, *arguments, LASTSEEN_STORE__DATA_DIR=str(elsewhere))
    assert [path.name for path in elsewhere.iterdir()] == ["signing-key"]
    assert stat.S_IMODE((elsewhere / "signing-key").stat().st_mode) == 0o600
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o700
    assert jwt.get_unverified_header(first) == jwt.get_unverified_header(second)
    assert claims_of(first)["jti"] != claims_of(second)["jti"]
    assert list(tmp_path.iterdir()) == [elsewhere]


def test_a_key_that_others_can_read_makes_no_token(tmp_path: Path) -> None:
    arguments = ("--tenant", "acme", "--scope", "admin")
    created(tmp_path, *arguments)
    (tmp_path / "data" / "signing-key").chmod(0o644)
    ended = lastseen(tmp_path, "token", "create", *arguments)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "open to others (mode 0644): chmod 600 " in ended.stderr


def test_scopes_add_up(tmp_path: Path) -> None:
    given = [word for scope in Scope for word in ("--scope", scope.value)]
    token = created(tmp_path, "--tenant", "acme", *given, "--scope", "admin")
    assert sorted(claims_of(token)["scope"].split(" ")) == sorted(Scope)


def test_restrictions_stand_in_the_claims(tmp_path: Path) -> None:
    token = created(
        tmp_path,
        *("--tenant", "Ümlaut GmbH", "--scope", "heartbeat:write", "--worker-id", "a/b c"),
        *("--environment", "prod", "--environment", "qa eu"),
    )
    claims = claims_of(token)
    assert claims["org_id"] == "Ümlaut GmbH"
    assert claims["worker_id"] == claims["sub"] == "a/b c"
    assert claims["environments"] == ["prod", "qa eu"]


def test_a_subject_of_its_own_changes_nothing_else(tmp_path: Path) -> None:
    arguments = ("--tenant", "acme", "--scope", "admin", "--worker-id", "w1")
    claims = claims_of(created(tmp_path, *arguments, "--subject", "ops@example.org"))
    assert (claims["sub"], claims["org_id"], claims["worker_id"]) == ("ops@example.org", "acme", "w1")


@pytest.mark.parametrize(("arguments", "lifetime_s"), [([], 30 * DAY_S), (["--expires", "1.5h"], 5_400)])
def test_a_token_is_good_for_as_long_as_was_said(tmp_path: Path, arguments: list[str], lifetime_s: float) -> None:
    claims = claims_of(created(tmp_path, "--tenant", "acme", "--scope", "admin", *arguments))
    assert claims["exp"] - claims["iat"] == pytest.approx(lifetime_s, abs=0.001)
    made_s = (tmp_path / "data" / "signing-key").stat().st_mtime
    assert abs(claims["iat"] - made_s) < 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tenant", "acme", "--scope", "write"], "--scope: must be one of heartbeat:write, "),
        (["--tenant", "acme", "--scope", "admin", "--scope", "Admin"], "got 'Admin'"),
        (["--tenant", "acme", "--scope", "admin", "--expires", "30"], "--expires: a duration needs a unit"),
        (["--tenant", "acme", "--scope", "admin", "--expires", "0s"], "a token must expire after it was made"),
        (["--tenant", "acme", "--scope", "admin", "--expires", "3651d"], "--expires: is longer than 3650d"),
        (["--tenant", "", "--scope", "admin"], "tenant"),
        (["--scope", "operator", "--scope", "admin"], "--tenant: is required for every scope except operator"),
        (["--tenant", "acme", "--scope", "admin", "--environment", ""], "environments"),
        (["--tenant", "acme", "--scope", "admin", "--subject", "a\x7f"], "subject"),
    ],
)
def test_what_cannot_be_in_a_token_is_status_2_and_named(tmp_path: Path, arguments: list[str], message: str) -> None:
    generated_key(tmp_path / "data")
    ended = lastseen(tmp_path, "token", "create", *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_token_for_an_operator_needs_no_tenant(tmp_path: Path) -> None:
    claims = claims_of(created(tmp_path, "--scope", "operator"))
    assert (claims["org_id"], claims["scope"], claims["sub"]) == ("operators", "operator", "operators")


def test_a_token_without_any_scope_is_not_made(tmp_path: Path) -> None:
    ended = lastseen(tmp_path, "token", "create", "--tenant", "acme", "--empty-scope")
    assert (ended.returncode, ended.stdout) == (2, "")


def test_a_configured_key_its_claim_and_its_parties_are_used_and_no_key_is_made(tmp_path: Path) -> None:
    name = keys(tmp_path, "[auth]", 'tenant_claim = "org"', "")
    token = created(tmp_path, "--tenant", "acme", "--scope", "admin", "--config", name)
    claims = claims_of(token)
    assert jwt.get_unverified_header(token)["kid"] == "2026-11"
    assert claims["org"] == "acme"
    assert "org_id" not in claims
    assert judged(token, secret=SECRET, kid="2026-11", now_s=claims["iat"], tenant_claim="org").tenant == "acme"
    assert not (tmp_path / "data").exists()


def test_of_several_keys_the_first_that_can_sign_does(tmp_path: Path) -> None:
    (tmp_path / "issuer.pem").write_text(PUBLIC_KEY)
    text = '[[auth.keys]]\nkid = "issuer"\nalgorithm = "EdDSA"\npublic_key_file = "issuer.pem"\n'
    for kid in ("new", "old"):
        (tmp_path / kid).write_text(kid * MIN_SECRET_BYTES)
        text += f'[[auth.keys]]\nkid = "{kid}"\nalgorithm = "HS256"\nsecret_file = "{kid}"\n'
    name = configuration(tmp_path, text)
    token = created(tmp_path, "--tenant", "acme", "--scope", "admin", "--config", name)
    assert jwt.get_unverified_header(token)["kid"] == "new"
    now_s = claims_of(token)["iat"]
    assert judged(token, secret="new" * MIN_SECRET_BYTES, kid="new", now_s=now_s).tenant == "acme"


def test_parties_that_are_not_checked_are_not_claimed(tmp_path: Path) -> None:
    name = keys(tmp_path, "[auth]", 'audience = ""', 'issuer = ""', "")
    claims = claims_of(created(tmp_path, "--tenant", "acme", "--scope", "admin", "--config", name))
    assert "aud" not in claims
    assert "iss" not in claims


def test_with_public_keys_only_no_token_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "issuer.pem").write_text(PUBLIC_KEY)
    name = configuration(
        tmp_path, '[[auth.keys]]\nkid = "issuer"\nalgorithm = "EdDSA"\npublic_key_file = "issuer.pem"\n'
    )
    ended = lastseen(tmp_path, "token", "create", "--tenant", "acme", "--scope", "admin", "--config", name)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "lastseen: no HS256 key is configured: only the holder of a private key can create tokens\n"
    assert not (tmp_path / "data").exists()


def test_the_secret_is_nowhere_in_what_is_said(tmp_path: Path) -> None:
    name = keys(tmp_path)
    for arguments in (
        ("check", "--config", name),
        ("token", "create", "--tenant", "acme", "--scope", "x", "--config", name),
    ):
        ended = lastseen(tmp_path, *arguments)
        assert SECRET not in ended.stdout + ended.stderr
