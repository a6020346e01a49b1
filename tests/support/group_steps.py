"""The next step of a group, as the planner asks for it; and that deciding changes nothing."""

from collections.abc import Sequence
from enum import Enum
from typing import Protocol

import msgspec

from alerts.groups import group_rules, worker_rules
from alerts.groups.attempts import apply
from alerts.groups.decisions import Decision
from alerts.groups.flapping import RecentOutages
from alerts.groups.state import AlertGroup, CreateNotification, Draft, InFlight, Member, Silenced, Step, Wait


class Play(Protocol):
    """A group that a test takes from step to step."""

    group: AlertGroup

    def step(self) -> object:
        """Make the next step. A notification that is to be sent is begun."""


class Ends(Enum):
    """How an attempt ends."""

    LATER = "it is still under way"
    ACCEPTED = "it is accepted"
    REFUSED = "it is refused, and retried"
    LOST = "no answer came, and it did not arrive"
    ARRIVED = "no answer came, and it arrived"
    CRASHED = "its process ended before it was made"
    CRASHED_ARRIVED = "its process ended after it was made"
    GIVEN_UP = "it is refused for good"


def no_silence(_: object) -> None:
    return None


def worker_step(draft: Draft, silenced: Silenced = no_silence, *, recent: RecentOutages | None = None) -> Step:
    """Next step of a group of one worker, applied. ``recent``: its outages, if it may be damped."""
    worker_rules.catch_up(draft, silenced)
    before = msgspec.json.encode(draft.group)
    step = worker_rules.decide(draft.group, silenced, now_ms=draft.now_ms)
    if recent is not None and isinstance(step, CreateNotification) and step.event is not None and not step.reminder:
        until_ms = worker_rules.damped_until_ms(draft.group, step.event, recent)
        if step.role.value == "down" and until_ms > draft.now_ms:
            step = Wait(until_ms, Decision.DAMPED)
    assert msgspec.json.encode(draft.group) == before
    apply(draft, step)
    return step


def group_step(
    draft: Draft, silenced: Silenced = no_silence, *, first: Sequence[Member] = (), suspected: bool = False
) -> Step:
    """Next step of a group of many, applied."""
    group_rules.catch_up(draft)
    before = msgspec.json.encode(draft.group)
    step = group_rules.decide(draft.group, silenced, first=first, suspected=suspected, now_ms=draft.now_ms)
    assert msgspec.json.encode(draft.group) == before
    apply(draft, step)
    return step


def under_way(play: Play) -> InFlight | None:
    """The attempt that is under way, or that the next step begins."""
    if play.group.in_flight is None or not play.group.in_flight.open:
        play.step()
    in_flight = play.group.in_flight
    return in_flight if in_flight is not None and in_flight.open else None
