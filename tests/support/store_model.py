"""A second implementation of the function library, in plain Python over plain dictionaries."""

from dataclasses import dataclass, field

from monitor.blindness import Window
from monitor.liveness import EventKind, Liveness, Trigger, step
from monitor.liveness import TransitionRefusedError as Refused
from monitor.workers import Beat, Evidence, Keep, Rejection, WorkerKey
from tests.support.deadlines import GAP_MS, STRAGGLER_MS, Credit, credited, shown


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
    daemon: str = ""
    base_ms: int = 0
    """Time from which the deadline is counted."""
    rejected: tuple[str, int, str] | None = None
    refused_until_ms: int | None = None

    @property
    def deadline(self) -> int:
        return self.last_seen_ms + self.reach_ms

    @property
    def reach_ms(self) -> int:
        return self.interval_ms + self.grace_ms

    @property
    def refused(self) -> tuple[str, int, str] | None:
        """Its newest refused beat, if none was accepted since."""
        return self.rejected if self.rejected is not None and self.rejected[1] > self.last_seen_ms else None

    @property
    def refused_limit_ms(self) -> int:
        """Three intervals and the grace after its last beat, as the deadline was when it became stale."""
        return self.since_ms + 2 * self.interval_ms

    def move_base(self, base_ms: int) -> None:
        """A later base; an absence beside it ends no earlier than the deadline."""
        self.base_ms = base_ms
        if self.back_ms is not None:
            self.back_ms = max(self.back_ms, base_ms + self.reach_ms)


@dataclass
class ModelDaemon:
    """The pulses of one daemon."""

    newest_ms: int
    first_ms: int
    gap: tuple[int, int] = (0, 0)
    ended: bool = False


@dataclass(frozen=True)
class ModelEvent:
    """The fields of an event that the model predicts."""

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
    rejected: tuple[str, int, str] | None = None
    windows: int = 0
    uncredited: int = 0


@dataclass
class ModelOutage:
    """A worker's outage: since when, by which event it was last reported, by what it ended."""

    key: WorkerKey
    due_ms: int
    kind: EventKind
    seq: int
    ended_by: EventKind | None = None


class Model:
    """The expected state of the store. Every call is applied at the time that the store answers."""

    def __init__(self, *, expected: dict[str, tuple[int, int]], default: tuple[int, int], max_workers: int) -> None:
        self.expected = expected
        self.default = default
        self.max_workers = max_workers
        self.workers: dict[WorkerKey, ModelWorker] = {}
        self.events: list[ModelEvent] = []
        self.newest_erased = 0
        self.daemons: dict[str, ModelDaemon] = {}
        self.pulse_ms: int | None = None
        self.ended_windows: list[Window] = []

    # Alerts

    def outages(self, tenant: str) -> list[ModelOutage]:
        """Of a tenant's workers, by all events so far. One goes on until its worker recovers, stops or is forgotten."""
        found: list[ModelOutage] = []
        ongoing: dict[WorkerKey, ModelOutage] = {}
        for event in self.events:
            if event.key.tenant != tenant:
                continue
            if event.kind in {EventKind.STALE, EventKind.FAILED, EventKind.REJECTED}:
                known = ongoing.get(event.key)
                if known is None:
                    known = ongoing[event.key] = ModelOutage(event.key, event.due_ms, event.kind, event.seq)
                    found.append(known)
                known.kind, known.seq = event.kind, event.seq
            elif event.kind in {EventKind.RECOVERED, EventKind.STOPPED, EventKind.FORGOTTEN} and event.key in ongoing:
                ongoing.pop(event.key).ended_by = event.kind
        return found

    # Blindness

    def is_blind(self, now_ms: int) -> bool:
        return self.pulse_ms is not None and now_ms - self.pulse_ms > GAP_MS

    def windows(self, now_ms: int) -> list[Window]:
        """Those that have ended, and the one that goes on."""
        if self.pulse_ms is None or not self.is_blind(now_ms):
            return self.ended_windows
        return [*self.ended_windows, Window(begin_ms=self.pulse_ms, end_ms=now_ms)]

    def pulse(self, daemon: str, now_ms: int, *, ends: bool) -> None:
        """A daemon's pulse."""
        own = self.daemons.get(daemon)
        others = any(not known.ended and now_ms - known.newest_ms <= GAP_MS for known in self.daemons.values())
        if self.pulse_ms is not None and (self.is_blind(now_ms) or (own is None and not others)):
            self.ended_windows.append(Window(begin_ms=self.pulse_ms, end_ms=now_ms))
        if own is None:
            own = self.daemons[daemon] = ModelDaemon(now_ms, now_ms)
        elif self.pulse_ms is not None and self.pulse_ms - own.newest_ms > GAP_MS:
            own.gap = (own.newest_ms, now_ms)
        own.newest_ms, own.ended = now_ms, ends
        self.pulse_ms = now_ms

    def goes_on_until(self, now_ms: int, daemons: list[str]) -> None:
        """These daemons, which have just sent a pulse, send more of them until then."""
        for daemon in daemons:
            self.daemons[daemon].newest_ms = now_ms
        self.pulse_ms = now_ms

    def credit(self, worker: ModelWorker, due_ms: int, now_ms: int) -> Credit:
        windows = self.windows(now_ms)
        return credited(due_ms, allowance_ms=worker.reach_ms, interval_ms=worker.interval_ms, windows=windows)

    def _gap(self, worker: ModelWorker, now_ms: int) -> tuple[int, int] | None:
        """In which the daemon that took its last beat was away, and others were there."""
        own = self.daemons.get(worker.daemon)
        if own is None or self.pulse_ms is None:
            return None
        if self.pulse_ms - own.newest_ms > GAP_MS or (own.ended and self.pulse_ms > own.newest_ms):
            gap = own.newest_ms, now_ms
        elif own.gap[1] > worker.last_seen_ms:
            gap = own.gap
        else:
            return None
        begin_ms, end_ms = gap
        for window in self.windows(now_ms):
            if begin_ms < end_ms and window.begin_ms <= begin_ms + GAP_MS and window.end_ms > begin_ms:
                if end_ms - window.end_ms <= GAP_MS or not self._is_bridged(window, worker.daemon):
                    return None
                begin_ms = window.end_ms
        return begin_ms, end_ms

    def _is_bridged(self, window: Window, daemon: str) -> bool:
        """Whether another daemon was there before a window and after it."""
        return any(
            name != daemon and known.first_ms <= window.begin_ms and known.newest_ms >= window.end_ms
            for name, known in self.daemons.items()
        )

    def due(self, worker: ModelWorker, now_ms: int) -> tuple[int, Credit]:
        """The base of an alive worker's deadline as it is to be seen now, and that deadline."""
        base_ms = worker.base_ms
        credit = self.credit(worker, base_ms + worker.reach_ms, now_ms)
        if now_ms >= credit.deadline_ms:
            gap = self._gap(worker, now_ms)
            # First: the base is of the last beat, or of one that was refused because of us. Else it is the same gap.
            is_first = base_ms == worker.last_seen_ms or (worker.refused is not None and worker.refused[1] == base_ms)
            if gap is not None and gap[0] < credit.deadline_ms and (is_first or gap[0] <= base_ms):
                base_ms = max(base_ms, min(gap[1], gap[0] + worker.reach_ms))
                credit = self.credit(worker, base_ms + worker.reach_ms, now_ms)
        return base_ms, credit

    def evidence(self, evidence: Evidence, now_ms: int) -> None:
        """A refused beat of a known worker."""
        worker = self.workers[evidence.key]
        worker.rejected = (evidence.rejection.value, now_ms, evidence.subject)
        ours = evidence.rejection is Rejection.OVERLOADED
        if worker.refused_until_ms is not None:
            if now_ms < self.credit(worker, worker.refused_until_ms, now_ms).deadline_ms:
                until_ms = now_ms + worker.reach_ms
                worker.refused_until_ms = (
                    until_ms if ours else max(worker.refused_until_ms, min(until_ms, worker.refused_limit_ms))
                )
        elif ours and worker.liveness is Liveness.ALIVE:
            if now_ms < self.due(worker, now_ms)[1].deadline_ms:
                worker.move_base(now_ms)
        elif ours and worker.back_ms is not None and now_ms < self.credit(worker, worker.back_ms, now_ms).deadline_ms:
            worker.back_ms = max(worker.back_ms, now_ms + worker.reach_ms)

    def liveness(self, worker: ModelWorker, now_ms: int) -> Liveness:
        """The liveness that readers must see."""
        base_ms, credit = self.due(worker, now_ms)
        return shown(
            worker.liveness,
            now_ms,
            late_ms=base_ms + worker.interval_ms,
            deadline_ms=credit.deadline_ms,
            is_straggler=worker.straggler,
            missed_ms=None if worker.back_ms is None else self.credit(worker, worker.back_ms, now_ms).deadline_ms,
        )

    # Workers

    def _event(  # noqa: PLR0917
        self,
        key: WorkerKey,
        kind: EventKind,
        old: Liveness | None,
        new: Liveness | None,
        due_ms: int,
        since_ms: int,
        missed: tuple[int, int] = (0, 0),
        rejected: tuple[str, int, str] | None = None,
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
                rejected=rejected,
                windows=missed[0],
                uncredited=missed[1],
            )
        )

    def _move(self, key: WorkerKey, trigger: Trigger, due_ms: int) -> None:
        self._moved(key, trigger, due_ms, (0, 0), None)

    def _moved(
        self,
        key: WorkerKey,
        trigger: Trigger,
        due_ms: int,
        missed: tuple[int, int],
        rejected: tuple[str, int, str] | None,
    ) -> None:
        worker = self.workers[key]
        transition = step(worker.liveness, trigger)
        assert transition.to is not None
        assert transition.event is not None
        old, since = worker.liveness, worker.since_ms
        worker.liveness, worker.since_ms = transition.to, due_ms
        worker.refused_until_ms = None
        self._event(key, transition.event, old, transition.to, due_ms, since, missed, rejected)

    def _end(self, key: WorkerKey, trigger: Trigger, credit: Credit, now_ms: int) -> None:
        """By a moment that has passed."""
        worker = self.workers[key]
        count = sum(1 for window in self.windows(now_ms) if window.end_ms > worker.last_seen_ms)
        missed = (count, credit.uncredited if count else 0)
        worker.stopped_ms = None
        self._moved(key, trigger, credit.deadline_ms, missed, worker.refused)

    def expire(self, key: WorkerKey, now_ms: int) -> None:
        """Apply every transition that is due for a worker. A sweep does this for all workers."""
        worker = self.workers[key]
        if worker.liveness is Liveness.ALIVE:
            _, credit = self.due(worker, now_ms)
            if now_ms >= credit.deadline_ms:
                ends = None if worker.refused is None else worker.refused[1] + worker.reach_ms
                if worker.straggler:
                    self._end(key, Trigger.DEADLINE_AFTER_STOP, credit, now_ms)
                elif ends is not None and self.credit(worker, ends, now_ms).deadline_ms > credit.deadline_ms:
                    self._end(key, Trigger.DEADLINE_REJECTED, credit, now_ms)
                    worker.refused_until_ms = min(ends, worker.refused_limit_ms)
                else:
                    self._end(key, Trigger.DEADLINE, credit, now_ms)
        if worker.liveness is Liveness.STOPPED and worker.back_ms is not None:
            credit = self.credit(worker, worker.back_ms, now_ms)
            if now_ms >= credit.deadline_ms:
                worker.back_ms = None
                self._end(key, Trigger.RETURN_OVERDUE, credit, now_ms)
        if worker.refused_until_ms is not None:
            credit = self.credit(worker, worker.refused_until_ms, now_ms)
            if now_ms >= credit.deadline_ms:
                self._end(key, Trigger.REJECTIONS_ENDED, credit, now_ms)

    def moment(self, worker: ModelWorker, now_ms: int) -> int | None:
        """When ``expire`` would apply a transition, as far as is known now."""
        if worker.liveness is Liveness.ALIVE:
            return self.due(worker, now_ms)[1].deadline_ms
        noted = worker.back_ms if worker.liveness is Liveness.STOPPED else worker.refused_until_ms
        return None if noted is None else self.credit(worker, noted, now_ms).deadline_ms

    def is_due(self, key: WorkerKey, now_ms: int) -> bool:
        """Whether ``expire`` would apply a transition."""
        moment_ms = self.moment(self.workers[key], now_ms)
        return moment_ms is not None and moment_ms <= now_ms

    def is_purged(self, key: WorkerKey, retention_ms: int, now_ms: int) -> bool:
        """Whether retention has passed for it; it begins when it is missed, and blind time does not count."""
        worker = self.workers[key]
        moment_ms = None if worker.liveness is Liveness.ALIVE else self.moment(worker, now_ms)
        begin_ms = worker.since_ms if moment_ms is None else moment_ms
        blind_ms = sum(max(0, w.end_ms - max(w.begin_ms, begin_ms)) for w in self.windows(now_ms))
        return worker.liveness is not Liveness.ALIVE and now_ms - begin_ms - blind_ms >= retention_ms

    def beat(self, beat: Beat, now_ms: int, *, daemon: str) -> bool:
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
        worker.last_seen_ms = worker.base_ms = now_ms
        worker.daemon, worker.refused_until_ms = daemon, None
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
        if worker.stopped_ms is not None and (is_missed or beat_ms - worker.stopped_ms > STRAGGLER_MS):
            worker.stopped_ms = None
        worker.straggler = worker.stopped_ms is not None
        if not worker.straggler:
            worker.back_ms = None

    def register_failed(self, key: WorkerKey, now_ms: int, *, environment: str, daemon: str) -> bool:
        """A failure report of an unknown worker. Returns whether it was stored."""
        if sum(1 for other in self.workers if other.tenant == key.tenant) >= self.max_workers:
            return False
        interval_ms, grace_ms = self.expected.get(environment, self.default)
        generation = max(now_ms, self.newest_erased + 1)
        worker = ModelWorker(environment, interval_ms, grace_ms, generation, now_ms, now_ms, daemon=daemon)
        worker.base_ms = now_ms
        self.workers[key] = worker
        transition = step(None, Trigger.DISCONNECT_FAILURE)
        assert transition.to is not None
        assert transition.event is not None
        worker.liveness = transition.to
        self._event(key, transition.event, None, transition.to, now_ms, now_ms)
        return True

    def leave(self, key: WorkerKey, trigger: Trigger, now_ms: int, *, back_in_ms: int | None) -> None:
        """A disconnect of a known worker."""
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
        """Delete a known worker."""
        if expire:
            self.expire(key, now_ms)
        worker = self.workers[key]
        self._event(key, EventKind.FORGOTTEN, worker.liveness, None, now_ms, worker.since_ms)
        self.newest_erased = max(self.newest_erased, worker.generation, now_ms)
        del self.workers[key]
