"""The quick reader of common beats against the one that judges: what the one takes, the other takes alike."""

import base64
import json
from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from monitor.api.contract.beats import strict_fields
from monitor.api.contract.errors import ContractError
from monitor.api.contract.fast import (
    MOST_BRACKETS,
    BeatFields,
    BeatFieldsWithIds,
    read_with_ids,
    read_without_ids,
    readable_id,
)
from monitor.api.contract.limits import compact, metadata_text
from monitor.api.contract.strict import HeartbeatRequest, WorkerIdHeartbeatRequest
from tests.support.vectors import VECTORS

IDS: Final = b'"worker_id":"w1","environment_name":"prod"'
COMMON: Final = (
    b'{"worker_id":"w1","environment_name":"prod"}',
    b' {"worker_id": "w\\u00fc 1", "environment_name": "\xe2\x82\xac"}\n',
    b'{"environment_name":"prod","worker_id":"a/b","status":"","tasks_processed":-9223372036854775808}',
    b"{" + IDS + b',"status":"busy","tasks_processed":7,"current_task_id":null,"worker_metadata":{}}',
    b"{" + IDS + b',"worker_metadata":{"a":{"b":[1,1.5,-0.0,1e5,null,true,"\\n"]}},"logs":["x"],"system_info":null}',
    b"{" + IDS + b',"interval_seconds":30,"grace_seconds":1.5,"logs":null,"system_info":{"pid":1}}',
    b"{" + IDS + b',"interval_seconds":null,"grace_seconds":0}',
)


def check(body: bytes) -> bool:
    """Compare both forms of one body; whether the quick reader took one of them."""
    quick, quick_without = read_with_ids(body), read_without_ids(body)
    # By their representations: in Python 1, 1.0 and True are equal, and 0.0 and -0.0; in JSON they are not.
    if quick is not None:
        assert repr(strict_fields(BeatFieldsWithIds, HeartbeatRequest, body, None)[0]) == repr(quick)
    if quick_without is not None:
        assert repr(strict_fields(BeatFields, WorkerIdHeartbeatRequest, body, None)[0]) == repr(quick_without)
    return quick is not None or quick_without is not None


@pytest.mark.parametrize("body", COMMON)
def test_what_workers_send_every_day_is_read_quickly_and_alike(body: bytes) -> None:
    assert check(body)


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_the_contracts_vectors_are_read_alike(vector: dict[str, Any]) -> None:
    check(base64.b64decode(vector["body_b64"]))


# Fragments of JSON and of what is nearly JSON.
NUMERALS: Final = """
0 -0 1 -1 01 -01 +1 1. .5 1.0 -0.0 0e1 0.1e1 1e5 1E5 1e+5 1e-7 1e16 1e22 1e23 2.5 100e-2 123456789.123456789
5e-324 2e-324 1e308 1.7976931348623159e308 1e309 -1e400 1e-400 9007199254740993 9223372036854775807
9223372036854775808 -9223372036854775808 -9223372036854775809 18446744073709551615 18446744073709551616 1e30
NaN Infinity -Infinity nan true false null 1_0 0x10 - -- 1e 1e+ 179769313486231580793728971405301e276
"""
NUMBERS: Final = st.sampled_from(NUMERALS.split()) | st.integers().map(str)
NUMBERS_TOO: Final = st.floats().map(json.dumps) | st.decimals(allow_nan=False, allow_infinity=False, places=20).map(
    str
)
ESCAPES: Final = st.sampled_from(
    [
        *(
            "\\n",
            "\\u0000",
            "\\u001f",
            "\\u007f",
            "\\u0085",
            "\\u2028",
            "\\ud800",
            "\\udc00",
            "\\ud83d\\ude00",
            "\\ud83d\\u0041",
        ),
        *(
            "\\uD83D\\uDE00",
            "\\ud83d",
            "\\x41",
            "\\u12",
            "\\",
            '\\"',
            "\\/",
            "\\u00e9",
            "é",
            "\U0001f600",
            "\x7f",
            "\x85",
        ),
        *("\x00", "\n", "\t", " ", "\u00a0", "\ufeff", "a", "worker_id", "%", "'"),
    ]
)
TEXTS: Final = (st.lists(ESCAPES | st.text(max_size=3).map(lambda t: json.dumps(t)[1:-1]), max_size=4)).map(
    "".join
) | st.sampled_from(["x" * 256, "x" * 257, "é" * 256, "\U0001f600" * 256, "\U0001f600" * 257, "\\u00e9" * 256])
STRINGS: Final = TEXTS.map(lambda text: f'"{text}"')
SPACE: Final = st.sampled_from(["", "", "", "", " ", "\t\r\n ", "\x0b", "\x0c", "\u00a0", "\ufeff"])
NAMES: Final = st.sampled_from(
    [
        *("worker_id", "environment_name", "status", "tasks_processed", "current_task_id", "worker_metadata"),
        *("system_info", "logs", "interval_seconds", "grace_seconds", "hostname", "worker\\u005fid", "Status", ""),
    ]
).map(lambda name: f'"{name}"')


def listed(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(SPACE, st.lists(inner, max_size=3)).map(lambda parts: f"[{parts[0]}{','.join(parts[1])}]")


def mapped(names: st.SearchStrategy[str], values: st.SearchStrategy[str], most: int = 3) -> st.SearchStrategy[str]:
    member = st.tuples(names, SPACE, SPACE, values, SPACE).map(
        lambda part: f"{part[0]}{part[1]}:{part[2]}{part[3]}{part[4]}"
    )
    return st.lists(member, max_size=most).map(lambda members: f"{{{','.join(members)}}}")


VALUES: Final = st.recursive(
    NUMBERS | NUMBERS_TOO | STRINGS, lambda inner: listed(inner) | mapped(STRINGS, inner), max_leaves=6
)
PLAIN: Final = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4).map(json.dumps)
LIKELY: Final = st.fixed_dictionaries(
    {},
    optional={
        "status": STRINGS | VALUES,
        "tasks_processed": NUMBERS | VALUES,
        "current_task_id": STRINGS | VALUES,
        "worker_metadata": mapped(STRINGS, VALUES) | VALUES,
        "system_info": mapped(STRINGS, VALUES) | VALUES,
        "logs": listed(STRINGS) | VALUES,
        "interval_seconds": NUMBERS | NUMBERS_TOO,
        "grace_seconds": NUMBERS | NUMBERS_TOO,
    },
)
WITH_IDS: Final = st.tuples(PLAIN | STRINGS, PLAIN | STRINGS, LIKELY).map(
    lambda parts: (
        "{"
        + ",".join(
            [f'"worker_id":{parts[0]}', f'"environment_name":{parts[1]}', *(f'"{k}":{v}' for k, v in parts[2].items())]
        )
        + "}"
    )
)
BODIES: Final = st.tuples(
    SPACE, WITH_IDS | mapped(NAMES, VALUES, 8) | VALUES, SPACE | st.sampled_from(["x", "{}", ",", "\x00"])
)


@given(BODIES)
@example(("", '{"worker_metadata":{"a":1e5,"a":1e-7,"b":1e16}}', ""))
def test_any_json_and_what_is_nearly_json_is_read_alike(parts: tuple[str, str, str]) -> None:
    check("".join(parts).encode("utf-8", "surrogatepass"))


@given(LIKELY)
def test_any_mix_of_known_fields_is_read_alike(fields: dict[str, str]) -> None:
    members = ",".join(f'"{name}":{value}' for name, value in fields.items())
    check(b"{" + IDS + (b"," if members else b"") + members.encode() + b"}")
    check(b"{" + members.encode() + b"}")


NAME: Final = st.text(st.characters(exclude_categories=["Cs"]), max_size=256)
ID: Final = st.text(st.characters(categories=["L", "M", "N", "P", "S"]), min_size=1, max_size=256)
NUMBER: Final = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
ANYTHING: Final = st.recursive(
    st.none() | st.booleans() | NUMBER | NAME,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAME, inner, max_size=3),
    max_leaves=6,
)
OBJECT: Final = st.dictionaries(NAME, ANYTHING, max_size=4)
GOOD: Final = st.fixed_dictionaries(
    {"worker_id": ID, "environment_name": ID},
    optional={
        "status": NAME,
        "tasks_processed": st.integers(-(2**63), 2**63 - 1),
        "current_task_id": st.none() | NAME,
        "worker_metadata": OBJECT,
        "system_info": st.none() | OBJECT,
        "logs": st.none() | st.lists(NAME, max_size=3),
        "interval_seconds": st.none() | st.floats(0, exclude_min=True, allow_infinity=False) | st.integers(1, 10**300),
        "grace_seconds": st.none() | st.floats(0, allow_infinity=False) | st.integers(0, 10**300),
    },
)


@given(GOOD, st.booleans(), st.sampled_from([None, 1]))
def test_every_good_body_of_known_fields_is_read_quickly_and_alike(
    beat: dict[str, object],
    is_ascii: bool,  # noqa: FBT001 - drawn
    indent: int | None,
) -> None:
    assert check(json.dumps(beat, ensure_ascii=is_ascii, indent=indent).encode())


@given(st.sampled_from(COMMON), st.data())
def test_any_change_to_a_common_body_is_read_alike(body: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(body)))
    cut = data.draw(st.integers(0, 4))
    put = data.draw(
        st.binary(max_size=3)
        | st.sampled_from([b'"', b"\\", b"{", b"[", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80"])
    )
    check(body[:at] + put + body[at + cut :])


EVERY_CHARACTER: Final = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
INTEGERS: Final = st.integers() | st.sampled_from([2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1])


@given(
    st.dictionaries(
        st.text(), st.text() | INTEGERS | st.booleans() | st.none() | st.floats(allow_nan=False, allow_infinity=False)
    )
)
@example({EVERY_CHARACTER: EVERY_CHARACTER})
@example({"a": 1e16, "b": 1e-7, "c": -0.0, "d": 1.0})
def test_metadata_is_kept_as_pythons_own_compact_json(metadata: dict[str, object]) -> None:
    assert metadata_text(metadata, 10**8) == compact(metadata)


@pytest.mark.parametrize("digits", [19, 20, 4_299, 4_300, 4_301, 5_000])
@pytest.mark.parametrize("field", ["tasks_processed", "interval_seconds", "worker_metadata"])
def test_long_numbers_are_read_alike(field: str, digits: int) -> None:
    for number in (b"9" * digits, b"-" + b"9" * digits, b"0." + b"3" * digits, b"9" * digits + b".5"):
        value = b'{"a":' + number + b"}" if field == "worker_metadata" else number
        check(b"{" + IDS + b',"' + field.encode() + b'":' + value + b"}")


@pytest.mark.parametrize("depth", [1, 100, MOST_BRACKETS - 3, MOST_BRACKETS, 150, 198, 199, 200, 201, 202, 500, 5_000])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_nested_metadata_is_read_alike(depth: int, opening: bytes, closing: bytes) -> None:
    nested = b'{"m":' + opening * depth + b"1" + closing * depth + b"}"
    for field in (b"worker_metadata", b"system_info"):
        body = b"{" + IDS + b',"' + field + b'":' + nested + b"}"
        assert check(body) == (depth <= MOST_BRACKETS - 2)


@pytest.mark.parametrize(
    ("body", "worker_id"),
    [
        (b'{"worker_id":"w","status":5,"x":[1e999]}', "w"),
        (b'{"worker_id":"w"', None),
        (b'{"worker_id":5}', None),
        (b'{"worker_id":""}', None),
        (b'{"worker_id":"\\u0000"}', None),
        (b'{"worker_id":"' + b"x" * 257 + b'"}', None),
        (b"{}", None),
        (b"5", None),
        (b"", None),
        (b"[" * 5_000, None),
        (b'{"worker_id":"\xff"}', None),
    ],
)
def test_a_broken_body_names_its_worker_if_that_can_be_read(body: bytes, worker_id: str | None) -> None:
    with pytest.raises(ContractError):
        strict_fields(BeatFieldsWithIds, HeartbeatRequest, body, None)
    assert readable_id(body) == worker_id
