"""Routing, bodies, ids and the retry schedule: tables, no store."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.errors import PermanentDeliveryError, TransientDeliveryError
from alerts.groups.classify import Shape, fits, labels_of, mid_of, shape_of
from alerts.groups.mass_failure import FailureState
from alerts.groups.state import Timing
from alerts.retry import FLOOR_MS, GiveUp, Retry, RetryPolicy, RetryReason, decide, retry_after_ms
from alerts.routing.routes import ReceiverTraits, Route, targets_of
from monitor.events import Event
from monitor.liveness import EventKind
from tests.support.alerts_fakes import START_MS, event

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
        ("*ab*ba*", "aba", False),
        ("*ab*ba*", "abba", True),
        ("*a*a*", "a", False),
        ("*a*a*", "aa", True),
        ("ab*ba", "aba", False),
        ("ab*b*", "ab", False),
    ],
)
def test_a_star_is_the_only_wildcard(pattern: str, text: str, *, matches: bool) -> None:
    assert fits(pattern, text) is matches


PORTS = {
    **{name: ReceiverTraits() for name in ("ops", "log", "dev", "never", "failures")},
    "am": ReceiverTraits(takes_groups=False, resend_ms=60_000),
}


def names(routes: Sequence[Route], item: Event) -> list[str]:
    return list(targets_of(item, routes=routes, traits=PORTS))


def test_every_matching_route_applies_and_a_receiver_gets_a_thing_once() -> None:
    routes = (
        Route(receivers=("ops", "log")),
        Route(receivers=("log", "dev"), environments=("dev-*", "pro*")),
        Route(receivers=("log", "dev"), environments=("dev-*", "pro*")),
        Route(receivers=("never",), tenants=("other",)),
        Route(receivers=("failures",), events=frozenset({EventKind.FAILED})),
    )
    assert names(routes, event()) == ["ops", "log", "dev"]
    assert names(routes, event(kind=EventKind.RESUMED)) == []
    assert names(routes, event(tenant="other", kind=EventKind.FAILED)) == ["ops", "log", "dev", "never", "failures"]


def test_p24_two_tenants_never_share_a_group_key() -> None:
    one, other = event(tenant="a", worker_id="bc"), event(tenant="ab", worker_id="c")
    assert mid_of(one) != mid_of(other)
    for route in (Route(receivers=("ops",)), Route(receivers=("ops",), group_by=("environment",))):
        keys = {targets_of(item, routes=[route], traits=PORTS)["ops"].key for item in (one, other)}
        assert len(keys) == 2


def test_b8_a_receiver_that_belongs_to_tenants_gets_theirs_only_whatever_the_routes_say() -> None:
    traits = {"own": ReceiverTraits(tenants=frozenset({"acme", "globex"})), "ops": ReceiverTraits()}
    routes = [Route(receivers=("own", "ops")), Route(receivers=("own",), tenants=("*",))]
    receivers_of = {
        tenant: list(targets_of(event(tenant=tenant), routes=routes, traits=traits))
        for tenant in ("acme", "acm", "Acme")
    }
    assert receivers_of == {"acme": ["own", "ops"], "acm": ["ops"], "Acme": ["ops"]}


def test_events_with_equal_labels_share_a_group_and_the_first_route_of_a_receiver_decides_its_timing() -> None:
    routes = (
        Route(receivers=("ops",), group_by=("environment", "metadata.pool"), group_wait_ms=2_000),
        Route(receivers=("ops", "log")),
    )
    pools = {"a": "1", "b": "1", "c": '"x"'}
    items = [event(worker_id=name, worker_metadata_json=f'{{"pool":{pool}}}') for name, pool in pools.items()]
    first, second, third = (targets_of(item, routes=routes, traits=PORTS) for item in items)
    assert first["ops"].key == second["ops"].key != third["ops"].key
    assert labels_of(first["ops"].key) == {"tenant": "acme", "environment": "prod", "metadata.pool": "1"}
    assert (shape_of(first["ops"].key), shape_of(first["log"].key)) == (Shape.GROUP, Shape.WORKER)
    assert first["ops"].timing.wait_ms == 2_000


@pytest.mark.parametrize("metadata", ["{", "[]", "{}", '{"pool":null}'])
def test_a_label_that_there_is_not_stops_nothing(metadata: str) -> None:
    route = Route(receivers=("ops",), group_by=("metadata.pool",))
    assert targets_of(event(worker_metadata_json=metadata), routes=[route], traits=PORTS)


def test_a_fact_is_sent_by_itself_whatever_the_grouping() -> None:
    route = Route(receivers=("ops",), group_by=("environment",), events=frozenset(EventKind))
    target = targets_of(event(kind=EventKind.REGISTERED, old=None), routes=[route], traits=PORTS)["ops"]
    assert shape_of(target.key) is Shape.WORKER


def test_p16_a_silent_worker_joins_the_failure_of_its_environment_at_receivers_that_take_groups() -> None:
    route = Route(receivers=("ops", "am"), repeat_interval_ms=5_000)
    for state, shape in (
        (FailureState.CALM, Shape.WORKER),
        (FailureState.SUSPECTED, Shape.ENVIRONMENT),
        (FailureState.DECLARED, Shape.ENVIRONMENT),
    ):
        found = targets_of(event(), routes=[route], traits=PORTS, state=state, hold_ms=120_000)
        assert shape_of(found["ops"].key) is shape
        assert shape_of(found["am"].key) is Shape.WORKER
        assert found["am"].timing == Timing(repeat_ms=60_000, resend=True)
    failed = targets_of(event(kind=EventKind.FAILED), routes=[route], traits=PORTS, state=FailureState.DECLARED)
    assert shape_of(failed["ops"].key) is Shape.WORKER


def test_p16_a_route_that_groups_by_labels_keeps_its_groups_in_a_mass_failure() -> None:
    route = Route(receivers=("ops",), group_by=("environment", "metadata.host"), group_wait_ms=7_000)
    for state in (FailureState.SUSPECTED, FailureState.DECLARED):
        target = targets_of(event(), routes=[route], traits=PORTS, state=state, hold_ms=120_000)["ops"]
        assert (shape_of(target.key), target.timing.wait_ms, target.timing.hold_ms) == (Shape.GROUP, 7_000, 0)
        assert labels_of(target.key) == {"tenant": "acme", "environment": "prod", "metadata.host": "é"}


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
    [(11, 10 * 3_600_000, False), (12, 3_600_000 - 1, False), (12, 3_600_000, True), (500, 3_600_000 - 1, False)],
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
