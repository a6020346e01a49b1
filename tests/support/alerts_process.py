"""A daemon's alerting half in a process of its own, for tests that kill it.

Arguments: store URL, webhook URL, store time at the start in ms, stage of ``stream``, number of workers, number of
partitions, durability. Routes the same events from the beginning at every start, as after a crash before the ack. Ends
when all is sent. A failpoint may stand in its environment (``tests.support.failpoints``).
"""

import asyncio
import itertools
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from alerts.receivers.webhook import WebhookReceiver
from alerts.rendering.payload import Wording
from alerts.routing.routes import Route
from alerts.service import AlertService, AlertSettings
from monitor.clock import StoreClock
from monitor.events import Event, Taken
from monitor.liveness import EventKind, Liveness
from monitor.workers import WorkerKey, partition_of
from tests.support import parts
from tests.support.alerts_fakes import CALM, SECRET, ListSource, Tally, event
from tests.support.failpoints import failpoint
from tests.support.stores import alert_store

LAST: Final = 2
"""The last stage."""
_BACK: Final = {"kind": EventKind.RECOVERED, "old": Liveness.STALE, "new": Liveness.ALIVE}


def stream(workers: int, stage: int, partitions: int = 1) -> list[Event]:
    """What has happened until a stage: workers die (0), a fifth as many die late (1), all come back (2).

    At last, another fifth dies and comes back at once.
    """
    late = [f"late{number}" for number in range(workers // 5)]
    names = [[f"w{worker}" for worker in range(workers)], late]
    found = [event(2, worker_id=name) for name in itertools.chain(*names[: stage + 1])]
    if stage == LAST:
        found += [event(3, worker_id=name, **_BACK) for name in itertools.chain(*names)]
        for number in range(len(late)):
            found += [event(2, worker_id=f"brief{number}"), event(3, worker_id=f"brief{number}", **_BACK)]
    return [
        replace(one, position=f"{number}-0", partition=partition_of(WorkerKey("acme", one.worker_id), partitions))
        for number, one in enumerate(found, 1)
    ]


class Streams:
    """The streams of several partitions, each a list."""

    def __init__(self, events: list[Event], partitions: int) -> None:
        self._sources = [ListSource([one for one in events if one.partition == n]) for n in range(partitions)]
        self._partitions = {one.position: one.partition for one in events}

    async def claim(self, partition: int, limit: int) -> Taken | None:
        return await self._sources[partition].claim(0, limit)

    def owns(self, partition: int) -> bool:
        return partition < len(self._sources)

    def routed(self, position: str) -> None:
        self._sources[self._partitions[position]].routed(position)

    @property
    def is_over(self) -> bool:
        """Whether all events are acknowledged."""
        return all(source.acked == len(source.stream) for source in self._sources)


async def main(store_url: str, hook_url: str, numbers: Sequence[int], durability: str) -> None:
    start_ms, stage, workers, partitions = numbers
    clock = StoreClock()
    clock.observe(start_ms)
    source = Streams(stream(workers, stage, partitions), partitions)
    service = AlertService(
        AlertSettings(
            receivers=[WebhookReceiver(name="ops", url=hook_url, secrets=(SECRET,), allow_private=True)],
            routes=[Route(receivers=("ops",), repeat_interval_ms=0)],
            wording=Wording(public_url="", redact=()),
            rule=None,  # each is notified by itself
        ),
        store=alert_store(store_url, durability=durability, partitions=partitions, routed=source.routed),
        source=source,
        partitions=partitions,
        fleet=CALM,
        now_ms=clock.now_ms,
        counts=Tally(),
        failpoint=failpoint(os.environ),
    )
    await service.start()
    groups = service.groups["ops"]
    while not source.is_over or await parts.due(groups, offset=0, limit=1):  # noqa: ASYNC110 - no wake-up exists
        await asyncio.sleep(0.02)
    await service.stop()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], [int(word) for word in sys.argv[3:7]], sys.argv[7]))
