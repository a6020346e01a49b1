"""The ``[alerts]`` section: receivers, routes, mass failures, and what is refused and warned of about them."""

import re
from pathlib import Path

import pytest

from alerts.routing.routes import DEFAULT_EVENTS
from monitor.daemon.config.model import load
from monitor.liveness import EventKind
from monitor.printable import Paged
from tests.support.configuration import refused_text, write

UNDIALLABLE = {
    "https://hooks..example.org/x": "has a host with an empty label",
    "https://.example.org/x": "has a host with an empty label",
    "https://./x": "has a host with an empty label",
    f"https://{'a' * 64}.example.org": "has a host with a label of more than 63 characters",
    f"https://{'a.' * 127}org/x": "has a host of more than 253 characters",
    f"https://é{'a' * 60}.example.org/": "has a host that is no IDNA name",
    "https://hooks%2Eexample.org/x": "has a host with other characters than",
    "https://[v1.x]/": "has a host in brackets that is no IPv6 address",
    "http://127.1": "has the host 127.1: it ends in a number",
    "http://2130706433/x": "has the host 2130706433: it ends in a number",
    "http://0x7f.1/x": "has the host 0x7f.1: it ends in a number",
    "http://127.0.0.01/": "has the host 127.0.0.01: it ends in a number",
    "http://\N{FULLWIDTH DIGIT ONE}27.1/": "has the host 127.1: it ends in a number",
    "http://224.0.0.1/": "has the host 224.0.0.1: no connection",
    "http://255.255.255.255/": "has the host 255.255.255.255: no connection",
    "http://hooks.example.org:0/": "must have a port from 1 to 65535",
    "http://hooks.example.org:65536/": "must have a port from 1 to 65535",
    "http://hooks.example.org:x/": "must have a port from 1 to 65535",
    "http://hooks.example.org/é": "must have its path and query percent-encoded",
}
"""URLs that no request could ever be made to."""


JOURNAL = '[[alerts.receivers]]\nname = "own"\ntype = "log"\n'
OWN = '[[alerts.receivers]]\nname = "own"\ntype = "log"\ntenants = ["{}"]\n'


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ('[alerts]\nretry_max = "1s"', 2, "alerts.retry_max: 1s is below alerts.retry_initial, 2s"),
        ('[alerts]\nretry_initial = "7s"\nretry_max = "5s"', 3, "5s is below alerts.retry_initial, 7s"),
        ("[alerts]\nqueue_concurrency = 65", 2, "must be at most 64"),
        ('[[alerts.receivers]]\nname = "o s"\ntype = "log"', 2, "must be 1 to 64 letters, digits, `_` or `-`"),
        ('[[alerts.receivers]]\nname = "a"\ntype = "mail"', 3, "alerts.receivers[0].type: must be one of"),
        ('[[alerts.receivers]]\nname = "a"\ntype = "webhook"', 1, "alerts.receivers[0].url: is required"),
        ('[alerts]\nreceivers = ["a"]', 2, 'alerts.receivers[0]: must be a table, got "a"'),
        ("[alerts]\nreceivers = 1", 2, "alerts.receivers: is a list of tables: write [[alerts.receivers]] above each"),
        ('[[alerts.receivers]]\nname = "a"\ntype = 3', 3, "alerts.receivers[0].type: must be one of"),
        ('[[alerts.receivers]]\nname = "a"', 1, "alerts.receivers[0].type: is required"),
        ('[[alerts.receivers]]\nname = "a"\ntype = "webhook"\nurl = "http://x"', 1, "a webhook needs a signing secret"),
        (
            '[[alerts.receivers]]\nname = "a"\ntype = "log"\nsecret_env = "X"',
            4,
            "secret_env: belongs to type webhook, not log",
        ),
        (
            '[[alerts.receivers]]\nname = "a"\ntype = "webhook"\nurl = "ftp://x"',
            4,
            "must be an http:// or https:// URL",
        ),
        (
            '[[alerts.receivers]]\nname = "a"\ntype = "alertmanager"\nurl = "http://x"\nresend = "9s"',
            5,
            "alerts.receivers[0].resend: must be between 10s and 1h",
        ),
        (
            '[[alerts.receivers]]\nname = "a"\ntype = "alertmanager"\nurl = "http://x/?a=b"',
            4,
            "alerts.receivers[0].url: must not hold a query or a fragment",
        ),
        (
            '[[alerts.receivers]]\nname = "a"\ntype = "alertmanager"\nurl = "http://x"\nlabels = { alertname = "b" }',
            5,
            "alerts.receivers[0].labels: alertname is set by the alert itself",
        ),
        (
            '[[alerts.receivers]]\nname = "a"\ntype = "alertmanager"\nurl = "http://x"\nlabels = { a-b = "b" }',
            5,
            "alerts.receivers[0].labels: 'a-b' is not a name of a label",
        ),
        (
            '[[alerts.receivers]]\nname = "a"\ntype = "alertmanager"\nurl = "http://x"\nresent = "60s"',
            5,
            "alerts.receivers[0].resent: unknown key; did you mean alerts.receivers[0].resend?",
        ),
        ('[alerts]\npublic_url = "example.org"', 2, "alerts.public_url: must be an http:// or https:// URL"),
        ('[alerts]\npublic_url = "https://a..b"', 2, "alerts.public_url: has a host with an empty label"),
        ('[watchdog]\nurl = "https://a..b"', 2, "watchdog.url: has a host with an empty label"),
        (
            '[[alerts.receivers]]\nname = "a"\ntype = "webhook"\nurl = "https://x/a#b"',
            4,
            "alerts.receivers[0].url: must not hold a fragment",
        ),
        ('[alerts]\npublic_url = "http://a/?b"', 2, "alerts.public_url: must not hold a query"),
        ('[alerts]\nredact = ["*token*", "a?"]', 2, "alerts.redact[1]: `*` is the only wildcard"),
        ("[alerts.mass_failure]\nshare = 0", 2, "alerts.mass_failure.share: must be more than 0 and at most 1, got 0"),
        (
            "[alerts.mass_failure]\nshare = 1.01",
            2,
            "alerts.mass_failure.share: must be more than 0 and at most 1, got 1.01",
        ),
        ("[alerts.mass_failure]\nshare = nan", 2, "alerts.mass_failure.share: must be more than 0 and"),
        ('[alerts.mass_failure]\nshare = "20%"', 2, "alerts.mass_failure.share: must be a number"),
        ("[alerts.mass_failure]\nleast = 0", 2, "alerts.mass_failure.least: must be at least 1"),
        ('[alerts.mass_failure]\nhold = "11m"', 2, "alerts.mass_failure.hold: must be between 0s and 10m"),
        ("[alerts.flapping]\noutages = 8", 2, "alerts.flapping.outages: must be at most 7"),
        ('[alerts.flapping]\nhold = "2h"', 2, "alerts.flapping.hold: must be between 0s and 1h"),
        ("[alerts]\nmass_failure = false", 2, "alerts.mass_failure: must be a table, got false"),
        ('[[alerts.receivers]]\nname = "a"\ntype = "webhook"\nurl = "https://u:p@x"', 4, "must not hold user and"),
        *(
            (f'[[alerts.receivers]]\nname = "a"\ntype = "{kind}"\nurl = "{url}"', 4, f"alerts.receivers[0].url: {why}")
            for kind in ("webhook", "alertmanager")
            for url, why in UNDIALLABLE.items()
        ),
        (OWN.format("a*"), 4, "alerts.receivers[0].tenants[0]: names a tenant exactly: `*` is no wildcard here"),
        (OWN.format(""), 4, "alerts.receivers[0].tenants[0]: must be 1 to 256 characters"),
        (OWN.format("a\\u0007"), 4, "alerts.receivers[0].tenants[0]: contains a control character"),
        (
            OWN.format("acme") + '[[alerts.routes]]\nreceivers = ["own"]\ntenants = ["glob*"]',
            6,
            "alerts.routes[0].receivers[0]: belongs to acme, and no pattern of tenants in this route matches",
        ),
        ('[[alerts.routes]]\nreceivers = ["ops"]', 2, "there is no receiver of this name (there is log), got"),
        ("[[alerts.routes]]\nreceivers = []", 2, "alerts.routes[0].receivers: must not be empty"),
        ('[[alerts.routes]]\nreceivers = ["log"]\nevents = ["worker.x"]', 3, "alerts.routes[0].events[0]: must be one"),
        ('[[alerts.routes]]\nreceivers = ["log"]\ntenants = ["a["]', 3, "`*` is the only wildcard"),
        ('[[alerts.routes]]\nreceivers = ["log"]\ntenants = [""]', 3, "alerts.routes[0].tenants[0]: must not be empty"),
        ('[[alerts.routes]]\nreceivers = ["log"]\nenvironments = []', 3, "routes[0].environments: must not be empty"),
        (
            f'[[alerts.routes]]\nreceivers = ["log"]\nenvironments = ["*", "{"e" * 257}*"]',
            3,
            "alerts.routes[0].environments[1]: can never match: names have at most 256 characters",
        ),
        (
            '[[alerts.routes]]\nreceivers = ["log"]\ntenants = ["a\\u0000"]',
            3,
            "alerts.routes[0].tenants[0]: contains a control character",
        ),
        (
            '[[alerts.routes]]\nreceivers = ["log"]\ngroup_by = ["tenant", "region"]',
            3,
            "alerts.routes[0].group_by[1]: must be worker_id, tenant, environment or metadata.<name>",
        ),
        ('[[alerts.routes]]\nreceivers = ["log"]\ngroup_by = ["metadata."]', 3, "must name a key of the metadata"),
        ('[[alerts.routes]]\nreceivers = ["log"]\ngroup_by = []', 3, "alerts.routes[0].group_by: must not be empty"),
        ('[[alerts.routes]]\nreceivers = ["log"]\ngroup_by = ["tenant", "tenant"]', 3, "names a label twice"),
        ('[[alerts.routes]]\nreceivers = ["log"]\ngroup_by = ["worker_id", "tenant"]', 3, "cannot be combined"),
        (
            '[[alerts.routes]]\nreceivers = ["log"]\ngroup_wait = "61s"',
            3,
            "alerts.routes[0].group_wait: group_interval, 1m, is below group_wait, 61s",
        ),
        (
            '[[alerts.routes]]\nreceivers = ["log"]\ngroup_by = ["tenant"]\ngroup_interval = "1s"',
            4,
            "alerts.routes[0].group_interval: group_interval, 1s, is below group_wait, 2s",
        ),
        (
            '[[alerts.routes]]\nreceivers = ["log"]\nrepeat_interval = "999ms"',
            3,
            "alerts.routes[0].repeat_interval: must be 0s, for no reminders, or at least 1s",
        ),
    ],
)
def test_each_refusal_of_alerts_says_file_line_and_key(tmp_path: Path, text: str, line: int, expected: str) -> None:
    section = re.search(r"\w+", text)
    assert section
    lines = refused_text(tmp_path, text)
    matching = [found for found in lines if expected in found]
    assert len(matching) == 1, lines
    assert matching[0].startswith(f"config.toml:{line}: {section[0]}")


def test_without_receivers_every_event_goes_to_the_log() -> None:
    alerts = load(None, {}).alerts
    (receiver,), (route,) = alerts.effective_receivers, alerts.effective_routes
    assert (receiver.name, receiver.type) == ("log", "log")
    assert route.receivers == ("log",)
    assert route.kinds == frozenset(EventKind)


def test_a_route_may_name_the_implicit_log(tmp_path: Path) -> None:
    alerts = load(write(tmp_path, '[[alerts.routes]]\nreceivers = ["log"]\nevents = ["worker.stale"]'), {}).alerts
    assert [receiver.name for receiver in alerts.effective_receivers] == ["log"]
    assert alerts.effective_routes == alerts.routes
    assert alerts.routes[0].kinds == {EventKind.STALE}


def test_without_routes_the_default_events_go_to_every_receiver(tmp_path: Path) -> None:
    text = '[[alerts.receivers]]\nname = "a"\ntype = "log"\n[[alerts.receivers]]\nname = "b"\ntype = "log"'
    alerts = load(write(tmp_path, text), {}).alerts
    assert alerts.effective_receivers == alerts.receivers
    (route,) = alerts.effective_routes
    assert route.receivers == ("a", "b")
    assert route.kinds == {EventKind.STALE, EventKind.FAILED, EventKind.REJECTED, EventKind.RECOVERED} == DEFAULT_EVENTS
    assert (route.environments, route.tenants) == (("*",), ("*",))


def test_the_implicit_log_is_gone_once_there_are_receivers(tmp_path: Path) -> None:
    text = '[[alerts.receivers]]\nname = "a"\ntype = "log"\n[[alerts.routes]]\nreceivers = ["a", "log"]'
    (line,) = refused_text(tmp_path, text)
    assert line.startswith(
        "config.toml:5: alerts.routes[0].receivers[1]: there is no receiver of this name (there is a)"
    )


def test_a_repeated_receiver_is_refused_where_it_repeats(tmp_path: Path) -> None:
    (line,) = refused_text(tmp_path, '[[alerts.receivers]]\nname = "a"\ntype = "log"\n' * 2)
    assert line == 'config.toml:5: alerts.receivers[1].name: an earlier receiver has this name, got "a"'


def test_a_route_waits_for_others_only_where_it_gathers(tmp_path: Path) -> None:
    text = (
        '[[alerts.routes]]\nreceivers = ["log"]\n'
        '[[alerts.routes]]\nreceivers = ["log"]\ngroup_by = ["tenant", "environment", "metadata.region"]\n'
        '[[alerts.routes]]\nreceivers = ["log"]\ngroup_wait = "5s"\ngroup_interval = "5s"\nrepeat_interval = "0s"\n'
    )
    routes = load(write(tmp_path, text), {}).alerts.routes
    assert [route.group_by for route in routes] == [
        ("worker_id",),
        ("tenant", "environment", "metadata.region"),
        ("worker_id",),
    ]
    timings = [(route.group_wait_ms, route.group_interval_ms, route.repeat_interval_ms) for route in routes]
    assert timings == [(0, 60_000, 14_400_000), (2_000, 60_000, 14_400_000), (5_000, 5_000, 0)]


def test_mass_failures_are_judged_as_configured(tmp_path: Path) -> None:
    usual = load(None, {}).alerts.mass_failure
    assert (usual.enabled, usual.share, usual.least, usual.hold_ms) == (True, 0.2, 5, 120_000)
    text = '[alerts.mass_failure]\nenabled = false\nshare = 1\nleast = 2\nhold = "0s"'
    changed = load(write(tmp_path, text), {"LASTSEEN_ALERTS__MASS_FAILURE__LEAST": "3"}).alerts.mass_failure
    assert (changed.enabled, changed.share, changed.least, changed.hold_ms) == (False, 1.0, 3, 0)


def test_flapping_is_judged_as_configured(tmp_path: Path) -> None:
    usual = load(None, {}).alerts.flapping
    assert (usual.enabled, usual.outages, usual.within_ms, usual.hold_ms) == (True, 3, 3_600_000, 300_000)
    text = '[alerts.flapping]\nenabled = false\noutages = 7\nwithin = "1d"\nhold = "0s"'
    changed = load(write(tmp_path, text), {"LASTSEEN_ALERTS__FLAPPING__OUTAGES": "1"}).alerts.flapping
    assert (changed.enabled, changed.outages, changed.within_ms, changed.hold_ms) == (False, 1, 86_400_000, 0)


LOGS = '[[alerts.receivers]]\nname = "a"\ntype = "log"\n[[alerts.receivers]]\nname = "b"\ntype = "log"\n'
MANAGER = '[[alerts.receivers]]\nname = "am"\ntype = "alertmanager"\nurl = "http://{}:9093"\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '[[alerts.routes]]\nreceivers = ["log"]\nevents = ["worker.recovered"]',
            ["alerts.routes[0]: nothing will be sent to log: no RESOLVED without a DOWN, and no route sends"],
        ),
        (
            LOGS
            + '[[alerts.routes]]\nreceivers = ["a"]\n'
            + '[[alerts.routes]]\nreceivers = ["a", "b"]\nevents = ["worker.recovered", "worker.registered"]',
            ["alerts.routes[1]: worker.recovered will not be sent to b: no RESOLVED without a DOWN"],
        ),
        (
            LOGS + '[[alerts.routes]]\nreceivers = ["a"]',
            ['alerts.receivers[1] "b": no route leads to it, so it gets no notifications'],
        ),
        (
            LOGS
            + '[[alerts.routes]]\nreceivers = ["a", "b"]\nevents = ["worker.stale", "worker.recovered"]\n'
            + '[[alerts.routes]]\nreceivers = ["a"]\nevents = ["worker.rejected"]',
            ["alerts.routes[0]: worker.stale is sent to b, and worker.rejected is not: no notification will say"],
        ),
        (
            MANAGER.format("am.example.org") + '[[alerts.routes]]\nreceivers = ["am"]\ngroup_by = ["environment"]',
            ["alerts.routes[0]: am does not support groups: it gets single notifications despite group_by"],
        ),
        (
            '[[alerts.routes]]\nreceivers = ["log"]\ngroup_by = ["metadata.API_Token"]',
            ["alerts.routes[0]: metadata.API_Token is hidden by alerts.redact"],
        ),
        *(
            (
                MANAGER.format(host),
                [f'alerts.receivers[0] "am": its url is on the private address {host.strip("[]")}: nothing is sent'],
            )
            for host in ("10.0.0.1", "127.0.0.1", "localhost", "[::1]", "[::ffff:10.0.0.1]", "169.254.169.254")
        ),
        (MANAGER.format("10.0.0.1") + "allow_private = true", []),
        (MANAGER.format("93.184.216.34"), []),
        (MANAGER.format("am.example.org"), []),
        ('[[alerts.routes]]\nreceivers = ["log"]\nevents = ["worker.registered"]', []),
        (
            OWN.format("acme") + '[[alerts.routes]]\nreceivers = ["own"]\ntenants = ["acme", "globex", "other-*"]',
            ["alerts.routes[0]: own belongs to acme: it gets no events of globex"],
        ),
        (OWN.format("acme") + '[[alerts.routes]]\nreceivers = ["own"]', []),
        ('[[alerts.routes]]\nreceivers = ["log"]\nevents = ["*"]', []),
    ],
)
def test_alerts_that_will_hardly_be_as_meant_are_warned_of(tmp_path: Path, text: str, expected: list[str]) -> None:
    warnings = load(write(tmp_path, text), {}).warnings
    assert len(warnings) == len(expected), warnings
    for warning, begins in zip(warnings, expected, strict=True):
        assert warning.startswith(begins)


@pytest.mark.parametrize(
    ("text", "kinds", "receivers"),
    [
        ("", {kind.value for kind in EventKind}, {"log"}),
        (JOURNAL, {kind.value for kind in DEFAULT_EVENTS}, {"own"}),
        (OWN.format("acme"), set(), {"own"}),
        (JOURNAL + '[[alerts.routes]]\nreceivers = ["own"]\nenvironments = ["prod"]', set(), {"own"}),
    ],
)
def test_c21_what_the_log_has_as_pages_is_known_from_the_routes(
    tmp_path: Path, text: str, kinds: set[str], receivers: set[str]
) -> None:
    paged = load(write(tmp_path, text), {}).alerts.paged
    assert paged == Paged(kinds=frozenset(kinds), receivers=frozenset(receivers))


@pytest.mark.parametrize(
    ("first", "second", "dead"),
    [
        ('receivers = ["a"]', 'receivers = ["a"]', ["a"]),
        ('receivers = ["a", "b"]', 'receivers = ["a", "b"]\nenvironments = ["prod-*"]', ["a", "b"]),
        ('receivers = ["a"]', 'receivers = ["b", "a"]', ["a"]),
        ('receivers = ["a"]\nevents = ["*"]', 'receivers = ["a"]', ["a"]),
        ('receivers = ["a"]\nenvironments = ["p*", "q*"]', 'receivers = ["a"]\nenvironments = ["prod", "qa-*"]', ["a"]),
        ('receivers = ["a"]', 'receivers = ["a"]\nevents = ["*"]', []),
        ('receivers = ["a"]\nenvironments = ["prod-*"]', 'receivers = ["a"]', []),
        ('receivers = ["a"]\ntenants = ["acme"]', 'receivers = ["a"]\nenvironments = ["prod"]', []),
        ('receivers = ["a"]', 'receivers = ["b"]', []),
    ],
)
def test_a_route_that_an_earlier_one_leaves_nothing_to_is_warned_of(
    tmp_path: Path, first: str, second: str, dead: list[str]
) -> None:
    """Of several routes that lead to a receiver the first says how: a later one with its own group_by never does."""
    receivers = "".join(f'[[alerts.receivers]]\nname = "{name}"\ntype = "log"\n' for name in "ab")
    text = f"{receivers}[[alerts.routes]]\n{first}\n[[alerts.routes]]\n{second}\ngroup_by = ['environment']\n"
    warnings = [line for line in load(write(tmp_path, text), {}).warnings if "never applies" in line]
    assert warnings == [
        f"alerts.routes[1]: never applies to {name}: alerts.routes[0] already covers it" for name in dead
    ]
