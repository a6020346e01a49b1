"""Parameter and result types of the store's methods."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from monitor.blindness import Cause, Window
from monitor.events import Event, Moved
from monitor.liveness import Liveness
from monitor.ownership import Lease
from monitor.workers import Worker

STORED, OVER_WORKERS, OVER_ENVIRONMENTS, NOT_ALLOWED, UNKNOWN, REFUSED, DAMAGED, LATE = range(8)
OVER_TIMINGS, OVER_BYTES = range(8, 10)
"""Outcomes of a function for one worker. The library gets those that ``monitor/store/library.py`` lists."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BeatsResult:
    """``outcomes[k]`` is (outcome, effective interval in ms) of the k-th beat."""

    now_ms: int
    outcomes: list[tuple[int, int]]
    moved: list[Moved]
    least_grace_ms: int
    """The shortest grace of the workers whose beats were stored; very long if there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangeResult:
    """The result of an order about one worker."""

    now_ms: int
    outcome: int
    moved: list[Moved]
    run: int = 0
    """Number of the server's run, for ``Store.confirm``; 0: nothing to confirm."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepResult:
    """One chunk of a pass; ``more``: another chunk is due at once."""

    now_ms: int
    more: bool
    moved: list[Moved]
    damaged: int = 0
    """Workers that were skipped because their record is unreadable or does not match."""
    blind: bool = False
    """Nothing expired because the monitor is blind: for a while no daemon has reported that it accepts beats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PulseResult:
    """The answer to a pulse. ``window`` is the newest blind window, ``cause`` how it was detected."""

    now_ms: int
    lease: Lease
    skew_ms: int
    """How far store time is ahead of its server's clock, which was stepped back by this much."""
    window: Window | None
    cause: Cause | None
    windows: int
    """Number of blind windows so far."""
    blind_ms: int
    """Their total length."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Want:
    """Which workers a list is to contain, as far as the store can select them cheaply."""

    alive: bool
    late: bool
    overdue: bool
    down: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Workers in the order of their IDs; ``last`` is the cursor for the next page, empty at the end."""

    now_ms: int
    swept_ms: int
    last: str
    workers: list[Worker]


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """Events of a tenant in one partition, in order."""

    now_ms: int
    swept_ms: int
    written_ms: int
    """The newest time that the partition has stored: no event that is recorded later has an earlier one."""
    events: list[Event]


@dataclass(frozen=True, kw_only=True, slots=True)
class Census:
    """Counts by environment and liveness, of one tenant or of all."""

    now_ms: int
    swept_ms: int
    environments: dict[str, dict[Liveness, int]]
    tenants: frozenset[str] = frozenset()
    """The tenants that have workers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """The state of the server's memory and of its append-only file. Sizes in bytes."""

    used_bytes: int
    """Memory that counts against the limit: without the buffers of replicas and of the append-only file."""
    limit_bytes: int
    """Above this limit the server takes no writes; 0: no limit."""
    append_only: bool
    """Whether the server keeps an append-only file."""

    def over(self, share: float) -> bool:
        """Whether more than this share of the limit is used."""
        return self.limit_bytes > 0 and self.used_bytes > share * self.limit_bytes


def condition_of(memory: Mapping[str, Any], persistence: Mapping[str, Any]) -> Condition:
    """Read the sections of INFO (https://valkey.io/commands/info/)."""
    return Condition(
        used_bytes=int(memory["used_memory"]) - int(memory.get("mem_not_counted_for_evict", 0)),
        limit_bytes=int(memory.get("maxmemory", 0)),
        append_only=bool(int(persistence["aof_enabled"])),
    )
