"""Silences: no notifications for matching workers for some time. Nothing else is suppressed. Pure."""

from collections.abc import Mapping, Sequence
from enum import StrEnum

import msgspec

from alerts.groups.classify import fits, metadata_of, text_of
from monitor.events import Event


class SilenceState(StrEnum):
    """State of a silence at some time."""

    PENDING = "pending"
    ACTIVE = "active"
    ENDED = "ended"


class UnknownSilenceError(LookupError):
    """The tenant has no silence with this id, or no longer has it."""


class TooManySilencesError(Exception):
    """The tenant has the maximum number of silences that are not over."""


class Matchers(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Which workers a silence matches: all given matchers must match. In a pattern ``*`` is the only wildcard.

    ``exact``: the values are literals, not patterns. ``metadata`` matches a worker that has each of the keys with a
    matching value. A value that is not a string is compared as JSON. An event carries at most 2,048 bytes of metadata;
    metadata that was cut off matches nothing.
    """

    environment: str | None = None
    worker_id: str | None = None
    metadata: dict[str, str] = msgspec.field(default_factory=dict)
    exact: bool = False

    def only(self, pattern: str | None) -> str | None:
        """The only name that one of the patterns matches; None: the pattern matches several."""
        return pattern if self.exact or pattern is None or "*" not in pattern else None

    def match(self, *, worker_id: str, environment_name: str, metadata: Mapping[str, object]) -> bool:
        """Whether a worker matches."""
        return (
            (self.environment is None or self._fits(self.environment, environment_name))
            and (self.worker_id is None or self._fits(self.worker_id, worker_id))
            and all(
                name in metadata and self._fits(pattern, text_of(metadata[name]))
                for name, pattern in self.metadata.items()
            )
        )

    def _fits(self, pattern: str, text: str) -> bool:
        return pattern == text if self.exact else fits(pattern, text)


class Silence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A silence from ``starts_ms`` until just before ``ends_ms``, in ms of the store's clock, unless ended early."""

    id: str
    tenant: str
    matchers: Matchers
    starts_ms: int
    ends_ms: int
    comment: str
    author: str
    created_ms: int
    ended_ms: int | None = None
    """When an operator ended it early."""
    ended_by: str | None = None

    @property
    def over_ms(self) -> int:
        """When the silence ends or ended."""
        return self.ends_ms if self.ended_ms is None else self.ended_ms

    def state(self, now_ms: int) -> SilenceState:
        """State of the silence at ``now_ms``."""
        if now_ms >= self.over_ms:
            return SilenceState.ENDED
        return SilenceState.ACTIVE if now_ms >= self.starts_ms else SilenceState.PENDING


def silenced_until(silences: Sequence[Silence], event: Event, now_ms: int) -> int | None:
    """End of the last active silence that matches the event's worker; None: no active silence matches."""
    active = [one for one in silences if one.tenant == event.tenant and one.state(now_ms) is SilenceState.ACTIVE]
    if not active:
        return None
    metadata = metadata_of(event)
    ends = [
        one.over_ms
        for one in active
        if one.matchers.match(worker_id=event.worker_id, environment_name=event.environment_name, metadata=metadata)
    ]
    return max(ends, default=None)
