"""The delivery queue against a plain model of it, through random histories."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from alerts.durability import Durability
from alerts.queue import Claimed, DeliveryQueue, Finish, QueueStore
from tests.alerts_fakes import START_MS, notification

MEMORY = Durability.parse("memory")
LEASE_MS = 1_000
_names = itertools.count()


@dataclass
class _Item:
    key: str
    due_ms: int = 0
    attempts: int = 0
    holder: int | None = None


@dataclass
class _Model:
    items: dict[str, _Item] = field(default_factory=dict)
    order: dict[str, list[str]] = field(default_factory=dict)
    finished: dict[str, str] = field(default_factory=dict)

    def heads(self) -> list[str]:
        return [nids[0] for nids in self.order.values() if nids]

    def close(self, nid: str, outcome: str, now_ms: int) -> None:
        item = self.items.pop(nid)
        self.order[item.key].remove(nid)
        self.finished[nid] = outcome
        if self.order[item.key]:
            self.items[self.order[item.key][0]].due_ms = now_ms


class QueueMachine(RuleBasedStateMachine):
    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.store = QueueStore(redis_url=url, receivers=1)
        self.queue = DeliveryQueue(self.store, f"model{next(_names)}")
        self.model = _Model()
        self.now_ms = START_MS
        self.claims: list[Claimed] = []

    def teardown(self) -> None:
        self.runner.run(self.store.close())
        self.runner.close()

    @rule(numbers=st.lists(st.integers(0, 11), max_size=5))
    def put(self, numbers: list[int]) -> None:
        items = [notification(f"ntf_{number:02}", key=str(number % 4)) for number in numbers]
        new = 0
        for item in items:
            if item.nid in self.model.items or item.nid in self.model.finished:
                continue
            new += 1
            self.model.items[item.nid] = _Item(key=item.key, due_ms=self.now_ms)
            self.model.order.setdefault(item.key, []).append(item.nid)
        assert self.runner.run(self.queue.put(items, now_ms=self.now_ms)) == new

    @rule(step_ms=st.sampled_from([1, 10, 500, LEASE_MS]))
    def time_passes(self, step_ms: int) -> None:
        self.now_ms += step_ms

    @rule(limit=st.integers(1, 4))
    def claim(self, limit: int) -> None:
        due = sorted((self.model.items[nid].due_ms, nid) for nid in self.model.heads())
        expected = [nid for due_ms, nid in due if due_ms <= self.now_ms][:limit]
        claim = self.runner.run(self.queue.claim(limit=limit, lease_ms=LEASE_MS, now_ms=self.now_ms, durability=MEMORY))
        assert [item.notification.nid for item in claim.items] == expected
        for item in claim.items:
            record = self.model.items[item.notification.nid]
            record.attempts += 1
            record.due_ms = self.now_ms + LEASE_MS
            record.holder = item.lease_token
            assert item.attempt == record.attempts
        self.claims += claim.items

    @rule(pick=st.integers(0, 100), how=st.sampled_from(["complete", "bury", "postpone", "release"]))
    def finish(self, pick: int, how: str) -> None:
        if not self.claims:
            return
        item = self.claims[pick % len(self.claims)]
        nid, record = item.notification.nid, self.model.items.get(item.notification.nid)
        due_ms = self.now_ms + 100
        match how:
            case "complete":
                finish = self.runner.run(self.queue.complete(item, now_ms=self.now_ms))
            case "bury":
                finish = self.runner.run(self.queue.bury(item, reason="gave_up", now_ms=self.now_ms))
            case "postpone":
                finish = self.runner.run(self.queue.postpone(item, due_ms=due_ms))
            case _:
                finish = self.runner.run(self.queue.release(item, due_ms=due_ms))
        if record is None:
            assert finish is Finish.GONE
        elif record.holder != item.lease_token:
            assert finish is Finish.LEASE_LOST
        else:
            assert finish is Finish.DONE
            if how in {"complete", "bury"}:
                self.model.close(nid, how, self.now_ms)
            else:
                record.holder, record.due_ms = None, due_ms
                record.attempts -= how == "release"

    @invariant()
    def counts_agree(self) -> None:
        stats = self.runner.run(self.queue.stats(now_ms=self.now_ms))
        assert stats.queued == len(self.model.items)
        assert stats.dead == list(self.model.finished.values()).count("bury")
        oldest = min((self.model.items[nid].due_ms for nid in self.model.heads()), default=self.now_ms)
        assert stats.lag_ms == max(0, self.now_ms - oldest)


def test_p5_p6_p7_the_queue_does_what_its_model_does(store_url: str) -> None:
    run_state_machine_as_test(
        lambda: QueueMachine(store_url),  # type: ignore[arg-type]
        settings=settings(
            max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
