"""Each reason for a degraded monitor and each metric is in the documents, and the alert rules know them (P27)."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from monitor.metrics import Metrics
from monitor.reasons import Reason

ROOT: Final = Path(__file__).parent.parent
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
    text = Metrics(version="test", deliveries=[("ops", "delivered")]).exposition("")[0].decode()
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


@pytest.mark.parametrize("reason", Reason)
def test_each_reason_is_a_series_from_the_start_and_goes_back_to_0(reason: Reason) -> None:
    metrics = Metrics(version="test")
    series = f'lastseen_degraded{{reason="{reason}"}}'
    for reasons, value in (((), 0), ([reason.value], 1), ((), 0)):
        metrics.degraded(reasons)
        assert f"{series} {value}.0" in metrics.exposition("")[0].decode()
