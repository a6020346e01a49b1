"""When Lastseen calls itself degraded, and how often it asks the store."""

import asyncio
import math

import pytest

from monitor.api.health import FleetGauge
from monitor.health import MIN_SWEEP_LAG_MS, PROBE_AGE_S, Health
from tests.core.test_metrics import values
from tests.support import api, servers

NOW_MS = 1_000_000_000


class Probe:
    """A store probe: its answer can be set, and it counts its calls."""

    def __init__(self) -> None:
        self.writes = True
        self.asked = 0
        self.elapsed_s = 0.0

    async def __call__(self) -> bool:
        self.asked += 1
        await asyncio.sleep(0)
        return self.writes


def health_of(probe: Probe, *, sweep_interval_ms: int = 1_000) -> Health:
    return Health(sweep_interval_ms=sweep_interval_ms, probe=probe, elapsed_s=lambda: probe.elapsed_s)


@pytest.mark.parametrize(
    ("sweep_interval_ms", "allowed_ms"), [(100, MIN_SWEEP_LAG_MS), (1_000, 5_000), (10_000, 50_000)]
)
async def test_a_sweep_lags_after_five_intervals_and_not_before_five_seconds(
    sweep_interval_ms: int, allowed_ms: int
) -> None:
    probe = Probe()
    health = health_of(probe, sweep_interval_ms=sweep_interval_ms)
    on_time = health.monitor_state(NOW_MS, NOW_MS - allowed_ms)
    assert (on_time.degraded, on_time.reasons, on_time.last_sweep_age_seconds) == (False, (), allowed_ms / 1000)
    probe.elapsed_s = allowed_ms / 1_000 + 0.001
    lagging = health.monitor_state(NOW_MS, NOW_MS - allowed_ms - 1)
    assert (lagging.degraded, lagging.reasons) == (True, ("sweep_lag",))


@pytest.mark.parametrize(("swept_ms", "age_s"), [(0, None), (NOW_MS - 600_000, 600.0)])
@pytest.mark.parametrize(("elapsed_s", "reasons"), [(0.0, ()), (5.0, ()), (5.001, ("sweep_lag",))])
async def test_p27_a_sweep_is_missed_once_the_first_of_this_start_is_overdue_and_not_before(
    swept_ms: int, age_s: float | None, elapsed_s: float, reasons: tuple[str, ...]
) -> None:
    probe = Probe()
    health = health_of(probe)
    probe.elapsed_s = elapsed_s
    state = health.monitor_state(NOW_MS, swept_ms)
    assert (state.degraded, state.reasons, state.last_sweep_age_seconds) == (bool(reasons), reasons, age_s)


async def test_one_probe_answers_for_all_callers_within_its_age() -> None:
    probe = Probe()
    health = health_of(probe)
    assert await asyncio.gather(*(health.ready() for _ in range(10))) == [True] * 10
    probe.writes = False
    probe.elapsed_s = PROBE_AGE_S / 2
    assert await health.ready()
    assert probe.asked == 1
    probe.elapsed_s = PROBE_AGE_S
    assert not await health.ready()
    assert health.monitor_state(NOW_MS, NOW_MS).reasons == ("store_unavailable",)
    probe.writes = True
    probe.elapsed_s = 2 * PROBE_AGE_S
    assert await health.ready()
    assert health.monitor_state(NOW_MS, NOW_MS).reasons == ()


async def test_a_stopping_daemon_is_not_ready_and_does_not_probe_the_store() -> None:
    probe = Probe()
    health = health_of(probe)
    health.stopping = True
    assert not await health.ready()
    assert probe.asked == 0


async def test_p27_a_daemon_that_begins_to_stop_while_the_store_is_asked_is_not_ready() -> None:
    probe = Probe()
    health = health_of(probe)
    asked = asyncio.create_task(health.ready())
    while not probe.asked:  # noqa: ASYNC110 - no event signals a change
        await asyncio.sleep(0)
    health.stopping = True
    assert not await asked


async def test_p27_what_a_daemon_says_of_itself_without_asking_is_what_it_says_when_it_is_asked() -> None:
    probe = Probe()
    health = health_of(probe)
    assert not health.stores_beats, "nothing is known yet"
    for elapsed_s, writes in ((0.0, True), (1.0, False), (2.0, True)):
        probe.elapsed_s, probe.writes = elapsed_s, writes
        assert await health.ready() == health.stores_beats == writes
    health.stopping = True
    assert not health.stores_beats
    assert not await health.ready()


async def test_p27_what_is_wrong_with_other_processes_is_reported_and_is_no_reason_of_its_own() -> None:
    others = ["process_stalled", "delivery_lag"]
    health = Health(sweep_interval_ms=1_000, probe=Probe(), others=lambda: others)
    health.add_reasons(lambda: ["delivery_lag"])
    assert health.monitor_state(NOW_MS, NOW_MS).reasons == ("delivery_lag", "process_stalled")
    assert health.own_reasons() == ("delivery_lag",)


async def test_every_reason_is_reported_once() -> None:
    probe = Probe()
    health = health_of(probe)
    probe.elapsed_s = 60.0
    health.add_reasons(lambda: ["delivery_lag", "sweep_lag"])
    health.add_reasons(lambda: ["delivery_lag", "clock"])
    assert health.monitor_state(NOW_MS, 0).reasons == ("sweep_lag", "delivery_lag", "clock")


async def test_p27_while_the_store_is_away_the_other_reasons_stand_and_no_number_of_workers_is_shown() -> None:
    with servers.running(servers.valkey_binary()) as server:
        async with api.running(server.url) as lastseen:
            fleet = FleetGauge(lastseen.services)
            lastseen.services.health.add_reasons(lambda: ["delivery_lag"])
            await lastseen.beat("w")
            await lastseen.sweep()
            await fleet.refresh()
            shown = values(lastseen.services.metrics)
            assert shown["lastseen_workers,liveness=alive"] == 1
            assert shown["lastseen_degraded,reason=store_unavailable"] == 0
            server.kill()
            fleet._counted_at_s -= 5
            await fleet.refresh()
            shown = values(lastseen.services.metrics)
            assert [name for name in shown if name.startswith("lastseen_workers,")] == []
            assert shown["lastseen_sweep_lag_seconds"] == math.inf
            for reason in ("store_unavailable", "delivery_lag"):
                assert shown[f"lastseen_degraded,reason={reason}"] == 1
            answer = await lastseen.client.get("/healthz")
            assert answer.json()["reasons"] == ["store_unavailable", "delivery_lag"]
