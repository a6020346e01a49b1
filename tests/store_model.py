"""What the function library must do, said again in plain Python over plain dictionaries."""

from __future__ import annotations

from dataclasses import dataclass, field

from monitor.liveness import EventKind, Liveness, Trigger, deadline_ms, is_straggler, step
from monitor.liveness import TransitionRefusedError as Refused
from monitor.workers import Beat, Keep, WorkerKey


@dataclass
class ModelWorker:
    """One worker's state."""

    environment: str
    interval_ms: int
    grace_ms: int
    generation: int
    last_seen_ms: int
    since_ms: int
    liveness: Liveness = Liveness.ALIVE
    seq: int = 0
    stopped_ms: int | None = None
    straggler: bool = False
    declared_interval: int | None = None
    declared_grace: int | None = None
    status: str = "active"
    metadata: str = "{}"
    gaps: list[int] = field(default_factory=list)
    back_ms: int | None = None

    @property
    def deadline(self) -> int:
        return deadline_ms(last_seen_ms=self.last_seen_ms, interval_ms=self.interval_ms, grace_ms=self.grace_ms)


@dataclass(frozen=True)
class ModelEvent:
    """What of an event the model predicts."""

    kind: EventKind
    key: WorkerKey
    environment: str
    generation: int
    seq: int
    old: Liveness | None
    new: Liveness | None
    due_ms: int
    last_seen_ms: int
    since_ms: int
    metadata: str


class Model:
    """The store as it should be. Every order is applied at the time that the store says it was."""

    def __init__(self, *, expected: dict[str, tuple[int, int]], default: tuple[int, int], max_workers: int) -> None:
        self.expected = expected
        self.default = default
        self.max_workers = max_workers
        self.workers: dict[WorkerKey, ModelWorker] = {}
        self.events: list[ModelEvent] = []
        self.newest_erased = 0

    def _event(  # noqa: PLR0917
        self, key: WorkerKey, kind: EventKind, old: Liveness | None, new: Liveness | None, due_ms: int, since_ms: int
    ) -> None:
        worker = self.workers[key]
        worker.seq += 1
        self.events.append(
            ModelEvent(
                kind=kind,
                key=key,
                environment=worker.environment,
                generation=worker.generation,
                seq=worker.seq,
                old=old,
                new=new,
                due_ms=due_ms,
                last_seen_ms=worker.last_seen_ms,
                since_ms=since_ms,
                metadata=worker.metadata if new else "{}",
            )
        )

    def _move(self, key: WorkerKey, trigger: Trigger, due_ms: int) -> None:
        worker = self.workers[key]
        transition = step(worker.liveness, trigger)
        assert transition.to is not None
        assert transition.event is not None
        old, since = worker.liveness, worker.since_ms
        worker.liveness, worker.since_ms = transition.to, due_ms
        self._event(key, transition.event, old, transition.to, due_ms, since)

    def expire(self, key: WorkerKey, now_ms: int) -> None:
        """The deadline, and then the end of an announced absence, if they have passed; a sweep is this over all."""
        worker = self.workers[key]
        if worker.liveness is Liveness.ALIVE and now_ms >= worker.deadline:
            trigger = Trigger.DEADLINE_AFTER_STOP if worker.straggler else Trigger.DEADLINE
            worker.stopped_ms = None
            self._move(key, trigger, worker.deadline)
        if worker.liveness is Liveness.STOPPED and worker.back_ms is not None and now_ms >= worker.back_ms:
            back_ms, worker.back_ms, worker.stopped_ms = worker.back_ms, None, None
            self._move(key, Trigger.RETURN_OVERDUE, back_ms)

    def is_due(self, key: WorkerKey, now_ms: int) -> bool:
        """Whether ``expire`` would move it."""
        worker = self.workers[key]
        if worker.liveness is Liveness.ALIVE:
            return now_ms >= worker.deadline
        return worker.liveness is Liveness.STOPPED and worker.back_ms is not None and now_ms >= worker.back_ms

    def is_purged(self, key: WorkerKey, retention_ms: int, now_ms: int) -> bool:
        """Whether retention has passed for it; it begins when an announced absence ends."""
        worker = self.workers[key]
        return worker.liveness is not Liveness.ALIVE and (worker.back_ms or worker.since_ms) <= now_ms - retention_ms

    def beat(self, beat: Beat, now_ms: int) -> bool:
        """Whether it was stored; only the tenant's quota of workers refuses here."""
        key = beat.key
        known = self.workers.get(key)
        if known is None:
            if sum(1 for other in self.workers if other.tenant == key.tenant) >= self.max_workers:
                return False
            generation = max(now_ms, self.newest_erased + 1)
            worker = ModelWorker(beat.environment_name or beat.first_environment, 0, 0, generation, now_ms, now_ms)
            self.workers[key] = worker
            old = None
        else:
            worker = known
            self.expire(key, now_ms)
            old = worker.liveness
            worker.gaps = [*worker.gaps, now_ms - worker.last_seen_ms][-8:]
            worker.environment = beat.environment_name or worker.environment
        since = worker.since_ms
        if not isinstance(beat.interval_ms, Keep):
            worker.declared_interval = beat.interval_ms
        if not isinstance(beat.grace_ms, Keep):
            worker.declared_grace = beat.grace_ms
        if not isinstance(beat.status, Keep):
            worker.status = beat.status
        if isinstance(beat.metadata_json, str):
            worker.metadata = beat.metadata_json
        interval, grace = self.expected.get(worker.environment, self.default)
        worker.interval_ms = worker.declared_interval or interval
        worker.grace_ms = grace if worker.declared_grace is None else worker.declared_grace
        worker.last_seen_ms = now_ms
        self._judge_straggler(worker, now_ms)
        transition = step(old, Trigger.BEAT)
        worker.liveness = Liveness.ALIVE
        if transition.event:
            worker.since_ms = now_ms
            self._event(key, transition.event, old, Liveness.ALIVE, now_ms, since)
        return True

    @staticmethod
    def _judge_straggler(worker: ModelWorker, beat_ms: int) -> None:
        """Whether silence after this beat means that it stopped, and whether its announced absence goes on."""
        is_missed = worker.back_ms is not None and worker.back_ms <= worker.deadline
        if is_missed or not is_straggler(beat_ms=beat_ms, stopped_ms=worker.stopped_ms):
            worker.stopped_ms = None
        worker.straggler = worker.stopped_ms is not None
        if not worker.straggler:
            worker.back_ms = None

    def leave(self, key: WorkerKey, trigger: Trigger, now_ms: int, *, back_in_ms: int | None) -> None:
        """A goodbye of a known worker."""
        self.expire(key, now_ms)
        worker = self.workers[key]
        back_ms = None if back_in_ms is None else now_ms + back_in_ms
        try:
            step(worker.liveness, trigger)
        except Refused:
            if worker.liveness is Liveness.STOPPED and trigger is Trigger.DISCONNECT_CLEAN:
                worker.back_ms = back_ms
                worker.stopped_ms = worker.stopped_ms if back_ms is None else now_ms
            return
        worker.back_ms = back_ms
        worker.stopped_ms = now_ms if trigger is Trigger.DISCONNECT_CLEAN else None
        self._move(key, trigger, now_ms)

    def forget(self, key: WorkerKey, now_ms: int, *, expire: bool) -> None:
        """Erase a known worker."""
        if expire:
            self.expire(key, now_ms)
        worker = self.workers[key]
        self._event(key, EventKind.FORGOTTEN, worker.liveness, None, now_ms, worker.since_ms)
        self.newest_erased = max(self.newest_erased, worker.generation, now_ms)
        del self.workers[key]
