"""Log lines about refusals: repeated after a pause, and limited for each tenant separately."""

import itertools

import pytest
import structlog

from monitor.limit_log import RefusedBeats, UnknownFieldLog
from monitor.rate_limit import NS
from monitor.workers import WorkerKey


@pytest.mark.parametrize("pause_s", [1, 7, 599, 600, 601, 1_199, 1_200, 1_201, 5_000])
def test_a_worker_whose_beats_are_refused_on_and_on_is_named_once_in_10_to_20_minutes(pause_s: int) -> None:
    now_s = 0
    refused = RefusedBeats(now_ns=lambda: now_s * NS)
    logged_s = []
    for now_s in range(0, 20_000, pause_s):
        with structlog.testing.capture_logs() as lines:
            refused.log("acme", "w", "quota")
        logged_s += [now_s] * len(lines)
    gaps_s = [later_s - earlier_s for earlier_s, later_s in itertools.pairwise(logged_s)]
    assert gaps_s
    assert min(gaps_s) >= 600
    assert max(gaps_s) < 1_200 + pause_s, "the first refusal after 20 minutes is logged"


def test_a_field_that_is_not_known_is_named_once_for_each_tenant() -> None:
    unknown = UnknownFieldLog(now_ns=lambda: NS)
    with structlog.testing.capture_logs() as lines:
        for worker_id in ("w", "v"):
            for tenant in ("acme", "globex"):
                unknown.log(WorkerKey(tenant, worker_id), ["interval", "grace"])
    assert [(line["tenant"], line["worker_id"], line["field"]) for line in lines] == [
        (tenant, "w", field) for tenant in ("acme", "globex") for field in ("interval", "grace")
    ]
