"""When the monitor took no beats, as probes saw it, and what deadlines the design owes to workers then. Pure.

What is measured has an uncertainty of a probe's spacing. So there are two answers to every question: ``earliest``, the
deadline before which no worker may be called stale (windows as short and few as they can have been), and ``latest``,
the one after which every dead worker must be (as long and many). Between the two the oracle says nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from tests.chaos.record import Probe, Record, Try, Worker

SURE_S: Final = 1.0
"""P1 speaks of outages from one second on."""
POSSIBLE_S: Final = 0.5
"""A shorter gap between two probes' successes can't have been one of 750 ms between pulses."""
UNKNOWN_S: Final = 2.0
"""What was not acknowledged may be applied so much later: the store's time limit, its retry included."""
SHORT_WINDOWS: Final = 3
"""At most this number of windows shorter than the interval move one deadline."""
BETWEEN_S: Final = 0.3
"""Between two probes, or two pulses, and some: a window may have begun, or ended, so much before it shows."""
LOST_S: Final = 2.5
"""For so long after it takes beats again a daemon is behind that has refused some and could not note that: the call
that was to note it hangs for the store's time limit, and a second from then on."""
NOTICE_S: Final = 1.0
"""Before a gap has lasted 750 ms it is none: what was due sooner is not moved. Who lives is not due so soon, since the
least grace is a second."""
RESTARTS: Final = frozenset(
    {"daemons.kill", "store.kill", "store.power_cut", "store.restore"}
    | {"sentinel.failover", "sentinel.primary_kill", "sentinel.primary_pause"}
)
RESTARTS_OF_ONE: Final = frozenset({"daemon.kill", "daemon.restart"})
"""After these there is a window, however short it was."""
OF_ONE_PROCESS: Final = frozenset({"daemon.process_kill", "daemon.process_pause"})
STEP_S: Final = 1.0
"""A step of the store's clock may look like a window that ends so much later at the most."""


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Window:
    """A span in which nothing was accepted."""

    a_s: float
    b_s: float

    @property
    def length_s(self) -> float:
        return self.b_s - self.a_s

    def meets(self, from_s: float, to_s: float) -> bool:
        """Whether it overlaps with that span."""
        return self.a_s <= to_s and self.b_s >= from_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Outages:
    """The windows of a run: of all daemons at once, and of each; each as short, and as long, as it can have been."""

    sure: tuple[Window, ...]
    lost: tuple[tuple[float, Window], ...]
    """Windows caused by the restore of an old copy, each with the time from which it counts. They begin where the
    copy's data end. (The extent of any other loss is unknown.)"""
    possible: tuple[Window, ...]
    late: tuple[Window, ...]
    """Those that are possible, and as long as a daemon may go on being behind after them."""
    of_sure: tuple[tuple[Window, ...], ...]
    of_possible: tuple[tuple[Window, ...], ...]
    renamed: tuple[tuple[Window, ...], ...]
    """When each daemon was started again, under another name."""

    def earliest(self, worker: Worker, last: Try, *, judged_s: float) -> float:
        """No sooner may the worker be stale, by a judgement of that moment, whose last beat this was."""
        due_s = last.sent_s + worker.patience_s
        short = sum(
            window.length_s < worker.interval_s + POSSIBLE_S
            for window in self.possible
            if window.meets(last.ended_s, due_s + worker.patience_s)
        )
        lost = [window for from_s, window in self.lost if from_s <= judged_s]
        for window in _after(sorted([*self.sure, *lost]), last.ended_s):
            if window.a_s >= due_s - NOTICE_S or window.b_s - max(window.a_s, last.ended_s) < SURE_S:
                continue
            if window.length_s < worker.interval_s and short > SHORT_WINDOWS:
                continue
            due_s = max(due_s, window.b_s + worker.patience_s)
        for window in _after(self.of_sure[last.daemon], last.ended_s)[:1]:
            if window.a_s < due_s - NOTICE_S and window.b_s - max(window.a_s, last.ended_s) >= SURE_S:
                blind_s = min(window.length_s, worker.patience_s) - BETWEEN_S
                due_s = max(due_s, window.a_s + blind_s + worker.patience_s)
        return due_s

    def latest(self, worker: Worker, tries: Sequence[Try]) -> float:
        """No later may the worker be alive of which nothing came after these, the last of which is the newest."""
        last = tries[-1]
        due_s = max(self.applied_by(one) for one in tries) + worker.patience_s
        due_s = self._moved(due_s, worker, last)
        gaps = [
            self._beyond(gap, daemon)
            for daemon, windows in enumerate(self.of_possible)
            for gap in windows
            if gap.b_s + LOST_S > last.sent_s and gap.a_s - BETWEEN_S < due_s
        ]
        for from_s in gaps:  # a daemon that was started again has another name: its return goes unnoticed
            due_s = max(due_s, from_s + 2 * worker.patience_s + BETWEEN_S)
        return self._moved(due_s, worker, last)

    def _beyond(self, gap: Window, daemon: int) -> float:
        """From when on this daemon was away while another was there: where all were away when its gap began, and one of
        the others was there before and after, its workers are waited for from the window's end on."""
        from_s = gap.a_s
        for window in self.late:
            if window.a_s <= from_s + NOTICE_S and window.b_s > from_s and self._is_bridged(window, daemon):
                from_s = window.b_s
        return from_s

    def _is_bridged(self, window: Window, daemon: int) -> bool:
        """Whether another daemon may have been there before and after it, under the same name."""
        inside = Window(a_s=window.a_s + BETWEEN_S, b_s=window.b_s - BETWEEN_S)
        return any(
            other != daemon and not any(again.meets(inside.a_s, inside.b_s) for again in renamed)
            for other, renamed in enumerate(self.renamed)
        )

    def _moved(self, due_s: float, worker: Worker, last: Try) -> float:
        """By the windows of all daemons, at the most."""
        for window in self.late:
            if window.b_s > last.sent_s and window.a_s - BETWEEN_S < due_s:
                due_s = max(due_s, window.b_s + worker.patience_s)
        return due_s

    def applied_by(self, one: Try) -> float:
        """When the store had it at the latest, if at all. A daemon that was paused reads it when it goes on."""
        if one.is_stored:
            return one.ended_s
        held = [window.b_s for window in self.of_possible[one.daemon] if window.meets(one.sent_s, one.ended_s)]
        return max([one.ended_s, *held]) + UNKNOWN_S

    def is_blind(self, from_s: float, to_s: float, *, around_s: float = 0.0) -> bool:
        """Whether the monitor may have been blind at some moment of this span, or a little before or after it."""
        return any(window.meets(from_s - around_s, to_s + around_s) for window in self.possible)


def measured(record: Record) -> Outages:
    """The outages of a run."""
    daemons = range(record.daemons)
    probes = [[probe for probe in record.probes if probe.daemon == daemon] for daemon in daemons]
    inner = [_gaps(some, ended_s=record.ended_s, is_outer=False) for some in probes]
    outer = [
        [
            *_gaps(some, ended_s=record.ended_s, is_outer=True),
            *_overloads(record, daemon),
            *_unnoted(record, daemon, some),
        ]
        for daemon, some in enumerate(probes)
    ]
    forward = [fault.begun_s for fault in record.faults if fault.kind == "store.clock" and record.is_clock_stepped]
    lost = [Window(a_s=loss.kept_s, b_s=loss.back_s) for loss in record.losses]
    sure, possible = _common(inner, SURE_S), _common(outer, POSSIBLE_S)
    possible += [Window(a_s=at_s - STEP_S, b_s=at_s + STEP_S) for at_s in forward]
    possible += [
        Window(a_s=fault.begun_s - POSSIBLE_S, b_s=fault.ended_s)
        for fault in record.faults
        if fault.kind in RESTARTS or (record.daemons == 1 and fault.kind in RESTARTS_OF_ONE)
    ]
    return Outages(
        sure=tuple(sure),
        lost=tuple(
            (loss.gone_s, Window(a_s=loss.kept_s, b_s=loss.away_s)) for loss in record.losses if loss.is_confirmed
        ),
        possible=tuple(sorted(possible + lost)),
        late=tuple(Window(a_s=window.a_s, b_s=window.b_s + LOST_S) for window in sorted(possible + lost)),
        of_sure=tuple(tuple(_common([some], SURE_S)) for some in inner),
        of_possible=tuple(
            tuple(sorted([*_common([some], POSSIBLE_S), *_of_processes(record, daemon)]))
            for daemon, some in enumerate(outer)
        ),
        renamed=tuple(
            tuple(
                Window(a_s=fault.begun_s, b_s=fault.ended_s)
                for fault in record.faults
                if fault.kind == "daemons.kill" or (fault.kind in RESTARTS_OF_ONE and fault.target == daemon)
            )
            for daemon in daemons
        ),
    )


def _of_processes(record: Record, daemon: int) -> list[Window]:
    """When one of the daemon's processes was away: probes go on with the others."""
    return [
        Window(a_s=fault.begun_s - POSSIBLE_S, b_s=fault.ended_s + POSSIBLE_S)
        for fault in record.faults
        if fault.kind in OF_ONE_PROCESS and fault.target == daemon
    ]


def _unnoted(record: Record, daemon: int, probes: Sequence[Probe]) -> list[Window]:
    """When a daemon may be behind because it has refused beats and could not note that, as when the disk is full: also
    where it soon takes beats again."""
    refused = [(one.sent_s, one.ended_s) for one in probes if not one.is_stored]
    refused += [
        (one.sent_s, one.ended_s)
        for one in (*record.tries, *record.expired)
        if one.daemon == daemon
        and (one.is_refused or one.is_put_off)
        and record.is_monitor_disturbed(one.sent_s - BETWEEN_S, one.ended_s)
    ]
    found: list[Window] = []
    for sent_s, ended_s in sorted(refused):
        window = Window(a_s=sent_s - POSSIBLE_S, b_s=ended_s + POSSIBLE_S)
        if found and window.a_s <= found[-1].b_s:
            window = Window(a_s=found[-1].a_s, b_s=max(found.pop().b_s, window.b_s))
        found.append(window)
    return found


def _overloads(record: Record, daemon: int) -> list[Window]:
    """When a daemon may be behind with its incoming requests, although it goes on taking beats."""
    return [
        Window(a_s=fault.begun_s - POSSIBLE_S, b_s=fault.ended_s + POSSIBLE_S)
        for fault in record.faults
        if fault.kind == "daemon.overload" and fault.target == daemon
    ]


def _after(windows: Iterable[Window], at_s: float) -> list[Window]:
    return [window for window in windows if window.b_s > at_s]


def _gaps(probes: Sequence[Probe], *, ended_s: float, is_outer: bool) -> list[Window]:
    """The spans between two successes of one daemon. Those that are sure have a failure in them: without, it may have
    been the harness that was asleep."""
    gaps: list[Window] = []
    failed = [probe for probe in probes if not probe.is_stored]
    before_s = 0.0
    for probe in sorted((probe for probe in probes if probe.is_stored), key=lambda probe: probe.ended_s):
        gaps.append(Window(a_s=before_s, b_s=probe.ended_s if is_outer else probe.sent_s - BETWEEN_S))
        before_s = probe.sent_s if is_outer else probe.ended_s
    gaps.append(Window(a_s=before_s, b_s=ended_s))
    gaps = [gap for gap in gaps if gap.length_s >= min(SURE_S, POSSIBLE_S)]
    return [gap for gap in gaps if is_outer or any(gap.a_s <= one.sent_s and one.ended_s <= gap.b_s for one in failed)]


def _common(each: Sequence[Sequence[Window]], least_s: float) -> list[Window]:
    """Where all of them have a window, if that is so long."""
    common = list(each[0])
    for windows in each[1:]:
        common = [
            Window(a_s=max(one.a_s, other.a_s), b_s=min(one.b_s, other.b_s)) for one in common for other in windows
        ]
    return [window for window in common if window.length_s >= least_s]
