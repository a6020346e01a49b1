"""Routing, bodies, ids and the retry schedule: tables, no store."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.durability import Durability, DurabilityMode
from alerts.errors import PermanentDeliveryError, TransientDeliveryError, UnrenderableEventError
from alerts.notification import group_key, notification_id
from alerts.payload import render
from alerts.retry import FLOOR_MS, GiveUp, Retry, RetryPolicy, RetryReason, decide, retry_after_ms
from alerts.routing import Route, glob_matches, receivers_for
from monitor.liveness import EventKind
from tests.alerts_fakes import START_MS, event

POLICY = RetryPolicy(initial_ms=1_000, max_ms=60_000, retry_for_ms=3_600_000, min_attempts=12)
BROKEN = TransientDeliveryError("receiver 'ops': HTTP 500")


def _most(_low: float, high: float) -> float:
    return high


def _least(low: float, _high: float) -> float:
    return low


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("*", "", True),
        ("*", "a\nb", True),
        ("prod-*", "prod-", True),
        ("prod-*", "prod-eu", True),
        ("prod-*", "xprod-eu", False),
        ("*-eu", "prod-eu", True),
        ("p*d*u", "prod-eu", True),
        ("prod", "prod-eu", False),
        ("prod", "PROD", False),
        ("p?od", "prod", False),
        ("p?od", "p?od", True),
        ("[a]", "a", False),
        ("[a]", "[a]", True),
        ("a.c", "abc", False),
        ("", "", True),
        ("", "a", False),
        ("*" * 60 + "x", "a" * 200, False),
    ],
)
def test_a_star_is_the_only_wildcard(pattern: str, text: str, *, matches: bool) -> None:
    assert glob_matches(pattern, text) is matches


def test_every_matching_route_applies_and_a_receiver_gets_a_thing_once() -> None:
    routes = (
        Route(receivers=("ops", "log")),
        Route(receivers=("log", "dev"), environments=("dev-*", "pro*")),
        Route(receivers=("never",), tenants=("other",)),
        Route(receivers=("failures",), events=frozenset({EventKind.FAILED})),
    )
    assert receivers_for(routes, event()) == ("ops", "log", "dev")
    assert receivers_for(routes, event(kind=EventKind.RESUMED)) == ()
    assert receivers_for(routes, event(tenant="other", kind=EventKind.FAILED)) == (
        "ops",
        "log",
        "dev",
        "never",
        "failures",
    )


def test_the_body_is_compact_and_holds_type_timestamp_and_data() -> None:
    body = json.loads(text := render(event()))
    assert list(body) == ["type", "timestamp", "data"]
    assert (body["type"], body["data"]) == ("worker.stale", event().data())
    assert body["timestamp"] == body["data"]["detected_at"]
    assert text == json.dumps(body, separators=(",", ":"))


def test_a_lone_surrogate_in_the_metadata_is_sent_as_it_is_written_in_json() -> None:
    assert r'"x":"\ud800"' in render(event(worker_metadata_json=r'{"x":"\ud800"}'))


@pytest.mark.parametrize("metadata", ["{", '{"x":NaN}'])
def test_an_event_without_a_json_form_is_refused_by_name(metadata: str) -> None:
    with pytest.raises(UnrenderableEventError, match="0/1-0"):
        render(event(worker_metadata_json=metadata))


def test_p6_the_id_is_of_receiver_and_event_only() -> None:
    first = notification_id(receiver="ops", event_id=event().event_id)
    again = notification_id(receiver="ops", event_id=event(detected_ms=START_MS + 99, position="7-0").event_id)
    assert first == again
    assert re.fullmatch(r"ntf_[0-9a-f]{32}", first)
    assert first != notification_id(receiver="op", event_id="s" + event().event_id)


def test_group_keys_of_two_tenants_never_meet() -> None:
    assert group_key(event(tenant="a", worker_id="bc")) != group_key(event(tenant="ab", worker_id="c"))


@pytest.mark.parametrize(
    ("attempts", "ceiling_ms"), [(1, 1_000), (2, 2_000), (3, 4_000), (7, 60_000), (12, 60_000), (10_000, 60_000)]
)
def test_the_delay_is_drawn_between_the_floor_and_a_doubling_ceiling(attempts: int, ceiling_ms: int) -> None:
    def at(uniform: object) -> Retry | GiveUp:
        return decide(
            BROKEN,
            attempts=attempts,
            first_attempt_ms=START_MS,
            now_ms=START_MS,
            policy=POLICY,
            uniform=uniform,  # type: ignore[arg-type]
        )

    assert at(_most) == Retry(reason=RetryReason.BACKOFF, due_ms=START_MS + ceiling_ms)
    assert at(_least) == Retry(reason=RetryReason.BACKOFF, due_ms=START_MS + FLOOR_MS)


@pytest.mark.parametrize(
    ("attempts", "elapsed_ms", "gives_up"),
    [
        (11, 10 * 3_600_000, False),
        (12, 3_600_000 - 1, False),
        (12, 3_600_000, True),
        (500, 3_600_000 - 1, False),
    ],
)
def test_giving_up_takes_both_the_time_and_twelve_attempts(attempts: int, elapsed_ms: int, *, gives_up: bool) -> None:
    decision = decide(
        BROKEN,
        attempts=attempts,
        first_attempt_ms=START_MS,
        now_ms=START_MS + elapsed_ms,
        policy=POLICY,
        uniform=_least,
    )
    assert (decision == GiveUp(reason=RetryReason.GAVE_UP)) is gives_up


def test_a_permanent_refusal_ends_at_once() -> None:
    decision = decide(
        PermanentDeliveryError("HTTP 410"),
        attempts=1,
        first_attempt_ms=START_MS,
        now_ms=START_MS,
        policy=POLICY,
        uniform=_least,
    )
    assert decision == GiveUp(reason=RetryReason.PERMANENT)


@pytest.mark.parametrize(
    ("asked_ms", "uniform", "decision"),
    [
        (5_000, _least, Retry(reason=RetryReason.RECEIVER_ASKED, due_ms=START_MS + 5_000)),
        (500, _most, Retry(reason=RetryReason.BACKOFF, due_ms=START_MS + 1_000)),
        (86_400_000, _least, Retry(reason=RetryReason.RECEIVER_ASKED, due_ms=START_MS + 60_000)),
        (0, _least, Retry(reason=RetryReason.BACKOFF, due_ms=START_MS + FLOOR_MS)),
    ],
)
def test_retry_after_is_a_bounded_minimum(asked_ms: int, uniform: object, decision: Retry) -> None:
    error = TransientDeliveryError("HTTP 503", retry_after_ms=asked_ms)
    assert decision == decide(
        error,
        attempts=1,
        first_attempt_ms=START_MS,
        now_ms=START_MS,
        policy=POLICY,
        uniform=uniform,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("header", "wait_ms"),
    [
        ("120", 120_000),
        (" 0 ", 0),
        ("Mon, 23 Nov 2026 10:00:30 GMT", 30_000),
        ("Mon, 23 Nov 2026 09:00:00 GMT", 0),
        ("soon", None),
        ("-5", None),
        ("", None),
        ("٣", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str, wait_ms: int | None) -> None:
    assert retry_after_ms(header, now_ms=1_795_428_000_000) == wait_ms


@given(st.text(max_size=40))
def test_no_retry_after_raises(header: str) -> None:
    wait_ms = retry_after_ms(header, now_ms=START_MS)
    assert wait_ms is None or wait_ms >= 0


@pytest.mark.parametrize(
    ("text", "mode", "replicas"),
    [
        ("fsync", DurabilityMode.FSYNC, 0),
        ("memory", DurabilityMode.MEMORY, 0),
        ("replicas:2", DurabilityMode.REPLICAS, 2),
    ],
)
def test_durability_is_read(text: str, mode: DurabilityMode, replicas: int) -> None:
    assert Durability.parse(text) == Durability(mode=mode, replicas=replicas)


@pytest.mark.parametrize(
    "text", ["", "disk", "replicas", "replicas:", "replicas:0", "replicas:-1", "fsync:1", "memory:"]
)
def test_any_other_durability_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        Durability.parse(text)


@pytest.mark.parametrize("changes", [{"initial_ms": 0}, {"initial_ms": 400_000}, {"min_attempts": 0}])
def test_a_policy_that_cannot_work_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="retry"):
        RetryPolicy(**changes)
