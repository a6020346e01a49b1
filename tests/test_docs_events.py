"""docs/events.md: nothing is missing from it, and its examples are true and run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from alerts.notification import notification_id
from alerts.payload import render
from alerts.receivers import WebhookSettings, open_receiver
from monitor.daemon.config import load
from monitor.events import EVENT_METADATA_BYTES
from monitor.liveness import CLEAN_EXIT_CODES, STRAGGLER_MS, TRANSITIONS, EventKind
from tests.alerts_fakes import SECRET, event, notification, webhook_server

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = (Path(__file__).parent.parent / "docs" / "events.md").read_text(encoding="utf-8")


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
    assert sorted(listed) == sorted(event().data())


def test_the_body_in_the_example_has_the_fields_of_a_real_one_in_their_order() -> None:
    shown, real = json.loads(example("webhook-body")), json.loads(render(event()))
    assert list(shown) == list(real) == ["type", "timestamp", "data"]
    assert list(shown["data"]) == list(real["data"])


def test_the_example_s_id_and_times_are_those_of_its_fact() -> None:
    data = json.loads(example("webhook-body"))["data"]
    fact = event(
        seq=data["seq"],
        generation=data["generation"],
        worker_id=data["worker_id"],
        reason=data["reason"],
        due_ms=1_790_000_120_000,
        detected_ms=1_790_000_120_777,
        last_seen_ms=1_790_000_030_000,
        since_ms=1_790_000_000_000,
        current_task_id=data["current_task_id"],
        worker_metadata_json=json.dumps(data["worker_metadata"]),
        recent_gaps_ms=(30_000,),
    )
    assert json.loads(render(fact)) == json.loads(example("webhook-body"))


@pytest.fixture
def now_ms(tmp_path: Path) -> int:
    """The present, which the verifying side insists on, as the file system tells it."""
    return tmp_path.stat().st_mtime_ns // 1_000_000


@pytest.fixture
async def delivered(now_ms: int) -> tuple[dict[str, str], bytes]:
    """Headers and body of a real notification."""
    async with webhook_server() as hook:
        receiver = open_receiver(WebhookSettings(name="ops", url=hook.url, secrets=(SECRET,), allow_private=True))
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
        "nid": notification_id(receiver="log", event_id=data["event_id"]),
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
    assert STRAGGLER_MS == 5_000
    assert "within 5 seconds after a clean disconnect" in PAGE
    assert f"fit into {EVENT_METADATA_BYTES} bytes of JSON" in PAGE
    codes = sorted(code for code in CLEAN_EXIT_CODES if code is not None)
    assert f"null, {codes[0]}, {codes[1]} or {codes[2]}" in PAGE
