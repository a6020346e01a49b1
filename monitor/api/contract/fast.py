"""Reading what workers send every day, by msgspec: strict types, known fields, nothing odd. Pure.

It never judges: what it does not take is read again by ``forms``, which accepts or refuses it. What it takes,
``forms`` takes with the same values; ``tests/core/test_contract_fast.py`` holds the two against each other.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from monitor.api.contract.strict import MAX_NAME_CHARS

MOST_BRACKETS: Final = 128
"""Text with no more opening brackets is nested less deeply than any reader's limit."""

_Id = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)]
_Name = Annotated[str, Meta(max_length=MAX_NAME_CHARS)]
_Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_Interval = Annotated[float, Meta(gt=0)]
_Grace = Annotated[float, Meta(ge=0)]


class Said(msgspec.Struct, kw_only=True, gc=False, forbid_unknown_fields=True):
    """What a beat says, whichever reader has read it; ``UNSET``: left out."""

    status: _Name | UnsetType = UNSET
    tasks_processed: _Int64 | UnsetType = UNSET
    current_task_id: _Name | UnsetType | None = UNSET
    worker_metadata: dict[str, Any] | UnsetType = UNSET
    system_info: dict[str, Any] | UnsetType | None = UNSET
    logs: list[str] | UnsetType | None = UNSET
    interval_seconds: _Interval | UnsetType | None = UNSET
    grace_seconds: _Grace | UnsetType | None = UNSET


class SaidWithIds(Said, kw_only=True, gc=False, forbid_unknown_fields=True):
    """As ``Said``, with the ids that the published form has in the body."""

    worker_id: _Id
    environment_name: _Id


class _Named(msgspec.Struct, gc=False):
    worker_id: _Id


_with_ids: Final = msgspec.json.Decoder(SaidWithIds).decode
_without: Final = msgspec.json.Decoder(Said).decode
_named: Final = msgspec.json.Decoder(_Named).decode
_ODD: Final = (msgspec.MsgspecError, ValueError, RecursionError)


def read_with_ids(body: bytes) -> SaidWithIds | None:
    """Read the form with the ids in the body; None when ``forms`` has to judge."""
    try:
        said = _with_ids(body)
    except _ODD:
        return None
    # Stricter than the contract, which refuses control characters only: this is the cheapest question.
    plain = said.worker_id.isprintable() and said.environment_name.isprintable()
    return said if plain and _is_flat(said, body) else None


def read_without_ids(body: bytes) -> Said | None:
    """Read the form with the id in the URL; None when ``forms`` has to judge."""
    try:
        said = _without(body)
    except _ODD:
        return None
    return said if _is_flat(said, body) else None


def readable_id(body: bytes) -> str | None:
    """Whom a body names that breaks the contract elsewhere, as far as it can be told."""
    try:
        worker_id = _named(body).worker_id
    except _ODD:
        return None
    return worker_id if worker_id.isprintable() else None


def _is_flat(said: Said, body: bytes) -> bool:
    """Whether nothing in it can be nested too deeply for ``forms``, whose limit is lower."""
    if not (said.worker_metadata or said.system_info):
        return True
    return body.count(b"[") + body.count(b"{") <= MOST_BRACKETS
