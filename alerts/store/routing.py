"""A batch of events in the store of their partition: one call reads what it is about, and one writes what it changes.

All that is of one worker lies with its partition, so one step of its server covers incidents, groups of one worker, the
deaths of environments and the router's cursor. Uses ``routing.lua``.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

import msgspec

from alerts.groups.classify import WORKER_PREFIX, mid_of, qualified
from alerts.groups.incidents import Batch, Incident
from alerts.groups.mass_failure import FailureWindow, is_idle
from alerts.store.group_store import Change, Seen, Want, packed_change, read_group
from alerts.store.incidents import packed_change as packed_incident
from alerts.store.incidents import read_incident
from alerts.store.mass_failures import KEPT_MS
from alerts.store.port import StorePort
from alerts.store.retention import Retention
from alerts.store.tags import partition_base
from monitor.events import Event

_USUAL: Final = Retention()
_pack = msgspec.msgpack.Encoder().encode
_window = msgspec.json.Decoder(FailureWindow).decode


class Written(IntEnum):
    """The result of a write, as ``route_write`` answers it."""

    DONE = 1
    CHANGED = 0
    """Another process has written since the batch was read. Nothing was written: read it again."""
    LOST = -1
    """Another daemon has the lease of the partition. Nothing was written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What is stored of the events of a batch, and what the batch has changed of it so far."""

    events: Sequence[Event] = ()
    incidents: Batch = field(default_factory=lambda: Batch(last={}, known={}))
    versions: dict[str, int] = field(default_factory=dict)
    """Of the incidents, as they were read."""
    groups: dict[tuple[str, str], tuple[Want, Seen]] = field(default_factory=dict)
    """By receiver and group: those of the events' workers, at the receivers that were asked for."""
    windows: dict[tuple[str, str], FailureWindow] = field(default_factory=dict)
    """By tenant and environment: the deaths in this partition, of those that were asked for."""
    stored: frozenset[tuple[str, str]] = frozenset()
    """The environments whose deaths are stored."""


class RoutingStore:
    """Reads and writes batches.

    Every method raises ``StoreUnavailableError`` if its call may not have been executed.
    """

    def __init__(self, store: StorePort, retention: Retention = _USUAL) -> None:
        self._store = store
        self._incidents_kept = retention.age_ms, retention.incidents
        self._bounds = _pack(retention.bounds(store.partitions))

    async def read(
        self,
        partition: int,
        events: Sequence[Event],
        *,
        receivers: Mapping[str, Sequence[str]],
        environments: Collection[tuple[str, str]] = (),
    ) -> Reading:
        """Read the incidents, groups and deaths that events of one partition are about.

        Args:
            partition: the partition.
            events: at most 100.
            receivers: of each event, by its id, at which the group of its worker is read; those without are not.
            environments: tenants and environments whose deaths are read.
        """
        asked: dict[str, tuple[list[str], dict[str, None]]] = {}
        for event in events:
            event_ids, names = asked.setdefault(mid_of(event), ([], {}))
            event_ids.append(event.event_id)
            names |= dict.fromkeys(receivers.get(event.event_id, ()))
        wanted = [(mid, event_ids, list(names)) for mid, (event_ids, names) in asked.items()]
        named = [qualified(*where) for where in environments]
        base = partition_base(partition)
        rows, failures = await self._store.call("route_read", base, _pack(wanted), _pack(named))
        batch, versions = Batch(last={}, known={}), dict[str, int]()
        groups: dict[tuple[str, str], tuple[Want, Seen]] = {}
        for (mid, event_ids, at), ((last, of_events, incidents), seen) in zip(wanted, rows, strict=True):
            found: dict[bytes, Incident] = {row[0]: read_incident(row) for row in incidents}
            versions |= {row[0].decode(): row[1] for row in incidents}
            if last in found:
                batch.last[mid] = found[last]
            batch.known |= {one: found[key] for one, key in zip(event_ids, of_events, strict=True) if key is not None}
            want = Want(group=f"{WORKER_PREFIX}{mid}", events=tuple(event_ids))
            groups |= {(name, want.group): (want, read_group(row)) for name, row in zip(at, seen, strict=True)}
        known = {where: text for where, text in zip(environments, failures, strict=True) if text is not None}
        return Reading(
            events=events,
            incidents=batch,
            versions=versions,
            groups=groups,
            windows={where: _window(known[where]) if where in known else FailureWindow() for where in environments},
            stored=frozenset(known),
        )

    async def write(
        self,
        partition: int,
        reading: Reading,
        changes: Mapping[str, Sequence[Change]],
        *,
        token: int,
        position: str,
        now_ms: int,
    ) -> Written:
        """Write what a batch changes in its partition: all of it or nothing.

        Args:
            partition: the partition.
            reading: the batch, with the changes of its incidents and deaths.
            changes: of groups that were read, by receiver.
            token: of the lease under which the events were read.
            position: acknowledges all events up to it; empty: none, because more is to be written elsewhere first.
            now_ms: the store's time.
        """
        incidents = [
            packed_incident(one, reading.versions.get(one.id, 0)) for one in reading.incidents.changed.values()
        ]
        windows = [
            (qualified(*where), False if is_idle(window, now_ms) else msgspec.json.encode(window).decode())
            for where, window in reading.windows.items()
            if where in reading.stored or not is_idle(window, now_ms)
        ]
        in_hand = (str(partition), [event.event_id for event in reading.events])
        answer = await self._store.call(
            "route_write",
            partition_base(partition),
            *(token, position, now_ms, _pack((*self._incidents_kept, incidents)), _pack((KEPT_MS, windows))),
            *(self._bounds, _pack(in_hand)),
            _pack([(name, [packed_change(change) for change in some]) for name, some in changes.items()]),
        )
        return Written(answer)
