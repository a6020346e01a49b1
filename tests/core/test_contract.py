"""The published contract: recorded answers, the published model as an oracle, and whatever bytes there are."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from monitor.api.contract.beats import parse_beat, parse_disconnect, path_worker_id
from monitor.api.contract.errors import MAX_FAULTS, ContractError
from monitor.api.contract.limits import BeatLimits
from monitor.liveness import Trigger
from monitor.workers import KEEP, Beat, Disconnect, WorkerKey

LIMITS = BeatLimits(
    metadata_bytes=1_000,
    logs_bytes=1_000,
    system_info_bytes=1_000,
    min_interval_ms=1_000,
    max_interval_ms=3_600_000,
    min_grace_ms=2_000,
    max_grace_ms=7_200_000,
)
JSON = "application/json"
IDS = {"worker_id": "w1", "environment_name": "prod"}

# Recorded from the published service; content type JSON. Status 204 is None; a fault is its place below body, and type.
PUBLISHED: list[tuple[str, str | None, bytes, list[tuple[list[str | int], str]] | None]] = [
    ("minimal", None, b'{"worker_id": "w1", "environment_name": "prod"}', None),
    (
        "full",
        None,
        (
            b'{"worker_id": "w1", "environment_name": "prod", "status": "busy", "tasks_processed": 7, '
            b'"current_task_id": "t", "worker_metadata": {"a": {"b": [1, null]}}}'
        ),
        None,
    ),
    ("missing_both", None, b"{}", [(["body", "worker_id"], "missing"), (["body", "environment_name"], "missing")]),
    ("missing_env", None, b'{"worker_id": "w"}', [(["body", "environment_name"], "missing")]),
    ("int_id", None, b'{"worker_id": 5, "environment_name": "p"}', [(["body", "worker_id"], "string_type")]),
    ("str_int", None, b'{"worker_id": "w1", "environment_name": "prod", "tasks_processed": "5"}', None),
    (
        "bad_int",
        None,
        b'{"worker_id": "w1", "environment_name": "prod", "tasks_processed": "x"}',
        [(["body", "tasks_processed"], "int_parsing")],
    ),
    (
        "null_status",
        None,
        b'{"worker_id": "w1", "environment_name": "prod", "status": null}',
        [(["body", "status"], "string_type")],
    ),
    (
        "num_status",
        None,
        b'{"worker_id": "w1", "environment_name": "prod", "status": 3}',
        [(["body", "status"], "string_type")],
    ),
    ("null_task", None, b'{"worker_id": "w1", "environment_name": "prod", "current_task_id": null}', None),
    (
        "meta_list",
        None,
        b'{"worker_id": "w1", "environment_name": "prod", "worker_metadata": []}',
        [(["body", "worker_metadata"], "dict_type")],
    ),
    ("extra", None, b'{"worker_id": "w1", "environment_name": "prod", "hostname": "h"}', None),
    ("string", None, b'"x"', [(["body"], "model_attributes_type")]),
    ("null", None, b"null", [(["body"], "missing")]),
    ("malformed", None, b'{"worker_id": "w", ', [(["body", 19], "json_invalid")]),
    ("empty", None, b"", [(["body"], "missing")]),
    ("bom", None, b'\xef\xbb\xbf{"worker_id":"a","environment_name":"b"}', None),
    ("url_min", "w9", b"{}", None),
    ("url_bad_logs", "w9", b'{"logs":"x"}', [(["body", "logs"], "list_type")]),
]
DELIBERATE: list[tuple[str, bytes, list[tuple[list[str | int], str]]]] = [
    ("empty_id", b'{"worker_id": "", "environment_name": "p"}', [(["body", "worker_id"], "string_too_short")]),
    (
        "nan",
        b'{"worker_id":"a","environment_name":"b","worker_metadata":{"x":NaN}}',
        [(["body", "worker_metadata"], "finite_number")],
    ),
    ("badutf8", b'{"worker_id":"\xff","environment_name":"b"}', [(["body", 14], "json_invalid")]),
]


def beat(body: bytes, **changes: Any) -> Beat:
    settings: dict[str, Any] = {
        "content_type": JSON,
        "limits": LIMITS,
        "tenant": "acme",
        "path_worker_id": None,
        "token_environments": None,
    }
    return parse_beat(body, **(settings | changes))


def of(**fields: object) -> bytes:
    return json.dumps(IDS | fields).encode()


def url(body: bytes, **changes: Any) -> Beat:
    return beat(body, path_worker_id="w9", **changes)


def goodbye(body: bytes) -> Disconnect:
    return parse_disconnect(
        body, content_type=JSON, tenant="acme", path_worker_id="w9", token_environments=("prod", "test")
    )


def faults_of(error: ContractError) -> list[tuple[list[str | int], str]]:
    detail = json.loads(error.body())["detail"]
    assert all(set(fault) == {"loc", "msg", "type"} and len(fault["msg"]) < 200 for fault in detail)
    return [(fault["loc"], fault["type"]) for fault in detail]


def check_readable(error: ContractError) -> None:
    assert faults_of(error)


def refused(body: bytes, **changes: Any) -> list[tuple[list[str | int], str]]:
    with pytest.raises(ContractError) as caught:
        beat(body, **changes)
    return faults_of(caught.value)


@pytest.mark.parametrize(("path_id", "body", "faults"), [v[1:] for v in PUBLISHED], ids=[v[0] for v in PUBLISHED])
def test_a_body_is_answered_as_the_published_service_answered_it(
    path_id: str | None, body: bytes, faults: list[tuple[list[str | int], str]] | None
) -> None:
    if faults is None:
        assert beat(body, path_worker_id=path_id).key.tenant == "acme"
    else:
        assert refused(body, path_worker_id=path_id) == faults


@pytest.mark.parametrize(("body", "faults"), [v[1:] for v in DELIBERATE], ids=[v[0] for v in DELIBERATE])
def test_a_deliberate_difference_from_the_published_service_is_a_422(
    body: bytes, faults: list[tuple[list[str | int], str]]
) -> None:
    assert refused(body) == faults


class Published(BaseModel):
    worker_id: str
    environment_name: str
    status: str = "active"
    tasks_processed: int = 0
    current_task_id: str | None = None
    worker_metadata: dict[str, Any] = {}


FIELDS = sorted(Published.model_fields)
OURS = {"system_info", "logs", "interval_seconds", "grace_seconds"}
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
NUMERALS = st.integers(-999, 999).map(str) | st.sampled_from([" 5 ", "5.0", "1_000", "0x5", "1e3", "+5", "٣", "5.5"])
VALUES = st.recursive(
    SCALARS | TEXT | NUMERALS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
BODIES = VALUES | st.dictionaries(st.sampled_from([*FIELDS, "hostname"]), VALUES, max_size=7)
LIKELY = st.fixed_dictionaries(
    {"worker_id": TEXT, "environment_name": TEXT},
    optional={
        "status": TEXT | SCALARS,
        "tasks_processed": SCALARS | NUMERALS,
        "current_task_id": TEXT | SCALARS,
        "worker_metadata": VALUES,
        "unknown": VALUES,
    },
)


@given(BODIES | LIKELY)
def test_any_other_body_is_answered_as_the_published_model_answers_it(value: object) -> None:
    if isinstance(value, dict):
        value = {name: field for name, field in value.items() if name not in OURS}
    body = json.dumps(value).encode()
    expected: list[tuple[list[str | int], str]] = []
    try:
        Published.model_validate(value, from_attributes=True)
    except ValidationError as error:
        expected = [(["body", *detail["loc"]], detail["type"]) for detail in error.errors()]
    if value is None:
        expected = [(["body"], "missing")]
    if expected:
        assert refused(body) == expected
    else:
        assert isinstance(
            beat(body, limits=replace(LIMITS, metadata_bytes=10**6, logs_bytes=9, system_info_bytes=9)), Beat
        )


@given(st.binary(max_size=200), st.sampled_from([None, "w9"]))
def test_any_bytes_give_a_beat_or_a_readable_refusal(body: bytes, path_id: str | None) -> None:
    try:
        beat(body, path_worker_id=path_id)
    except ContractError as error:
        check_readable(error)


MUTATED = of(worker_metadata={"a": [1.5e3, "é\n", None]}, logs=["x"], system_info={"pid": 1}, interval_seconds=5, u={})


@given(st.integers(0, len(MUTATED)), st.integers(0, 8), st.binary(max_size=8))
def test_any_change_to_a_good_body_gives_a_beat_or_a_readable_refusal(at: int, cut: int, put: bytes) -> None:
    body = MUTATED[:at] + put + MUTATED[at + cut :]
    for parse in (beat, url, goodbye):
        try:
            parse(body)
        except ContractError as error:
            check_readable(error)


SPECIAL = (
    st.floats() | st.integers(-(10**30), 10**30) | st.text(max_size=300) | st.none() | st.lists(st.text(), max_size=3)
)


@given(
    st.dictionaries(
        st.sampled_from([*FIELDS, "logs", "system_info", "interval_seconds", "grace_seconds", "reason", "exit_code"])
        | st.text(max_size=200),
        SPECIAL | st.dictionaries(st.text(max_size=3), SPECIAL, max_size=3),
        max_size=6,
    )
)
def test_any_json_gives_storable_json_or_a_readable_refusal(value: dict[str, object]) -> None:
    body = json.dumps(value).encode()
    for parse in (beat, url, goodbye):
        try:
            read = parse(body)
        except ContractError as error:
            check_readable(error)
            continue
        if isinstance(read, Beat):
            for text in (read.metadata_json, read.system_info_json, read.logs_json):
                if isinstance(text, str):
                    assert len(text.encode()) <= 1_000
                    json.loads(text, parse_constant=pytest.fail)


def test_an_omitted_field_is_kept_and_an_explicit_one_replaces() -> None:
    bare = beat(of())
    assert bare == Beat(key=WorkerKey("acme", "w1"), environment_name="prod", first_environment="default", allowed=None)
    said = beat(
        of(current_task_id=None, worker_metadata={}, logs=None, system_info=None, interval_seconds=None, status="")
    )
    assert (said.current_task_id, said.metadata_json, said.logs_json, said.system_info_json) == (None, "{}", None, None)
    assert (said.interval_ms, said.grace_ms, said.status, said.tasks_processed) == (None, KEEP, "", KEEP)


def test_the_url_form_ignores_ids_in_the_body_and_names_no_environment() -> None:
    read = url(b'{"worker_id": 5, "environment_name": null}', token_environments=("prod",))
    assert (read.key, read.environment_name) == (WorkerKey("acme", "w9"), None)
    assert (read.first_environment, read.allowed) == ("prod", ("prod",))
    assert url(b"{}", token_environments=("a", "b")).first_environment == "default"


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        JSON,
        "Application/JSON; charset=utf-8",
        "application/ld+json",
        " application/json ",
        "application/+json",
    ],
)
def test_json_is_read_under_every_json_content_type(content_type: str | None) -> None:
    assert beat(of(), content_type=content_type).key.worker_id == "w1"


@pytest.mark.parametrize(
    "content_type", ["text/plain", "text/json", "application/jsonx", "json", "application/json/x", ";"]
)
def test_another_content_type_is_not_read_as_an_object(content_type: str) -> None:
    assert refused(of(), content_type=content_type) == [(["body"], "model_attributes_type")]
    assert refused(b"", content_type=content_type) == [(["body"], "missing")]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" + "0" * 400 + ".0"])
def test_a_number_that_is_not_finite_is_refused_at_its_field(number: str) -> None:
    for field, value in [
        ("worker_metadata", f'{{"a": [{{"b": {number}}}]}}'),
        ("system_info", f'{{"a": {number}}}'),
        ("tasks_processed", number),
        ("interval_seconds", number),
        ("grace_seconds", number),
        ("unknown", f"[{number}]"),
    ]:
        assert refused(of()[:-1] + f', "{field}": {value}}}'.encode()) == [(["body", field], "finite_number")]


@pytest.mark.parametrize(
    "body",
    [
        b'{"status": "\\ud800"}',
        b'{"unknown": "\\udc00"}',
        b'{"status": "a\x00b"}',
        b'{"\xff": 1}',
        b"\xef\xbb\xbf\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        b'{"unknown": ' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        b'{"worker_metadata": ' + b'{"a":' * 5_000 + b"1" + b"}" * 5_001,
        b'{"tasks_processed": ' + b"9" * 5_000 + b"}",
        b" ",
        b"{}{}",
        b"\n\n{]",
    ],
)
def test_what_is_not_storable_json_is_json_invalid(body: bytes) -> None:
    [(loc, kind)] = refused(body, path_worker_id="w9")
    assert (loc[0], kind) == ("body", "json_invalid")
    assert isinstance(loc[1], int)
    assert 0 <= loc[1] <= len(body)


@pytest.mark.parametrize("control", ["\0", "\n", "\x1f", "\x7f", "\x80", "\x85", "\x9f"])
def test_control_characters_in_ids_are_refused(control: str) -> None:
    ids = {"worker_id": f"a{control}", "environment_name": f"{control}a"}
    assert refused(of(**ids)) == [
        (["body", "worker_id"], "string_pattern_mismatch"),
        (["body", "environment_name"], "string_pattern_mismatch"),
    ]


@pytest.mark.parametrize("worker_id", ["a/b", "..", "%2F", "ü\u00a0\U0001f600", " ", "x" * 256, "\u2028"])
def test_ids_are_opaque_in_bodies_and_in_paths(worker_id: str) -> None:
    assert beat(of(worker_id=worker_id)).key.worker_id == worker_id
    assert path_worker_id("".join(f"%{byte:02x}" for byte in worker_id.encode())) == worker_id


@pytest.mark.parametrize(
    ("segment", "kind"),
    [
        ("", "string_too_short"),
        ("x" * 257, "string_too_long"),
        ("a%00", "string_pattern_mismatch"),
        ("%C2%85", "string_pattern_mismatch"),
        ("%ff", "string_unicode"),
        ("%ed%a0%80", "string_unicode"),
        ("%zz", "string_unicode"),
        ("100%", "string_unicode"),
        (chr(0xDCFF), "string_unicode"),
        (f"a{chr(0xD800)}", "string_unicode"),
    ],
)
def test_a_path_segment_that_is_no_id_is_refused_at_the_path(segment: str, kind: str) -> None:
    with pytest.raises(ContractError) as caught:
        path_worker_id(segment)
    assert faults_of(caught.value) == [(["path", "worker_id"], kind)]


@given(st.text(max_size=20) | st.text(st.characters(categories=["Cs"]) | st.just("%"), max_size=5))
def test_any_path_segment_gives_an_id_or_a_refusal(segment: str) -> None:
    try:
        path_worker_id(segment).encode()
    except ContractError as error:
        check_readable(error)


def test_long_names_are_refused() -> None:
    long = "x" * 257
    assert refused(of(worker_id=long, environment_name=long, status=long, current_task_id=long)) == [
        (["body", field], "string_too_long") for field in ("worker_id", "environment_name", "status", "current_task_id")
    ]


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, "9" * 20, "9" * 5_000, 10**30])
def test_an_integer_beyond_64_bits_is_refused(number: object) -> None:
    assert refused(of(tasks_processed=number)) == [(["body", "tasks_processed"], "int_parsing_size")]


def test_the_last_of_equal_keys_wins() -> None:
    read = url(b'{"status": 5, "status": "busy", "worker_metadata": {"a": 1, "a": 2}}')
    assert (read.status, read.metadata_json) == ("busy", '{"a":2}')


def test_metadata_beyond_its_limit_is_refused_and_at_it_kept_as_compact_utf8() -> None:
    at_limit = {"a": "é" * ((1_000 - len('{"a":""}')) // 2)}
    assert beat(of(worker_metadata=at_limit)).metadata_json == json.dumps(
        at_limit, ensure_ascii=False, separators=(",", ":")
    )
    assert refused(of(worker_metadata={"a": at_limit["a"] + "x"})) == [(["body", "worker_metadata"], "too_long")]


def test_system_info_beyond_its_limit_keeps_the_first_keys_that_fit() -> None:
    limits = replace(LIMITS, metadata_bytes=9, logs_bytes=9, system_info_bytes=len('{"a":1,"b":"é"}'.encode()))
    fits = url(b'{"system_info": {"a": 1, "b": "\xc3\xa9"}}', limits=limits)
    assert (fits.system_info_json, fits.system_info_cut) == ('{"a":1,"b":"é"}', False)
    cut = url(b'{"system_info": {"a": 1, "c": "long enough to cut", "d": 2}}', limits=limits)
    assert (cut.system_info_json, cut.system_info_cut) == ('{"a":1}', True)


@pytest.mark.parametrize(
    ("logs", "limit", "kept", "cut"),
    [
        ([], 2, [], False),
        (["a", "b"], 9, ["a", "b"], False),
        (["a", "b"], 8, ["b"], True),
        (["0123456789"], 8, ["6789"], True),
        (["a", "x\n\n"], 8, ["\n\n"], True),
        (["aéé"], 8, ["éé"], True),
        (["a"], 4, [""], True),
        (["a"], 3, [], True),
        ([str(n) for n in range(101)], 1_000, [str(n) for n in range(1, 101)], True),
    ],
)
def test_logs_keep_the_newest_lines_that_fit(logs: list[str], limit: int, kept: list[str], cut: bool) -> None:  # noqa: FBT001 - a table's column
    limits = replace(LIMITS, metadata_bytes=9, logs_bytes=limit, system_info_bytes=9)
    read = url(json.dumps({"logs": logs}).encode(), limits=limits)
    assert isinstance(read.logs_json, str)
    assert (json.loads(read.logs_json), read.logs_cut) == (kept, cut)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))), st.integers(2, 60))
def test_kept_logs_fit_and_are_an_end_of_what_was_sent(logs: list[str], limit: int) -> None:
    limits = replace(LIMITS, metadata_bytes=9, logs_bytes=limit, system_info_bytes=9)
    read = url(json.dumps({"logs": logs}).encode(), limits=limits)
    assert isinstance(read.logs_json, str)
    assert len(read.logs_json.encode()) <= limit
    kept = json.loads(read.logs_json)
    assert "".join(logs).endswith("".join(kept))
    assert read.logs_cut == (kept != logs)


def test_faults_of_a_long_list_are_bounded_and_long_names_are_not_echoed() -> None:
    assert refused(of(logs=[1, "x", 2])) == [(["body", "logs", 0], "string_type"), (["body", "logs", 2], "string_type")]
    assert len(refused(of(logs=[1] * 5_000))) == MAX_FAULTS
    [(loc, _)] = refused(of(**{"n" * 5_000: float("nan")}))
    assert loc == ["body", "n" * 100]


@pytest.mark.parametrize(
    ("declared", "interval_ms", "grace_ms"),
    [(5, 5_000, 5_000), (1.2345, 1_234, 2_000), (1e-9, 1_000, 2_000), (1e308, 3_600_000, 7_200_000)],
)
def test_declared_times_are_clamped_in_both_forms(declared: float, interval_ms: int, grace_ms: int) -> None:
    for read in (
        beat(of(interval_seconds=declared, grace_seconds=declared)),
        url(json.dumps({"interval_seconds": declared, "grace_seconds": declared}).encode()),
    ):
        assert (read.interval_ms, read.grace_ms) == (interval_ms, grace_ms)
    assert url(b'{"grace_seconds": 0}').grace_ms == 2_000


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("interval_seconds", 0, "greater_than"),
        ("interval_seconds", -1, "greater_than"),
        ("grace_seconds", -0.1, "greater_than_equal"),
        ("interval_seconds", "5", "float_type"),
        ("grace_seconds", True, "float_type"),
        ("grace_seconds", [], "float_type"),
    ],
)
def test_a_declared_time_that_makes_no_sense_is_refused(field: str, value: object, kind: str) -> None:
    assert refused(of(**{field: value})) == [(["body", field], kind)]


@pytest.mark.parametrize(
    ("reason", "exit_code", "trigger"),
    [
        ("shutdown", None, Trigger.DISCONNECT_CLEAN),
        ("shutdown", "143", Trigger.DISCONNECT_CLEAN),
        ("shutdown", 1, Trigger.DISCONNECT_FAILURE),
        ("crash", 0, Trigger.DISCONNECT_FAILURE),
    ],
)
def test_a_disconnect_says_whether_it_is_clean(reason: str, exit_code: object, trigger: Trigger) -> None:
    read = goodbye(json.dumps({"reason": reason, "exit_code": exit_code}).encode())
    assert (read.key, read.trigger, read.allowed) == (WorkerKey("acme", "w9"), trigger, ("prod", "test"))


def test_a_disconnect_is_cut_rather_than_refused_for_its_length() -> None:
    read = goodbye(json.dumps({"reason": "r" * 300, "error_message": "é" * 3_000}).encode())
    assert (read.reason, read.error_message, read.exit_code) == ("r" * 256, "é" * 2_048, None)


@pytest.mark.parametrize(
    ("said", "back_in_ms"), [("null", None), ("60", 60_000), ("0.0015", 2), ("1e-9", 1), ("2592000", 2_592_000_000)]
)
def test_a_clean_disconnect_may_announce_an_absence(said: str, back_in_ms: int | None) -> None:
    read = goodbye(b'{"reason": "shutdown", "exit_code": 143, "back_in_seconds": %b}' % said.encode())
    assert (read.trigger, read.back_in_ms) == (Trigger.DISCONNECT_CLEAN, back_in_ms)
    assert goodbye(b'{"reason": "shutdown"}').back_in_ms is None


@pytest.mark.parametrize(
    ("body", "faults"),
    [
        (b"{}", [(["body", "reason"], "missing")]),
        (b'{"reason": "shutdown", "back_in_seconds": 0}', [(["body", "back_in_seconds"], "greater_than")]),
        (b'{"reason": "shutdown", "back_in_seconds": "60"}', [(["body", "back_in_seconds"], "float_type")]),
        (b'{"reason": "shutdown", "back_in_seconds": NaN}', [(["body", "back_in_seconds"], "finite_number")]),
        (b'{"reason": "shutdown", "back_in_seconds": 2592001}', [(["body", "back_in_seconds"], "less_than_equal")]),
        (b'{"reason": "crash", "back_in_seconds": 60}', [(["body", "back_in_seconds"], "value_error")]),
        (
            b'{"reason": "shutdown", "exit_code": 1, "back_in_seconds": 60}',
            [(["body", "back_in_seconds"], "value_error")],
        ),
        (b"", [(["body"], "missing")]),
        (
            b'{"reason": null, "exit_code": "x"}',
            [(["body", "reason"], "string_type"), (["body", "exit_code"], "int_parsing")],
        ),
        (b'{"reason": "x", "exit_code": 1e30}', [(["body", "exit_code"], "int_parsing_size")]),
        (b'{"reason": "x", "error_message": 1}', [(["body", "error_message"], "string_type")]),
        (b"[]", [(["body"], "model_attributes_type")]),
    ],
)
def test_a_disconnect_that_breaks_the_contract_is_refused(
    body: bytes, faults: list[tuple[list[str | int], str]]
) -> None:
    with pytest.raises(ContractError) as caught:
        goodbye(body)
    assert faults_of(caught.value) == faults
