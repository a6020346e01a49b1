"""The list of wrong changes fits the product: each changes one place, into something that runs, and has its tests."""

import ast
from collections import Counter
from typing import Final

import pytest

from tests.mutants.catalog import AREAS, MUTANTS
from tests.mutants.mutant import Mutant
from tests.mutants.workshop import ROOT

FEWEST: Final = 120
MOST_SURVIVORS: Final = 0.05


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.wrong)
def test_a_wrong_change_changes_one_place_into_something_that_runs(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text("utf-8")
    assert text.count(mutant.old) == 1
    changed = text.replace(mutant.old, mutant.new)
    assert changed != text
    if mutant.file.endswith(".py"):
        before, after = ast.dump(ast.parse(text)), ast.dump(ast.parse(changed))
        assert before != after, "it changes a comment or the layout only"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.wrong)
def test_the_tests_of_a_wrong_change_exist(mutant: Mutant) -> None:
    assert mutant.tests
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text("utf-8") or not name


def test_the_list_is_long_enough_names_each_change_once_and_gives_up_few() -> None:
    assert [wrong for wrong, times in Counter(mutant.wrong for mutant in MUTANTS).items() if times > 1] == []
    assert len(MUTANTS) >= FEWEST
    assert all(AREAS.values())
    assert sum(bool(mutant.survives) for mutant in MUTANTS) <= MOST_SURVIVORS * len(MUTANTS)
