"""Where the monitor's own outages, refused beats, announced absences and the store's clock meet each other."""

from __future__ import annotations

from monitor.liveness import EventKind
from tests.stores import INTERVAL_MS
from tests.test_blindness import REACH_MS, monitor, refused

# Refused beats


async def test_p11_an_outage_after_its_deadline_does_not_make_a_rejected_worker_silent(store_url: str) -> None:
    async with monitor(store_url) as m:
        seen = await m.beat()
        await m.runs(seen + REACH_MS - 1_000)
        await m.store.evidence(0, [refused()])
        await m.runs(seen + REACH_MS)  # and no sweep
        await m.outage(m.now_ms + 3_600_000)
        back = m.now_ms
        assert await m.swept() == [(EventKind.REJECTED, seen + REACH_MS)]
        await m.runs(back + REACH_MS - 1)
        assert await m.swept() == []
        await m.runs(back + REACH_MS)
        assert await m.swept() == [(EventKind.STALE, back + REACH_MS)]


async def test_p25_what_is_recorded_of_a_rejected_worker_does_not_depend_on_when_a_sweep_comes(store_url: str) -> None:
    async with monitor(store_url) as m:
        seen = await m.beat()
        await m.runs(seen + INTERVAL_MS)
        await m.store.evidence(0, [refused()])
        ends = m.now_ms + REACH_MS
        await m.runs(ends + 5_000)
        assert await m.swept() == [(EventKind.REJECTED, seen + REACH_MS), (EventKind.STALE, ends)]
        assert await m.swept() == []
