"""What the store is asked for and answers, where that is more than a number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from monitor.blindness import Cause, Window
    from monitor.events import Event
    from monitor.liveness import Liveness
    from monitor.workers import Moved, Worker

STORED, OVER_WORKERS, OVER_ENVIRONMENTS, NOT_ALLOWED, UNKNOWN, REFUSED, DAMAGED, LATE = range(8)
OVER_TIMINGS, OVER_BYTES = range(8, 10)
"""What a function answers of one worker; the same numbers stand at the top of ``lastseen.lua`` and ``beat.lua``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BeatsResult:
    """``outcomes[k]`` is (outcome, effective interval in ms) of the k-th beat."""

    now_ms: int
    outcomes: list[tuple[int, int]]
    moved: list[Moved]
    least_grace_ms: int
    """The shortest grace of the workers whose beats were stored; very long for none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangeResult:
    """What became of an order about one worker."""

    now_ms: int
    outcome: int
    moved: list[Moved]


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepResult:
    """One chunk of a pass; ``more`` says that another chunk is due at once."""

    now_ms: int
    more: bool
    moved: list[Moved]
    damaged: int = 0
    """Workers that were left out because their record can't be read or does not fit."""
    blind: bool = False
    """Nothing expired, since the monitor can't know: no daemon has said for a while that it accepts beats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PulseResult:
    """What a pulse was answered. ``window`` is the newest blind window, and ``cause`` how it was noticed."""

    now_ms: int
    skew_ms: int
    """How far the store's time is ahead of its server's clock, which has stepped back by so much."""
    window: Window | None
    cause: Cause | None
    windows: int
    """So many there have been in all."""
    blind_ms: int
    """And so long they were."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Want:
    """Which workers a list is to hold, as far as the store can tell them apart cheaply."""

    alive: bool
    late: bool
    overdue: bool
    down: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Workers in the order of their ids; ``last`` is where to go on, empty at the end."""

    now_ms: int
    swept_ms: int
    last: str
    workers: list[Worker]


@dataclass(frozen=True, kw_only=True, slots=True)
class Census:
    """Counts by environment and liveness of a tenant, or of all."""

    now_ms: int
    swept_ms: int
    environments: dict[str, dict[Liveness, int]]
    tenants: frozenset[str] = frozenset()
    """Those of which there is a worker."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """The router's turn at a partition. ``token`` 0: another daemon has the lease."""

    token: int
    events: list[Event]
    last: str
    """The position of the last entry read, whether or not it could be understood; empty for none."""
    age_ms: int
