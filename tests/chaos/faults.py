"""Doing the faults of a plan to a site, and noting what was done."""

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Final

from tests.chaos.cast import Cast
from tests.chaos.plan import BEFORE_S, OF_HOSTILE, OF_NET, OF_RECEIVER, OF_SENTINEL, OF_STORE, Kind, Step
from tests.chaos.record import HOSTILE, RECEIVERS, Fault, Loss
from tests.chaos.site import Seat, Site, Store, token
from tests.chaos.strangers import Strangers
from tests.support import disks
from tests.support.proxies import BOTH, CutAnswer, CutRequest, Proxy, Way
from tests.support.sentinels import DEMOTED_AFTER_S, Watched

START_S: Final = 30.0
"""Time limit for a daemon or a store to return. After it the fault is recorded with this duration."""
SYNC_MS: Final = 5_000
FLOOD: Final = 64
"""Connections over which a daemon is overloaded."""
SLOWED_S: Final = 0.1
SLOWED_SHARE: Final = 0.2
"""Running time of an overloaded daemon in each tenth of a second."""

HOSTILE_SHARE: Final = 0.2
"""Of the connections of each attack: this machine has two cores, and a run is one of several."""
HOSTILE_BYTES_PER_S: Final = 2_000_000
ATTACKS: Final = {
    Kind.HOSTILE_HEADS: (
        "unfinished heads",
        "field floods",
        "long fields",
        "endless trailers",
        "nonsense",
        "disconnects",
    ),
    Kind.HOSTILE_BODIES: ("unfinished batches", "unfinished bodies", "upgrades", "beats"),
    Kind.HOSTILE_READS: ("reads", "silences"),
    Kind.HOSTILE_CRASHES: ("crashes",),
}

REPLICATION_S: Final = 1.0
"""Maximum lag of a replica behind its primary."""


class Breaker:
    """Breaks one site."""

    def __init__(self, site: Site, cast: Cast) -> None:
        self._site = site
        self._cast = cast

    async def run(self, step: Step) -> None:
        """Do one step at its time; return when it is over and mended."""
        timeline = self._site.timeline
        await timeline.reach(step.at_s)
        begun_s = timeline.now_s()
        target = None if step.kind.startswith("store.") else step.target
        try:
            await self._doing(step)
        finally:
            self._site.record.faults.append(
                Fault(kind=step.kind, target=target, begun_s=begun_s, ended_s=timeline.now_s())
            )

    async def _doing(self, step: Step) -> None:
        if step.kind in OF_RECEIVER:
            await self._receiver(step)
        elif step.kind in OF_NET:
            await self._net(step)
        elif step.kind in OF_SENTINEL:
            assert self._site.watched is not None
            await self._failover(step, self._site.watched)
        elif step.kind in OF_HOSTILE:
            await self._hostile(step)
        elif step.kind in OF_STORE:
            await (self._own_store(step) if self._site.store is None else self._store(step, self._site.store))
        else:
            await self._daemons(step)

    # Daemons ------------------------------------------------------------------------------------------------------

    async def _daemons(self, step: Step) -> None:
        match step.kind:
            case Kind.DAEMON_KILL:
                await self._away([self._site.seats[step.target]], step.for_s, _kill)
            case Kind.DAEMON_RESTART:
                await self._away([self._site.seats[step.target]], step.for_s, self._stop)
            case Kind.ALL_KILL:
                await self._away(self._site.seats, step.for_s, _kill)
            case Kind.DAEMON_PAUSE:
                await self._paused([self._site.seats[step.target]], step.for_s)
            case Kind.ALL_PAUSE:
                await self._paused(self._site.seats, step.for_s)
            case Kind.PROCESS_KILL | Kind.PROCESS_PAUSE:
                await self._process(step, self._site.seats[step.target])
            case Kind.OVERLOAD:
                await self._overload(step, self._site.seats[step.target])
            case _:
                raise AssertionError(step)

    async def _away(self, seats: list[Seat], for_s: float, end: Callable[[Seat], Awaitable[None]]) -> None:
        await asyncio.gather(*(end(seat) for seat in seats))
        await asyncio.sleep(for_s)
        await asyncio.gather(*(seat.launch() for seat in seats))
        await self._take_beats(seats)

    async def _stop(self, seat: Seat) -> None:
        status = await seat.stop()
        if status != 0:
            self._site.record.trouble.append(f"a daemon ended with {status} after SIGTERM")

    async def _paused(self, seats: list[Seat], for_s: float) -> None:
        for seat in seats:
            seat.signal(signal.SIGSTOP)
        await asyncio.sleep(for_s)
        for seat in seats:
            seat.signal(signal.SIGCONT)

    async def _process(self, step: Step, seat: Seat) -> None:
        """To one of a daemon's processes; its own supervisor starts another for one that is killed."""
        pids = seat.processes()
        if not pids:
            return
        pid = pids[int(step.amount * len(pids))]
        with contextlib.suppress(ProcessLookupError):
            if step.kind is Kind.PROCESS_KILL:
                os.kill(pid, signal.SIGKILL)
                await self._take_beats([seat])
                return
            os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(step.for_s)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    async def _overload(self, step: Step, seat: Seat) -> None:
        """Let it run for a share of its time only, and send it more than it can take."""
        async with asyncio.TaskGroup() as group:
            flood = [group.create_task(self._cast.flood(step.target, number)) for number in range(FLOOD)]
            until_s = self._site.timeline.now_s() + step.for_s
            while self._site.timeline.now_s() < until_s:
                seat.signal(signal.SIGSTOP)
                await asyncio.sleep(SLOWED_S * (1 - SLOWED_SHARE))
                seat.signal(signal.SIGCONT)
                await asyncio.sleep(SLOWED_S * SLOWED_SHARE)
            for task in flood:
                task.cancel()

    async def _take_beats(self, seats: list[Seat]) -> None:
        """Wait, with a bound, until a probe of each succeeds that was sent from now on."""
        now_s = self._site.timeline.now_s()
        wanted = {self._site.seats.index(seat) for seat in seats}

        async def back() -> bool:
            newest = reversed(self._site.record.probes)
            recent = itertools.takewhile(lambda probe: probe.ended_s >= now_s, newest)
            return wanted <= {probe.daemon for probe in recent if probe.is_stored and probe.sent_s >= now_s}

        await self._site.timeline.hold(back, within_s=START_S)

    # The store ----------------------------------------------------------------------------------------------------

    def _signal_store(self, number: int) -> None:
        pid = self._site.store_pid()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    async def _own_store(self, step: Step) -> None:
        """To the one that a daemon keeps for itself, and starts again by itself."""
        if step.kind is Kind.STORE_KILL:
            self._signal_store(signal.SIGKILL)
            await self._take_beats(self._site.seats)
        else:
            await self._store_paused(step)

    async def _store_paused(self, step: Step) -> None:
        self._signal_store(signal.SIGSTOP)
        await asyncio.sleep(step.for_s)
        self._signal_store(signal.SIGCONT)

    async def _store(self, step: Step, store: Store) -> None:
        match step.kind:
            case Kind.STORE_PAUSE:
                await self._store_paused(step)
            case Kind.STORE_KILL:
                await store.kill()
                await asyncio.sleep(step.for_s)
                await store.start()
            case Kind.STORE_POWER_CUT:
                await self._power_cut(step, store)
            case Kind.STORE_RESTORE:
                await self._restore(step, store)
            case Kind.STORE_CLOCK:
                store.step_clock(step.amount)
                await asyncio.sleep(step.for_s)
                self._note_clock_step()
                store.step_clock(0.0)
            case Kind.MEMORY_FULL:
                await store.command("CONFIG", "SET", "maxmemory", 1)
                await asyncio.sleep(step.for_s)
                await store.command("CONFIG", "SET", "maxmemory", 0)
            case Kind.DISK_FULL:
                with disks.full(store.pid, store.directory, room_bytes=int(step.amount * 4_000)):
                    await asyncio.sleep(step.for_s)
            case _:
                raise AssertionError(step)
        if step.kind in {Kind.STORE_KILL, Kind.STORE_POWER_CUT, Kind.STORE_RESTORE}:
            await self._take_beats(self._site.seats)

    def _note_clock_step(self) -> None:
        """The step back is a fault of its own."""
        now_s = self._site.timeline.now_s()
        self._site.record.faults.append(Fault(kind=Kind.STORE_CLOCK, target=None, begun_s=now_s, ended_s=now_s))

    async def _power_cut(self, step: Step, store: Store) -> None:
        """Have the disk sync nothing any more, kill the store, and cut off its file somewhere behind what is synced."""
        kept_s = self._site.timeline.now_s()
        await store.command("SET", "chaos", str(step.at_s))
        await store.command("WAITAOF", 1, 0, SYNC_MS)
        await store.command("CONFIG", "SET", "appendfsync", "no")  # WAITAOF then waits in vain
        file = disks.appended(store.directory)
        synced = file.stat().st_size
        await asyncio.sleep(step.amount * BEFORE_S[step.kind])
        await store.kill()
        written = file.stat().st_size
        os.truncate(file, synced + int((written - synced) * step.amount))
        await self._come_back_without(kept_s, step, store, is_confirmed=False)

    async def _restore(self, step: Step, store: Store) -> None:
        """Kill it, and put back a copy that was made some time before."""
        kept_s = self._site.timeline.now_s()
        copy = store.directory / f"copy-{kept_s:.2f}"
        await asyncio.to_thread(store.copy_to, copy)
        await asyncio.sleep(step.amount * BEFORE_S[step.kind])
        await store.kill()
        await asyncio.to_thread(store.put_back, copy)
        await self._come_back_without(kept_s, step, store, is_confirmed=True)

    async def _come_back_without(self, kept_s: float, step: Step, store: Store, *, is_confirmed: bool) -> None:
        gone_s = self._site.timeline.now_s()
        await asyncio.sleep(step.for_s)
        back_s = self._site.timeline.now_s()
        await store.start()
        self._site.record.losses.append(
            Loss(kept_s=kept_s, gone_s=gone_s, away_s=back_s, back_s=back_s, is_confirmed=is_confirmed)
        )
        self._cast.forget_place()

    async def _failover(self, step: Step, watched: Watched) -> None:
        """Make another node primary. Lost are the writes that the old primary had not passed on, and those that it
        takes when it is back, until it is demoted."""
        begun_s = self._site.timeline.now_s()
        old = await asyncio.to_thread(watched.primary)
        match step.kind:
            case Kind.FAILOVER:
                await asyncio.to_thread(watched.failover)
            case Kind.PRIMARY_KILL:
                await asyncio.to_thread(old.kill)
                await asyncio.to_thread(watched.another, than=old)
                await asyncio.sleep(step.for_s)
                await asyncio.to_thread(old.start)
            case _:
                old.pause()
                await asyncio.sleep(step.for_s)
                old.resume()
        await asyncio.sleep(DEMOTED_AFTER_S)
        await asyncio.to_thread(watched.settled)
        self._site.record.losses.append(
            Loss(
                kept_s=begun_s - REPLICATION_S,
                gone_s=begun_s,
                away_s=begun_s - REPLICATION_S,
                back_s=self._site.timeline.now_s(),
                is_confirmed=False,
            )
        )
        self._cast.forget_place()
        await self._take_beats(self._site.seats)

    # The network --------------------------------------------------------------------------------------------------

    async def _net(self, step: Step) -> None:
        seats = self._site.seats if step.amount > 0.5 and step.kind is not Kind.NET_DELAY else []
        for proxy in [seat.proxy for seat in seats or [self._site.seats[step.target]] if seat.proxy is not None]:
            await self._break(step, proxy)
        await asyncio.sleep(step.for_s)
        for seat in self._site.seats:
            if seat.proxy is not None:
                await seat.proxy.heal()

    async def _break(self, step: Step, proxy: Proxy) -> None:
        match step.kind:
            case Kind.NET_CUT:
                proxy.cut()
                proxy.plan(CutRequest(skip=2, times=1))
                proxy.plan(CutAnswer(skip=5, times=1))
            case Kind.NET_CUT_KTH:
                proxy.plan(CutRequest(skip=int(step.amount), times=3))
                proxy.plan(CutAnswer(skip=2 * int(step.amount), times=3, passed_bytes=3))
            case Kind.NET_DELAY:
                proxy.delay_s = dict.fromkeys(BOTH, step.amount)
            case Kind.NET_BLACK_HOLE:
                proxy.stall()
            case Kind.NET_ANSWERS_HELD:
                proxy.stall(Way.ANSWERS)
            case Kind.NET_HALF_OPEN:
                proxy.half_close(Way.ANSWERS if step.for_s > 1.0 else Way.REQUESTS)
            case Kind.NET_REFUSED:
                await proxy.refuse()
                proxy.cut()
            case _:
                raise AssertionError(step)

    # Clients that do not obey ------------------------------------------------------------------------------------

    async def _hostile(self, step: Step) -> None:
        strangers = Strangers(
            self._site.ports[step.target],
            token=token(tenant=HOSTILE),
            restricted=token(tenant=HOSTILE, worker_id="m-1"),
            bytes_per_s=HOSTILE_BYTES_PER_S,
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(step.for_s):
                await strangers.run(*ATTACKS[step.kind], share=HOSTILE_SHARE)
        self._site.record.hostile_requests += strangers.answers.total()

    # Receivers ----------------------------------------------------------------------------------------------------

    async def _receiver(self, step: Step) -> None:
        receiver = self._site.receivers[RECEIVERS[step.target]]
        match step.kind:
            case Kind.RECEIVER_500:
                receiver.answer = 500
            case Kind.RECEIVER_HANGS:
                receiver.answer = None
            case _:
                await receiver.close()
        await asyncio.sleep(step.for_s)
        receiver.answer = 204
        await receiver.open()


async def _kill(seat: Seat) -> None:
    await seat.kill()
