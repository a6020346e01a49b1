"""What a run leaves: what truly happened to the workers, and what was observed. Pure data.

Times end in ``_s`` and are seconds since the run's start by the harness's own monotonic clock, unless they are named
``_ms``: those are the store's, as it wrote them.
"""

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

TENANT = "acme"
HOSTILE = "mallory"
"""The tenant of clients that do not obey. What receivers get of it is not judged."""
ENVIRONMENT = "prod"
NIGHT = "night"
"""The environment of those whom the people on call look after."""
CROWD = "crowd"
"""The environment of those who fall silent together."""
STALL_S = 3.0
"""What a stall of the machine holds up is over so much later."""
OUT = frozenset({"stale", "failed"})
DOWN = frozenset({"worker.stale", "worker.rejected", "worker.failed"})
RECEIVERS = ("ops", "audit", "team", "desk")
"""By their numbers."""


class Said(StrEnum):
    """What a worker said in one request."""

    BEAT = "beat"
    EXPIRED = "expired"
    """A beat with a token that has expired: it is refused, and shows that its worker lives."""
    CLEAN = "clean"
    FAILURE = "failure"


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """What was expected of a worker, as each of its beats declares it."""

    name: str
    interval_s: float
    grace_s: float
    environment: str = ENVIRONMENT
    is_hasty: bool = False
    """It sends more than it may."""

    @property
    def patience_s(self) -> float:
        """From a beat to its deadline."""
        return self.interval_s + self.grace_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Try:
    """One request of a worker. ``count`` rises with each and travels as ``tasks_processed``: it names the beat.

    ``status`` None: no answer within the worker's patience, or no connection.
    """

    worker: str
    said: Said
    count: int
    daemon: int
    sent_s: float
    ended_s: float
    status: int | None
    retry_after_s: float | None = None

    @property
    def is_put_off(self) -> bool:
        """It was refused for now."""
        return self.status in {429, 503}

    @property
    def is_stored(self) -> bool:
        """It was acknowledged."""
        return self.status == 204

    @property
    def is_refused(self) -> bool:
        """It was refused for its token, or for being too many."""
        return self.status in {401, 429}


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """A beat of a worker outside the plan, sent to one daemon to find out whether it takes beats."""

    daemon: int
    sent_s: float
    ended_s: float
    is_stored: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One fault as it was done. ``target`` is a daemon's or a receiver's number, or None for the store."""

    kind: str
    target: int | None
    begun_s: float
    ended_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Stall:
    """A span in which the harness got no time of the machine, and the daemons none either, for all that one can say; or
    in which a daemon or the store waited for a core for half of the time."""

    begun_s: float
    ended_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """The store came back without the writes of (``kept_s``, ``back_s``).

    It went away at ``gone_s`` at the earliest, and was away until ``away_s`` for sure.
    ``is_confirmed``: also without writes that it had confirmed as durable; only the restore of an old copy does that.
    """

    kept_s: float
    gone_s: float
    away_s: float
    back_s: float
    is_confirmed: bool

    def covers(self, at_s: float) -> bool:
        """Whether what was stored then may be gone."""
        return self.kept_s <= at_s <= self.back_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """An event of the history, and when the harness read it first."""

    at_s: float
    event_id: str
    kind: str
    worker: str
    generation: int
    seq: int
    old: str | None
    new: str | None
    due_s: float
    """The store's times, moved to the run's clock; they mean nothing where the store's clock was stepped."""
    detected_s: float
    count: int
    """``tasks_processed``: which beat was the worker's last."""
    outage_s: float | None = None
    """How long the monitor says that it was blind since then; None: it does not."""

    @property
    def life(self) -> tuple[str, int]:
        """The worker and its generation."""
        return self.worker, self.generation


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """One request at a webhook receiver. ``answered`` None: it was left without an answer."""

    receiver: str
    at_s: float
    webhook_id: str
    body: bytes
    answered: int | None
    is_signed: bool
    age_s: float
    """How old its timestamp was by the receiver's clock, which is right."""

    @property
    def type(self) -> str:
        return str(self.parsed()["type"])

    @property
    def data(self) -> dict[str, Any]:
        data: dict[str, Any] = self.parsed()["data"]
        return data

    @property
    def is_group(self) -> bool:
        """Whether the notification is of a group."""
        return self.type.startswith("group.")

    @property
    def tenant(self) -> str:
        """The tenant of the workers in the notification."""
        return str((self.data["group"] if self.is_group else self.data).get("tenant", ""))

    @property
    def reminder(self) -> int:
        """The number of the reminder; 0: it is none."""
        return int(self.data.get("reminder", 0))

    @property
    def event_ids(self) -> list[str]:
        """The ids of the events in the notification, as far as it lists them."""
        listed = self.data["events"] if self.is_group else [self.data]
        return [str(one["event_id"]) for one in listed]

    def parsed(self) -> dict[str, Any]:
        """The body."""
        parsed: dict[str, Any] = json.loads(self.body)
        return parsed


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What one answer of the status API said of one worker."""

    worker: str
    daemon: int
    asked_s: float
    answered_s: float
    liveness: str
    count: int

    @property
    def where(self) -> str:
        """Which reading it was, in words."""
        return f"read at {self.asked_s:.2f} to {self.answered_s:.2f} s from daemon {self.daemon}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What the API says became of an event at a receiver."""

    event_id: str
    receiver: str
    outcome: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Silence:
    """A silence of one worker. It matches for sure from ``begun_s`` to ``kept_s``, and at most from ``asked_s`` to
    ``over_s``. ``begun_s`` None: the request was not answered, so the silence may not exist."""

    worker: str
    asked_s: float
    begun_s: float | None
    kept_s: float
    over_s: float

    def is_on(self, at_s: float) -> bool:
        """Whether it matched then, for sure."""
        return self.begun_s is not None and self.begun_s <= at_s <= self.kept_s

    def may_be_on(self, from_s: float, to_s: float) -> bool:
        """Whether it may have matched at some moment of the span."""
        return self.asked_s <= to_s and self.over_s >= from_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Ack:
    """An acknowledgement of an incident that was answered."""

    worker: str
    incident_id: str
    asked_s: float
    done_s: float


@dataclass(kw_only=True, slots=True)
class Record:
    """Everything of one run."""

    seed: int
    daemons: int
    sweep_s: float
    durability: str
    is_clock_stepped: bool
    is_settled: bool = False
    """The run waited until nothing more was to come; if not, it gave up waiting."""
    ended_s: float = 0.0
    workers: dict[str, Worker] = field(default_factory=dict)
    tries: list[Try] = field(default_factory=list)
    expired: list[Try] = field(default_factory=list)
    """Beats with a token that had expired."""
    probes: list[Probe] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    stalls: list[Stall] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    """Every event that was ever read, in the order of reading."""
    final: list[str] = field(default_factory=list)
    """The ids of the history at the end, in its order."""
    arrivals: list[Arrival] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    receivers: dict[str, frozenset[str]] = field(default_factory=dict)
    """The receivers and the kinds of events that a route sends them."""
    groups: frozenset[str] = frozenset()
    """Receivers that are notified of each environment as one group."""
    of_one: dict[str, str] = field(default_factory=dict)
    """Receivers that are notified of one environment only."""
    repeat_s: dict[str, float] = field(default_factory=dict)
    """Receivers that are reminded, and how often at most."""
    flaps_after: int = 0
    """After this number of outages of a worker the next has to last ``hold_s`` to be notified; 0: nothing is held."""
    hold_s: float = 0.0
    silences: list[Silence] = field(default_factory=list)
    acks: list[Ack] = field(default_factory=list)
    hostile_requests: int = 0
    """How many were made, answered or not."""
    attempts: list[str] = field(default_factory=list)
    """What the daemons wrote of attempts that failed or were not recorded: no excuse, and a help to find the cause."""
    trouble: list[str] = field(default_factory=list)
    """What the harness itself noticed: an exit status, a traceback in a log."""

    def of(self, worker: str) -> list[Try]:
        """The worker's requests in their order."""
        return [one for one in self.tries if one.worker == worker]

    def refused_of(self, worker: str) -> list[Try]:
        """Its beats that show that it lives and do not count, in their order: with a token that had expired, beyond
        what one worker may send, or more than a daemon can take."""
        refused = [one for one in (*self.expired, *self.tries) if one.worker == worker]
        return sorted(
            (one for one in refused if one.is_refused or one.is_put_off or one.said is Said.EXPIRED),
            key=lambda one: one.sent_s,
        )

    def history(self) -> list[Entry]:
        """The events of the history at the end, in its order."""
        known = {entry.event_id: entry for entry in self.entries}
        return [known[event_id] for event_id in self.final]

    def environment_of(self, worker: str) -> str:
        """Where the worker is; nowhere, if it is none of the run's."""
        known = self.workers.get(worker)
        return known.environment if known else ""

    def wants(self, receiver: str, entry: Entry) -> bool:
        """Whether a route sends the event to this receiver, as one of single workers."""
        only = self.of_one.get(receiver, self.environment_of(entry.worker))
        return entry.kind in self.receivers[receiver] and only == self.environment_of(entry.worker)

    def is_flapping(self, entry: Entry) -> bool:
        """Whether the worker had at least ``flaps_after`` outages before, so that this one has to last."""
        if not self.flaps_after:
            return False
        before = [one for one in self.history() if one.life == entry.life and one.seq < entry.seq]
        begun = [one for one in before if one.new in OUT and one.old not in OUT]
        is_worse = entry.old in OUT  # or its end
        return len(begun) - is_worse >= self.flaps_after

    def is_disturbed(self, from_s: float, to_s: float) -> bool:
        """Whether any fault was on in this span, or the machine stalled shortly before its end."""
        return self._is_stalled(from_s, to_s) or any(
            fault.begun_s <= to_s and fault.ended_s >= from_s for fault in self.faults
        )

    def _is_stalled(self, from_s: float, to_s: float) -> bool:
        since_s = max(from_s, to_s - STALL_S)
        return any(stall.begun_s <= to_s and stall.ended_s >= since_s for stall in self.stalls)

    def is_monitor_disturbed(self, from_s: float, to_s: float) -> bool:
        """Whether a fault was on that was not a receiver's and not a hostile client's, of which others must notice
        nothing, or the machine stalled shortly before the end."""
        return self._is_stalled(from_s, to_s) or any(
            fault.begun_s <= to_s and fault.ended_s >= from_s and not fault.kind.startswith(("receiver.", "hostile."))
            for fault in self.faults
        )

    def is_hostile(self, from_s: float, to_s: float) -> bool:
        """Whether hostile clients were at work in this span."""
        return any(
            fault.begun_s <= to_s and fault.ended_s >= from_s and fault.kind.startswith("hostile.")
            for fault in self.faults
        )

    def bystander(self, from_s: float, to_s: float) -> str:
        """Which promise is broken by what happened to others then: to those beside a hostile client, or beside a
        receiver that fails; empty: there were neither."""
        return "P29" if self.is_hostile(from_s, to_s) else "P21" if self.is_disturbed(from_s, to_s) else ""

    def as_json(self) -> dict[str, Any]:
        """For a file; bodies as text."""
        whole = asdict(self)
        for arrival in whole["arrivals"]:
            arrival["body"] = arrival["body"].decode()
        whole["groups"] = sorted(self.groups)
        whole["receivers"] = {name: sorted(kinds) for name, kinds in self.receivers.items()}
        return whole


def from_json(whole: dict[str, Any]) -> Record:
    """A record out of a file."""
    record = Record(**{name: whole[name] for name in ("seed", "daemons", "sweep_s", "durability", "is_clock_stepped")})
    record.is_settled, record.ended_s = whole["is_settled"], whole["ended_s"]
    record.workers = {name: Worker(**worker) for name, worker in whole["workers"].items()}
    record.tries = [Try(**{**one, "said": Said(one["said"])}) for one in whole["tries"]]
    record.expired = [Try(**{**one, "said": Said(one["said"])}) for one in whole.get("expired", ())]
    record.probes = [Probe(**one) for one in whole["probes"]]
    record.faults = [Fault(**one) for one in whole["faults"]]
    record.stalls = [Stall(**one) for one in whole.get("stalls", ())]
    record.losses = [Loss(**one) for one in whole["losses"]]
    record.entries = [Entry(**one) for one in whole["entries"]]
    record.arrivals = [Arrival(**{**one, "body": one["body"].encode()}) for one in whole["arrivals"]]
    record.readings = [Reading(**one) for one in whole["readings"]]
    record.outcomes = [Outcome(**one) for one in whole["outcomes"]]
    record.receivers = {name: frozenset(kinds) for name, kinds in whole["receivers"].items()}
    record.groups = frozenset(whole.get("groups", ()))
    record.of_one, record.repeat_s = whole.get("of_one", {}), whole.get("repeat_s", {})
    record.flaps_after, record.hold_s = whole.get("flaps_after", 0), whole.get("hold_s", 0.0)
    record.silences = [Silence(**one) for one in whole.get("silences", ())]
    record.acks = [Ack(**one) for one in whole.get("acks", ())]
    record.hostile_requests = whole.get("hostile_requests", 0)
    record.attempts = whole.get("attempts", [])
    record.final, record.trouble = whole["final"], whole["trouble"]
    return record


@dataclass(frozen=True, kw_only=True, slots=True)
class Violation:
    """A promise that was broken. ``worker`` may be empty."""

    promise: str
    what: str
    worker: str = ""

    def __str__(self) -> str:
        return f"{self.promise}: {self.worker + ': ' if self.worker else ''}{self.what}"
