"""From a seed to workers' lives, and to what the people on call do about some of them. Pure.

Each kind of life is drawn by a generator of its own: a new kind changes nothing in the lives of the others.
"""

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tests.chaos.record import CROWD, NIGHT, Worker

DEATHS_S: Final = (3.0, 16.0)
EXPIRED_S: Final = (3.0, 10.0)
"""For how long a token has expired, before there is a new one or the worker falls silent."""
STRAGGLING_S: Final = 7.0
"""Earliest return after a disconnect. A sooner beat is a straggler, whose silence means something else."""
HASTY_S: Final = 0.1
"""Interval of a hasty worker. The daemons accept few of its beats."""
NIGHT_UNTIL_S: Final = 22.0
CROWD_SIZE: Final = 50
"""As many as a notification names."""
CROWD_INTERVAL_S: Final = 3.0
SURVIVORS: Final = 4
"""Of the crowd: they go on when the others fall silent."""


class Ending(StrEnum):
    """How a worker's life ends, or is interrupted."""

    NONE = "beats to the end"
    DIES = "dies"
    CLEAN = "says goodbye"
    FAILS = "says that it failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Life:
    """What a worker will do. ``back_s`` None: it does not come back."""

    worker: Worker
    begins_s: float
    ending: Ending
    ends_s: float
    back_s: float | None
    fixed: int | None
    """The one daemon that it knows; None: it goes to the next when one fails."""
    expired_until_s: float | None = None
    """From its end until then it beats with a token that has expired."""
    flaps: tuple[tuple[float, float], ...] = ()
    """When it falls silent once more after it is back, and when it beats again."""
    every_s: float | None = None
    """Time between its beats. None: its interval."""

    @property
    def spells(self) -> tuple[tuple[float, float | None], ...]:
        """The spans in which it beats; None: to the end of the run."""
        if self.ending is Ending.NONE:
            return ((self.begins_s, None),)
        if self.back_s is None:
            return ((self.begins_s, self.ends_s),)
        begins = [self.begins_s, self.back_s, *(back_s for _, back_s in self.flaps)]
        return tuple(zip(begins, [self.ends_s, *(dies_s for dies_s, _ in self.flaps), None], strict=True))

    @property
    def last_turn_s(self) -> float:
        """Time of its last change."""
        begins_s, ends_s = self.spells[-1]
        return max(begins_s, ends_s or 0.0, self.expired_until_s or 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Hush:
    """A silence that an operator will request. ``ended_s``: when the operator ends it, before its time."""

    worker: str
    at_s: float
    for_s: float
    ended_s: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Care:
    """An operator will acknowledge each incident of a worker, ``after_s`` after the notification."""

    worker: str
    after_s: float


def drawn(seed: int, rng: random.Random, daemons: int) -> tuple[Life, ...]:
    """All lives of a plan; ``rng`` is the plan's own."""
    usual = [_life(rng, number, daemons) for number in range(rng.randint(12, 24))]
    return (*usual, *_expired(seed, daemons), *_night(seed, daemons), *_crowd(seed, daemons), *_hasty(seed, daemons))


def _random(seed: int, about: str) -> random.Random:
    return random.Random(f"{seed} {about}")  # noqa: S311 - a plan, not a secret


def _fixed(rng: random.Random, daemons: int) -> int | None:
    return rng.randrange(daemons) if rng.random() < 0.3 else None


def _life(rng: random.Random, number: int, daemons: int) -> Life:
    interval_s = rng.choice([1.0, 1.0, 1.5, 2.0])
    grace_s = rng.choice([1.0, 2.0, 2.0, 3.0])
    ending = rng.choices(list(Ending), [4, 4, 1, 1])[0]
    ends_s = round(rng.uniform(*DEATHS_S), 2)
    gone_s = STRAGGLING_S if ending is Ending.CLEAN else 0.5
    back_s = round(ends_s + gone_s + rng.uniform(0.0, 5.0), 2) if rng.random() < 0.4 else None
    return Life(
        worker=Worker(name=f"w{number}", interval_s=interval_s, grace_s=grace_s),
        begins_s=round(rng.uniform(0.0, 1.5), 2),
        ending=ending,
        ends_s=ends_s,
        back_s=None if ending is Ending.NONE else back_s,
        fixed=_fixed(rng, daemons),
    )


def _expired(seed: int, daemons: int) -> list[Life]:
    """Up to three whose token expires, and who get a new one or fall silent."""
    rng = _random(seed, "expired")
    lives: list[Life] = []
    for number in range(rng.randint(0, 3)):
        ends_s = round(rng.uniform(*DEATHS_S), 2)
        until_s = round(ends_s + rng.uniform(*EXPIRED_S), 2)
        lives.append(
            Life(
                worker=Worker(
                    name=f"x{number}", interval_s=rng.choice([1.0, 1.5, 2.0]), grace_s=rng.choice([2.0, 3.0])
                ),
                begins_s=round(rng.uniform(0.0, 1.5), 2),
                ending=Ending.DIES,
                ends_s=ends_s,
                back_s=until_s if rng.random() < 0.5 else None,
                fixed=_fixed(rng, daemons),
                expired_until_s=until_s,
            )
        )
    return lives


def _night(seed: int, daemons: int) -> list[Life]:
    """In half of the plans some whom the people on call look after: they fall silent once, or again and again."""
    rng = _random(seed, "night")
    lives: list[Life] = []
    for number in range(rng.choice([0, 0, 3, 4, 5, 6])):
        ends_s = round(rng.uniform(*DEATHS_S), 2)
        back_s = round(ends_s + rng.uniform(2.0, 7.0), 2) if rng.random() < 0.7 else None
        flaps: list[tuple[float, float]] = []
        while back_s is not None and rng.random() < 0.7:
            dies_s = (flaps[-1][1] if flaps else back_s) + rng.uniform(1.0, 4.0)
            if dies_s > NIGHT_UNTIL_S:
                break
            flaps.append((round(dies_s, 2), round(dies_s + rng.uniform(1.0, 6.0), 2)))
        lives.append(
            Life(
                worker=Worker(
                    name=f"n{number}",
                    interval_s=rng.choice([1.0, 1.5]),
                    grace_s=rng.choice([1.0, 2.0]),
                    environment=NIGHT,
                ),
                begins_s=round(rng.uniform(0.0, 1.5), 2),
                ending=rng.choice([Ending.DIES, Ending.DIES, Ending.FAILS]),
                ends_s=ends_s,
                back_s=back_s,
                fixed=_fixed(rng, daemons),
                flaps=tuple(flaps),
            )
        )
    return lives


def _crowd(seed: int, daemons: int) -> list[Life]:
    """In a quarter of the plans many who fall silent together, most of them at one moment, and may be back together."""
    rng = _random(seed, "crowd")
    if rng.random() >= 0.25:
        return []
    ends_s = round(rng.uniform(6.0, 12.0), 2)
    back_s = round(ends_s + rng.uniform(7.0, 13.0), 2) if rng.random() < 0.6 else None
    return [
        Life(
            worker=Worker(name=f"m{number}", interval_s=CROWD_INTERVAL_S, grace_s=CROWD_INTERVAL_S, environment=CROWD),
            begins_s=round(rng.uniform(0.0, CROWD_INTERVAL_S), 2),
            ending=Ending.NONE if number < SURVIVORS else Ending.DIES,
            ends_s=ends_s,
            back_s=None if number < SURVIVORS or back_s is None else round(back_s + rng.uniform(0.0, 1.0), 2),
            fixed=_fixed(rng, daemons),
        )
        for number in range(CROWD_SIZE)
    ]


def _hasty(seed: int, daemons: int) -> list[Life]:
    """In a third of the plans one that sends far more than it may, and is refused most of the time."""
    rng = _random(seed, "hasty")
    if rng.random() >= 1 / 3:
        return []
    return [
        Life(
            worker=Worker(name="hasty", interval_s=1.0, grace_s=rng.choice([1.0, 2.0]), is_hasty=True),
            begins_s=round(rng.uniform(0.0, 1.5), 2),
            ending=rng.choice([Ending.NONE, Ending.NONE, Ending.DIES]),
            ends_s=round(rng.uniform(*DEATHS_S), 2),
            back_s=None,
            fixed=_fixed(rng, daemons),
            every_s=HASTY_S,
        )
    ]


def hushes(seed: int, lives: tuple[Life, ...]) -> tuple[Hush, ...]:
    """Silences for some of the night's workers."""
    rng = _random(seed, "hushes")
    made: list[Hush] = []
    for life in lives:
        if life.worker.environment == NIGHT and rng.random() < 0.6:
            at_s = round(rng.uniform(2.0, 16.0), 2)
            for_s = round(rng.uniform(2.0, 10.0), 2)
            ended_s = round(at_s + for_s * rng.uniform(0.3, 0.9), 2) if rng.random() < 0.3 else None
            made.append(Hush(worker=life.worker.name, at_s=at_s, for_s=for_s, ended_s=ended_s))
    return tuple(made)


def cares(seed: int, lives: tuple[Life, ...]) -> tuple[Care, ...]:
    """Acknowledgements for some of the night's workers."""
    rng = _random(seed, "cares")
    return tuple(
        Care(worker=life.worker.name, after_s=round(rng.uniform(0.1, 4.0), 2))
        for life in lives
        if life.worker.environment == NIGHT and rng.random() < 0.4
    )
