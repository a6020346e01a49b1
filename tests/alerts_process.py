"""A daemon's alerting half in a process of its own, for tests that kill it.

Arguments: store URL, webhook URL, store time at the start in ms. Routes the same events from the
beginning at every start, as after a crash before the ack. Ends when its queue is empty.
"""

from __future__ import annotations

import asyncio
import sys

from alerts.durability import Durability
from alerts.receivers import WebhookSettings, open_receiver
from alerts.routing import Route
from alerts.service import AlertService
from monitor.clock import StoreClock
from tests.alerts_fakes import SECRET, ListSource, events

WORKERS = 40
EVENTS_EACH = 5


async def main(store_url: str, hook_url: str, start_ms: int) -> None:
    clock = StoreClock()
    clock.observe(start_ms)
    source = ListSource(events(WORKERS, EVENTS_EACH))
    service = AlertService(
        redis_url=store_url,
        receivers=[open_receiver(WebhookSettings(name="ops", url=hook_url, secrets=(SECRET,), allow_private=True))],
        routes=[Route(receivers=("ops",))],
        source=source,
        partitions=1,
        durability=Durability.parse("fsync"),
        now_ms=clock.now_ms,
        on_outcome=lambda _receiver, _outcome: None,
        on_failure=lambda _part, error: sys.exit(repr(error)),
    )
    await service.start()
    while source.acked < len(source.stream) or (await service.health())[0].queued:  # noqa: ASYNC110 - the store tells nobody
        await asyncio.sleep(0.02)
    await service.stop()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
