"""Limits on the parts of a beat: texts are refused or truncated, times are clamped."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from monitor.api.contract.errors import field_error

MAX_LOG_LINES: Final = 100

_PLAIN: Final = frozenset({str, int, bool, type(None)})
"""Types that msgspec encodes as ``compact`` does, at a tenth of the cost. Not floats: it writes 1e+16 as 1e16."""
_encode: Final = msgspec.json.Encoder().encode

compact = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")).encode


@dataclass(frozen=True, kw_only=True, slots=True)
class BeatLimits:
    """Limits on the parts of a beat.

    Sizes are maximums in the store, in bytes of compact UTF-8 JSON. A declared time outside its bounds is clamped, not
    refused.
    """

    metadata_bytes: int
    logs_bytes: int
    system_info_bytes: int
    min_interval_ms: int
    max_interval_ms: int
    min_grace_ms: int
    max_grace_ms: int


def clamped_ms(seconds: float | None, *, least: int, most: int) -> int | None:
    """Convert a declared time to milliseconds and clamp it to its bounds; None stays None."""
    return None if seconds is None else round(min(max(seconds * 1_000, least), most))


def finite(value: object, field: str) -> str:
    """The value's compact JSON.

    Raises:
        ContractError: the value has a NaN or an infinity.
    """
    try:
        return compact(value)
    except ValueError:
        raise field_error(field, "Input should be a finite number", "finite_number") from None


def metadata_text(metadata: Mapping[str, object], most_bytes: int) -> str:
    """The JSON to store.

    Raises:
        ContractError: the JSON is over the limit, or the metadata has a NaN.
    """
    if _PLAIN.issuperset(map(type, metadata.values())):
        raw = _encode(metadata)
    else:
        raw = finite(metadata, "worker_metadata").encode()
    if len(raw) > most_bytes:
        raise field_error(
            "worker_metadata", f"Input should have at most {most_bytes} bytes of compact JSON", "too_long"
        )
    return raw.decode()


def system_info_text(system_info: Mapping[str, object], most_bytes: int) -> tuple[str, bool]:
    """The JSON to store, and whether it was truncated. Keeps the first keys that fit.

    Raises:
        ContractError: a value is NaN.
    """
    whole = finite(system_info, "system_info")
    if len(whole.encode()) <= most_bytes:
        return whole, False
    members = (compact({name: value})[1:-1] for name, value in system_info.items())
    return "{" + ",".join(_that_fit(members, most_bytes)) + "}", True


def logs_text(logs: Sequence[str], most_bytes: int) -> tuple[str, bool]:
    """The JSON to store, and whether it was truncated. Keeps the newest lines that fit, or the end of the newest."""
    kept = _that_fit(map(compact, reversed(logs[-MAX_LOG_LINES:])), most_bytes)
    is_cut = len(kept) < len(logs)
    if logs and not kept:
        kept = _end_of(logs[-1], most_bytes - len("[]"))
    return "[" + ",".join(reversed(kept)) + "]", is_cut


def _that_fit(texts: Iterable[str], most_bytes: int) -> list[str]:
    """The first JSON texts that fit in an array or an object of at most ``most_bytes``."""
    kept: list[str] = []
    used = len("[]")
    for text in texts:
        used += len(text.encode()) + (1 if kept else 0)
        if used > most_bytes:
            break
        kept.append(text)
    return kept


def _end_of(line: str, most_bytes: int) -> list[str]:
    """The longest suffix of a line whose JSON fits, as a list of one text; empty if not even ``""`` fits."""
    low, high = 0, min(len(line), max(most_bytes, 0))
    while low < high:
        middle = (low + high + 1) // 2
        if len(compact(line[len(line) - middle :]).encode()) <= most_bytes:
            low = middle
        else:
            high = middle - 1
    text = compact(line[len(line) - low :])
    return [text] if len(text) <= most_bytes else []
