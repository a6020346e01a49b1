"""docs/events.md: nothing is missing from it, and its examples are true and run."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alerts.delivery.circuit_breaker import FAILURES, LONGEST_PAUSE_MS
from alerts.groups.classify import digest
from alerts.groups.flapping import Flapping, RecentOutages
from alerts.receivers.webhook import WebhookReceiver
from alerts.rendering.payload import BODY_BYTES, GroupCounts, Wording
from alerts.rendering.phrases import LINE_CHARS
from monitor.daemon.config.model import load
from monitor.events import EVENT_METADATA_BYTES, Event
from monitor.liveness import (
    CLEAN_EXITS,
    STILL_REJECTED,
    STRAGGLER_MS,
    TRANSITIONS,
    EnvironmentHealth,
    EventKind,
    Liveness,
)
from tests.support.alerts_fakes import SECRET, event, notification, webhook_server

PAGE = (Path(__file__).parents[2] / "docs" / "events.md").read_text(encoding="utf-8")


WORDING = Wording(public_url="https://lastseen.example.org", redact=("*token*",))
DUE_MS = 1_790_000_120_000
INCIDENT = "inc_47a9e54be403ece9373af8a6e40499f3"


def fact(**changes: Any) -> Event:
    """What the page's examples are of."""
    usual = {
        "seq": 2,
        "generation": 1_790_000_000_000,
        "worker_id": "w1",
        "reason": "deadline passed",
        "due_ms": DUE_MS,
        "detected_ms": DUE_MS + 777,
        "last_seen_ms": DUE_MS - 90_000,
        "since_ms": 1_790_000_000_000,
        "current_task_id": "t9",
        "worker_metadata_json": '{"host":"a1"}',
        "recent_gaps_ms": (30_000,),
    }
    return event(**{**usual, **changes})


REJECTED: dict[str, Any] = {
    "kind": EventKind.REJECTED,
    "reason": "token expired",
    "rejected_reason": "token expired",
    "rejected_ms": DUE_MS - 10_000,
    "rejected_subject": "deploy-bot",
}
OUTAGE = {
    "due_ms": DUE_MS + 280_000,
    "detected_ms": DUE_MS + 281_000,
    "outage_ms": 250_000,
    "outage_until_ms": DUE_MS + 190_000,
    "outage_windows": 1,
}


def single_body(of: Event | None = None, *, reminder: int = 0) -> str:
    return WORDING.single(
        of or fact(),
        incident_id=INCIDENT,
        reminder=reminder,
        health=EnvironmentHealth(expected=237, silent=2),
        recent=None if reminder else RecentOutages(number=1, rule=Flapping()),
    )


def group_body(
    *,
    firing: bool = True,
    group: str = "prod",
    workers: int = 3,
    expected: int = 240,
    truncated: int = 0,
    rejected: int = 0,
) -> str:
    """The body of a notification of ``workers`` workers; those that are not truncated are listed."""
    changes: dict[str, Any] = {} if firing else {"kind": EventKind.RECOVERED, "old": Liveness.STALE}
    if rejected:
        changes = REJECTED
    return WORDING.group(
        firing=firing,
        group={"tenant": "acme", "environment": group},
        counts=GroupCounts(
            firing=workers * firing,
            new=workers * firing,
            recovered=workers * (not firing),
            expected=expected,
            rejected=rejected,
            ended={"worker.recovered": workers},
        ),
        events=[fact(worker_id=f"w{number}", **changes) for number in range(1, workers - truncated + 1)],
        truncated=truncated,
        since_ms=DUE_MS,
        now_ms=DUE_MS + (2_000 if firing else 602_000),
        incident_id=INCIDENT if truncated else None,
        reminder=0,
        environment_incident=truncated > 0,
    )


def sentences() -> list[str]:
    bodies = [
        single_body(),
        single_body(reminder=2),
        single_body(
            fact(
                kind=EventKind.FAILED,
                new=Liveness.FAILED,
                reason="crash",
                exit_code=137,
                error_message="Out of memory",
                recent_gaps_ms=(),
            )
        ),
        single_body(
            fact(kind=EventKind.RECOVERED, old=Liveness.STALE, new=Liveness.ALIVE, recent_gaps_ms=(30_000, 250_000))
        ),
        single_body(fact(**REJECTED)),
        single_body(
            fact(**{**REJECTED, "kind": EventKind.STALE, "reason": "rejected beats ended"}, old=Liveness.STALE)
        ),
        single_body(fact(**{**REJECTED, "kind": EventKind.STALE, "reason": STILL_REJECTED}, old=Liveness.STALE)),
        single_body(fact(**OUTAGE)),
        group_body(),
        group_body(group="production", workers=312, expected=1_000, truncated=262),
        group_body(group="production", workers=1_000, expected=1_000, truncated=950, rejected=1_000),
        group_body(group="production", workers=312, expected=1_000, truncated=262, rejected=300),
        group_body(firing=False),
    ]
    return [json.loads(body)["data"]["summary"] for body in bodies]


def example(name: str) -> str:
    """The source of a marked block."""
    found = re.findall(rf"<!-- example:{name} -->\n```\w+\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert len(found) == 1
    source: str = found[0]
    return source


def rows(header: str) -> list[list[str]]:
    """The cells of the table that begins with this header cell."""
    _, _, rest = PAGE.partition(f"\n| {header} |")
    table = rest.partition("\n\n")[0].splitlines()[2:]
    assert table
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def test_every_kind_is_listed_once_and_nothing_else() -> None:
    assert [quoted(kind) for kind, *_ in rows("event")] == [[kind.value] for kind in EventKind]


@pytest.mark.parametrize("kind", [kind for kind in EventKind if kind is not EventKind.STATUS_CHANGED])
def test_the_moves_of_a_kind_are_those_of_the_table(kind: EventKind) -> None:
    (moves,) = (moves for name, _, moves in rows("event") if quoted(name) == [kind.value])
    made = {
        (state.value if state else "null", move.to.value if move.to else "null")
        for (state, _), move in TRANSITIONS.items()
        if move.event is kind
    }
    if kind is EventKind.FORGOTTEN:
        assert moves == "what it was → `null`"
        assert len(made) == 4
    else:
        words = quoted(moves)
        assert set(zip(words[::2], words[1::2], strict=True)) == made


def test_every_field_of_data_is_listed_once_and_nothing_else() -> None:
    listed = [name for cell, *_ in rows("field of `data`") for name in quoted(cell)]
    assert sorted(listed) == sorted(event().data().__struct_fields__)


def test_every_field_that_a_notification_adds_is_listed_once_and_nothing_else() -> None:
    listed = [name for cell, *_ in rows("field of a notification") for name in quoted(cell)]
    assert listed == [
        name for name in json.loads(single_body())["data"] if name not in event().data().__struct_fields__
    ]


def test_every_field_of_a_group_is_listed_once_and_nothing_else() -> None:
    listed = [name for cell, *_ in rows("field of a group's `data`") for name in quoted(cell)]
    assert listed == list(json.loads(group_body())["data"])


def test_the_example_of_a_body_is_what_is_sent_field_by_field_in_its_order() -> None:
    shown, real = json.loads(example("webhook-body")), json.loads(single_body())
    assert shown == real
    assert list(shown) == list(real) == ["type", "timestamp", "data"]
    assert list(shown["data"]) == list(real["data"])


def test_the_example_of_a_group_s_body_is_what_is_sent_but_for_what_it_leaves_out_of_the_events() -> None:
    shown, real = json.loads(example("group-body")), json.loads(group_body())
    assert list(shown["data"]) == list(real["data"])
    in_full = shown["data"].pop("events"), real["data"].pop("events")
    assert shown == real
    for abridged, event_data in zip(*in_full, strict=True):
        assert abridged.items() <= event_data.items()


def test_the_sentences_are_those_that_are_sent() -> None:
    assert example("sentences").splitlines() == sentences()


@pytest.fixture
def now_ms(tmp_path: Path) -> int:
    """The current time, read from the file system: the verifying side insists on it."""
    return tmp_path.stat().st_mtime_ns // 1_000_000


@pytest.fixture
async def delivered(now_ms: int) -> tuple[dict[str, str], bytes]:
    """Headers and body of a real notification."""
    async with webhook_server() as hook:
        receiver = WebhookReceiver(name="ops", url=hook.url, secrets=(SECRET,), allow_private=True)
        try:
            await receiver.send(notification(), attempt=1, now_ms=now_ms)
        finally:
            await receiver.close()
    (request,) = hook.requests
    return request


def test_the_snippet_takes_what_is_sent_once_and_nothing_else(
    delivered: tuple[dict[str, str], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LASTSEEN_WEBHOOK_SECRET", SECRET)
    names: dict[str, Any] = {}
    exec(compile(example("verify"), "docs/events.md", "exec"), names)  # noqa: S102 - it is our own page
    receive: Callable[..., tuple[int, dict[str, Any] | None]] = names["receive"]
    headers, body = delivered
    seen: set[str] = set()
    assert receive(body + b" ", headers, seen) == (401, None)
    assert receive(body, {**headers, "webhook-id": "ntf_other"}, seen) == (401, None)
    assert receive(body, {**headers, "webhook-timestamp": "1"}, seen) == (401, None)
    assert seen == set()
    assert receive(body, headers, seen) == (204, json.loads(body))
    assert receive(body, headers, seen) == (204, None)


def test_every_header_that_is_listed_is_sent_and_every_webhook_header_that_is_sent_is_listed(
    delivered: tuple[dict[str, str], bytes],
) -> None:
    headers, _ = delivered
    listed = {quoted(name)[0] for name, *_ in rows("header")}
    assert listed <= headers.keys()
    assert {name for name in headers if name.startswith("webhook-")} <= listed
    assert headers["content-type"] == "application/json"


def test_the_log_line_is_of_the_same_event() -> None:
    line, data = json.loads(example("log-line")), json.loads(example("webhook-body"))["data"]
    shown = {name: line.pop(name) for name in data if name in line}
    assert shown == {name: data[name] for name in shown}
    assert line.pop("timestamp") > data["detected_at"]
    assert line == {
        "nid": "ntf_" + digest("log", data["event_id"]),
        "receiver": "log",
        "type": "worker.stale",
        "attempt": 1,
        "event": "notification",
        "level": "info",
    }


def test_the_numbers_are_those_of_the_code() -> None:
    config = load(None, {})
    assert (config.alerts.retry_initial_ms, config.alerts.retry_max_ms) == (2_000, 6 * 3_600_000)
    assert "up to 2 s, 4 s, 8 s, ... 6 h" in PAGE
    assert config.alerts.retry_for_ms == 72 * 3_600_000
    assert "`retry_for` (72 h)" in PAGE
    assert f"After {FAILURES} failures in a row" in PAGE
    assert f"up to {LONGEST_PAUSE_MS // 1_000} s;" in PAGE
    assert f"at most {BODY_BYTES // 1_024} KiB" in PAGE
    assert f"less than {LINE_CHARS} characters" in PAGE
    assert STRAGGLER_MS == 5_000
    assert "within 5 seconds after a clean disconnect" in PAGE
    assert f"fit into {EVENT_METADATA_BYTES} bytes of JSON" in PAGE
    assert {reason: set(codes) for reason, codes in CLEAN_EXITS.items()} == {
        "shutdown": {None, 0, 130, 143, -2, -15},
        "done": {0},
        "completed": {0},
    }
    assert "`shutdown` and its `exit_code` is null, 0, 130, 143, -2 or -15" in PAGE
    assert "`done` or `completed` and its\n`exit_code` is 0" in PAGE
