"""The configuration: defaults, refusals with their place, the environment, warnings."""

import pickle
import re
from pathlib import Path

import pytest
from redis import ConnectionPool

from monitor.daemon.config.model import Config, Store, load
from monitor.daemon.config.sources import ConfigError
from monitor.daemon.settings import store_settings
from monitor.durability import Durability
from monitor.store import StoreSettings
from monitor.store.settings import EnvironmentRule
from tests.support.configuration import refused, refused_text, write

# Defaults


def test_without_file_and_environment_everything_has_a_default() -> None:
    config = load(None, {})
    assert config == Config()
    assert (config.server.host, config.server.port) == ("127.0.0.1", 8642)
    assert (config.liveness.interval_ms, config.liveness.grace_ms) == (30_000, 65_000)
    assert config.limits.body_bytes == 256 * 1024
    assert config.store.durability == Durability.parse("fsync")
    assert config.store.embedded
    assert config.store.data_dir == Path("data")
    assert config.warnings == ()


def test_config_toml_as_it_is_equals_the_defaults() -> None:
    assert load(Path(__file__).parents[2] / "config.toml", {}) == Config()


# The file


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("\n[server]\nport = 65536", 3, "server.port: must be at most 65535, got 65536"),
        ('[server]\nport = "80"', 2, 'server.port: must be a whole number, got "80"'),
        ("[server]\nport = true", 2, "server.port: must be a whole number, got true"),
        ('[server]\nhost = ""', 2, 'server.host: must not be empty, got ""'),
        ('[server]\nshutdown_timeout = "10s"', 2, 'shutdown_timeout: must be between 0s and 9s, got "10s"'),
        ("[server]\nprot = 1", 2, "server.prot: unknown key; did you mean server.port?"),
        ('\n[[alertts.routes]]\nreceivers = ["log"]', 2, "alertts: unknown key; did you mean alerts?"),
        ("[servr]\nport = 1", 1, "servr: unknown key; did you mean server?"),
        ('[server]\ninterval = "3s"', 2, "server.interval: unknown key; did you mean liveness.interval?"),
        ("[liveness]\ninterval_ms = 5", 2, "liveness.interval_ms: unknown key; did you mean liveness.interval?"),
        ("server = 3", 1, "server: must be a table, got 3"),
        ('[store]\ndata_dir = ""', 2, "store.data_dir: must be the path of a directory"),
        ("[store]\npartitions = 257", 2, "store.partitions: must be at most 256, got 257"),
        ('[store]\ndurability = "replicas:0"', 2, 'must be "fsync", "memory" or "replicas:N"'),
        ("[liveness]\ninterval = 30", 2, 'liveness.interval: a duration needs a unit: write "30s"'),
        ('[liveness]\ninterval = "30"', 2, 'write "30s" for seconds, or ms, m, h, d, got "30"'),
        ('[liveness]\ninterval = "30sec"', 2, "has an unknown unit"),
        ('[liveness]\nmin_grace = "999ms"', 2, "liveness.min_grace: must be between 1s and 365d"),
        ('[liveness]\ngrace = "500ms"', 2, "liveness.grace: 500ms is below liveness.min_grace, 1s, got"),
        ('[liveness]\nmax_interval = "10s"\nmin_interval = "20s"', 2, "10s is below liveness.min_interval, 20s"),
        ('[liveness]\nmin_interval = "40s"', 2, "liveness.interval: 30s is below liveness.min_interval, 40s"),
        ('[liveness]\ninterval = "31d"', 2, "liveness.interval: 31d is above liveness.max_interval, 30d"),
        ('[liveness]\nsweep_interval = "61s"', 2, "must be between 100ms and 60s"),
        ("[liveness]\nsweep_chunk = 0", 2, "must be at least 1, got 0"),
        ("[liveness]\nstatus_changed_events = 1", 2, "must be true or false, got 1"),
        ('[limits]\nbody_bytes = "16KB"', 2, "limits.body_bytes: is not a size"),
        ("[limits]\nbody_bytes = 10", 2, "must be between 1KiB and 64MiB, got 10"),
        ('[environments]\nmatch = "a"', 1, "environments: is a list of tables: write [[environments]] above each"),
        ('[[environments]]\nmatch = "a?"', 2, "`*` is the only wildcard; `?`, `[` and `]` are refused"),
        ('[[environments]]\nmatch = "*********"', 2, "environments[0].match: has more than 8 stars"),
        ('[[environments]]\ninterval = "1m"', 1, "environments[0].match: is required"),
        (
            '[[environments]]\nmatch = "a"\n[[environments]]\nmatch = "b"\ngrace = "60d"',
            5,
            "environments[1].grace: 60d",
        ),
        ('[auth]\nleeway = "6m"', 2, "auth.leeway: must be between 0s and 5m"),
        ('[auth]\ntenant_claim = ""', 2, "auth.tenant_claim: must not be empty"),
        ('[auth]\nanonymous = ["/metrics",\n "/x"]', 3, "auth.anonymous[1]: must be one of"),
        ('[auth]\nanonymous = "/metrics"', 2, 'auth.anonymous: must be a list, such as ["a", "b"], got "/metrics"'),
        ('[auth]\nnot_before = "2026-11-24"', 2, "auth.not_before: must be an RFC 3339 time with its offset"),
        ('[auth]\nnot_before = "soon"', 2, "auth.not_before: must be an RFC 3339 time with its offset"),
        ('[auth]\nmax_lifetime = "0s"', 2, "auth.max_lifetime: must be between 1m and 3650d"),
        ('[[auth.keys]]\nkid = "a"\nalgorithm = "none"', 3, "auth.keys[0].algorithm: must be one of"),
        ('[[auth.keys]]\nkid = "a"\nalgorithm = "HS256"', 1, "takes exactly one of secret_file, secret_env"),
        ('[log]\nlevel = "trace"', 2, "log.level: must be one of"),
    ],
)
def test_each_refusal_says_file_line_and_key(tmp_path: Path, text: str, line: int, expected: str) -> None:
    section = re.search(r"\w+", text)
    assert section
    lines = refused_text(tmp_path, text)
    matching = [found for found in lines if expected in found]
    assert len(matching) == 1, lines
    assert matching[0].startswith(f"config.toml:{line}: {section[0]}")


@pytest.mark.parametrize("name", ["interval", "grace"])
def test_a_bound_is_a_value_that_may_be_had_too(tmp_path: Path, name: str) -> None:
    for bound, other in (("min", "max"), ("max", "min")):
        outer = {"min": "1s", "max": "1h"}[other]
        text = f'[liveness]\n{name} = "40s"\n{bound}_{name} = "40s"\n{other}_{name} = "{outer}"\n'
        rule = f'[[environments]]\nmatch = "a"\n{name} = "40s"\n'
        config = load(write(tmp_path, text + rule), {})
        assert getattr(config.liveness, f"{name}_ms") == getattr(config.environments[0], f"{name}_ms") == 40_000
    config = load(write(tmp_path, f'[liveness]\n{name} = "40s"\nmin_{name} = "40s"\nmax_{name} = "40s"\n'), {})
    assert getattr(config.liveness, f"{name}_ms") == 40_000


@pytest.mark.parametrize(
    "url", ["redis+cluster://h", "redis+sentinel:h/s", "http://h", "h:6379", "", "embedded", "redis:h", "embedded://"]
)
def test_a_store_of_another_kind_is_refused_with_those_that_there_are(tmp_path: Path, url: str) -> None:
    (line,) = refused_text(tmp_path, f'[store]\nurl = "{url}"')
    assert line.startswith(
        "config.toml:2: store.url: must be embedded:, redis://, rediss://, unix:// or redis+sentinel://"
    )


@pytest.mark.parametrize(
    ("url", "reason", "shown"),
    [
        ("redis://h/x", "has a database that is not a number: 'x'", "redis://h/x"),
        ("redis://h/0/1", "has a database that is not a number: '0/1'", "redis://h/0/1"),
        ("unix:///run/s?db=x", "has a database that is not a number: 'x'", "unix:///run/s?***"),
        ("redis://h?foo=1", "has an option that is not known; there are none", "redis://h?***"),
        ("redis://h/0?socket_timeout=abc", "has an option that is not known; there are none", "redis://h/0?***"),
        ("redis://h?decode_responses=true", "has an option that is not known; there are none", "redis://h?***"),
        ("redis://h?password=hunter2", "has an option that is not known; there are none", "redis://h?***"),
        ("redis://h?db=1", "has an option that is not known; there are none", "redis://h?***"),
        ("rediss://h?ssl_cert_reqs=none", "has an option that is not known; there are ssl_ca_certs", "rediss://h?***"),
        ("rediss://h?ssl_check_hostname=1", "has an option ssl_check_hostname that is neither", "rediss://h?***"),
        ("rediss://h?ssl_ca_certs=/no/ca", "names a file that does not exist: /no/ca", "rediss://h?***"),
        ("redis://:hun@ter2@h:1/0", "must have the special characters of its user, password", "redis://***@h:1/0"),
        ("redis://:hun#ter2@h:1/0", "must have the special characters of its user, password", "redis://***@h:1/0"),
        ("redis://:hun@ter#2@h:1/0", "must have the special characters of its user, password", "redis://***@h:1/0"),
        ("redis://:hun/ter2@h:1/0", "must have the special characters of its user, password", "redis://***@h:1/0"),
        ("redis://:hun?ter2@h:1/0", "must have the special characters of its user, password", "redis://***"),
        ("redis://:hunter2", "has a server that is not host:port: ':***'", "redis://***"),
        ("redis://app:hunter2", "has a server whose port is not from 1 to 65535: 'app:***'", "redis://***"),
        ("redis+sentinel://app:hunter2/m", "has a Sentinel whose port is not from 1 to 65535", "redis+sentinel://***"),
        ("redis://h#frag", "must have the special characters of its user, password", "redis://h#frag"),
    ],
)
def test_a_store_url_that_redis_py_would_misread_is_refused_and_shows_no_credential(
    tmp_path: Path, url: str, reason: str, shown: str
) -> None:
    for lines, where in (
        (refused_text(tmp_path, f'[store]\nurl = "{url}"'), "config.toml:2: store.url"),
        (refused(None, {"LASTSEEN_STORE__URL": url}), "environment LASTSEEN_STORE__URL"),
    ):
        (line,) = [line for line in lines if "[[auth.keys]]" not in line]
        assert line.startswith(f"{where}: {reason}")
        assert line.endswith(f', got "{shown}"')
        for part in ("hunter2", "hun", "ter2"):
            assert part not in line


def test_every_form_of_a_store_url_is_taken(tmp_path: Path) -> None:
    (tmp_path / "ca").touch()
    for url in (
        "redis://h",
        "redis://h/",
        "redis://h:6380/15",
        "redis://[::1]:6380/1",
        "redis://app:p%40ss%23@h/0",
        f"rediss://:pw@h:1/0?ssl_ca_certs={tmp_path}/ca&ssl_check_hostname=no",
        "unix:///run/redis.sock",
        "unix://app:pw@/run/redis.sock?db=3",
    ):
        assert Store.model_validate({"url": url}).url == url


def test_the_password_of_the_store_may_be_in_a_file_or_a_variable(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("p@s/s\n")
    keys = '[[auth.keys]]\nkid = "k"\nalgorithm = "HS256"\nsecret_file = "key"\n'
    (tmp_path / "key").write_text("k" * 32)
    sources: tuple[tuple[str, dict[str, str]], ...] = (
        ('password_file = "pw"', {}),
        ('password_env = "PW"', {"PW": "p@s/s"}),
    )
    for url, address in (
        ("redis://h/1", "redis://:p%40s%2Fs@h/1"),
        ("redis://app@h/1", "redis://app:p%40s%2Fs@h/1"),
        ("unix:///run/s", "unix://:p%40s%2Fs@/run/s"),
        ("redis+sentinel://app@a,b/m", "redis+sentinel://app:p%40s%2Fs@a,b/m"),
    ):
        for source, environ in sources:
            config = load(write(tmp_path, f'[store]\nurl = "{url}"\n{source}\n{keys}'), environ)
            assert str(config.store.address) == address
            assert config.store.url == url
            for shown in (repr(config), repr(config.store.address)):
                assert "p@s" not in shown
                assert "p%40s" not in shown
            assert pickle.loads(pickle.dumps(config)).store.address == address  # noqa: S301 - our own
    assert ConnectionPool.from_url("unix://:p%40s%2Fs@/run/s").connection_kwargs["password"] == "p@s/s"


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ('url = "redis://:x@h"\npassword_file = "pw"', "3: store.password_file: ", "needs a url of an external server"),
        ('password_file = "pw"', "2: store.password_file: ", "needs a url of an external server"),
        ('url = "redis://h"\npassword_file = "pw"\npassword_env = "PW"', "4: store.password_env: ", "needs a url"),
        ('url = "redis://h"\npassword_file = "none"', "3: store.password_file: ", "cannot read the file"),
        ('url = "redis://h"\npassword_env = "NONE"', "3: store.password_env: ", "the environment variable that it na"),
    ],
)
def test_a_password_of_the_store_that_cannot_be_is_refused(tmp_path: Path, text: str, place: str, reason: str) -> None:
    (tmp_path / "pw").write_text("hunter2")
    lines = refused_text(tmp_path, f"[store]\n{text}", {"PW": "hunter2"})
    assert any(line.startswith(f"config.toml:{place}{reason}") for line in lines), lines
    assert "hunter2" not in "".join(lines)


@pytest.mark.parametrize("url", ["redis://", "redis://h:0", "redis://h:x", "unix://", "unix:///"])
def test_a_store_url_that_leads_nowhere_is_refused(tmp_path: Path, url: str) -> None:
    (line,) = refused_text(tmp_path, f'[store]\nurl = "{url}"')
    assert line.startswith("config.toml:2: store.url: ")


def test_a_store_behind_sentinel_that_leads_nowhere_is_refused_with_what_is_wrong(tmp_path: Path) -> None:
    (line,) = refused_text(tmp_path, '[store]\nurl = "redis+sentinel://u:hunter2@h1:26379,h2:port/mymaster"')
    assert line == (
        "config.toml:2: store.url: has a Sentinel whose port is not from 1 to 65535: 'h2:***', "
        'got "redis+sentinel://***@h1:26379,h2:port/mymaster"'
    )


def test_every_problem_is_reported_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = '[log]\nlevel = "x"\n[server]\nport = -1\nfoo = 1\n[liveness]\ngrace = 5\n'
    lines = refused_text(tmp_path, text, {"LASTSEEN_SERVER__HOST": "", "LASTSEEN_NONSENSE": ""})
    assert [line.split(": ")[0] for line in lines] == [
        "environment LASTSEEN_NONSENSE",
        "environment LASTSEEN_SERVER__HOST",
        "config.toml:2",
        "config.toml:4",
        "config.toml:5",
        "config.toml:7",
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"[server\n", "config.toml:1: is not TOML: "),
        (b"\n[server]\nport = 1\nport = 2\n", "config.toml:4: is not TOML: duplicate key"),
        (b'[auth]\nsecret = "hunter2hunter2\n', "config.toml:2: is not TOML: "),
        (b"[log]\n\nlevel = '\xff'\n", "config.toml:3: is not UTF-8"),
    ],
)
def test_what_is_not_toml_is_refused_with_its_line(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    (line,) = refused(path)
    assert line.removeprefix(f"{tmp_path}/").startswith(expected)
    assert "hunter2" not in line


def test_a_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    (line,) = refused(tmp_path / "none.toml")
    assert line == f"{tmp_path}/none.toml: cannot read the configuration file: No such file or directory"


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        setattr(load(None, {}).server, "port", 1)  # noqa: B010


# The environment


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, '[server]\nport = 1\nhost = "::1"\n')
    environ = {
        "LASTSEEN_SERVER__PORT": "2",
        "LASTSEEN_liveness__Interval": "1.5h",
        "LASTSEEN_LIMITS__LOGS_BYTES": "8KiB",
        "LASTSEEN_LIMITS__BODY_BYTES": "2048",
        "LASTSEEN_LIVENESS__STATUS_CHANGED_EVENTS": "true",
        "LASTSEEN_AUTH__ANONYMOUS": '["/metrics"]',
        "LASTSEEN_AUTH__TENANT_CLAIM": "12",
        "LASTSEEN_STORE__DURABILITY": "replicas:2",
        "PATH": "/bin",
    }
    config = load(path, environ)
    assert (config.server.port, config.server.host) == (2, "::1")
    assert config.liveness.interval_ms == 5_400_000
    assert (config.limits.logs_bytes, config.limits.body_bytes) == (8_192, 2_048)
    assert config.liveness.status_changed_events
    assert config.auth.anonymous == ("/metrics",)
    assert config.auth.tenant_claim == "12"
    assert config.store.durability == Durability.parse("replicas:2")


@pytest.mark.parametrize(
    ("name", "value", "key"),
    [
        ("LASTSEEN_SERVER__HOST", "127.0.0.1\r", "server.host"),
        ("LASTSEEN_AUTH__AUDIENCE", "a\x00b", "auth.audience"),
        ("LASTSEEN_AUTH__ISSUER", "a\nb", "auth.issuer"),
        ("LASTSEEN_SERVER__PORT", "1\nhost = 2", "server.port"),
        ("LASTSEEN_ALERTS__REDACT", '["a", "b\\t"]', "alerts.redact[1]"),
    ],
)
def test_a_control_character_is_refused_wherever_it_stands(name: str, value: str, key: str) -> None:
    assert f"environment {name}: {key}: contains a control character" in refused(None, {name: value})


def test_a_control_character_in_the_file_is_refused_with_its_line(tmp_path: Path) -> None:
    text = '[auth]\naudience = "x\\r"\n[[environments]]\nmatch = "a\\u0007"\n[server]\nhost = """127.0.0.1\n"""\n'
    assert refused_text(tmp_path, text) == [
        "config.toml:2: auth.audience: contains a control character",
        "config.toml:4: environments[0].match: contains a control character",
        "config.toml:6: server.host: contains a control character",
    ]


@pytest.mark.parametrize("quote", ["'", '"'])
def test_a_variable_in_quotes_is_refused_where_it_would_be_taken_as_it_is(quote: str) -> None:
    (line,) = refused(None, {"LASTSEEN_AUTH__AUDIENCE": f"{quote}lastseen{quote}"})
    assert line == "environment LASTSEEN_AUTH__AUDIENCE: is enclosed in quotes: leave them out"
    assert load(None, {"LASTSEEN_LIMITS__BODY_BYTES": f"{quote}16KiB{quote}"}).limits.body_bytes == 16_384


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    assert load(write(tmp_path, "\ufeff[server]\nport = 1\n"), {}).server.port == 1


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("LASTSEEN_SERVER__PORT", "http", 'must be a whole number, got "http"'),
        ("LASTSEEN_SERVER__PROT", "1", "names no configuration key; did you mean LASTSEEN_SERVER__PORT?"),
        ("LASTSEEN_SERVER_PORT", "1", "names no configuration key; did you mean LASTSEEN_SERVER__PORT?"),
        ("LASTSEEN_PORT", "1", "names no configuration key; did you mean LASTSEEN_SERVER__PORT?"),
        ("LASTSEEN_SERVER", "1", "names no configuration key"),
        (
            "LASTSEEN_LIVENESS__GRACE",
            "60",
            'a duration needs a unit: write "60s" for seconds, or ms, m, h, d, got "60"',
        ),
        ("LASTSEEN_AUTH__ANONYMOUS", '["/x"]', "must be one of '/metrics' or '/schema', got \"[\\\"/x\\\"]\""),
        ("LASTSEEN_ENVIRONMENTS", "[]", "environments is a list of tables, which only the configuration file can hold"),
        (
            "LASTSEEN_AUTH__KEYS__0__KID",
            "a",
            "auth.keys is a list of tables, which only the configuration file can hold",
        ),
        ("LASTSEEN_ALERTS__RECEIVERS", "[]", "alerts.receivers is a list of tables, which only the configuration file"),
        (
            "LASTSEEN_ALERTS__ROUTES",
            "[]",
            "alerts.routes is a list of tables, which only the configuration file can hold",
        ),
    ],
)
def test_a_refused_variable_is_named(name: str, value: str, expected: str) -> None:
    (line,) = refused(None, {name: value})
    assert line.startswith(f"environment {name}: {expected}")


def test_one_key_from_two_variables_is_refused() -> None:
    (line,) = refused(None, {"LASTSEEN_SERVER__PORT": "1", "LASTSEEN_server__port": "2"})
    assert line == "environment LASTSEEN_server__port: sets the same key as LASTSEEN_SERVER__PORT"


def test_what_kubernetes_sets_for_a_service_called_lastseen_is_left_alone() -> None:
    environ = {
        "LASTSEEN_SERVICE_HOST": "10.0.0.1",
        "LASTSEEN_SERVICE_PORT": "8642",
        "LASTSEEN_SERVICE_PORT_HTTP": "8642",
        "LASTSEEN_PORT": "tcp://10.0.0.1:8642",
        "LASTSEEN_PORT_8642_TCP": "tcp://10.0.0.1:8642",
        "LASTSEEN_PORT_8642_TCP_ADDR": "10.0.0.1",
        "LASTSEEN_REDIS_SERVICE_HOST": "10.0.0.2",
        "LASTSEEN_REDIS_PORT": "tcp://10.0.0.2:6379",
    }
    assert load(None, environ) == Config()


# Warnings


def test_what_is_allowed_and_dangerous_is_warned_of(tmp_path: Path) -> None:
    text = (
        '[server]\nhost = "0.0.0.0"\n[liveness]\ngrace = "29s"\n[auth]\naudience = ""\nissuer = ""\n'
        '[[environments]]\nmatch = "prod-*"\ninterval = "29s"\n[[environments]]\nmatch = "*"\ngrace = "1s"\n'
    )
    warnings = load(write(tmp_path, text), {}).warnings
    assert [warning.split(":")[0] for warning in warnings] == [
        "server.host",
        "liveness",
        'environments "prod-*"',
        'environments "*"',
        "auth.audience",
        "auth.issuer",
    ]
    assert "no TLS" in warnings[0]
    assert warnings[1] == "liveness: grace 29s is below interval 30s: one lost beat will page"


@pytest.mark.parametrize(
    ("interval", "grace", "said"),
    [
        ("30s", "30s", "a whole multiple of interval 30s: after 1 lost beat"),
        ("30s", "60s", "a whole multiple of interval 30s: after 2 lost beats"),
        ("30s", "60999ms", "hardly more than a whole multiple of interval 30s: after 2 lost beats"),
        ("30s", "61s", None),
        ("30s", "59s", None),
        ("1s", "5s", "a whole multiple of interval 1s: after 5 lost beats"),
        ("1s", "5050ms", "hardly more than a whole multiple of interval 1s: after 5 lost beats"),
        ("1s", "5100ms", None),
        ("30s", "29999ms", "below interval 30s: one lost beat will page"),
    ],
)
def test_a_grace_that_leaves_the_beat_after_the_lost_ones_no_time_is_warned_of(
    tmp_path: Path, interval: str, grace: str, said: str | None
) -> None:
    usual = load(write(tmp_path, f'[liveness]\ninterval = "{interval}"\ngrace = "{grace}"\n'), {}).warnings
    text = f'[[environments]]\nmatch = "{{0}}"\ninterval = "{interval}"\ngrace = "{grace}"\n'
    own = load(write(tmp_path, text), {}).warnings
    for warnings, where in ((usual, "liveness"), (own, 'environments "{0}"')):
        if said is None:
            assert warnings == ()
        else:
            (warning,) = warnings
            assert warning.startswith(f"{where}: grace ")
            assert said in warning


def test_the_default_grace_puts_up_with_two_lost_beats_and_five_seconds() -> None:
    usual = load(None, {}).liveness
    assert usual.grace_ms == 2 * usual.interval_ms + 5_000


@pytest.mark.parametrize(
    ("globs", "dead"),
    [
        (["prod-*", "prod-eu"], {1: "prod-*"}),
        (["*", "prod-*", "*"], {1: "*", 2: "*"}),
        (["a*b", "axb", "a*xb", "ab", "a*", "ba"], {1: "a*b", 2: "a*b", 3: "a*b"}),
        (["prod-eu", "prod-*", "*"], {}),
        (["*-eu", "prod-*"], {}),
        (["a", "A"], {}),
    ],
)
def test_an_environment_that_an_earlier_one_covers_is_warned_of(
    tmp_path: Path, globs: list[str], dead: dict[int, str]
) -> None:
    text = "".join(f'[[environments]]\nmatch = "{glob}"\n' for glob in globs)
    said = [
        f'environments[{index}] "{globs[index]}": never applies: the earlier "{earlier}" matches all of its names'
        for index, earlier in dead.items()
    ]
    assert list(load(write(tmp_path, text), {}).warnings) == said


def test_an_environment_that_no_name_can_match_is_refused(tmp_path: Path) -> None:
    (line,) = refused_text(tmp_path, f'[[environments]]\nmatch = "{"x" * 257}*"\n')
    assert line.startswith("config.toml:2: environments[0].match: can never match: names have at most 256 characters")


def test_a_route_of_events_that_are_not_made_is_warned_of(tmp_path: Path) -> None:
    text = '[[alerts.routes]]\nreceivers = ["log"]\nevents = ["worker.status_changed"]\n'
    said = "alerts.routes[0]: never matches: liveness.status_changed_events is false"
    assert load(write(tmp_path, text), {}).warnings == (said,)
    assert load(write(tmp_path, f"liveness.status_changed_events = true\n{text}"), {}).warnings == ()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_a_loopback_address_needs_no_warning(host: str) -> None:
    assert load(None, {"LASTSEEN_SERVER__HOST": host}).warnings == ()


@pytest.mark.parametrize(("text", "expected"), [("auto", 0), ("16MiB", 16 << 20), ("1.5GiB", 3 << 29)])
def test_the_embedded_store_s_memory_is_a_size_or_by_the_machine(tmp_path: Path, text: str, expected: int) -> None:
    assert load(write(tmp_path, f'[store]\nmaxmemory = "{text}"'), {}).store.maxmemory_bytes == expected
    assert load(None, {"LASTSEEN_STORE__MAXMEMORY": text}).store.maxmemory_bytes == expected


@pytest.mark.parametrize("value", ['"15MiB"', "0", '"half"', "true", "-1"])
def test_too_little_memory_for_the_embedded_store_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=r"config\.toml:2: store\.maxmemory: "):
        load(write(tmp_path, f"[store]\nmaxmemory = {value}"), {})


@pytest.mark.parametrize(
    ("store", "expected"),
    [
        ('maxmemory = "64MiB"', 32 << 20),
        ('maxmemory = "64GiB"', 1 << 30),
        ('url = "redis://store.example.org"\nmaxmemory = "64MiB"', 1 << 30),
    ],
)
def test_p29_of_an_embedded_store_one_tenant_gets_at_most_half(tmp_path: Path, store: str, expected: int) -> None:
    keys = '[[auth.keys]]\nkid = "a"\nalgorithm = "HS256"\nsecret_env = "KEY"\n'
    config = load(write(tmp_path, f"[store]\n{store}\n{keys}"), {"KEY": "k" * 32})
    assert store_settings(config, "unix:///s", "d").bytes_per_tenant == expected


def test_each_setting_reaches_the_store_as_itself(tmp_path: Path) -> None:
    text = """
[store]
url = "redis://h"
partitions = 3
timeout = "4s"
durability = "replicas:5"
namespace = "blue"
installation = "ours"

[liveness]
interval = "60s"
grace = "70s"
min_interval = "10s"
max_interval = "100s"
min_grace = "20s"
max_grace = "200s"
status_changed_events = true

[limits]
workers_per_tenant = 11
environments_per_tenant = 12
timings_per_tenant = 13
bytes_per_tenant = "14MiB"

[[environments]]
match = "a*"
interval = "30s"

[[environments]]
match = "b*"
grace = "31s"

[[auth.keys]]
kid = "a"
algorithm = "HS256"
secret_env = "KEY"
"""
    config = load(write(tmp_path, text), {"KEY": "k" * 32})
    assert store_settings(config, "redis://h/1", "d") == StoreSettings(
        url="redis://h/1",
        partitions=3,
        daemon="d",
        namespace="blue",
        installation=("ours",),
        timeout_s=4.0,
        interval_ms=60_000,
        grace_ms=70_000,
        rules=(
            EnvironmentRule(match="a*", interval_ms=30_000, grace_ms=70_000),
            EnvironmentRule(match="b*", interval_ms=60_000, grace_ms=31_000),
        ),
        workers_per_tenant=11,
        environments_per_tenant=12,
        status_events=True,
        timings_per_tenant=13,
        bytes_per_tenant=14 << 20,
        min_interval_ms=10_000,
        max_interval_ms=100_000,
        min_grace_ms=20_000,
        max_grace_ms=200_000,
        durability=Durability.parse("replicas:5"),
    )
    by_default = store_settings(load(None, {}), "unix:///s", "d")
    assert (by_default.durability, by_default.installation) == (Durability.parse("fsync"), ())


def test_replicas_between_which_keys_are_replaced_know_each_other(tmp_path: Path) -> None:
    def names(*kids: str) -> set[str]:
        keys = "".join(
            f'[[auth.keys]]\nkid = "{kid}"\nalgorithm = "HS256"\nsecret_env = "{kid.upper()}"\n' for kid in kids
        )
        config = load(write(tmp_path, f'[store]\nurl = "redis://h"\n{keys}'), secrets)
        return set(store_settings(config, "redis://h", "d").installation)

    secrets = {name: name * 32 for name in ("A", "B", "C")}
    assert len(names("a", "b")) == 2
    # A new key comes before or behind the one that it replaces.
    for replaced in (("b", "a"), ("a", "b")):
        assert names("a") & names(*replaced)
        assert names("b") & names(*replaced)
    assert not names("a", "b") & names("c")
