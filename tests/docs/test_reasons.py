"""Each reason for a degraded monitor and each metric is in the documents, and the alert rules know them (P27)."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from alerts.loops import STEADY_S
from monitor.api.health import CENSUS_AGE_S
from monitor.daemon.self_check import (
    CONFIRM_TRIES,
    DELIVERY_LAG_S,
    FULL_SHARE,
    LOOP_LAG_S,
    LOOP_WINDOW_S,
    QUEUES_S,
    STORE_S,
)
from monitor.daemon.watchdog import PATIENCE_S, RETRY_S
from monitor.eviction import CHECK_S
from monitor.health import MIN_SWEEP_LAG_MS, PROBE_AGE_S, SWEEP_LAG_INTERVALS
from monitor.http.connections import FULL_S
from monitor.intake.backlog import LIMIT_S
from monitor.metrics.registry import STALLED_AFTER_S, DeliveryLabels, Metrics
from monitor.pulse import BLIND_S, SKEW_MS
from monitor.reasons import Reason
from monitor.scheduler import TIDY_INTERVAL_S
from monitor.store.outbox import ROUTING_LAG_S
from monitor.sweeper import PURGE_CHUNK

ROOT: Final = Path(__file__).parents[2]
HTTP_API: Final = (ROOT / "docs" / "http-api.md").read_text(encoding="utf-8")
OPERATIONS: Final = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
RULES: Final = ROOT / "deploy" / "prometheus" / "lastseen.rules.yml"
SUFFIXES: Final = ("_total", "_bucket", "_sum", "_count")


def part(text: str, heading: str) -> str:
    """What stands under a heading, up to the next of any kind."""
    return text.split(f"{heading}\n")[1].split("\n#", maxsplit=1)[0]


def first_cells(text: str) -> list[str]:
    """The words in the first column of the tables, in their order."""
    return re.findall(r"(?m)^\| `([a-z_]+)(?:\{[^}]*\})?` \|", text)


def families() -> set[str]:
    """Every metric of ours, as the exposition calls it."""
    text = (
        Metrics(version="test", labels=DeliveryLabels(receivers=("ops",), outcomes=("delivered",)))
        .exposition("")[0]
        .decode()
    )
    found = {family.name for family in text_string_to_metric_families(text)}
    return {name for name in found if name.startswith("lastseen_")}


def base(name: str) -> str:
    """A metric's name without what is added to it for counters and histograms."""
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)


def test_each_reason_has_its_meaning_in_the_reference_and_what_to_do_in_operations() -> None:
    names = [reason.value for reason in Reason]
    assert first_cells(part(HTTP_API, "## The state of the monitor")) == names
    rows = part(OPERATIONS, "### When the monitor is degraded")
    assert sorted(first_cells(rows)) == sorted(names)
    for row in rows.splitlines():
        if row.startswith("| `"):
            reason, wrong, do, metrics = row.strip("| ").split(" | ")
            assert wrong, reason
            assert do, reason
            assert {base(name) for name in re.findall(r"`(lastseen_\w+)`", metrics)} <= families(), reason
            assert "lastseen_" in metrics, reason


def test_each_metric_is_in_the_reference_and_each_that_is_there_exists() -> None:
    documented = [name for name in first_cells(part(HTTP_API, "## Probes and metrics")) if name != "process_"]
    assert sorted(map(base, documented)) == sorted(families())


def test_the_alert_rules_name_metrics_reasons_and_outcomes_that_there_are() -> None:
    text = RULES.read_text(encoding="utf-8")
    assert {base(name) for name in re.findall(r"lastseen_\w+", text)} <= families()
    named = {name for words in re.findall(r"reason!?=~\"([^\"]+)\"", text) for name in words.split("|")}
    assert named <= set(Reason)
    excluded = re.findall(r"reason!~\"([^\"]+)\"", text)
    assert [set(words.split("|")) <= set(Reason) for words in excluded] == [True]


def test_prometheus_takes_the_alert_rules() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:  # not a skip, which would fail CI: what can be judged without it is judged above
        assert len(re.findall(r"(?m)^      - alert: ", RULES.read_text(encoding="utf-8"))) > 1
        return
    checked = subprocess.run([promtool, "check", "rules", str(RULES)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


NUMBERS: Final = (
    (HTTP_API, "older than five sweep intervals (at least 5 s)", (SWEEP_LAG_INTERVALS, MIN_SWEEP_LAG_MS), (5, 5_000)),
    (HTTP_API, "events wait for more than 10 s for their router", ROUTING_LAG_S, 10),
    (HTTP_API, "for more than a minute, or the queues could not be asked for so long", DELIVERY_LAG_S, 60),
    (HTTP_API, "three times in a row it did not confirm one", CONFIRM_TRIES, 3),
    (HTTP_API, "the store uses more than 90 % of its `maxmemory`. Asked every 15 s", (FULL_SHARE, STORE_S), (0.9, 15)),
    (HTTP_API, "it is asked every second", PROBE_AGE_S, 1),
    (HTTP_API, "the store has taken no pulse of this daemon for 2 s", BLIND_S, 2),
    (HTTP_API, "was stepped back by more than 10 s in all", SKEW_MS, 10_000),
    (HTTP_API, "or has run for less than 30 s since", STEADY_S, 30),
    (HTTP_API, "in the last 10 s a connection was refused", FULL_S, 10),
    (HTTP_API, "has not turned its event loop for 5 s", STALLED_AFTER_S, 5),
    (HTTP_API, "held up for more than a second, within the last 10 s", (LOOP_LAG_S, LOOP_WINDOW_S), (1, 10)),
    (HTTP_API, "workers of all tenants, at most 5 s old", CENSUS_AGE_S, 5),
    (HTTP_API, "this and the next five are at most 5 s old", QUEUES_S, 5),
    (OPERATIONS, "What passes within 5 s withholds", PATIENCE_S, 5),
    (OPERATIONS, "is tried again after 10 s", RETRY_S, 10),
    (OPERATIONS, "or found after a failover, is noticed within 5 s", CHECK_S, 5),
    (
        OPERATIONS,
        "**Forgetting and trimming** run every 30 s, in steps of 100",
        (TIDY_INTERVAL_S, PURGE_CHUNK),
        (30, 100),
    ),
    (OPERATIONS, "Too long is 2 s", LIMIT_S, 2),
)
"""Sentences of the documents, each with the constants that it states and the values that it states for them."""


@pytest.mark.parametrize(("text", "sentence", "value", "stated"), NUMBERS, ids=[row[1] for row in NUMBERS])
def test_p27_the_numbers_that_the_documents_state_are_those_of_the_monitor(
    text: str, sentence: str, value: object, stated: object
) -> None:
    assert sentence in text
    assert value == stated


@pytest.mark.parametrize("reason", Reason)
def test_each_reason_is_a_series_from_the_start_and_goes_back_to_0(reason: Reason) -> None:
    metrics = Metrics(version="test")
    series = f'lastseen_degraded{{reason="{reason}"}}'
    for reasons, value in (((), 0), ([reason.value], 1), ((), 0)):
        metrics.degraded(reasons)
        assert f"{series} {value}.0" in metrics.exposition("")[0].decode()
