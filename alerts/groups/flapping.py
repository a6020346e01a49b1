"""Flap damping (P20): short outages of a flapping worker do not notify. Pure.

A worker flaps when it has had many outages recently. Its next outage notifies only after it has lasted for a bounded
time. If the outage ends before that, neither its beginning nor its end notifies. So no outage is held without limit,
and the last notification matches the current state: an outage that lasts notifies, and a receiver that got a DOWN
gets its end.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from alerts.groups.classify import DOWN
from monitor.liveness import EventKind


@dataclass(frozen=True, kw_only=True, slots=True)
class Flapping:
    """When a worker flaps: at least ``outages`` of its outages began within ``within_ms`` before the next.

    The next outage then has to last ``hold_ms`` before it notifies.
    """

    outages: int = 3
    within_ms: int = 3_600_000
    hold_ms: int = 300_000


@dataclass(frozen=True, kw_only=True, slots=True)
class RecentOutages:
    """Number of an outage among the worker's outages within ``rule.within_ms``, from 1, and the rule."""

    number: int
    rule: Flapping

    @property
    def is_flapping(self) -> bool:
        """Whether enough outages came before this one, so that it has to last before it notifies."""
        return self.number > self.rule.outages

    @property
    def is_last_notified(self) -> bool:
        """Whether this outage is the last that notifies at once: the next one has to last."""
        return self.number == self.rule.outages


def begun(transitions: Iterable[tuple[EventKind, int]]) -> list[int]:
    """Start times of a worker's outages before an event that reports a DOWN.

    ``transitions``: those before the event, in order, each with its kind and when it was due (ms). An outage that the
    event only escalates is left out.
    """
    found: list[int] = []
    is_out = False
    for kind, due_ms in transitions:
        if kind in DOWN and not is_out:
            found.append(due_ms)
        is_out = kind in DOWN
    return found[:-1] if is_out else found
