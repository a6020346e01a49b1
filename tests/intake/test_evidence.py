"""P11: evidence on its way to the store, bounded and without errors for callers; and its effect in a daemon."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from monitor.blindness import GAP_MS, PULSE_MS
from monitor.errors import StoreUnavailableError
from monitor.intake.evidence import LOT, LOTS_OF_A_PARTITION, MOST_PENDING, SPACING_S, Recorder
from monitor.metrics.registry import Metrics
from monitor.store import Store
from monitor.workers import Evidence, Rejection, Worker, WorkerKey
from tests.support import daemons
from tests.support.stores import ManualClock, beat, settings

on_valkey = pytest.mark.parametrize("store_url", ["valkey"], indirect=True)


class WatchedStore(Store):
    """The store, and a note of the evidence that it was given."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.chunks: list[Sequence[Evidence]] = []
        self.down = False
        self.meanwhile: Callable[[], None] = lambda: None

    async def evidence(self, partition: int, evidence: Sequence[Evidence]) -> None:
        self.chunks.append(evidence)
        self.meanwhile()
        if self.down:
            raise StoreUnavailableError("down")
        assert {self.partition_of(one.key) for one in evidence} == {partition}
        await super().evidence(partition, evidence)

    @property
    def given(self) -> list[Evidence]:
        return [one for lot in self.chunks for one in lot]


class Rig:
    """A recorder over a store, with a clock of its own."""

    def __init__(self, store: WatchedStore) -> None:
        self.store = store
        self.clock = ManualClock(store.settings.url, store.partitions)
        self.now_s = 100.0
        self.metrics = Metrics(version="test")
        self.recorder = Recorder(store, metrics=self.metrics, elapsed_s=lambda: self.now_s)

    def note(self, worker_id: str, rejection: Rejection = Rejection.TOO_LARGE, **changes: Any) -> None:
        values = {"key": WorkerKey("acme", worker_id), "allowed": None, "rejection": rejection, "subject": "svc"}
        self.recorder.note(Evidence(**{**values, **changes}))

    def counted(self, outcome: str) -> float:
        text, _ = self.metrics.exposition("")
        (line,) = [
            line
            for line in text.decode().splitlines()
            if line.startswith(f'lastseen_evidence_total{{outcome="{outcome}"}}')
        ]
        return float(line.split()[-1])

    async def later(self) -> None:
        """Move the clock: further calls come in a later millisecond."""
        await self.clock.set(self.store.clock.now_ms() + 10)

    async def worker(self, worker_id: str) -> Worker:
        _, _, worker = await self.store.get(WorkerKey("acme", worker_id))
        assert worker is not None
        return worker


@asynccontextmanager
async def opened(url: str, **changes: Any) -> AsyncIterator[Rig]:
    store = await WatchedStore.open(settings(url, **changes))
    assert isinstance(store, WatchedStore)
    try:
        yield Rig(store)
    finally:
        await store.close()


@pytest.fixture
async def rig(store_url: str) -> AsyncIterator[Rig]:
    async with opened(store_url) as made:
        yield made


async def test_p11_what_is_noted_is_read_with_the_worker_until_a_beat_is_accepted(rig: Rig) -> None:
    await rig.store.beat(0, [beat("w")])
    assert (await rig.worker("w")).rejected is None
    await rig.later()
    rig.note("w", Rejection.TOKEN_EXPIRED)
    rig.note("unknown")
    await rig.recorder.flush()
    rejected = (await rig.worker("w")).rejected
    assert rejected is not None
    assert rejected.reason == "token expired"
    await rig.later()
    await rig.store.beat(0, [beat("w")])
    assert (await rig.worker("w")).rejected is None
    _, _, unknown = await rig.store.get(WorkerKey("acme", "unknown"))
    assert unknown is None, "it registers no worker"


async def test_p28_a_beat_that_was_refused_by_our_fault_moves_the_deadline(rig: Rig) -> None:
    await rig.store.beat(0, [beat("w"), beat("v")])
    before = await rig.worker("w"), await rig.worker("v")
    await rig.later()
    rig.note("w", Rejection.OVERLOADED)
    rig.note("v", Rejection.RATE_LIMITED)
    await rig.recorder.flush()
    after = await rig.worker("w"), await rig.worker("v")
    assert after[0].deadline_ms > before[0].deadline_ms
    assert after[1].deadline_ms == before[1].deadline_ms


async def test_p11_evidence_of_a_token_for_another_environment_is_none(rig: Rig) -> None:
    await rig.store.beat(0, [beat("w", environment="prod")])
    await rig.later()
    rig.note("w", allowed=("stage",))
    await rig.recorder.flush()
    assert (await rig.worker("w")).rejected is None
    rig.note("w", allowed=("stage", "prod"))
    await rig.recorder.flush()
    assert (await rig.worker("w")).rejected is not None, "and it does not stand in the way of another token's"


async def test_p11_one_worker_is_noted_once_in_a_while(rig: Rig) -> None:
    for _ in range(1_000):
        rig.note("w")
    await rig.recorder.flush()
    assert len(rig.store.given) == 1
    rig.now_s += SPACING_S - 0.001
    rig.note("w")
    await rig.recorder.flush()
    assert len(rig.store.given) == 1
    for _ in range(5):
        rig.now_s += 1
        rig.note("w")
        await rig.recorder.flush()
    assert len(rig.store.given) == 6, "each try of a worker with the shortest interval, of a second"


async def test_p28_of_two_refusals_that_wait_the_one_that_is_our_fault_counts(rig: Rig) -> None:
    rig.note("w", Rejection.MALFORMED)
    rig.note("v", Rejection.MALFORMED)
    rig.note("w", Rejection.OVERLOADED)
    rig.note("w", Rejection.MALFORMED)
    await rig.recorder.flush()
    written = [(one.key.worker_id, one.rejection) for one in rig.store.given]
    assert written == [("w", Rejection.OVERLOADED), ("v", Rejection.MALFORMED)], "and it comes first"


@on_valkey
async def test_p28_evidence_is_bounded_and_what_is_too_much_is_dropped_and_counted(store_url: str) -> None:
    async with opened(store_url) as rig:
        for number in range(MOST_PENDING + 500):
            rig.note(f"w-{number}")
        await rig.recorder.flush()
        most = LOT * LOTS_OF_A_PARTITION
        assert max(map(len, rig.store.chunks)) <= LOT
        assert len(rig.store.given) == most
        assert rig.counted("recorded") == most
        assert rig.counted("dropped") == MOST_PENDING + 500 - most


@on_valkey
async def test_p11_trouble_of_the_store_is_no_error_of_the_recorder(store_url: str) -> None:
    async with opened(store_url) as rig:
        rig.store.down = True
        for number in range(3 * LOT):
            rig.note(f"w-{number}")
        await rig.recorder.flush()
        assert len(rig.store.chunks) == 1, "the rest is not even tried"
        assert rig.counted("dropped") == 3 * LOT
        rig.store.down = False
        rig.now_s += 1
        rig.note("w-1")
        await rig.recorder.flush()
        assert rig.counted("recorded") == 1


@on_valkey
async def test_p11_evidence_that_has_waited_too_long_is_dropped(store_url: str) -> None:
    async with opened(store_url) as rig:
        for number in range(2 * LOT):
            rig.note(f"w-{number}")

        def wait() -> None:
            rig.now_s += 2.1

        rig.store.meanwhile = wait
        await rig.recorder.flush()
        assert len(rig.store.given) == LOT
        assert rig.counted("dropped") == LOT


async def test_p28_it_is_known_how_long_refusals_of_our_own_fault_wait(rig: Rig) -> None:
    rig.note("w", Rejection.MALFORMED)
    rig.now_s += 1
    assert rig.recorder.oldest_s() == 0, "what the worker did wrong does not count"
    rig.note("w", Rejection.OVERLOADED)
    rig.note("v", Rejection.OVERLOADED)
    rig.now_s += 0.5
    rig.note("u", Rejection.OVERLOADED)
    assert rig.recorder.oldest_s() == 0.5
    waited = []

    def meanwhile() -> None:
        waited.append(rig.recorder.oldest_s())

    rig.store.meanwhile = meanwhile
    await rig.recorder.flush()
    assert waited == [0.5], "also while it is being given"
    assert rig.recorder.oldest_s() == 0


@on_valkey
@pytest.mark.parametrize("why", ["the store is down", "too old", "too many"])
async def test_p28_it_is_known_that_a_refusal_of_our_own_fault_was_dropped(store_url: str, why: str) -> None:
    async with opened(store_url) as rig:
        rig.store.down = why == "the store is down"
        for number in range(MOST_PENDING + 1 if why == "too many" else 1):
            rig.note(f"w-{number}", Rejection.OVERLOADED)
        if why == "too old":
            rig.now_s += 2.1
        await rig.recorder.flush()
        assert rig.recorder.oldest_s() == math.inf
        rig.now_s += (GAP_MS + PULSE_MS) / 1_000 - 0.001
        assert rig.recorder.oldest_s() == math.inf, "until it must have shown as a gap between pulses"
        rig.now_s += 0.001
        assert rig.recorder.oldest_s() == 0


@on_valkey
async def test_p28_what_others_did_wrong_takes_no_place_of_our_own_fault(store_url: str) -> None:
    async with opened(store_url) as rig:
        for number in range(MOST_PENDING + 1):
            rig.note(f"w-{number}", Rejection.MALFORMED)
        rig.note("w", Rejection.OVERLOADED)
        await rig.recorder.flush()
        assert rig.store.given[0].key.worker_id == "w"
        assert rig.recorder.oldest_s() == 0


@on_valkey
async def test_p11_a_recorder_that_runs_gives_what_is_noted_by_itself(store_url: str) -> None:
    async with opened(store_url) as rig:
        await rig.store.beat(0, [beat("w")])
        running = asyncio.create_task(rig.recorder.run())
        given = asyncio.Event()
        rig.store.meanwhile = given.set
        for _ in range(2):
            given.clear()
            rig.note("w")
            await asyncio.wait_for(given.wait(), 20)
            rig.now_s += 1
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


# In a daemon --------------------------------------------------------------------------------------------------------

QUICK: Final = (
    f'{daemons.ANY_PORT}\n[liveness]\ninterval = "1s"\ngrace = "1s"\nsweep_interval = "200ms"\n'
    "[limits]\nworker_beats_per_second = 1\nworker_beats_burst = 1\n"
)


def test_p11_a_worker_whose_beats_are_refused_is_reported_as_rejected_and_a_forger_is_not_believed() -> None:
    with daemons.home() as home:
        home.write(QUICK)
        daemon = home.start()
        reading, named = home.token("workers:read"), home.token("workers:read", worker_id="scope")
        forged = reading[:-4] + ("AAAA" if not reading.endswith("AAAA") else "BBBB")
        for name in ("scope", "fleet", "forged", "silent", "rate"):
            assert daemon.beat(name).status == 204

        def newest(worker_id: str) -> str | None:
            body = {"worker_id": "scope", "environment_name": "prod"}
            assert daemons.call(daemon.url, "POST", daemons.BEAT, token=named, body=body).status == 403
            body["worker_id"] = "fleet"
            assert daemons.call(daemon.url, "POST", daemons.BEAT, token=reading, body=body).status == 403
            body["worker_id"] = "forged"
            assert daemons.call(daemon.url, "POST", daemons.BEAT, token=forged, body=body).status == 401
            assert daemon.beat("rate").status in {204, 429}
            events = daemon.get(f"/api/v1/events?worker_id={worker_id}&order=desc")["events"]
            kinds = [event["type"] for event in events if event["type"] != "worker.registered"]
            return kinds[-1] if kinds else None

        assert daemons.until(lambda: newest("scope"), "an event of the one without the scope") == "worker.rejected"
        assert daemons.until(lambda: newest("forged"), "an event of the forger") == "worker.stale"
        assert daemons.until(
            lambda: newest("fleet"), "an event of one whom a token without the scope does not name"
        ) == ("worker.stale")
        assert daemons.until(lambda: newest("silent"), "an event of the silent one") == "worker.stale"
        assert daemon.get("/api/v1/workers/rate")["liveness"] in {"alive", "late"}
        worker = daemon.get("/api/v1/workers/scope")
        assert worker["liveness"] == "stale"
        assert worker["rejected"]["reason"] == "token lacks the scope"
        assert worker["rejected"]["at"] > worker["last_seen"]
        assert daemon.get("/api/v1/workers/forged")["rejected"] is None
        listed = {one["worker_id"]: one["rejected"] for one in daemon.get("/api/v1/workers")["workers"]}
        assert listed["silent"] is None
        assert listed["scope"]["reason"] == "token lacks the scope"
