"""One run: a plan is played out on a site, and everything that was seen is left as a record."""

import asyncio
import contextlib
from dataclasses import replace
from typing import Final

from tests.chaos import machine
from tests.chaos.alerts import NOTIFIED, SETTLED
from tests.chaos.cast import Cast
from tests.chaos.faults import Breaker
from tests.chaos.lives import detection_bound_s
from tests.chaos.oncall import OnCall
from tests.chaos.outages import measured
from tests.chaos.plan import Plan
from tests.chaos.record import DOWN, Outcome, Record, Said
from tests.chaos.site import ROUTED, SWEEP_S, Site, token
from tests.chaos.timeline import Timeline
from tests.support import daemons

EXPIRED_S: Final = 3_600
"""So long ago a token has expired that has: no clock is stepped back so far, and it may still speak for its worker."""
SETTLE_S: Final = 90.0
"""After the last fault: an attempt that was cut off is repeated after its lease of 11 s, and a receiver that failed
five times in a row is tried again after 30 s at the most."""
SETTLE_EVERY_S: Final = 0.5
ALARMING: Final = ("request.failed", "Traceback", "internal error", "task_failed", "crashed")
"""What no daemon may write, whatever is done to its store."""
DELIVERY_LINES: Final = ("delivery.failed", "delivery.unrecorded", "delivery.lease_lost")
"""What daemons write of attempts that may be repeated."""


async def play(plan: Plan) -> Record:
    """Make the run; everything that it started has ended afterwards."""
    timeline = Timeline()
    record = Record(
        seed=plan.seed,
        daemons=plan.daemons,
        sweep_s=SWEEP_S,
        durability=plan.durability,
        is_clock_stepped=plan.is_clock_stepped,
    )
    with daemons.home() as home:
        site = Site(plan, home, record, timeline)
        try:
            await site.open()
            cast = Cast(record, timeline, site.ports, token(), expired_token=token(expires_s=-EXPIRED_S))
            await cast.warm_up()
            before_s = timeline.restart()
            record.arrivals[:] = [replace(one, at_s=one.at_s - before_s) for one in record.arrivals]
            await _perform(plan, site, cast)
        finally:
            await site.close()
    return record


async def _perform(plan: Plan, site: Site, cast: Cast) -> None:
    record, timeline = site.record, site.timeline
    breaker = Breaker(site, cast)
    async with asyncio.TaskGroup() as group:
        going = [group.create_task(cast.probe(number)) for number in range(plan.daemons)]
        going += [group.create_task(cast.live(life)) for life in plan.lives]
        going += [group.create_task(cast.read()), group.create_task(machine.watch(record, timeline, site.pids))]
        oncall = OnCall(record, timeline, site.ports, token(), receiver="desk")
        going += [group.create_task(oncall.care(care)) for care in plan.cares]
        hushing = [oncall.hush(hush) for hush in plan.hushes]
        await asyncio.gather(*(breaker.run(step) for step in plan.steps), *hushing)
        await timeline.reach(plan.horizon_s)
        record.is_settled = await timeline.hold(
            _Settling(plan, cast, record, timeline).is_over, within_s=SETTLE_S, every_s=SETTLE_EVERY_S
        )
        for task in going:
            task.cancel()
    record.ended_s = timeline.now_s()
    for daemon in range(plan.daemons):
        history = await cast.whole_history(daemon)
        if history is not None:
            record.final = history
            break
    else:
        record.trouble.append("no daemon could read the history at the end")
    for number, seat in enumerate(site.seats):
        status = await seat.stop()
        if status != 0:
            record.trouble.append(f"daemon {number} ended with {status} after SIGTERM")
    for run in site.home.daemons:
        lines = run.output().splitlines()
        said = [line for line in lines if any(word in line for word in ALARMING)]
        record.trouble += [f"a daemon wrote: {line[:500]}" for line in said[:3]]
        record.attempts += [line for line in lines if any(word in line for word in DELIVERY_LINES)]


class _Settling:
    """Whether nothing more is to come: every silence has passed its bound, every event has an outcome, who lives is
    served."""

    def __init__(self, plan: Plan, cast: Cast, record: Record, timeline: Timeline) -> None:
        self._plan = plan
        self._cast = cast
        self._record = record
        self._timeline = timeline
        self._outcomes: dict[str, list[Outcome]] = {}

    async def is_over(self) -> bool:
        """Ask once more."""
        if not self._is_still():
            return False
        settled = await self._settled()
        if settled is None:
            return False
        self._record.outcomes = settled
        return True

    def _is_still(self) -> bool:
        now_s = self._record.ended_s = self._timeline.now_s()
        if any(now_s < silence.over_s for silence in self._record.silences):
            return False
        outages = measured(self._record)
        for life in self._plan.lives:
            tries = self._record.of(life.worker.name)
            expired = self._record.refused_of(life.worker.name)
            begun_s, over_s = life.spells[-1]
            if not tries and over_s is not None and now_s > life.last_turn_s:
                continue  # the machine stalled for as long as it lived
            if not tries or (over_s is None and tries[-1].sent_s < begun_s):
                return False  # its next turn is about to begin
            last = tries[-1]
            recent = [one for one in tries if now_s - one.ended_s < life.worker.interval_s + 0.5]
            if recent:
                if not any(one.is_stored for one in recent):
                    return False  # it beats, and is not served yet
            elif last.said is Said.BEAT and now_s < detection_bound_s(
                self._record, outages, life.worker, sorted({*tries, *expired}, key=lambda one: one.sent_s)
            ):
                return False
        return True

    async def _settled(self) -> list[Outcome] | None:
        ids = await self._cast.whole_history(0)
        if ids is None:
            return None
        known = {entry.event_id: entry for entry in self._record.entries}
        newest = {known[event_id].worker: event_id for event_id in ids}
        for event_id in ids:
            if event_id in self._outcomes:
                continue
            answer = await self._cast.get(0, f"/api/v1/events/{event_id}/outcomes")
            if answer is None:
                return None
            found = [
                Outcome(event_id=event_id, receiver=one["receiver"], outcome=one["outcome"])
                for one in answer["outcomes"]
            ]
            entry = known[event_id]
            wanted = {name for name in self._record.receivers if self._record.wants(name, entry)}
            wanted |= self._record.groups if entry.kind in ROUTED else set()
            is_down = entry.kind in DOWN and newest[entry.worker] == event_id
            done = {one.receiver for one in found if one.outcome in (NOTIFIED if is_down else SETTLED)}
            if not wanted <= done:
                return None
            self._outcomes[event_id] = found
        return [one for event_id in ids for one in self._outcomes[event_id]]


def played(plan: Plan) -> Record:
    """Make the run on an event loop of its own."""
    with contextlib.closing(asyncio.Runner()) as runner:
        return runner.run(play(plan))
