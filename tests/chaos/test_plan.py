"""Plans are made from their seed alone, and between them hold every fault."""

from collections import Counter
from itertools import combinations

import pytest

from tests.chaos import plan
from tests.chaos.life import Ending
from tests.chaos.plan import Kind, Shape

SEEDS = range(1, 1_501)


def test_the_same_seed_gives_the_same_plan_and_another_one_another() -> None:
    assert [plan.make(seed) for seed in range(50)] == [plan.make(seed) for seed in range(50)]
    assert len({repr(plan.make(seed)) for seed in range(50)}) == 50


def test_every_fault_is_in_many_plans() -> None:
    counts = Counter(step.kind for seed in SEEDS for step in plan.make(seed).steps)
    assert {kind for kind in Kind if counts[kind] < 20} == set()


def test_every_kind_of_life_and_what_is_done_about_it_is_in_many_plans() -> None:
    plans = [plan.make(seed) for seed in SEEDS]
    counts = Counter(life.worker.environment for made in plans for life in made.lives[:1] + made.lives[-40:])
    assert min(counts["prod"], counts["night"], counts["crowd"]) > 1_000
    for held in (
        [made for made in plans if made.hushes],
        [made for made in plans if made.cares],
        [made for made in plans if made.is_hasty],
        [made for made in plans if made.is_overloaded],
        [made for made in plans if made.processes > 1],
        [made for made in plans if any(life.flaps for life in made.lives)],
        [made for made in plans if any(hush.ended_s for hush in made.hushes)],
    ):
        assert len(held) > len(plans) // 10


@pytest.mark.parametrize("seed", range(200))
def test_a_plan_can_be_done(seed: int) -> None:
    made = plan.make(seed)
    assert made.steps
    for step in made.steps:
        assert step.ends_s <= made.horizon_s
        if step.kind not in plan.OF_RECEIVER:
            assert step.target < made.daemons
        if made.shape is Shape.EMBEDDED:
            assert step.kind not in plan.OF_NET
            assert step.kind in plan.EMBEDDED_STORE or step.kind not in plan.OF_STORE
        assert made.shape is Shape.VALKEY or step.kind not in plan.NEEDS_VALKEY
    for one, other in combinations(made.steps, 2):
        if one.kind.partition(".")[0] == other.kind.partition(".")[0]:
            assert one.ends_s < other.at_s or other.ends_s < one.at_s
    for life in made.lives:
        assert life.back_s is None or life.back_s > life.ends_s
        turns = [turn for spell in life.spells for turn in spell if turn is not None]
        assert turns == sorted(turns)
        assert life.last_turn_s <= made.horizon_s or life.ending is Ending.NONE
    for kind in plan.OF_ONE_PROCESS & {step.kind for step in made.steps}:
        assert made.processes > 1, kind


def test_plans_can_be_narrowed_to_some_faults_and_to_machines_without_faketime() -> None:
    narrow = [plan.make(seed, kinds=frozenset({Kind.STORE_KILL, Kind.NET_CUT}), faketime=False) for seed in SEEDS[:100]]
    assert {step.kind for made in narrow for step in made.steps} == {Kind.STORE_KILL, Kind.NET_CUT}
    assert not any(made.has_faketime for made in narrow)
