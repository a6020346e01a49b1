"""What notifications say, and what they never say: tables of sentences, and properties of every body."""

import json
import shlex
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts.errors import UnrenderableEventError
from alerts.groups.classify import fits
from alerts.receivers.log import page
from alerts.rendering.group_text import NAMES
from alerts.rendering.payload import BODY_BYTES, GroupCounts, Wording
from alerts.rendering.phrases import LINE_CHARS, duration, shown
from alerts.rendering.redaction import REDACTED, Redaction, without_userinfo
from alerts.rendering.worker_text import single_sentence
from monitor.api.rejected_beats import SUBJECT_CHARS
from monitor.daemon.config.alerts import REDACTED_KEYS
from monitor.events import Event, cut_metadata
from monitor.liveness import TRANSITIONS, EnvironmentHealth, EventKind, Liveness, Trigger
from tests.support.alerts_fakes import event

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
NOON = 1_790_000_000_000 // DAY * DAY + 12 * HOUR
"""A noon, UTC: 2026-09-21."""
URL = "https://lastseen.example.org"
WORDING = Wording(public_url=URL, redact=("*token*", "*secret*", "*password*"))
SECRET = "hunter2"


def happened(kind: EventKind = EventKind.STALE, **changes: Any) -> Event:
    """Something that happened to w1 at noon."""
    usual = {
        "kind": kind,
        "worker_id": "w1",
        "due_ms": NOON,
        "detected_ms": NOON + 400,
        "last_seen_ms": NOON - 90 * SECOND,
        "since_ms": NOON - HOUR,
        "current_task_id": "t9",
        "reason": "deadline passed",
        "recent_gaps_ms": (30_000, 30_020, 29_900),
    }
    return event(**{**usual, **changes})


def said(of: Event, *, reminder: int = 0, health: EnvironmentHealth | None = None) -> str:
    return single_sentence(of, reminder=reminder, health=health)


STALE = happened()
PLANNED = happened(old=Liveness.STOPPED, reason="did not return as planned")
FAILED = happened(
    EventKind.FAILED,
    new=Liveness.FAILED,
    reason="crash",
    exit_code=137,
    error_message='ValueError: no\n  "such" \tthing\x07',
)
RECOVERED = happened(
    EventKind.RECOVERED,
    old=Liveness.STALE,
    since_ms=NOON - 160 * SECOND,
    last_seen_ms=NOON,
    recent_gaps_ms=(30_000, 250_000),
)
REJECTED_FACTS: dict[str, Any] = {
    "kind": EventKind.REJECTED,
    "reason": "token expired",
    "rejected_reason": "token expired",
    "rejected_ms": NOON - 10 * SECOND,
}
REJECTED = happened(**REJECTED_FACTS)
QUIET = happened(
    **{**REJECTED_FACTS, "kind": EventKind.STALE, "reason": "rejected beats ended"}, old=Liveness.STALE, since_ms=NOON
)


def late(**changes: Any) -> Event:
    """A death that was noticed ten minutes late."""
    usual = {"detected_ms": NOON + 10 * MINUTE, "current_task_id": None, "recent_gaps_ms": ()}
    return happened(**{**usual, **changes})


CLEAN = happened(EventKind.STOPPED, new=Liveness.STOPPED, reason="shutdown", exit_code=0)


@pytest.mark.parametrize(
    ("of", "health", "sentence"),
    [
        (
            STALE,
            EnvironmentHealth(expected=240, silent=2),
            (
                "Worker w1 in prod is stale: no heartbeat since 11:58:30 UTC (deadline 12:00:00), last status busy on"
                " task t9; its beats came every 30 s, as expected; 2 others of 240 in prod are silent too."
            ),
        ),
        (
            STALE,
            EnvironmentHealth(expected=1_240, silent=0),
            (
                "Worker w1 in prod is stale: no heartbeat since 11:58:30 UTC (deadline 12:00:00), last status busy on"
                " task t9; its beats came every 30 s, as expected; 1,240 others in prod still send heartbeats."
            ),
        ),
        (
            happened(
                EventKind.FAILED, old=None, new=Liveness.FAILED, reason="crash", exit_code=1, current_task_id=None
            ),
            None,
            "Worker w1 in prod failed at 12:00:00 UTC: exit code 1, reason crash; it never sent a heartbeat.",
        ),
        (
            happened(EventKind.STOPPED, new=Liveness.STOPPED, reason="done", exit_code=0),
            None,
            "Worker w1 in prod stopped at 12:00:00 UTC: exit code 0, reason done.",
        ),
        (
            happened(current_task_id=None, recent_gaps_ms=()),
            EnvironmentHealth(expected=0, silent=0),
            "Worker w1 in prod is stale: no heartbeat since 11:58:30 UTC (deadline 12:00:00), last status busy.",
        ),
        (
            happened(current_task_id=None, recent_gaps_ms=(), detected_ms=NOON + MINUTE - 1),
            None,
            "Worker w1 in prod is stale: no heartbeat since 11:58:30 UTC (deadline 12:00:00), last status busy.",
        ),
        (
            happened(current_task_id=None, recent_gaps_ms=(), detected_ms=NOON + MINUTE + 1),
            None,
            (
                "Worker w1 in prod is stale: no heartbeat since 11:58:30 UTC (deadline 12:00:00, noticed 12:01:00),"
                " last status busy."
            ),
        ),
        (
            happened(current_task_id=None, recent_gaps_ms=(), detected_ms=NOON + 12 * HOUR),
            None,
            (
                "Worker w1 in prod is stale: no heartbeat since 2026-09-21 11:58:30 UTC (deadline 2026-09-21 12:00:00,"
                " noticed 00:00:00), last status busy."
            ),
        ),
        (
            happened(current_task_id=None, recent_gaps_ms=(45_000, 45_100)),
            EnvironmentHealth(expected=2, silent=1),
            (
                "Worker w1 in prod is stale: no heartbeat since 11:58:30 UTC (deadline 12:00:00), last status busy;"
                " its beats came every 45 s, expected every 30 s; 1 other of 2 in prod is silent too."
            ),
        ),
        (
            happened(current_task_id=None, recent_gaps_ms=(12_000, 80_000, 30_000)),
            None,
            (
                "Worker w1 in prod is stale: no heartbeat since 11:58:30 UTC (deadline 12:00:00), last status busy;"
                " its beats came 12 s to 1 min 20 s apart, expected every 30 s."
            ),
        ),
        (
            PLANNED,
            EnvironmentHealth(expected=1, silent=0),
            (
                "Worker w1 in prod is stale: it stopped at 11:00:00 UTC and did not return by 12:00:00 UTC as planned,"
                " last status busy on task t9; 1 other in prod still sends heartbeats."
            ),
        ),
        (
            FAILED,
            EnvironmentHealth(expected=240, silent=2),
            (
                "Worker w1 in prod failed at 12:00:00 UTC: exit code 137, reason crash,"
                """ message "ValueError: no 'such' thing\N{REPLACEMENT CHARACTER}", last status busy on task t9;"""
                " 2 others of 240 in prod are silent."
            ),
        ),
        (
            happened(EventKind.FAILED, old=Liveness.STALE, since_ms=NOON - 5 * MINUTE, reason="out of memory"),
            EnvironmentHealth(expected=240, silent=0),
            (
                'Worker w1 in prod, stale since 11:55:00 UTC, failed at 12:00:00 UTC: reason "out of memory",'
                " last status busy on task t9; 240 others in prod still send heartbeats."
            ),
        ),
        (
            REJECTED,
            None,
            (
                "Worker w1 in prod is alive, but its heartbeats are rejected: token expired"
                " (last accepted 11:58:30 UTC, last rejected 11:59:50 UTC)."
            ),
        ),
        (
            REJECTED,
            EnvironmentHealth(expected=240, silent=1),
            (
                "Worker w1 in prod is alive, but its heartbeats are rejected: token expired"
                " (last accepted 11:58:30 UTC, last rejected 11:59:50 UTC); 1 other of 240 in prod is overdue."
            ),
        ),
        (
            REJECTED,
            EnvironmentHealth(expected=240, silent=0),
            (
                "Worker w1 in prod is alive, but its heartbeats are rejected: token expired"
                " (last accepted 11:58:30 UTC, last rejected 11:59:50 UTC); 240 others in prod have theirs accepted."
            ),
        ),
        (
            QUIET,
            EnvironmentHealth(expected=240, silent=1),
            (
                "Worker w1 in prod is stale: since 11:59:50 UTC it sends no heartbeats at all; those before were"
                " rejected: token expired (last accepted 11:58:30 UTC), last status busy on task t9;"
                " 1 other of 240 in prod is silent too."
            ),
        ),
        (
            late(outage_ms=250_000, outage_windows=1),
            None,
            (
                "Worker w1 in prod is stale: no heartbeat since 11:58:30 UTC (deadline 12:00:00, detected after the"
                " monitor's own outage of 4 min 10 s), last status busy."
            ),
        ),
        (
            late(outage_ms=250_000, outage_windows=5, outage_uncredited=2),
            None,
            (
                "Worker w1 in prod is stale: no heartbeat since 11:58:30 UTC (deadline 12:00:00, detected after the"
                " monitor's own outages of 4 min 10 s in all; it stalled 2 more times, which moved no deadline),"
                " last status busy."
            ),
        ),
        (
            late(outage_ms=900, outage_windows=2, outage_uncredited=1, detected_ms=NOON),
            None,
            (
                "Worker w1 in prod is stale: no heartbeat since 11:58:30 UTC (deadline 12:00:00, detected after the"
                " monitor's own outages of 0.9 s in all; it stalled 1 more time, which moved no deadline),"
                " last status busy."
            ),
        ),
        (
            late(outage_ms=250_000, outage_windows=1, old=Liveness.STOPPED),
            None,
            (
                "Worker w1 in prod is stale: it stopped at 11:00:00 UTC and did not return by 12:00:00 UTC as planned"
                " (detected after the monitor's own outage of 4 min 10 s), last status busy."
            ),
        ),
        (
            happened(**{**REJECTED_FACTS, "outage_ms": 250_000, "outage_windows": 1}),
            None,
            (
                "Worker w1 in prod is alive, but its heartbeats are rejected: token expired"
                " (last accepted 11:58:30 UTC, last rejected 11:59:50 UTC, detected after the monitor's own outage"
                " of 4 min 10 s)."
            ),
        ),
        (RECOVERED, None, "Worker w1 in prod is back after 4 min 10 s of silence, status busy on task t9."),
        (
            happened(EventKind.RECOVERED, old=Liveness.STALE, since_ms=NOON - 60 * DAY, recent_gaps_ms=(2**32 - 2,)),
            EnvironmentHealth(expected=240, silent=7),
            "Worker w1 in prod is back after 60 days of silence, status busy on task t9.",
        ),
        (
            happened(EventKind.RECOVERED, old=Liveness.FAILED, since_ms=NOON - 182 * MINUTE),
            EnvironmentHealth(expected=240, silent=0),
            "Worker w1 in prod is back, 3 h 2 min after it failed, status busy on task t9.",
        ),
        (CLEAN, None, "Worker w1 in prod stopped at 12:00:00 UTC: exit code 0, reason shutdown."),
        (
            happened(EventKind.STOPPED, old=Liveness.STALE, since_ms=NOON - MINUTE, reason="shutdown"),
            EnvironmentHealth(expected=240, silent=9),
            "Worker w1 in prod, stale since 11:59:00 UTC, stopped at 12:00:00 UTC: reason shutdown.",
        ),
        (
            happened(EventKind.STOPPED),
            None,
            "Worker w1 in prod has stopped: its last heartbeat, at 11:58:30 UTC, came just after its clean disconnect.",
        ),
        (
            happened(EventKind.FORGOTTEN, old=Liveness.STALE, new=None, reason="deleted"),
            None,
            "Worker w1 in prod was removed at 12:00:00 UTC: deleted; it had been stale since 11:00:00 UTC.",
        ),
        (
            happened(EventKind.REGISTERED, old=None),
            None,
            "Worker w1 in prod sent its first heartbeat at 12:00:00 UTC; one is expected every 30 s.",
        ),
        (
            happened(EventKind.RESUMED, old=Liveness.STOPPED),
            None,
            "Worker w1 in prod sends heartbeats again, 1 h after it stopped, status busy on task t9.",
        ),
        (
            happened(EventKind.STATUS_CHANGED, old_status="all idle"),
            None,
            'Worker w1 in prod changed its status from "all idle" to busy on task t9 at 12:00:00 UTC.',
        ),
    ],
)
def test_one_sentence_says_what_since_when_why_and_how_many_others(
    of: Event, health: EnvironmentHealth | None, sentence: str
) -> None:
    assert said(of, health=health) == sentence


@pytest.mark.parametrize(
    ("interval_ms", "gaps_ms", "rhythm"),
    [
        (1_000, (100, 101, 99), "every 0.1 s, expected every 1 s"),
        (1_000, (40, 40), "every 40 ms, expected every 1 s"),
        (1_000, (801, 1_000), "every 1 s, as expected"),
        (1_000, (799, 1_000), "0.8 s to 1 s apart, expected every 1 s"),
        (86_400_000, (75_000_000, 86_400_000), "every 1 day, as expected"),
        # The beat after an outage, and the one after the monitor's own: neither says anything of the rhythm.
        (30_000, (30_000, 29_900, 90_000, 30_010), "every 30 s, as expected"),
        (30_000, (30_000, 89_999), "30 s to 1 min 30 s apart, expected every 30 s"),
        (30_000, (90_000, 600_000), None),
    ],
)
def test_b6_the_rhythm_is_judged_by_the_interval_and_without_outages(
    interval_ms: int, gaps_ms: tuple[int, ...], rhythm: str | None
) -> None:
    sentence = said(happened(interval_ms=interval_ms, grace_ms=60_000, recent_gaps_ms=gaps_ms))
    if rhythm is None:
        assert "its beats came" not in sentence
    else:
        assert f"; its beats came {rhythm}" in sentence


@pytest.mark.parametrize(
    ("previous", "sentence"),
    [
        (STALE, "Worker w1 in prod is back after 4 min 10 s of silence, status busy on task t9."),
        (
            REJECTED,
            (
                "Worker w1 in prod is back: its heartbeats are accepted again, after 4 min 10 s (token expired),"
                " status busy on task t9."
            ),
        ),
        (QUIET, "Worker w1 in prod is back after 4 min 10 s without an accepted heartbeat, status busy on task t9."),
    ],
)
def test_p11_no_worker_is_called_silent_that_was_not(previous: Event, sentence: str) -> None:
    assert single_sentence(RECOVERED, reminder=0, health=None, previous=previous) == sentence


@pytest.mark.parametrize(
    ("of", "beginning"),
    [
        (STALE, "Reminder 2: worker w1 in prod is still stale: no heartbeat since 2026-09-21 11:58:30 UTC (deadline "),
        (PLANNED, "Reminder 2: worker w1 in prod is still stale: it stopped at 2026-09-21 11:00:00 UTC and did not"),
        (
            REJECTED,
            (
                "Reminder 2: worker w1 in prod is alive, but its heartbeats are still rejected: token expired"
                " (last accepted 2026-09-21 11:58:30 UTC)."
            ),
        ),
        (QUIET, "Reminder 2: worker w1 in prod is still stale: since 2026-09-21 11:59:50 UTC it sends no heartbeats"),
        (FAILED, "Reminder 2: worker w1 in prod is still down: it failed at 2026-09-21 12:00:00 UTC: exit code 137"),
    ],
)
def test_p19_a_reminder_says_which_it_is_and_names_the_day(of: Event, beginning: str) -> None:
    assert said(of, reminder=2).startswith(beginning)


@pytest.mark.parametrize(
    ("name", "in_the_sentence"),
    [
        ("eu-1/w:2@a", "Worker eu-1/w:2@a in"),
        ("wörker", "Worker wörker in"),
        ("w1 in prod is fine", 'Worker "w1 in prod is fine" in'),
        ('a"b', 'Worker "a\'b" in'),
        ("", 'Worker "" in'),
        ("a\u202eb\u2028c\x1b[1m", 'Worker "a\ufffdb c\ufffd[1m" in'),
        ("x" * 121, f"Worker {'x' * 119}… in"),
    ],
)
def test_what_others_have_named_cannot_pass_for_our_words(name: str, in_the_sentence: str) -> None:
    assert said(happened(worker_id=name)).startswith(in_the_sentence)


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (-1, "0 s"),
        (0, "0 s"),
        (400, "0.4 s"),
        (9_949, "9.9 s"),
        (9_950, "10 s"),
        (59_499, "59 s"),
        (59_500, "1 min"),
        (250_000, "4 min 10 s"),
        (HOUR - 501, "59 min 59 s"),
        (HOUR - 500, "1 h"),
        (182 * MINUTE, "3 h 2 min"),
        (DAY - 30 * SECOND, "1 day"),
        (DAY + HOUR, "1 day 1 h"),
        (3 * DAY + 2 * HOUR, "3 days 2 h"),
        (12 * DAY + 9 * HOUR, "12 days"),
        (4_000 * DAY, "4,000 days"),
    ],
)
def test_durations_are_read_as_people_say_them(ms: int, text: str) -> None:
    assert duration(ms) == text


def members(count: int, **changes: Any) -> list[Event]:
    return [happened(worker_id=f"w{number}", **changes) for number in range(1, count + 1)]


def group_body(
    events: list[Event],
    *,
    firing: bool = True,
    group: dict[str, str] | None = None,
    counts: tuple[int, int, int, int | None] = (3, 3, 0, 240),
    truncated: int = 0,
    rejected: int = 0,
    ended: dict[str, int] | None = None,
    now_ms: int = NOON + 10 * MINUTE,
    reminder: int = 0,
    environment: bool = False,
    wording: Wording = WORDING,
) -> dict[str, Any]:
    """The body of a group that has been firing since three seconds after noon."""
    body: dict[str, Any] = json.loads(
        wording.group(
            firing=firing,
            group={"tenant": "acme", "environment": "production"} if group is None else group,
            counts=GroupCounts(
                firing=counts[0],
                new=counts[1],
                recovered=counts[2],
                expected=counts[3],
                rejected=rejected,
                ended=ended or {},
            ),
            events=events,
            truncated=truncated,
            since_ms=NOON + 3 * SECOND,
            now_ms=now_ms,
            incident_id="inc_1",
            reminder=reminder,
            environment_incident=environment,
        )
    )
    return body


BACK = members(3, kind=EventKind.RECOVERED, old=Liveness.STALE)


@pytest.mark.parametrize(
    ("events", "how", "sentence"),
    [
        (members(3), {}, "3 of 240 workers in production are stale since 12:00:03 UTC: w1, w2, w3."),
        (members(1), {"counts": (1, 1, 0, 240)}, "1 of 240 workers in production is stale since 12:00:03 UTC: w1."),
        (members(1), {"counts": (1, 1, 0, 1)}, "1 of 1 worker in production is stale since 12:00:03 UTC: w1."),
        (members(3), {"counts": (3, 3, 0, None)}, "3 workers in production are stale since 12:00:03 UTC: w1, w2, w3."),
        (members(3), {"counts": (3, 3, 0, 2)}, "3 workers in production are stale since 12:00:03 UTC: w1, w2, w3."),
        (
            members(3, kind=EventKind.FAILED),
            {},
            "3 of 240 workers in production have failed since 12:00:03 UTC: w1, w2, w3.",
        ),
        (
            [*members(2), happened(EventKind.FAILED, worker_id="w3")],
            {},
            "3 of 240 workers in production are down since 12:00:03 UTC: w1, w2, w3.",
        ),
        (
            [*members(2), happened(EventKind.FAILED, worker_id="w1", seq=2)],
            {"counts": (2, 2, 0, 240)},
            "2 of 240 workers in production are down since 12:00:03 UTC: w1, w2.",
        ),
        (
            [*members(2), happened(EventKind.RECOVERED, worker_id="w3", seq=2)],
            {"counts": (2, 1, 1, 240)},
            "2 of 240 workers in production are stale since 12:00:03 UTC (1 new, 1 recovered): w1, w2.",
        ),
        (
            members(2),
            {"counts": (2, 0, 0, 240), "reminder": 3, "now_ms": NOON + 12 * HOUR},
            "Reminder 3: 2 of 240 workers in production are still stale since 2026-09-21 12:00:03 UTC: w1, w2.",
        ),
        (
            members(3, **REJECTED_FACTS),
            {"rejected": 3},
            (
                "3 of 240 workers in production are alive, but their heartbeats are rejected (token expired)"
                " since 12:00:03 UTC: w1, w2, w3."
            ),
        ),
        (
            members(1, **REJECTED_FACTS),
            {"counts": (1, 0, 0, 240), "rejected": 1, "reminder": 1},
            (
                "Reminder 1: 1 of 240 workers in production is alive, but its heartbeats are still rejected"
                " (token expired) since 12:00:03 UTC: w1."
            ),
        ),
        (
            [*members(2), happened(**REJECTED_FACTS, worker_id="w3")],
            {"counts": (3, 1, 0, 240), "rejected": 1},
            (
                "3 of 240 workers in production are down or rejected (2 down; 1 alive, but rejected (token expired))"
                " since 12:00:03 UTC (1 new, 0 recovered): w1, w2, w3."
            ),
        ),
        (
            members(50, **REJECTED_FACTS),
            {"counts": (312, 312, 0, 1_000), "truncated": 262, "environment": True, "rejected": 300},
            (
                "312 of 1,000 workers in production are silent or rejected (12 silent; 300 alive, but rejected"
                " (the first 50: token expired)) since 12:00:03 UTC:"
                " w1, w2, w3, w4, w5, w6, w7, w8, w9, w10 and 302 more."
            ),
        ),
        (
            [*members(2), late(worker_id="w3", outage_ms=250_000, outage_windows=1)],
            {"environment": True},
            (
                "3 of 240 workers in production silent since 12:00:03 UTC: w1, w2, w3;"
                " detected after the monitor's own outage of 4 min 10 s."
            ),
        ),
        (
            members(50),
            {"counts": (312, 312, 0, 1_000), "truncated": 262, "environment": True},
            (
                "312 of 1,000 workers in production silent since 12:00:03 UTC:"
                " w1, w2, w3, w4, w5, w6, w7, w8, w9, w10 and 302 more."
            ),
        ),
        (
            members(2),
            {"group": {"tenant": "acme"}},
            "3 of 240 workers of tenant acme are stale since 12:00:03 UTC: w1, w2 and 1 more.",
        ),
        (
            members(3),
            {"group": {"tenant": "acme", "environment": "prod", "metadata.region": "eu west"}},
            '3 of 240 workers in prod with region "eu west" are stale since 12:00:03 UTC: w1, w2, w3.',
        ),
        (
            members(2),
            {"group": {"tenant": "acme", "environment": "prod", "metadata.region": ""}, "counts": (2, 2, 0, None)},
            "2 workers in prod without region are stale since 12:00:03 UTC: w1, w2.",
        ),
        (
            BACK,
            {"firing": False, "counts": (0, 0, 3, 240), "ended": {"worker.recovered": 3}},
            "All 3 workers in production that were down are back after 9 min 57 s (since 12:00:03 UTC): w1, w2, w3.",
        ),
        (
            BACK,
            {
                "firing": False,
                "counts": (0, 0, 3, 240),
                "truncated": 309,
                "environment": True,
                "ended": {"worker.recovered": 300, "worker.stopped": 11, "worker.forgotten": 1},
            },
            (
                "All 312 workers in production that were down are back (300), stopped (11) or removed (1)"
                " after 9 min 57 s (since 12:00:03 UTC): w1, w2, w3 and 309 more."
            ),
        ),
        (
            BACK[:1],
            {"firing": False, "counts": (0, 0, 1, 240), "ended": {"worker.recovered": 1}},
            "The one worker in production that was down is back after 9 min 57 s (since 12:00:03 UTC): w1.",
        ),
        (
            [],
            {"firing": False, "counts": (0, 0, 12, None), "ended": {"worker.recovered": 0, "worker.stopped": 12}},
            "All 12 workers in production that were down are stopped after 9 min 57 s (since 12:00:03 UTC).",
        ),
        (
            [],
            {"firing": False, "counts": (0, 0, 3, None), "ended": {"worker.recovered": 2, "worker.forgotten": 1}},
            (
                "All 3 workers in production that were down are back (2) or removed (1) after 9 min 57 s"
                " (since 12:00:03 UTC)."
            ),
        ),
    ],
)
def test_p16_a_group_is_reported_in_one_sentence(events: list[Event], how: dict[str, Any], sentence: str) -> None:
    assert group_body(events, **how)["data"]["summary"] == sentence


def test_a_group_s_body_lists_every_event_that_it_is_given_without_what_must_not_leave() -> None:
    events = members(60, worker_metadata_json=json.dumps({"host": "a1", "API_TOKEN": SECRET}))
    body = group_body(events, counts=(312, 2, 1, 1_000), truncated=252, reminder=1)
    assert (body["type"], body["timestamp"]) == ("group.firing", "2026-09-21T12:10:00.000Z")
    data = body["data"]
    assert data.pop("summary")
    assert data.pop("events") == [
        {"type": "worker.stale"}
        | msgspec.to_builtins(item.data())
        | {"worker_metadata": {"host": "a1", "API_TOKEN": REDACTED}}
        for item in events
    ]
    assert data == {
        "group": {"tenant": "acme", "environment": "production"},
        "counts": {"firing": 312, "rejected": 0, "new": 2, "recovered": 1, "expected": 1_000},
        "truncated": 252,
        "since": "2026-09-21T12:00:03.000Z",
        "incident_id": "inc_1",
        "reminder": 1,
        "link": f"{URL}/api/v1/workers?environment=production&liveness=stale&liveness=failed",
        "silence": "lastseen silence add --tenant acme --environment production --exact --for 2h",
    }
    assert group_body([], firing=False)["type"] == "group.resolved"
    assert group_body([], firing=False)["data"]["link"] == f"{URL}/api/v1/workers?environment=production"


def test_a_group_s_label_that_must_not_leave_does_not() -> None:
    body = group_body(members(3), group={"tenant": "acme", "metadata.Api-Token": SECRET})
    assert SECRET not in json.dumps(body)
    assert body["data"]["group"] == {"tenant": "acme", "metadata.Api-Token": REDACTED}
    assert body["data"]["silence"] is None
    nested = group_body(
        members(3), group={"tenant": "acme", "metadata.auth": json.dumps({"user": "x", "Token": SECRET})}
    )
    assert json.loads(nested["data"]["group"]["metadata.auth"]) == {"user": "x", "Token": REDACTED}
    assert nested["data"]["silence"] is None
    # Only of metadata: the environment may be called as it likes.
    assert group_body(members(3), group={"environment": "token"})["data"]["group"] == {"environment": "token"}


def single(of: Event, *, wording: Wording = WORDING) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(wording.single(of, incident_id=None, reminder=0, health=None))
    return body


def test_a_single_body_is_the_event_and_what_explains_it() -> None:
    body = json.loads(
        text := WORDING.single(STALE, incident_id="inc_1", reminder=2, health=EnvironmentHealth(expected=240, silent=3))
    )
    assert text == json.dumps(body, separators=(",", ":"))
    assert (body["type"], body["timestamp"]) == ("worker.stale", body["data"]["detected_at"])
    assert body["data"].pop("summary").startswith("Reminder 2: ")
    assert body["data"] == msgspec.to_builtins(STALE.data()) | {
        "incident_id": "inc_1",
        "reminder": 2,
        "previous_type": None,
        "link": f"{URL}/api/v1/workers/w1",
        "silence": "lastseen silence add --tenant acme --worker-id w1 --exact --for 2h",
        "others_silent": 3,
        "expected": 240,
        "recent_outages": None,
    }
    unknown = single(STALE)["data"]
    assert (unknown["others_silent"], unknown["expected"], unknown["incident_id"], unknown["reminder"]) == (
        None,
        None,
        None,
        0,
    )


def test_a_lone_surrogate_in_the_metadata_is_sent_as_it_is_written_in_json() -> None:
    of = happened(worker_metadata_json=r'{"x":"\ud800"}')
    assert r'"x":"\ud800"' in WORDING.single(of, incident_id=None, reminder=0, health=None)


@pytest.mark.parametrize("public_url", [URL, URL + "/", URL + "/behind/a/proxy/"])
@pytest.mark.parametrize("worker_id", ["w1", "a/b", "..", ".", "ä ?#%2F", "*"])
def test_the_link_leads_to_the_worker_whatever_it_is_called(public_url: str, worker_id: str) -> None:
    link = single(happened(worker_id=worker_id), wording=Wording(public_url=public_url, redact=()))["data"]["link"]
    before, _, segment = link.rpartition("/")
    assert before == public_url.rstrip("/") + "/api/v1/workers"
    assert unquote(segment) == worker_id
    assert segment not in {".", ".."}


def test_without_a_public_address_there_is_no_link() -> None:
    none = Wording(public_url="", redact=())
    assert single(STALE, wording=none)["data"]["link"] is None
    assert group_body(members(1), wording=none)["data"]["link"] is None


@pytest.mark.parametrize("name", ["w1", "a b", "$(reboot)", "it's", "-rf", "--tenant=x", "*", '"', ";ls"])
def test_the_command_that_silences_is_one_that_a_shell_reads_back(name: str) -> None:
    command = single(happened(worker_id=name, tenant=name))["data"]["silence"]
    words = shlex.split(command)
    assert words[:3] == ["lastseen", "silence", "add"]
    options = " ".join(words[3:]).replace(f"={name}", f" {name}")
    assert options == f"--tenant {name} --worker-id {name} --exact --for 2h"


def test_a_name_that_would_break_the_line_gets_no_command() -> None:
    assert single(happened(worker_id="a\u2028b"))["data"]["silence"] is None


@pytest.mark.parametrize(
    ("group", "command"),
    [
        ({"tenant": "acme"}, "lastseen silence add --tenant acme --worker-id '*' --for 2h"),
        (
            {"environment": "e 1", "metadata.region": "eu"},
            "lastseen silence add --tenant acme --environment 'e 1' --metadata region=eu --exact --for 2h",
        ),
        ({"metadata.region": "a b"}, "lastseen silence add --tenant acme --metadata 'region=a b' --exact --for 2h"),
    ],
)
def test_a_group_is_silenced_by_its_labels(group: dict[str, str], command: str) -> None:
    assert group_body(members(2), group=group)["data"]["silence"] == command


@pytest.mark.parametrize(("label", "value"), [("region", ""), ("region", "x" * 257), ("a=b", "eu")])
def test_a_label_that_no_silence_can_match_gets_no_command(label: str, value: str) -> None:
    assert group_body(members(2), group={"tenant": "acme", f"metadata.{label}": value})["data"]["silence"] is None


def test_workers_of_several_tenants_are_not_silenced_by_one_command() -> None:
    events = [happened(tenant="a"), happened(tenant="b")]
    assert group_body(events, group={"environment": "prod"})["data"]["silence"] is None


def test_a_group_s_link_keeps_the_name_of_the_environment() -> None:
    link = group_body(members(2), group={"environment": "a&liveness=alive #"})["data"]["link"]
    assert parse_qsl(urlsplit(link).query) == [
        ("environment", "a&liveness=alive #"),
        ("liveness", "stale"),
        ("liveness", "failed"),
    ]


@pytest.mark.parametrize(
    ("pattern", "name", "hidden"),
    [
        ("*token*", "token", True),
        ("*token*", "API_TOKENS", True),
        ("*token*", "toke", False),
        ("*", "", True),
        ("password", "password2", False),
        ("PASS*D", "pass_word", True),
        ("PASS*D", "passwd2", False),
        ("a*a", "a", False),
        ("a*b*a", "aba", True),
        ("a*ab*b", "aab", False),
        ("*a*a*b*", "ab", False),
        ("k?y", "key", False),
        ("[k]ey", "key", False),
        ("", "", True),
        ("", "x", False),
        ("*key", "ssh_key", True),
        ("*key", "keys", False),
        ("STRASSE", "straße", True),
    ],
)
def test_a_key_is_hidden_by_a_glob_whatever_its_case(pattern: str, name: str, *, hidden: bool) -> None:
    assert Redaction((pattern,)).hides(name) is hidden


def test_many_stars_take_no_time_to_speak_of() -> None:
    assert not fits("*a" * 60 + "*x", "a" * 100_000)
    assert fits("*a" * 60 + "*", "a" * 100_000)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
SECRETS = st.sampled_from([SECRET, [SECRET], {"a": SECRET}, {SECRET: 1}, f"x{SECRET}x"])
HIDDEN = st.sampled_from(["token", "API_TOKEN", "client-secret", "Password", "old_passwords"])


@st.composite
def metadata_with_secrets(draw: st.DrawFn) -> dict[str, Any]:
    """Metadata with a secret under a hidden key, at some depth, beside whatever else."""
    inner: Any = {"visible": draw(VALUES), draw(HIDDEN): draw(SECRETS), "host": "a1"}
    for _ in range(draw(st.integers(0, 3))):
        inner = draw(st.sampled_from([{"in": inner}, {"list": [1, inner]}, {"x": {}, "y": [[inner]]}]))
    made: dict[str, Any] = inner
    return made


@settings(deadline=None)
@given(metadata_with_secrets(), st.integers(0, 2))
def test_nothing_of_a_hidden_value_leaves_and_everything_else_does(metadata: dict[str, Any], reminder: int) -> None:
    of = happened(worker_metadata_json=json.dumps(metadata))
    alone = WORDING.single(of, incident_id=None, reminder=reminder, health=None)
    in_group = json.dumps(group_body([of], reminder=reminder))
    for body in (alone, in_group):
        assert SECRET not in body
        assert f'"{REDACTED}"' in body
        assert '"a1"' in body
    without = Wording(public_url=URL, redact=())
    assert single(of, wording=without)["data"]["worker_metadata"] == metadata


NAMES_OF_ANY_KIND = st.text(min_size=1, max_size=256)
WORDS = st.text(max_size=256)
MOMENTS = st.integers(0, 4_000_000_000_000)
KINDS = sorted(
    {(move.event, state) for (state, _), move in TRANSITIONS.items() if move.event}
    | {
        (EventKind.STATUS_CHANGED, Liveness.ALIVE),
        (EventKind.STALE, Liveness.STOPPED),
        (EventKind.STALE, Liveness.STALE),
    },
    key=str,
)


@st.composite
def events(draw: st.DrawFn) -> Event:
    """Any event that the store may have recorded, and some that it cannot have: times in any order, lone surrogates."""
    kind, old = draw(st.sampled_from(KINDS))
    metadata, cut = cut_metadata(json.dumps(draw(st.dictionaries(st.text(max_size=8), VALUES, max_size=4))))
    return event(
        seq=draw(st.integers(1, 2**53)),
        worker_id=draw(NAMES_OF_ANY_KIND),
        tenant=draw(NAMES_OF_ANY_KIND),
        environment_name=draw(NAMES_OF_ANY_KIND),
        kind=kind,
        old=old,
        reason=draw(WORDS),
        due_ms=draw(MOMENTS),
        detected_ms=draw(MOMENTS),
        last_seen_ms=draw(MOMENTS),
        since_ms=draw(MOMENTS),
        interval_ms=draw(st.integers(1, 2**40)),
        grace_ms=draw(st.integers(0, 2**40)),
        status=draw(WORDS),
        old_status=draw(st.none() | WORDS),
        current_task_id=draw(st.none() | WORDS),
        worker_metadata_json=draw(st.just(metadata) | st.sampled_from(["{", '{"x":NaN}', '{"x":1e999}'])),
        worker_metadata_cut=cut,
        recent_gaps_ms=tuple(draw(st.lists(st.integers(0, 2**32 - 2), max_size=8))),
        exit_code=draw(st.none() | st.integers(-(2**63), 2**63 - 1)),
        error_message=draw(st.none() | st.text(max_size=2_048)),
        rejected_reason=draw(st.none() | st.sampled_from(["token expired", "malformed body"])),
        rejected_ms=draw(MOMENTS),
        rejected_subject=draw(st.text(max_size=SUBJECT_CHARS)),
        outage_ms=draw(st.integers(0, 2**40)),
        outage_until_ms=draw(MOMENTS),
        outage_windows=draw(st.integers(0, 64)),
        outage_uncredited=draw(st.integers(0, 64)),
    )


STANDINGS = st.none() | st.builds(EnvironmentHealth, expected=st.integers(0, 10**7), silent=st.integers(0, 10**7))


def has_json_form(of: Event) -> bool:
    """Whether all of it can be said in JSON and in UTF-8."""
    try:
        json.dumps(json.loads(of.worker_metadata_json), allow_nan=False)
        f"{of.tenant}{of.worker_id}".encode()
    except ValueError:
        return False
    return True


def is_good_line(summary: str) -> bool:
    return 0 < len(summary) < LINE_CHARS and summary.isprintable() and summary[-1] in ".…"


@settings(deadline=None)
@given(events(), st.integers(0, 1_000), STANDINGS)
def test_any_event_is_reported_in_one_short_line_or_refused(
    of: Event, reminder: int, health: EnvironmentHealth | None
) -> None:
    try:
        body = WORDING.single(of, incident_id="inc_" + "0" * 32, reminder=reminder, health=health)
    except UnrenderableEventError:
        assert not has_json_form(of)
        return
    assert has_json_form(of)
    assert body.isascii()
    assert len(body) <= BODY_BYTES
    assert body == json.dumps(data := json.loads(body), separators=(",", ":"), allow_nan=False)
    assert is_good_line(data["data"]["summary"])


@settings(deadline=None)
@given(
    st.lists(events(), max_size=3),
    st.fixed_dictionaries(
        {
            "firing": st.booleans(),
            "environment": st.booleans(),
            "reminder": st.integers(0, 9),
            "truncated": st.integers(0, 9),
            "group": st.fixed_dictionaries({"tenant": WORDS, "environment": WORDS, "metadata.x": WORDS}),
        }
    ),
)
def test_any_group_is_reported_in_one_short_line_or_refused(of: list[Event], how: dict[str, Any]) -> None:
    if not all(map(has_json_form, of)):
        with pytest.raises(UnrenderableEventError):
            group_body(of, **how)
        return
    body = group_body(of, **how)
    assert len(body["data"]["events"]) == len(of)
    assert is_good_line(body["data"]["summary"])


def longest(character: str, **changes: Any) -> Event:
    """An event in which everything is as long as it may be."""
    name = character * 256
    return happened(
        **{
            "kind": EventKind.FAILED,
            "old": Liveness.STALE,
            "worker_id": name,
            "tenant": name,
            "environment_name": name,
            "status": name,
            "old_status": name,
            "current_task_id": name,
            "reason": name,
            "error_message": character * 2_048,
            "worker_metadata_json": json.dumps({"k": character * 500}, ensure_ascii=False),
            "exit_code": -(2**63),
            "recent_gaps_ms": (2**32 - 2,) * 8,
            "outage_ms": 2**40,
            "outage_windows": 64,
            "outage_uncredited": 61,
            "rejected_reason": "token lacks the scope",
            "rejected_subject": character * SUBJECT_CHARS,
            **changes,
        }
    )


def test_what_is_long_but_usual_is_sent_whole() -> None:
    of = longest("x", worker_metadata_json=json.dumps({"k": "é" * 1_000}, ensure_ascii=False))
    data = single(of)["data"]
    whole = msgspec.to_builtins(of.data())
    assert {name: data[name] for name in whole} == whole
    assert data["silence"]
    assert len(data["link"]) > 256
    assert is_good_line(data["summary"])


def test_a_body_is_bounded_and_names_are_never_cut() -> None:
    of = longest("\N{PILE OF POO}")
    body = WORDING.single(
        of, incident_id="inc_" + "0" * 32, reminder=1_000, health=EnvironmentHealth(expected=10**7, silent=10**6)
    )
    data = json.loads(body)["data"]
    assert len(body) <= BODY_BYTES
    assert [data[name] for name in ("worker_id", "tenant", "environment_name")] == ["\N{PILE OF POO}" * 256] * 3
    assert data["error_message"].endswith("…")
    assert (data["worker_metadata"], data["worker_metadata_cut"]) == ({}, True)
    assert is_good_line(data["summary"])


@pytest.mark.parametrize("metadata", ["{", '{"x":NaN}', '{"x":' + "[" * 1_000 + "]" * 1_000 + "}"])
def test_an_event_without_a_json_form_is_refused_by_name_alone_and_in_a_group(metadata: str) -> None:
    bad = happened(seq=7, worker_metadata_json=metadata)
    with pytest.raises(UnrenderableEventError, match="event at 0/7-0 "):
        single(bad)
    with pytest.raises(UnrenderableEventError, match="event at 0/7-0 "):
        group_body([STALE, bad])


def test_a_hidden_value_that_has_no_json_form_does_no_harm() -> None:
    assert single(happened(worker_metadata_json='{"token":NaN}'))["data"]["worker_metadata"] == {"token": REDACTED}


def test_a_group_names_few_of_its_workers_and_counts_the_rest() -> None:
    summary = group_body(members(50), counts=(312, 312, 0, 1_000), truncated=262)["data"]["summary"]
    assert summary.count(", ") == NAMES - 1
    long_names = [happened(worker_id=f"{number:0100d}") for number in range(50)]
    summary = group_body(long_names, counts=(312, 312, 0, 1_000), truncated=262)["data"]["summary"]
    assert summary.count(", ") == 1
    assert summary.endswith(" and 310 more.")


def test_every_kind_of_event_and_every_way_to_it_has_a_sentence() -> None:
    assert {kind for kind, _ in KINDS} == set(EventKind)
    assert Trigger.DEADLINE in Trigger
    for kind, old in KINDS:
        assert said(happened(kind, old=old)).startswith("Worker w1 in prod")


def test_a_long_text_is_shown_cut_and_on_one_line() -> None:
    assert shown("a\r\n\tb" + "c" * 10**6, 12) == "a bcccccccc…"


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (
            lambda: WORDING.single(
                happened(), incident_id=None, reminder=0, health=EnvironmentHealth(expected=2, silent=0)
            ),
            "DOWN w1 (prod): no heartbeat since 11:58:30 UTC (deadline 12:00:00",
        ),
        (
            lambda: WORDING.single(happened(worker_id="a b"), incident_id=None, reminder=2, health=None),
            'DOWN (reminder 2) "a b" (prod): no heartbeat since 2026-09-21 11:58:30 UTC',
        ),
        (
            lambda: WORDING.single(
                happened(EventKind.RECOVERED, old=Liveness.STALE), incident_id=None, reminder=0, health=None
            ),
            "RESOLVED w1 (prod): is back after ",
        ),
        (
            lambda: WORDING.single(happened(**REJECTED_FACTS), incident_id=None, reminder=0, health=None),
            "REJECTED w1 (prod): is alive, but its heartbeats are rejected: token expired",
        ),
        (
            lambda: json.dumps(group_body(members(3))),
            "DOWN 3 of 240 workers in production are stale since 12:00:03 UTC",
        ),
        (
            lambda: json.dumps(group_body([], firing=False, ended={"worker.recovered": 3})),
            "RESOLVED All 3 workers in production that were down are back after 9 min 57 s",
        ),
    ],
)
def test_c21_a_page_for_people_begins_with_what_happened_to_whom(body: Callable[[], str], line: str) -> None:
    whole = json.loads(body())
    shown = page(whole["type"], whole["data"])
    assert shown.startswith(line)
    assert "\n" not in shown


@pytest.mark.parametrize(
    "name",
    [
        *("pwd", "db_pwd", "PGPASS", "db_pass", "dbPass", "db_pass_prod", "passwd", "Password", "passcode"),
        *("auth", "basic_auth", "auth_header", "x-auth-user", "oauth2", "authorization", "proxyAuthorization"),
        *("jwt", "id_jwt", "dsn", "SENTRY_DSN", "connection_string", "ConnectionString", "conn_str"),
        *("signing_key", "ssh-key", "apiKey", "signingKey", "encryption_key", "masterkey", "AccountKey"),
        *("api_token", "client-secret", "cookie", "Set-Cookie", "credentials"),
    ],
)
def test_b15_what_is_named_like_a_secret_is_hidden_by_default(name: str) -> None:
    assert Redaction(REDACTED_KEYS).hides(name)


@pytest.mark.parametrize(
    "name",
    [
        *("author", "authors", "authored_at", "authority", "passed", "tests_passed", "passenger", "bypassed"),
        *("key", "keys", "keyboard", "monkey", "host", "region", "url", "connection", "connections", "dsnumber"),
    ],
)
def test_b15_what_is_harmless_is_not(name: str) -> None:
    assert not Redaction(REDACTED_KEYS).hides(name)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("postgres://app:pw@db.example.org/x", "postgres://db.example.org/x"),
        ("redis://:pw@10.0.0.1:6379/0", "redis://10.0.0.1:6379/0"),
        ("https://token@host/a?b=c", "https://host/a?b=c"),
        ("amqp://u:p@ss@mq", "amqp://mq"),
        ("postgres://u:a/b?c#d@db/x", "postgres://db/x"),
        (
            "cannot reach mysql://u:p@a:3306 nor mysql://u:p@b: refused",
            "cannot reach mysql://a:3306 nor mysql://b: refused",
        ),
        ('{"url": "http://u:p@h/"}', '{"url": "http://h/"}'),
        # Nothing to lose
        ("https://host:8080/@user", "https://host:8080/@user"),
        ("https://host/a@b", "https://host/a@b"),
        ("mail ops@example.org", "mail ops@example.org"),
        ("see https://example.org and mail ops@example.org", "see https://example.org and mail ops@example.org"),
    ],
)
def test_b15_urls_lose_their_userinfo_in_every_text_of_a_worker(text: str, left: str) -> None:
    of = happened(
        EventKind.FAILED,
        status=text,
        current_task_id=text,
        reason=text,
        error_message=text,
        worker_metadata_json=json.dumps({"db_url": text, "deep": [{"x": text}]}),
    )
    data = single(of, wording=Wording(public_url="", redact=()))["data"]
    for name in ("status", "current_task_id", "reason", "error_message"):
        assert data[name] == left
    assert data["worker_metadata"] == {"db_url": left, "deep": [{"x": left}]}
    group = {"tenant": "acme", "metadata.db": text}
    body = group_body([of], group=group, wording=Wording(public_url="", redact=()))
    assert body["data"]["group"]["metadata.db"] == left
    assert (body["data"]["silence"] is None) is (text != left)
    for whole in (data, body["data"]):
        assert "pw" not in json.dumps(whole)
        assert left == text or text not in json.dumps(whole, ensure_ascii=False)


def test_b15_no_text_makes_it_slow() -> None:
    for text in ("://" * 5_000, "a" * 16_000 + "://", "://a:" * 4_000, "://" + "a:" * 8_000):
        assert without_userinfo(text) == text
