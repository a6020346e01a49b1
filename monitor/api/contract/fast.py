"""The fast reader: parses usual beats with msgspec, with strict types and known fields only. Pure.

It declines every other body, and reports no faults: ``strict`` reads such a body again, and accepts or refuses it.
For a body that this reader accepts, ``strict`` gives the same values; ``tests/core/test_contract_fast.py`` compares
the two.
"""

from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from monitor.api.contract.strict import MAX_NAME_CHARS

MOST_BRACKETS: Final = 128
"""A text with at most this many opening brackets is within the nesting limit of every reader."""

_Id = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)]
_Name = Annotated[str, Meta(max_length=MAX_NAME_CHARS)]
_Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_Interval = Annotated[float, Meta(gt=0)]
_Grace = Annotated[float, Meta(ge=0)]


class BeatFields(msgspec.Struct, kw_only=True, gc=False, forbid_unknown_fields=True):
    """The fields of a beat, from either reader; ``UNSET``: not in the body."""

    status: _Name | UnsetType = UNSET
    tasks_processed: _Int64 | UnsetType = UNSET
    current_task_id: _Name | UnsetType | None = UNSET
    worker_metadata: dict[str, Any] | UnsetType = UNSET
    system_info: dict[str, Any] | UnsetType | None = UNSET
    logs: list[str] | UnsetType | None = UNSET
    interval_seconds: _Interval | UnsetType | None = UNSET
    grace_seconds: _Grace | UnsetType | None = UNSET


class BeatFieldsWithIds(BeatFields, kw_only=True, gc=False, forbid_unknown_fields=True):
    """``BeatFields`` and the ids, which are in the body in the published form."""

    worker_id: _Id
    environment_name: _Id


class _Named(msgspec.Struct, gc=False):
    worker_id: _Id


_with_ids: Final = msgspec.json.Decoder(BeatFieldsWithIds).decode
_without: Final = msgspec.json.Decoder(BeatFields).decode
_named: Final = msgspec.json.Decoder(_Named).decode
_ODD: Final = (msgspec.MsgspecError, ValueError, RecursionError)


def read_with_ids(body: bytes) -> BeatFieldsWithIds | None:
    """Parse the form with the ids in the body; None if ``strict`` has to read it."""
    try:
        fields = _with_ids(body)
    except _ODD:
        return None
    # Stricter than the contract, which refuses control characters only: ``isprintable`` is the cheapest check.
    plain = fields.worker_id.isprintable() and fields.environment_name.isprintable()
    return fields if plain and _is_flat(fields, body) else None


def read_without_ids(body: bytes) -> BeatFields | None:
    """Parse the form with the id in the URL; None if ``strict`` has to read it."""
    try:
        fields = _without(body)
    except _ODD:
        return None
    return fields if _is_flat(fields, body) else None


def readable_id(body: bytes) -> str | None:
    """The worker id of a body that violates the contract elsewhere; None if there is no readable one."""
    try:
        worker_id = _named(body).worker_id
    except _ODD:
        return None
    return worker_id if worker_id.isprintable() else None


def _is_flat(fields: BeatFields, body: bytes) -> bool:
    """Whether the nesting is within the limit of ``strict``, which is lower than msgspec's."""
    if not (fields.worker_metadata or fields.system_info):
        return True
    return body.count(b"[") + body.count(b"{") <= MOST_BRACKETS
