"""Silences: for some time, nobody is told of the workers that they match. They hide nothing else. Pure."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from alerts.globs import fits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from monitor.events import Event


class SilenceState(StrEnum):
    """What a silence does now."""

    PENDING = "pending"
    ACTIVE = "active"
    ENDED = "ended"


class UnknownSilenceError(LookupError):
    """The tenant has no silence of that id (any more)."""


class TooManySilencesError(Exception):
    """The tenant has as many silences that are not over as it may have."""


class Matchers(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Which workers a silence matches: all that are given have to fit. In a pattern ``*`` is the only wildcard.

    ``exact``: the values are no patterns, they stand for themselves. ``metadata`` fits a worker that has every one of
    the keys with a value that fits; a value that is no string is compared as its JSON. An event carries at most 2,048
    bytes of metadata, and what was cut off fits nothing.
    """

    environment: str | None = None
    worker_id: str | None = None
    metadata: dict[str, str] = msgspec.field(default_factory=dict)
    exact: bool = False

    def only(self, pattern: str | None) -> str | None:
        """The one name that one of the patterns fits; None: it fits several."""
        return pattern if self.exact or pattern is None or "*" not in pattern else None

    def match(self, *, worker_id: str, environment_name: str, metadata: Mapping[str, object]) -> bool:
        """Whether a worker is one of them."""
        return (
            (self.environment is None or self._fits(self.environment, environment_name))
            and (self.worker_id is None or self._fits(self.worker_id, worker_id))
            and all(
                name in metadata and self._fits(pattern, _text(metadata[name]))
                for name, pattern in self.metadata.items()
            )
        )

    def _fits(self, pattern: str, text: str) -> bool:
        return pattern == text if self.exact else fits(pattern, text)


class Silence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """From ``starts_ms`` on and before ``ends_ms``, milliseconds of the store's clock, unless ended before that."""

    id: str
    tenant: str
    matchers: Matchers
    starts_ms: int
    ends_ms: int
    comment: str
    author: str
    created_ms: int
    ended_ms: int | None = None
    """When a person ended it."""
    ended_by: str | None = None

    @property
    def over_ms(self) -> int:
        """When it is over."""
        return self.ends_ms if self.ended_ms is None else self.ended_ms

    def state(self, now_ms: int) -> SilenceState:
        """What it does at a time."""
        if now_ms >= self.over_ms:
            return SilenceState.ENDED
        return SilenceState.ACTIVE if now_ms >= self.starts_ms else SilenceState.PENDING


def silenced_until(silences: Sequence[Silence], event: Event, now_ms: int) -> int | None:
    """When the last of the active silences that match the event's worker is over; None when none does."""
    active = [one for one in silences if one.tenant == event.tenant and one.state(now_ms) is SilenceState.ACTIVE]
    if not active:
        return None
    metadata = _metadata(event)
    ends = [
        one.over_ms
        for one in active
        if one.matchers.match(worker_id=event.worker_id, environment_name=event.environment_name, metadata=metadata)
    ]
    return max(ends, default=None)


def _metadata(event: Event) -> dict[str, object]:
    try:
        metadata = json.loads(event.worker_metadata_json)
    except ValueError:
        metadata = {}  # an event that is no good must not stop those behind it
    return metadata if isinstance(metadata, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
