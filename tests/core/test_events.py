"""Events: an id that is the fact's own, a JSON form with everything in it, metadata that is cut and stays true."""

import dataclasses
import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from monitor.events import EVENT_METADATA_BYTES, Event, cut_metadata, event_id, rfc3339, severity
from monitor.liveness import EventKind, Liveness

STALE = Event(
    position="1790000090005-0",
    partition=0,
    kind=EventKind.STALE,
    tenant="acme",
    worker_id="w1",
    environment_name="prod",
    generation=1_790_000_000_000,
    seq=2,
    old=Liveness.ALIVE,
    new=Liveness.STALE,
    reason="deadline passed",
    due_ms=1_790_000_120_000,
    detected_ms=1_790_000_120_777,
    last_seen_ms=1_790_000_030_000,
    since_ms=1_790_000_000_000,
    interval_ms=30_000,
    grace_ms=60_500,
    status="busy",
    tasks_processed=7,
    current_task_id="t9",
    worker_metadata_json='{"host":"é"}',
    worker_metadata_cut=True,
    recent_gaps_ms=(30_000, 29_999),
    old_status=None,
    exit_code=None,
    error_message=None,
)


# The id


def test_the_id_is_sixteen_bytes_of_sha_256_over_the_length_prefixed_parts() -> None:
    # Computed once, outside, with sha256sum over these very bytes.
    text = (
        b"\x00\x00\x00\x04acme"
        b"\x00\x00\x00\x02w1"
        b"\x00\x00\x00\x0d1790000000000"
        b"\x00\x00\x00\x012"
        b"\x00\x00\x00\x0cworker.stale"
        b"\x00\x00\x00\x0d1790000030000"
    )
    expected = "47a9e54be403ece9373af8a6e40499f3"
    assert hashlib.sha256(text).hexdigest()[:32] == expected
    assert STALE.event_id == expected


def test_a_part_s_length_is_that_of_its_utf_8_bytes() -> None:
    text = (
        b"\x00\x00\x00\x03\xc3\xbcx"
        b"\x00\x00\x00\x04\xf0\x9f\x90\xa2"
        b"\x00\x00\x00\x011"
        b"\x00\x00\x00\x0210"
        b"\x00\x00\x00\x11worker.registered"
        b"\x00\x00\x00\x010"
    )
    made = event_id(
        tenant="üx", worker_id="\N{TURTLE}", generation=1, seq=10, kind=EventKind.REGISTERED, last_seen_ms=0
    )
    assert made == hashlib.sha256(text).hexdigest()[:32]


LATER = (
    "outage_ms",
    "outage_until_ms",
    "outage_windows",
    "outage_uncredited",
    "rejected_reason",
    "rejected_ms",
    "rejected_subject",
)
IN_THE_ID = {
    "tenant": "umbrella",
    "worker_id": "w2",
    "generation": 1_790_000_000_001,
    "seq": 3,
    "kind": EventKind.FAILED,
    "last_seen_ms": 1_790_000_030_001,
}
NOT_IN_THE_ID: dict[str, Any] = {
    "position": "1790000999999-7",
    "partition": 3,
    "environment_name": "qa",
    "old": None,
    "new": Liveness.FAILED,
    "reason": "another",
    "due_ms": 1_790_000_120_001,
    "detected_ms": 1_790_009_999_999,
    "since_ms": 0,
    "interval_ms": 1,
    "grace_ms": 1,
    "status": "idle",
    "tasks_processed": 8,
    "current_task_id": None,
    "worker_metadata_json": "{}",
    "worker_metadata_cut": False,
    "recent_gaps_ms": (),
    "old_status": "idle",
    "exit_code": 1,
    "error_message": "no",
    "outage_ms": 250_000,
    "outage_until_ms": 1_790_000_100_000,
    "outage_windows": 5,
    "outage_uncredited": 2,
    "rejected_reason": "token expired",
    "rejected_ms": 1_790_000_110_000,
    "rejected_subject": "svc-a",
}


def test_each_field_of_an_event_belongs_either_to_the_fact_or_to_its_report() -> None:
    names = {field.name for field in dataclasses.fields(Event)}
    assert set(IN_THE_ID) | set(NOT_IN_THE_ID) == names
    assert set(IN_THE_ID) & set(NOT_IN_THE_ID) == set()


@pytest.mark.parametrize("name", NOT_IN_THE_ID)
def test_p25_the_id_does_not_depend_on_who_noticed_and_when_nor_on_what_else_was_known(name: str) -> None:
    reported_otherwise = dataclasses.replace(STALE, **{name: NOT_IN_THE_ID[name]})
    assert reported_otherwise != STALE
    assert reported_otherwise.event_id == STALE.event_id


@pytest.mark.parametrize("name", IN_THE_ID)
def test_another_fact_has_another_id(name: str) -> None:
    values: dict[str, Any] = {name: IN_THE_ID[name]}
    assert dataclasses.replace(STALE, **values).event_id != STALE.event_id


# Letters that the other parts consist of, so that parts can be cut at other places.
_text = st.text(alphabet="a1.-\x00é", max_size=6)
_number = st.integers(min_value=0, max_value=1_111)
_parts = st.fixed_dictionaries(
    {"tenant": _text, "worker_id": _text, "generation": _number, "seq": _number, "kind": _text, "last_seen_ms": _number}
)


@given(_parts, _parts)
@example(
    {"tenant": "a", "worker_id": "11", "generation": 1, "seq": 1, "kind": "k", "last_seen_ms": 1},
    {"tenant": "a1", "worker_id": "1", "generation": 1, "seq": 1, "kind": "k", "last_seen_ms": 1},
)
@example(
    {"tenant": "a", "worker_id": "w", "generation": 11, "seq": 1, "kind": "k", "last_seen_ms": 1},
    {"tenant": "a", "worker_id": "w", "generation": 1, "seq": 11, "kind": "k", "last_seen_ms": 1},
)
@example(
    {"tenant": "", "worker_id": "\x00\x00\x00\x00", "generation": 1, "seq": 1, "kind": "k", "last_seen_ms": 1},
    {"tenant": "\x00\x00\x00\x00", "worker_id": "", "generation": 1, "seq": 1, "kind": "k", "last_seen_ms": 1},
)
def test_equal_ids_mean_equal_facts(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (event_id(**one) == event_id(**other)) is (one == other)


@given(_parts, st.data())
def test_a_boundary_between_two_parts_cannot_be_moved(parts: dict[str, Any], data: st.DataObject) -> None:
    together = parts["tenant"] + parts["worker_id"]
    cut = data.draw(st.integers(min_value=0, max_value=len(together)))
    moved = {**parts, "tenant": together[:cut], "worker_id": together[cut:]}
    assert (event_id(**moved) == event_id(**parts)) is (cut == len(parts["tenant"]))


# The JSON form


def test_data_is_what_webhooks_carry() -> None:
    assert msgspec.to_builtins(STALE.data()) == {
        "event_id": STALE.event_id,
        "generation": 1_790_000_000_000,
        "seq": 2,
        "tenant": "acme",
        "worker_id": "w1",
        "environment_name": "prod",
        "old": "alive",
        "new": "stale",
        "reason": "deadline passed",
        "due_at": "2026-09-21T14:15:20.000Z",
        "detected_at": "2026-09-21T14:15:20.777Z",
        "last_seen": "2026-09-21T14:13:50.000Z",
        "interval_seconds": 30.0,
        "grace_seconds": 60.5,
        "status": "busy",
        "old_status": None,
        "tasks_processed": 7,
        "current_task_id": "t9",
        "worker_metadata": {"host": "é"},
        "worker_metadata_cut": True,
        "seconds_in_old": 120.0,
        "recent_gaps_seconds": [30.0, 29.999],
        "exit_code": None,
        "error_message": None,
        "severity": "critical",
        "monitor_outage": None,
        "rejected": None,
    }


def test_data_says_what_the_monitor_missed_itself_and_why_beats_were_refused() -> None:
    later = dataclasses.replace(STALE, **{name: value for name, value in NOT_IN_THE_ID.items() if name in LATER})
    data = msgspec.to_builtins(later.data())
    assert data["monitor_outage"] == {
        "seconds": 250.0,
        "until": "2026-09-21T14:15:00.000Z",
        "windows": 5,
        "uncredited": 2,
    }
    assert data["rejected"] == {"reason": "token expired", "at": "2026-09-21T14:15:10.000Z", "sub": "svc-a"}


@pytest.mark.parametrize("kind", EventKind)
def test_p11_a_worker_that_is_alive_and_rejected_is_a_warning(kind: EventKind) -> None:
    expected = {EventKind.STALE: "critical", EventKind.FAILED: "critical", EventKind.REJECTED: "warning"}
    assert severity(kind) == expected.get(kind, "info")


def test_data_survives_json_and_holds_every_field_of_the_design() -> None:
    design = (
        *("event_id", "generation", "seq", "tenant", "worker_id", "environment_name", "old", "new", "reason"),
        *("due_at", "detected_at", "last_seen", "status", "current_task_id", "worker_metadata"),
    )
    data = msgspec.to_builtins(STALE.data())
    assert [name for name in design if name not in data] == []
    assert json.loads(json.dumps(data, allow_nan=False)) == data


def test_what_there_is_not_is_null_and_not_left_out() -> None:
    registered = dataclasses.replace(
        STALE, kind=EventKind.REGISTERED, old=None, seq=1, due_ms=STALE.since_ms, recent_gaps_ms=()
    )
    data = msgspec.to_builtins(registered.data())
    assert data.keys() == msgspec.to_builtins(STALE.data()).keys()
    assert data["old"] is None
    assert data["seconds_in_old"] == 0
    assert data["recent_gaps_seconds"] == []
    assert dataclasses.replace(STALE, new=None).data().new is None


@pytest.mark.parametrize("kind", EventKind)
def test_every_kind_has_the_same_fields(kind: EventKind) -> None:
    data = dataclasses.replace(STALE, kind=kind, exit_code=-15, error_message="x", old_status="idle").data()
    assert msgspec.to_builtins(data).keys() == msgspec.to_builtins(STALE.data()).keys()
    assert (data.exit_code, data.error_message, data.old_status) == (-15, "x", "idle")


# Times


@pytest.mark.parametrize(
    ("ms", "expected"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1, "1970-01-01T00:00:00.001Z"),
        (999, "1970-01-01T00:00:00.999Z"),
        (1_000, "1970-01-01T00:00:01.000Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (951_782_399_999, "2000-02-28T23:59:59.999Z"),
        (951_782_400_000, "2000-02-29T00:00:00.000Z"),
        (2_147_483_648_010, "2038-01-19T03:14:08.010Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_times_are_rfc_3339_in_utc_with_milliseconds(ms: int, expected: str) -> None:
    assert rfc3339(ms) == expected


@given(st.integers(min_value=0, max_value=253_402_300_799_999))
def test_a_time_reads_back_to_the_millisecond_and_is_as_long_as_any(ms: int) -> None:
    text = rfc3339(ms)
    assert len(text) == len("2026-11-23T10:00:00.000Z")
    assert datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC) == timedelta(milliseconds=ms)


# Metadata


def compact(value: object) -> str:
    """JSON as a beat carries it."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


_words = st.text(st.characters(codec="utf-8"), max_size=12)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_words, inner, max_size=3),
    max_leaves=8,
)
_metadata = st.dictionaries(_words, _values, max_size=8)
_limits = st.integers(min_value=2, max_value=120)


@given(_metadata, _limits)
def test_cut_metadata_is_bounded_valid_and_begins_as_the_whole(metadata: dict[str, Any], limit_bytes: int) -> None:
    whole = compact(metadata)
    kept_json, cut = cut_metadata(whole, limit_bytes)
    kept = json.loads(kept_json)
    assert len(kept_json.encode()) <= limit_bytes
    assert list(kept.items()) == list(json.loads(whole).items())[: len(kept)]
    assert cut is (len(kept) < len(metadata))
    assert cut or kept_json == whole


@given(_metadata, _limits)
@example({"a": 1, "b": 2}, len('{"a":1}'))
def test_cut_metadata_keeps_as_many_of_the_first_keys_as_fit(metadata: dict[str, Any], limit_bytes: int) -> None:
    kept = json.loads(cut_metadata(compact(metadata), limit_bytes)[0])
    if len(kept) < len(metadata):
        one_more = dict(list(metadata.items())[: len(kept) + 1])
        assert len(compact(one_more).encode()) > limit_bytes


@pytest.mark.parametrize(
    ("limit_bytes", "expected"),
    [(2, ("{}", True)), (16, ('{"a":1}', True)), (17, ('{"a":1}', True)), (18, ('{"a":1,"b":"éé"}', False))],
)
def test_the_limit_counts_bytes_and_not_characters(limit_bytes: int, expected: tuple[str, bool]) -> None:
    whole = '{"a":1,"b":"éé"}'
    assert len(whole) == 16
    assert len(whole.encode()) == 18
    assert cut_metadata(whole, limit_bytes) == expected


def test_metadata_that_fits_is_handed_on_as_the_same_text() -> None:
    whole = compact({"k": "x" * (EVENT_METADATA_BYTES - len('{"k":""}'))})
    assert len(whole.encode()) == EVENT_METADATA_BYTES == 2_048
    assert cut_metadata(whole) == (whole, False)
    assert cut_metadata(whole.replace("x", "xx", 1)) == ("{}", True)


def test_a_key_that_does_not_fit_ends_the_prefix_though_a_later_one_would_fit() -> None:
    assert cut_metadata(compact({"a": 1, "b": "x" * 100, "c": 2}), 40) == ('{"a":1}', True)
