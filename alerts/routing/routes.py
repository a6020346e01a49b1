"""Routes: which events go to which receivers, and how they are grouped. Pure."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from alerts.groups.classify import Role, environment_key, fits, metadata_of, role_of, text_of, worker_key
from alerts.groups.mass_failure import SILENT, FailureState
from alerts.groups.state import Timing
from monitor.events import Event
from monitor.liveness import EventKind

DEFAULT_EVENTS: Final = frozenset({EventKind.STALE, EventKind.FAILED, EventKind.REJECTED, EventKind.RECOVERED})
"""Events of a route that names none."""

BY_WORKER: Final = ("worker_id",)
ENVIRONMENT_WAIT_MS: Final = 2_000
"""How long the deaths of a mass failure are collected before the first notification."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """One rule: events of these kinds, from matching environments and tenants, go to these receivers.

    In a pattern ``*`` is the only wildcard; it matches any run of characters, including none. A route without patterns
    matches nothing. ``group_by``: labels that the events of one notification share, either ``worker_id`` alone, or any
    of ``tenant``, ``environment`` and ``metadata.<name>``. A group never spans tenants.
    """

    receivers: tuple[str, ...]
    events: frozenset[EventKind] = DEFAULT_EVENTS
    environments: tuple[str, ...] = ("*",)
    tenants: tuple[str, ...] = ("*",)
    group_by: tuple[str, ...] = BY_WORKER
    group_wait_ms: int = 0
    group_interval_ms: int = 60_000
    repeat_interval_ms: int = 14_400_000

    def matches(self, event: Event) -> bool:
        """Whether the route applies to the event."""
        return event.kind in self.events and self.is_for(event)

    def is_for(self, event: Event) -> bool:
        """Whether the route is for the event's environment and tenant."""
        return any(fits(pattern, event.environment_name) for pattern in self.environments) and any(
            fits(pattern, event.tenant) for pattern in self.tenants
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceiverTraits:
    """Properties of a receiver that routing needs, see ``alerts.receivers.Receiver``."""

    takes_groups: bool = True
    resend_ms: int | None = None
    tenants: frozenset[str] = frozenset()
    """The tenants that the receiver belongs to; empty: all tenants share it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A group at a receiver, with the timing that it begins with."""

    key: str
    timing: Timing


def targets_of(
    event: Event,
    *,
    routes: Iterable[Route],
    traits: Mapping[str, ReceiverTraits],
    state: FailureState = FailureState.CALM,
    hold_ms: int = 0,
) -> dict[str, Target]:
    """The receivers of an event, each with the event's group there.

    Every matching route applies. If several name a receiver, the first one determines its group. A receiver that
    belongs to tenants gets only their events. The order is that of the routes, so equal input gives equal output.
    """
    found: dict[str, Target] = {}
    for route in routes:
        if route.matches(event):
            for name in route.receivers:
                owners = traits[name].tenants
                if name not in found and (not owners or event.tenant in owners):
                    found[name] = _target(event, route, traits[name], state=state, hold_ms=hold_ms)
    return found


def _target(event: Event, route: Route, traits: ReceiverTraits, *, state: FailureState, hold_ms: int) -> Target:
    timing = Timing(
        wait_ms=route.group_wait_ms,
        interval_ms=route.group_interval_ms,
        repeat_ms=route.repeat_interval_ms if traits.resend_ms is None else traits.resend_ms,
        resend=traits.resend_ms is not None,
    )
    grouped = traits.takes_groups and role_of(event) is not Role.FACT
    if grouped and state is not FailureState.CALM and event.kind in SILENT and route.group_by == BY_WORKER:
        waiting = Timing(
            wait_ms=ENVIRONMENT_WAIT_MS, interval_ms=timing.interval_ms, repeat_ms=timing.repeat_ms, hold_ms=hold_ms
        )
        return Target(key=environment_key(event.tenant, event.environment_name), timing=waiting)
    if not grouped or route.group_by == BY_WORKER:
        return Target(key=worker_key(event), timing=timing)
    labels = {"tenant": event.tenant, **{name: _label(event, name) for name in route.group_by}}
    return Target(key="g" + json.dumps(labels, sort_keys=True), timing=timing)


def _label(event: Event, name: str) -> str:
    if name == "environment":
        return event.environment_name
    if name == "tenant":
        return event.tenant
    return text_of(metadata_of(event).get(name.removeprefix("metadata."), ""))
