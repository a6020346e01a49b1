"""From a seed to a timeline of faults and of workers' lives. Pure: the same seed gives the same plan everywhere."""

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tests.chaos import life as lives_of
from tests.chaos.life import Care, Ending, Hush, Life
from tests.chaos.record import CROWD

FIRST_FAULT_S: Final = 4.0
LAST_FAULT_S: Final = 13.0
RECEIVERS: Final = 3
"""Those that may fail: the last one is left alone."""
LONGEST_S: Final = 9.0
"""Longer than every worker's patience."""
APART_S: Final = 3.0
"""Between two faults of one kind of thing: it has to start again."""


class Shape(StrEnum):
    """What the daemons keep their state in."""

    EMBEDDED = "embedded"
    VALKEY = "valkey"
    REDIS = "redis"
    SENTINEL = "sentinel"
    """A Valkey, its replica and a Sentinel that watches them."""


class Kind(StrEnum):
    """The faults."""

    DAEMON_KILL = "daemon.kill"
    DAEMON_PAUSE = "daemon.pause"
    DAEMON_RESTART = "daemon.restart"
    ALL_KILL = "daemons.kill"
    ALL_PAUSE = "daemons.pause"
    STORE_KILL = "store.kill"
    STORE_PAUSE = "store.pause"
    STORE_POWER_CUT = "store.power_cut"
    STORE_RESTORE = "store.restore"
    STORE_CLOCK = "store.clock"
    DISK_FULL = "store.disk_full"
    MEMORY_FULL = "store.memory_full"
    FAILOVER = "sentinel.failover"
    PRIMARY_KILL = "sentinel.primary_kill"
    PRIMARY_PAUSE = "sentinel.primary_pause"
    PROCESS_KILL = "daemon.process_kill"
    """One of several processes of a daemon, which starts another in its place."""
    PROCESS_PAUSE = "daemon.process_pause"
    OVERLOAD = "daemon.overload"
    """More beats than a daemon can take that is slowed down meanwhile."""
    NET_CUT = "net.cut"
    NET_CUT_KTH = "net.cut_kth"
    NET_DELAY = "net.delay"
    NET_BLACK_HOLE = "net.black_hole"
    NET_ANSWERS_HELD = "net.answers_held"
    NET_HALF_OPEN = "net.half_open"
    NET_REFUSED = "net.refused"
    RECEIVER_500 = "receiver.500"
    RECEIVER_HANGS = "receiver.hangs"
    RECEIVER_CLOSED = "receiver.closed"
    HOSTILE_HEADS = "hostile.heads"
    """Strangers without a token: heads that do not end, floods of fields, bad requests, connections that hang up."""
    HOSTILE_BODIES = "hostile.bodies"
    """Another tenant: batches and bodies that do not end, beats as fast as they are answered."""
    HOSTILE_READS = "hostile.reads"
    """Another tenant: reads and silences without a pause."""
    HOSTILE_CRASHES = "hostile.crashes"
    """Another tenant: crashes without end, notified to the receivers that both tenants share."""


OF_ONE_PROCESS: Final = frozenset({Kind.PROCESS_KILL, Kind.PROCESS_PAUSE})
OF_HOSTILE: Final = frozenset(kind for kind in Kind if kind.startswith("hostile."))
APART: Final = OF_ONE_PROCESS | OF_HOSTILE | {Kind.OVERLOAD}
"""Drawn apart from the others, one at most of each sort."""
OF_ALL_DAEMONS: Final = frozenset({Kind.ALL_KILL, Kind.ALL_PAUSE})
OF_NET: Final = frozenset(kind for kind in Kind if kind.startswith("net."))
OF_STORE: Final = frozenset(kind for kind in Kind if kind.startswith("store."))
OF_SENTINEL: Final = frozenset(kind for kind in Kind if kind.startswith("sentinel."))
OF_RECEIVER: Final = frozenset(kind for kind in Kind if kind.startswith("receiver."))
EMBEDDED_STORE: Final = frozenset({Kind.STORE_KILL, Kind.STORE_PAUSE})
"""What can be done to a store that a daemon keeps for itself."""
NEEDS_VALKEY: Final = frozenset({Kind.STORE_POWER_CUT, Kind.STORE_CLOCK})
"""Debian's Redis 7.0 knows no WAITAOF, which says what a power cut may lose, and does not run under faketime."""


DURABILITIES: Final = {
    Shape.EMBEDDED: ("fsync", "fsync", "memory"),
    Shape.VALKEY: ("fsync", "fsync", "memory"),
    Shape.REDIS: ("fsync", "memory"),
    Shape.SENTINEL: ("replicas:1", "replicas:1", "memory"),
}


BEFORE_S: Final = {Kind.STORE_RESTORE: 1.0, Kind.STORE_POWER_CUT: 4.0}
"""How long before the kill these begin, for each of their ``amount``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A fault to come. ``target`` is a daemon's or a receiver's number; ``amount`` is the kind's own."""

    kind: Kind
    at_s: float
    for_s: float
    target: int
    amount: float

    @property
    def ends_s(self) -> float:
        """An old copy is taken some time before the store is killed, and a disk stops to sync before a power cut."""
        return self.at_s + self.for_s + BEFORE_S.get(self.kind, 0.0) * self.amount


@dataclass(frozen=True, kw_only=True, slots=True)
class Skew:
    """What a daemon takes for the time: ``offset_s`` off, and ``rate`` as fast."""

    offset_s: int
    rate: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A run to be made."""

    seed: int
    shape: Shape
    daemons: int
    durability: str
    partitions: int
    lives: tuple[Life, ...]
    steps: tuple[Step, ...]
    skews: tuple[Skew | None, ...]
    processes: int
    """Of each daemon."""
    hushes: tuple[Hush, ...] = ()
    cares: tuple[Care, ...] = ()

    @property
    def has_faketime(self) -> bool:
        """Whether it needs libfaketime."""
        return any(self.skews) or self.is_clock_stepped

    @property
    def horizon_s(self) -> float:
        """When every fault has ended and every life has taken its last turn."""
        turns = [life.last_turn_s for life in self.lives if life.ending is not Ending.NONE]
        turns += [hush.at_s + hush.for_s for hush in self.hushes]
        return max(turns + [step.ends_s for step in self.steps], default=0.0)

    @property
    def has_crowd(self) -> bool:
        """Whether many fall silent together."""
        return any(life.worker.environment == CROWD for life in self.lives)

    @property
    def is_hasty(self) -> bool:
        """Whether a worker sends more than it may."""
        return any(life.every_s is not None for life in self.lives)

    @property
    def is_overloaded(self) -> bool:
        """Whether a daemon gets more than it can take."""
        return any(step.kind is Kind.OVERLOAD for step in self.steps)

    @property
    def is_hostile(self) -> bool:
        """Whether clients that do not obey are about."""
        return any(step.kind in OF_HOSTILE for step in self.steps)

    @property
    def is_clock_stepped(self) -> bool:
        """Whether the store's clock jumps."""
        return any(step.kind is Kind.STORE_CLOCK for step in self.steps)


def make(seed: int, *, kinds: frozenset[Kind] = frozenset(Kind), faketime: bool = True) -> Plan:
    """The plan of a seed. ``kinds`` and ``faketime`` narrow what it may hold, and so change it."""
    rng = random.Random(seed)  # noqa: S311 - a plan, not a secret
    shape, daemons, possible = Shape.EMBEDDED, 1, list[Kind]()
    while not possible:  # what is asked for may need another store, or more daemons
        shape = rng.choices(list(Shape), [2, 7, 2, 2])[0]
        daemons = 1 if shape is Shape.EMBEDDED else rng.choice([1, 2, 2, 3])
        possible = sorted(kind for kind in kinds if _fits(kind, shape, daemons, faketime=faketime))
    steps = _steps(rng, [kind for kind in possible if kind not in APART], daemons)
    skews: list[Skew | None] = [None] * daemons
    if faketime and shape is not Shape.EMBEDDED and rng.random() < 0.3:
        skews[rng.randrange(daemons)] = Skew(offset_s=rng.choice([-600, 600]), rate=rng.choice([1.0, 1.0, 0.9, 1.1]))
    durability, partitions = rng.choice(DURABILITIES[shape]), rng.choice([1, 2, 4, 16])
    lives = lives_of.drawn(seed, rng, daemons)
    processes, steps = _apart_from(steps, seed, frozenset(possible), shape, daemons)
    steps = _with_hostile(steps, seed, sorted(OF_HOSTILE & frozenset(possible)), daemons)
    return Plan(
        seed=seed,
        shape=shape,
        daemons=daemons,
        durability=durability,
        partitions=partitions,
        lives=lives,
        steps=steps,
        skews=tuple(skews),
        processes=processes,
        hushes=lives_of.hushes(seed, lives),
        cares=lives_of.cares(seed, lives),
    )


def _fits(kind: Kind, shape: Shape, daemons: int, *, faketime: bool) -> bool:
    if kind is Kind.STORE_CLOCK and not faketime:
        return False
    if (kind in OF_ALL_DAEMONS and daemons == 1) or (kind in OF_ONE_PROCESS and shape is Shape.EMBEDDED):
        return False
    if shape is Shape.SENTINEL:
        return kind not in OF_NET | OF_STORE
    if kind in OF_SENTINEL:
        return False
    if shape is Shape.EMBEDDED:
        return kind not in OF_NET and (kind not in OF_STORE or kind in EMBEDDED_STORE)
    return shape is Shape.VALKEY or kind not in NEEDS_VALKEY


def _steps(rng: random.Random, possible: list[Kind], daemons: int) -> tuple[Step, ...]:
    """One to four faults; those of one kind of target do not overlap, others may."""
    steps: list[Step] = []
    if not possible:
        return ()
    for _ in range(rng.choice([1, 2, 2, 3, 3, 4])):
        kind = rng.choice(possible)
        at_s = round(rng.uniform(FIRST_FAULT_S, LAST_FAULT_S), 2)
        for_s = round(min(LONGEST_S, 0.1 * 90 ** rng.random()), 2)  # 0.1 s to 9 s, half of them below 1 s
        if kind in OF_RECEIVER | OF_STORE | OF_SENTINEL | OF_ALL_DAEMONS and rng.random() < 0.6:
            for_s = round(rng.uniform(1.0, LONGEST_S), 2)
        target = rng.randrange(RECEIVERS if kind in OF_RECEIVER else daemons)
        step = Step(kind=kind, at_s=at_s, for_s=for_s, target=target, amount=_amount(rng, kind))
        if all(_apart(step, other) for other in steps):
            steps.append(step)
    return tuple(sorted(steps, key=lambda step: step.at_s))


def _apart_from(
    steps: tuple[Step, ...], seed: int, possible: frozenset[Kind], shape: Shape, daemons: int
) -> tuple[int, tuple[Step, ...]]:
    """How many processes a daemon has, and the steps with those that are drawn apart, so that the others stay."""
    rng = random.Random(f"{seed} apart")  # noqa: S311 - a plan, not a secret
    only = bool(possible) and possible <= APART
    has_processes = shape is not Shape.EMBEDDED and (rng.random() < 0.25 or bool(only and possible & OF_ONE_PROCESS))
    wanted: list[Kind] = []
    if has_processes and (only or rng.random() < 0.7):
        wanted += sorted(possible & OF_ONE_PROCESS)[rng.randrange(2) :][:1] or sorted(possible & OF_ONE_PROCESS)
    if Kind.OVERLOAD in possible and (only or rng.random() < 0.3):
        wanted.append(Kind.OVERLOAD)
    found = list(steps)
    for kind in wanted:
        step = Step(
            kind=kind,
            at_s=round(rng.uniform(FIRST_FAULT_S, LAST_FAULT_S), 2),
            for_s=round(rng.uniform(1.0, 6.0), 2),
            target=rng.randrange(daemons),
            amount=round(rng.random(), 3),
        )
        if all(_apart(step, other) for other in found):
            found.append(step)
    return 2 if has_processes else 1, tuple(sorted(found, key=lambda step: step.at_s))


def _with_hostile(steps: tuple[Step, ...], seed: int, possible: list[Kind], daemons: int) -> tuple[Step, ...]:
    """The steps, with one of clients that do not obey in some plans, and in every one that has no other."""
    rng = random.Random(f"{seed} hostile")  # noqa: S311 - a plan, not a secret
    if not possible or (steps and rng.random() >= 0.3):
        return steps
    step = Step(
        kind=rng.choice(possible),
        at_s=round(rng.uniform(FIRST_FAULT_S, LAST_FAULT_S), 2),
        for_s=round(rng.uniform(3.0, LONGEST_S), 2),
        target=rng.randrange(daemons),
        amount=0.0,
    )
    return tuple(sorted([*steps, step], key=lambda one: one.at_s))


def _amount(rng: random.Random, kind: Kind) -> float:
    match kind:
        case Kind.STORE_CLOCK:
            return rng.choice([-600.0, -30.0, -5.0, 5.0, 30.0, 600.0])
        case Kind.STORE_RESTORE:
            return round(rng.uniform(1.0, 6.0), 2)  # the copy is so old
        case Kind.NET_DELAY:
            return round(rng.uniform(0.02, 0.4), 3)
        case Kind.NET_CUT_KTH:
            return float(rng.randint(1, 20))
        case _:
            return round(rng.random(), 3)


def _apart(one: Step, other: Step) -> bool:
    if _place(one.kind) != _place(other.kind):
        return True
    return one.at_s > other.ends_s + APART_S or other.at_s > one.ends_s + APART_S


def _place(kind: Kind) -> str:
    return str(kind).partition(".")[0].removesuffix("s")


def described(plan: Plan) -> str:
    """The plan in one line of words and one for each fault."""
    extras = [f"{plan.processes} processes each"] if plan.processes > 1 else []
    extras += ["a crowd"] if plan.has_crowd else []
    extras += ["a hasty one"] if plan.is_hasty else []
    extras += [f"{len(plan.hushes)} silences, {len(plan.cares)} cared for"] if plan.hushes or plan.cares else []
    skews = [f"daemon {number} {skew.offset_s:+d} s x{skew.rate:g}" for number, skew in enumerate(plan.skews) if skew]
    head = (
        f"seed {plan.seed}: {plan.daemons} on {plan.shape}, {plan.durability}, {plan.partitions} partitions, "
        f"{len(plan.lives)} workers{''.join(', ' + word for word in skews + extras)}"
    )
    faults = [
        f"  {step.at_s:5.2f} s {step.kind} of {step.target} for {step.for_s:g} s ({step.amount:g})"
        for step in plan.steps
    ]
    return "\n".join([head, *faults])
