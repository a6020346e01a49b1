"""Of groups: who is told of an environment as one knows who is down, and hears the end once (P5, P18). Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.chaos.alerts import DOWN, is_lost, is_taken
from tests.chaos.record import Violation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.chaos.outages import Outages
    from tests.chaos.record import Arrival, Entry, Record


def groups(record: Record, _outages: Outages) -> Iterator[Violation]:
    """P18: an end comes after a beginning, once. P5: who is down at the end was named, and the end is not told."""
    newest = {entry.worker: entry for entry in record.history() if entry.worker in record.workers}
    down = [entry for entry in newest.values() if entry.new in {"stale", "failed"}]
    for receiver in sorted(record.groups):
        taken: dict[str, Arrival] = {}
        for arrival in record.arrivals:
            if arrival.receiver == receiver and is_taken(arrival):
                taken.setdefault(arrival.webhook_id, arrival)
        yield from _in_turn(record, receiver, list(taken.values()))
        yield from _at_the_end(record, receiver, list(taken.values()), down)


def _in_turn(record: Record, receiver: str, taken: list[Arrival]) -> Iterator[Violation]:
    is_firing = False
    for arrival in taken:
        is_end = arrival.type == "group.resolved"
        if is_end and not is_firing and not record.is_disturbed(0.0, arrival.at_s):
            yield Violation(
                promise="P18", what=f"{receiver}: an end of the group at {arrival.at_s:.2f} s without a DOWN"
            )
        is_firing = not is_end


def _at_the_end(record: Record, receiver: str, taken: list[Arrival], down: list[Entry]) -> Iterator[Violation]:
    named = {event_id for arrival in taken for event_id in arrival.event_ids}
    is_cut = any(arrival.data["truncated"] for arrival in taken)
    for entry in down:
        if entry.kind in DOWN and entry.event_id not in named and not is_cut:
            what = f"{entry.kind} seq {entry.seq} is named in nothing that {receiver} took"
            yield Violation(promise="P5", worker=entry.worker, what=what)
    last = taken[-1] if taken else None
    if last is not None and not down and last.type == "group.firing" and not is_lost(record, last):
        yield Violation(
            promise="P18", what=f"{receiver}: the group fired at {last.at_s:.2f} s, is over, and had no end"
        )
    if down and (last is None or last.type == "group.resolved"):
        yield Violation(promise="P5", what=f"{receiver}: {len(down)} workers are down, and the group had its end")
