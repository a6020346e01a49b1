"""A beat and a page cost no more than is on record, and not much less: a gain is recorded, or a later loss eats it."""

import json

import pytest

from tests import costs

SLACK = 0.03
"""A periodic task more or less; two runs differ by 2 % at most."""
LESS = 0.10
"""On a busy machine the daemon polls less often while pages are sent: 4 % fewer calls were seen."""
ABSOLUTE = 0.05
TOGETHER = 0.1
"""How many beats that come at once share a call to the store depends on when the store answers."""


def test_the_costs_of_a_beat_and_of_a_page_are_those_on_record() -> None:
    recorded = json.loads(costs.RECORDED.read_text(encoding="utf-8"))
    if costs.PYTHON not in recorded:
        pytest.xfail(f"no costs are on record for CPython {costs.PYTHON}: python -m tests.costs --write")
    found, functions = costs.measured()
    assert round(sum(functions.values()), 2) == found["a page alone"]["store_calls"]
    off = {}
    for what, figures in recorded[costs.PYTHON].items():
        margin = TOGETHER if f"{costs.AT_ONCE} at once" in what else ABSOLUTE
        less = SLACK if what == "a page alone" else LESS  # there is no poll in it
        more = LESS if what == "a page" else SLACK  # a burst does not always fall into the same batches
        for name, known in figures.items():
            if not known * (1 - less) - margin <= found[what][name] <= known * (1 + more) + margin:
                off[f"{what}: {name}"] = (known, found[what][name])
    assert off == {}, "on record, and counted now; with the reason in the commit: python -m tests.costs --write"
    assert {what: figures.keys() for what, figures in found.items()} == {
        what: figures.keys() for what, figures in recorded[costs.PYTHON].items()
    }
