"""The intake on a real store: order, batches, and an answer to every caller in all cases."""

import asyncio
import signal
from collections.abc import Awaitable
from typing import Any

import pytest
import uvloop

from monitor.errors import (
    IntakeFullError,
    NotAllowedError,
    QuotaExceededError,
    StoreUnavailableError,
    UnknownWorkerError,
)
from monitor.events import Event, Moved
from monitor.intake.batches import BATCH_LIMIT
from monitor.intake.queue import DEEP, DEEP_LIMIT, LANES, Intake
from monitor.liveness import EventKind, Trigger
from monitor.store import Store
from monitor.workers import Disconnect, Forget, WorkerKey
from tests.support import servers
from tests.support.stores import DEV, INTERVAL_MS, beat, opened
from tests.support.watched import PATIENCE_S, alive, watched


def intake_on(store: Store, *, capacity: int = 10_000, moved: list[Moved] | None = None, lanes: int = LANES) -> Intake:
    return Intake(store, capacity=capacity, on_moved=(moved if moved is not None else []).extend, lanes=lanes)


def goodbye(worker: str = "w", **changes: Any) -> Disconnect:
    values: dict[str, Any] = {
        "key": WorkerKey("acme", worker),
        "allowed": None,
        "trigger": Trigger.DISCONNECT_CLEAN,
        "reason": "shutdown",
        "exit_code": 0,
        "error_message": None,
    }
    return Disconnect(**{**values, **changes})


def erasure(worker: str = "w", allowed: tuple[str, ...] | None = None) -> Forget:
    return Forget(key=WorkerKey("acme", worker), allowed=allowed)


def submit(intake: Intake, letter: str, worker: str = "w") -> Awaitable[object]:
    """One call: a (b)eat, a (c)lean disconnect, a (f)ailure, a deletion (e)."""
    match letter:
        case "b":
            return intake.apply(beat(worker))
        case "c":
            return intake.apply(goodbye(worker))
        case "f":
            return intake.apply(goodbye(worker, trigger=Trigger.DISCONNECT_FAILURE, reason="crash", exit_code=1))
        case _:
            return intake.apply(erasure(worker))


async def history(store: Store) -> list[Event]:
    events: list[Event] = []
    for partition in range(store.partitions):
        some = (await store.history(partition, "acme", after="", limit=1_000, newest_first=False)).events
        events += some
    return events


# Order


@pytest.mark.parametrize(
    ("letters", "expected"),
    [
        ("bcb", "registered stopped resumed"),
        ("bcbcb", "registered stopped resumed stopped resumed"),
        ("bbbfbb", "registered failed recovered"),
        ("bfc", "registered failed"),
        ("bccb", "registered stopped resumed"),
        ("beb", "registered forgotten registered"),
        ("bcebfb", "registered stopped forgotten registered failed recovered"),
    ],
)
async def test_what_is_said_of_a_worker_commits_in_the_order_of_arrival(
    store_url: str, letters: str, expected: str
) -> None:
    async with opened(store_url) as store:
        intake = intake_on(store)
        await asyncio.gather(*(submit(intake, letter) for letter in letters))
        assert [event.kind.removeprefix("worker.") for event in await history(store)] == expected.split()


async def test_the_order_holds_for_each_of_many_workers_over_partitions(store_url: str) -> None:
    async with opened(store_url, partitions=4) as store:
        intake = intake_on(store)
        workers = [f"w{k}" for k in range(50)]
        await asyncio.gather(*(submit(intake, letter, worker) for letter in "bbcbfb" for worker in workers))
        kinds: dict[str, list[EventKind]] = {}
        for event in await history(store):
            kinds.setdefault(event.worker_id, []).append(event.kind)
        expected = [EventKind.REGISTERED, EventKind.STOPPED, EventKind.RESUMED, EventKind.FAILED, EventKind.RECOVERED]
        assert kinds == dict.fromkeys(workers, expected)


def test_a_disconnect_stays_behind_a_beat_of_the_same_turn_of_the_loop(store_url: str) -> None:
    async def work() -> None:
        async with watched(store_url) as store:
            intake = intake_on(store, lanes=1)
            store.gate.clear()
            orders: list[asyncio.Task[Any]] = [asyncio.create_task(intake.apply(beat("first")))]
            await asyncio.wait_for(store.called.wait(), PATIENCE_S)
            orders += [asyncio.create_task(intake.apply(beat("w"))), asyncio.create_task(intake.apply(goodbye("w")))]
            store.gate.set()
            await asyncio.gather(*orders)
            assert store.calls == [["first"], ["w"], ["disconnect w"]]

    # The daemon's loop, whose clock stands still within a turn.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())


# Batches


async def test_beats_that_arrive_while_a_call_is_in_flight_are_the_next_calls(store_url: str) -> None:
    async with watched(store_url) as store:
        intake = intake_on(store, lanes=1)
        store.gate.clear()
        first = asyncio.create_task(intake.apply(beat("first")))
        await asyncio.wait_for(store.called.wait(), PATIENCE_S)
        rest = [asyncio.create_task(intake.apply(beat(f"w{k:03}"))) for k in range(DEEP)]
        store.gate.set()
        assert await asyncio.gather(first, *rest) == [INTERVAL_MS] * (DEEP + 1)
        assert [len(call) for call in store.calls] == [1, *[BATCH_LIMIT] * (DEEP // BATCH_LIMIT)]
        assert [worker for call in store.calls for worker in call] == ["first", *(f"w{k:03}" for k in range(DEEP))]
        assert await alive(store) == DEEP + 1


async def test_p28_a_deep_queue_goes_in_few_calls_and_in_order(store_url: str) -> None:
    async with watched(store_url, workers_per_tenant=6_000) as store:
        intake = intake_on(store, lanes=1)
        store.gate.clear()
        first = asyncio.create_task(intake.apply(beat("first")))
        await asyncio.wait_for(store.called.wait(), PATIENCE_S)
        count = 2 * DEEP_LIMIT + DEEP
        rest = [asyncio.create_task(intake.apply(beat(f"w{k:04}"))) for k in range(count)]
        store.gate.set()
        assert await asyncio.gather(first, *rest) == [INTERVAL_MS] * (count + 1)
        assert [worker for call in store.calls for worker in call] == ["first", *(f"w{k:04}" for k in range(count))]
        assert [len(call) for call in store.calls][:3] == [1, DEEP_LIMIT, DEEP_LIMIT]
        assert await alive(store) == count + 1


async def test_a_thousand_beats_at_once_take_few_calls(store_url: str) -> None:
    async with watched(store_url) as store:
        intake = intake_on(store)
        await asyncio.gather(*(intake.apply(beat(f"w{k}")) for k in range(1_000)))
        assert len(store.calls) <= 2 + 1_000 // BATCH_LIMIT
        assert await alive(store) == 1_000


async def test_a_lone_beat_waits_for_no_other(store_url: str) -> None:
    async with watched(store_url) as store:
        intake = intake_on(store)
        for worker in ("a", "b", "c"):
            await intake.apply(beat(worker))
        assert store.calls == [["a"], ["b"], ["c"]]


async def test_a_disconnect_goes_alone_between_the_beats_before_and_after_it(store_url: str) -> None:
    async with watched(store_url) as store:
        intake = intake_on(store, lanes=1)
        await asyncio.gather(*(submit(intake, order[0], order[1]) for order in ("ba", "bw", "cw", "bw", "bb", "ea")))
        assert store.calls == [["a", "w", "b"], ["disconnect w"], ["w"], ["delete a"]]


async def test_p29_disconnects_of_one_tenant_hold_up_neither_beats_nor_disconnects_of_another(store_url: str) -> None:
    async with watched(store_url) as store:
        intake = intake_on(store, lanes=1)
        store.gate.clear()
        first = asyncio.create_task(intake.apply(beat("first")))
        await asyncio.wait_for(store.called.wait(), PATIENCE_S)
        evil = [asyncio.create_task(intake.apply(goodbye(key=WorkerKey("evil", f"e{k}")))) for k in range(50)]
        await asyncio.sleep(0)
        quiet = [asyncio.create_task(intake.apply(beat(worker))) for worker in ("a", "b")]
        quiet.append(asyncio.create_task(intake.apply(goodbye("first"))))
        await asyncio.sleep(0)
        assert intake.oldest_s() < 1
        store.gate.set()
        await asyncio.gather(first, *evil, *quiet, return_exceptions=True)
        assert store.calls[:5] == [["first"], ["disconnect e0"], ["a", "b"], ["disconnect first"], ["disconnect e1"]]
        assert len(store.calls) == 3 + len(evil)


async def test_each_beat_gets_the_answer_that_is_its_own(store_url: str) -> None:
    async with watched(store_url, workers_per_tenant=3) as store:
        moved: list[Moved] = []
        intake = intake_on(store, moved=moved, lanes=1)
        store.gate.clear()
        orders = [
            intake.apply(beat("a")),
            intake.apply(beat("b", environment="dev")),
            intake.apply(beat("c", interval_ms=7_000)),
            intake.apply(beat("d")),
            intake.apply(beat("a", environment="qa", allowed=("qa",))),
            intake.apply(beat("a")),
        ]
        waiting = asyncio.gather(*orders, return_exceptions=True)
        await asyncio.wait_for(store.called.wait(), PATIENCE_S)
        store.gate.set()
        *intervals, over, foreign, last = await waiting
        assert intervals == [INTERVAL_MS, DEV.interval_ms, 7_000]
        assert isinstance(over, QuotaExceededError)
        assert isinstance(foreign, NotAllowedError)
        assert last == INTERVAL_MS
        assert [(move.worker_id, move.kind) for move in moved] == [
            (worker, EventKind.REGISTERED) for worker in ("a", "b", "c")
        ]


async def test_p28_the_intake_knows_how_long_beats_wait_and_how_long_they_may(store_url: str) -> None:
    async with watched(store_url) as store:
        intake = intake_on(store)
        assert intake.oldest_s() == 0
        store.gate.clear()
        orders = [asyncio.create_task(intake.apply(beat(f"w{k}", grace_ms=4_000 - 100 * k))) for k in range(5)]
        await asyncio.wait_for(store.called.wait(), PATIENCE_S)
        # In this order: what passes between two looks at the clock must not count as waiting.
        waited_s = intake.oldest_s()
        begun_s = asyncio.get_running_loop().time()
        assert waited_s > 0
        await asyncio.create_task(_nothing())
        passed_s = asyncio.get_running_loop().time() - begun_s
        assert intake.oldest_s() >= waited_s + passed_s - 1e-6, "it counts from when the beat came"
        assert intake.graces.shortest_ms() == 3_600
        store.gate.set()
        await asyncio.gather(*orders)
        assert intake.oldest_s() == 0
        full = intake_on(store, capacity=0)
        with pytest.raises(IntakeFullError):
            await full.apply(beat("w", grace_ms=1_500))
        assert full.graces.shortest_ms() == 1_500, "who was refused comes again, and waits as well"


# A request that goes away


async def test_a_cancelled_request_does_not_cancel_its_batch(store_url: str) -> None:
    async with watched(store_url) as store:
        intake = intake_on(store, lanes=1)
        store.gate.clear()
        flying = [asyncio.create_task(intake.apply(beat("gone-in-flight")))]
        await asyncio.wait_for(store.called.wait(), PATIENCE_S)
        flying += [asyncio.create_task(intake.apply(beat(worker))) for worker in ("a", "gone", "c")]
        flying.append(asyncio.create_task(intake.apply(beat("gone-last"))))
        doomed = [flying[0], flying[2], flying[4]]
        # All of them have been taken in when a task made later has run.
        await asyncio.create_task(_nothing())
        for task in doomed:
            task.cancel()
        ended, _ = await asyncio.wait(doomed, timeout=PATIENCE_S)
        assert all(task.cancelled() for task in ended)
        assert len(ended) == 3
        store.gate.set()
        assert [await flying[1], await flying[3]] == [INTERVAL_MS, INTERVAL_MS]
        # What was in flight is stored; what had not been sent is not, late, behind its sender's back.
        assert await alive(store) == 3
        assert store.calls == [["gone-in-flight"], ["a", "c"]]


async def _nothing() -> None:
    """Run once the tasks before it have run."""


async def test_an_answer_that_fails_keeps_no_other_caller_from_its_own(store_url: str) -> None:
    async with watched(store_url) as store:
        intake = intake_on(store)
        answers: list[Exception | None] = []

        def broken(_: int, error: Exception | None) -> None:
            answers.append(error)
            raise RuntimeError("a fault of the caller")

        store.gate.clear()
        first = asyncio.create_task(intake.apply(beat("first")))
        await asyncio.wait_for(store.called.wait(), PATIENCE_S)
        intake.submit_beat(beat("a"), broken)
        others = [asyncio.create_task(intake.apply(beat(worker))) for worker in ("b", "c")]
        store.gate.set()
        assert await asyncio.wait_for(asyncio.gather(first, *others), PATIENCE_S) == [INTERVAL_MS] * 3
        assert answers == [None]
        assert await intake.apply(beat("next")) == INTERVAL_MS


# Too many


async def test_p28_a_full_intake_refuses_at_once_and_sends_nothing_of_it(store_url: str) -> None:
    async with watched(store_url) as store:
        intake = intake_on(store, capacity=3, lanes=1)
        store.gate.clear()
        flying = asyncio.create_task(intake.apply(beat("in-flight")))
        await asyncio.wait_for(store.called.wait(), PATIENCE_S)
        waiting = [asyncio.create_task(intake.apply(beat(worker))) for worker in ("a", "b", "c")]
        for order in (intake.apply(beat("one-too-many")), intake.apply(goodbye("a")), intake.apply(erasure("a"))):
            with pytest.raises(IntakeFullError, match="3 beats are waiting"):
                await asyncio.create_task(order)
        assert store.calls == [["in-flight"]]
        store.gate.set()
        await asyncio.gather(flying, *waiting)
        assert store.calls == [["in-flight"], ["a", "b", "c"]]
        # There is room again.
        await asyncio.gather(*(intake.apply(beat(worker)) for worker in ("d", "e", "f")))
        assert await alive(store) == 7


async def test_p28_room_is_given_back_after_a_failure_too(store_url: str) -> None:
    async with watched(store_url) as store:
        intake = intake_on(store, capacity=2)
        store.bug = StoreUnavailableError("no")
        for _ in range(5):
            answers = await asyncio.gather(*(intake.apply(beat(w)) for w in "ab"), return_exceptions=True)
            assert [type(answer) for answer in answers] == [StoreUnavailableError] * 2
        store.bug = None
        assert await asyncio.gather(*(intake.apply(beat(w)) for w in "ab")) == [INTERVAL_MS] * 2


# A store in trouble


async def _all_fail_in_time(intake: Intake, timeout_s: float) -> None:
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    async with asyncio.timeout(PATIENCE_S):
        answers = await asyncio.gather(
            *(intake.apply(beat(f"w{k}")) for k in range(600)), intake.apply(goodbye()), return_exceptions=True
        )
    assert {type(answer) for answer in answers} == {StoreUnavailableError}
    assert loop.time() - begun_s < timeout_s + 1


async def test_p8_p10_every_beat_at_a_killed_store_fails_in_time_and_later_ones_work() -> None:
    # Synced every second, a server may answer a write before it is in the file: while a sync is running.
    always = ("--appendfsync", "always")
    with servers.running(servers.valkey_binary(), *always) as server:
        async with opened(server.url, timeout_s=1.0) as store:
            intake = intake_on(store)
            await intake.apply(beat("before"))
            server.kill()
            await _all_fail_in_time(intake, 1.0)
            again = servers.start(servers.valkey_binary(), server.directory, *always)
            try:
                assert await intake.apply(beat("after")) == INTERVAL_MS
                assert await intake.apply(beat("before")) == INTERVAL_MS
                assert [event.worker_id for event in await history(store)] == ["before", "after"]
            finally:
                again.kill()


async def test_p8_every_beat_at_a_store_that_hangs_fails_in_time_and_later_ones_work() -> None:
    with servers.running(servers.valkey_binary()) as server:
        async with opened(server.url, timeout_s=1.0) as store:
            intake = intake_on(store)
            await intake.apply(beat("before"))
            server.process.send_signal(signal.SIGSTOP)
            try:
                await _all_fail_in_time(intake, 1.0)
                await asyncio.wait_for(intake.drain(), PATIENCE_S)
            finally:
                server.process.send_signal(signal.SIGCONT)
            assert await intake.apply(beat("after")) == INTERVAL_MS


@pytest.mark.parametrize("letter", ["b", "c", "e"])
async def test_p8_a_caller_in_a_call_that_hangs_gets_an_error_at_the_time_limit_and_so_do_those_behind_it(
    store_url: str, letter: str
) -> None:
    async with watched(store_url, timeout_s=0.3) as store:
        intake = intake_on(store, lanes=1)
        store.gate.clear()  # the call takes for as long as it likes: no time limit of a connection ends it
        flying = asyncio.ensure_future(submit(intake, letter))
        await asyncio.wait_for(store.called.wait(), PATIENCE_S)
        waiting = [asyncio.ensure_future(submit(intake, behind)) for behind in ("b", letter)]
        async with asyncio.timeout(PATIENCE_S):
            answers = await asyncio.gather(flying, *waiting, return_exceptions=True)
        assert [type(answer) for answer in answers] == [StoreUnavailableError] * 3
        assert len(store.calls) == 1, "it hangs still"
        store.gate.set()
        await asyncio.wait_for(intake.drain(), PATIENCE_S)
        assert len(store.calls) == 1, "a caller that was answered is not served later"
    async with watched(store_url) as store:
        assert await intake_on(store).apply(beat("next")) == INTERVAL_MS


async def test_what_waits_behind_a_call_that_fails_is_tried_by_itself(store_url: str) -> None:
    async with watched(store_url) as store:
        intake = intake_on(store, lanes=1)
        store.gate.clear()
        store.bug = StoreUnavailableError("no answer")
        flying = asyncio.create_task(intake.apply(beat("a")))
        await asyncio.wait_for(store.called.wait(), PATIENCE_S)
        waiting = [asyncio.ensure_future(submit(intake, letter)) for letter in "bbc"]
        await asyncio.create_task(_nothing())
        store.gate.set()
        answers = await asyncio.wait_for(asyncio.gather(flying, *waiting, return_exceptions=True), PATIENCE_S)
        assert [str(answer) for answer in answers] == ["no answer"] * 4
        assert len(store.calls) == 3
        store.bug = None
        assert await intake.apply(beat("b")) == INTERVAL_MS


async def test_an_order_whose_request_has_given_up_is_not_applied_late(store_url: str) -> None:
    async with watched(store_url) as store:
        intake = intake_on(store, lanes=1)
        store.gate.clear()
        flying = asyncio.create_task(intake.apply(beat("a")))
        await asyncio.wait_for(store.called.wait(), PATIENCE_S)
        given_up = asyncio.create_task(intake.apply(beat("b")))
        behind = asyncio.create_task(intake.apply(beat("c")))
        await asyncio.create_task(_nothing())
        given_up.cancel()
        store.gate.set()
        assert list(await asyncio.wait_for(asyncio.gather(flying, behind), PATIENCE_S)) == [INTERVAL_MS] * 2
        assert store.calls == [["a"], ["c"]]


async def test_p10_a_bug_answers_every_member_and_the_next_beat_has_a_chance(store_url: str) -> None:
    contexts: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: contexts.append(context))
    async with watched(store_url) as store:
        intake = intake_on(store, lanes=1)
        store.gate.clear()
        store.bug = KeyError("a bug")
        waiting = [asyncio.ensure_future(submit(intake, "b", worker)) for worker in ("a", "b")]
        await asyncio.wait_for(store.called.wait(), PATIENCE_S)
        waiting += [asyncio.ensure_future(submit(intake, letter)) for letter in "ce"]
        await asyncio.create_task(_nothing())
        store.gate.set()
        answers = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), PATIENCE_S)
        assert [type(answer) for answer in answers] == [StoreUnavailableError] * 4
        assert "a bug" in str(answers[0])
        assert len(store.calls) == 1
        store.bug = None
        assert await intake.apply(beat("c")) == INTERVAL_MS
    assert [type(context["exception"]) for context in contexts] == [KeyError]


# Answers to a worker


async def test_quotas_are_named(store_url: str) -> None:
    async with opened(store_url, workers_per_tenant=2, environments_per_tenant=1) as store:
        intake = intake_on(store)
        await intake.apply(beat("a"))
        with pytest.raises(QuotaExceededError, match=r"limits\.environments_per_tenant = 1 "):
            await intake.apply(beat("a", environment="qa"))
        await intake.apply(beat("b"))
        with pytest.raises(QuotaExceededError, match=r"limits\.workers_per_tenant = 2 "):
            await intake.apply(beat("c"))
        assert await intake.apply(beat("a")) == INTERVAL_MS
    async with opened(store_url, timings_per_tenant=1) as store:
        with pytest.raises(QuotaExceededError, match=r"limits\.timings_per_tenant = 1 "):
            await intake_on(store).apply(beat("b", interval_ms=1_000))
    async with opened(store_url, bytes_per_tenant=100) as store:
        with pytest.raises(QuotaExceededError, match=r"limits\.bytes_per_tenant = 100 "):
            await intake_on(store).apply(beat("b", metadata_json='{"a":"' + "x" * 100 + '"}'))


async def test_p24_what_a_token_does_not_cover_is_not_allowed_and_changes_nothing(store_url: str) -> None:
    async with opened(store_url) as store:
        intake = intake_on(store)
        await intake.apply(beat("a"))
        with pytest.raises(NotAllowedError, match="'a'"):
            await intake.apply(beat("a", allowed=("qa",)))
        with pytest.raises(NotAllowedError, match="'a'"):
            await intake.apply(goodbye("a", allowed=("qa",)))
        with pytest.raises(NotAllowedError, match="'a'"):
            await intake.apply(erasure("a", allowed=("qa",)))
        assert [event.kind for event in await history(store)] == [EventKind.REGISTERED]


async def test_a_worker_that_does_not_exist_can_be_neither_disconnected_nor_deleted(store_url: str) -> None:
    async with opened(store_url) as store:
        intake = intake_on(store)
        with pytest.raises(UnknownWorkerError, match="'w'"):
            await intake.apply(goodbye())
        with pytest.raises(UnknownWorkerError, match="'w'"):
            await intake.apply(erasure())
        assert await history(store) == []


async def test_a_disconnect_that_changes_nothing_is_accepted(store_url: str) -> None:
    async with opened(store_url) as store:
        moved: list[Moved] = []
        intake = intake_on(store, moved=moved)
        await intake.apply(beat())
        for _ in range(3):
            await intake.apply(goodbye())
        assert [move.kind for move in moved] == [EventKind.REGISTERED, EventKind.STOPPED]


# Stopping


async def test_drain_waits_until_everything_has_its_answer(store_url: str) -> None:
    async with watched(store_url, partitions=4) as store:
        intake = intake_on(store, lanes=1)
        store.gate.clear()
        waiting = [asyncio.create_task(intake.apply(beat(f"w{k}"))) for k in range(40)]
        await asyncio.wait_for(store.called.wait(), PATIENCE_S)
        draining = asyncio.create_task(intake.drain())
        await asyncio.create_task(_nothing())
        assert not draining.done()
        store.gate.set()
        await asyncio.wait_for(draining, PATIENCE_S)
        # The answers are there: nothing further has to be waited for.
        await asyncio.create_task(_nothing())
        assert all(task.done() for task in waiting)
        assert await alive(store) == 40


async def test_drain_of_an_idle_intake_is_over_at_once(store_url: str) -> None:
    async with opened(store_url) as store:
        intake = intake_on(store)
        await asyncio.wait_for(intake.drain(), PATIENCE_S)
        await intake.apply(beat())
        await asyncio.wait_for(intake.drain(), PATIENCE_S)
