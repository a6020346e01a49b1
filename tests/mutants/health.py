"""Wrong changes to health, self_check, metrics, the watchdog, the sweeper, the scheduler."""

from typing import Final

from tests.mutants.mutant import Mutant

MUTANTS: Final[tuple[Mutant, ...]] = (
    Mutant(
        wrong="health is well while one receiver lags beside another that does not",
        file="monitor/daemon/self_check.py",
        old="is_late = any(one.lag_ms",
        new="is_late = bool(found) and all(one.lag_ms",
        tests=("tests/daemon/test_self_check.py",),
    ),
    Mutant(
        wrong="a queue may lag ten minutes before health says so",
        file="monitor/daemon/self_check.py",
        old="DELIVERY_LAG_S: Final = 60.0",
        new="DELIVERY_LAG_S: Final = 600.0",
        tests=("tests/daemon/test_self_check.py", "tests/docs/test_reasons.py"),
    ),
    Mutant(
        wrong="the sweep is well while one partition of several is not swept",
        file="monitor/store/store.py",
        old="return max(now_ms for now_ms, _ in answers), min(swept_ms for _, swept_ms in answers)",
        new="return max(now_ms for now_ms, _ in answers), max(swept_ms for _, swept_ms in answers)",
        tests=("tests/api/test_reading.py::test_p27_the_sweep_lags_where_one_partition_of_several_was_not_swept",),
    ),
    Mutant(
        wrong="a store may be filled to 99 % before health says so",
        file="monitor/daemon/self_check.py",
        old="FULL_SHARE: Final = 0.9\n",
        new="FULL_SHARE: Final = 0.99\n",
        tests=("tests/docs/test_reasons.py", "tests/daemon/test_self_check.py"),
    ),
    Mutant(
        wrong="an event loop may be held up for ten seconds before health says so",
        file="monitor/daemon/self_check.py",
        old="LOOP_LAG_S: Final = 1.0",
        new="LOOP_LAG_S: Final = 10.0",
        tests=("tests/docs/test_reasons.py", "tests/daemon/test_self_check.py"),
    ),
    Mutant(
        wrong="a bug of the alert side that shows when its queues are asked ends the daemon's look at itself",
        file="monitor/daemon/self_check.py",
        old="except Exception:  # a bug of the alert side must not end the intake (P30)",
        new="except TimeoutError:",
        tests=(
            "tests/daemon/test_self_check.py::test_p30_a_bug_of_the_alert_side_does_not_end_the_daemon_s_look_at_itself",
        ),
    ),
    Mutant(
        wrong="one confirmation that fails at a slow moment of a disk is a reason",
        file="monitor/daemon/self_check.py",
        old="CONFIRM_TRIES: Final = 3",
        new="CONFIRM_TRIES: Final = 1",
        tests=(
            "tests/daemon/test_self_check.py::test_p27_a_store_is_not_durable_after_three_confirmations_in_a_row_that_failed_and_not_before",
        ),
    ),
    Mutant(
        wrong="a daemon that is stopping says in the metrics that it is ready",
        file="monitor/health.py",
        old="return self._probed_at_s is not None and self._writes and not self.stopping",
        new="return self._probed_at_s is not None and self._writes",
        tests=("tests/api/test_health.py",),
    ),
    Mutant(
        wrong="a daemon that begins to stop while the store is asked says that it is ready",
        file="monitor/health.py",
        old="return not self.stopping and await self.store_writes() and not self.stopping",
        new="return not self.stopping and await self.store_writes()",
        tests=("tests/api/test_health.py",),
    ),
    Mutant(
        wrong="a process says nothing of what is wrong with the others",
        file="monitor/health.py",
        old="return tuple(dict.fromkeys((*self.own_reasons(), *self._others())))",
        new="return self.own_reasons()",
        tests=("tests/api/test_health.py",),
    ),
    Mutant(
        wrong="while the store is away all other reasons are kept back",
        file="monitor/api/health.py",
        old="tuple(dict.fromkeys((Reason.STORE_UNAVAILABLE, *services.health.standing_reasons())))",
        new="(Reason.STORE_UNAVAILABLE,)",
        tests=("tests/api/test_health.py",),
    ),
    Mutant(
        wrong="while the store is away the former number of workers is shown as the current one",
        file="monitor/api/health.py",
        old="            self._counts = None\n",
        new="            pass\n",
        tests=("tests/api/test_health.py",),
    ),
    Mutant(
        wrong="a process may be stuck for fifty seconds before another says so",
        file="monitor/metrics/registry.py",
        old="STALLED_AFTER_S: Final = 5.0",
        new="STALLED_AFTER_S: Final = 50.0",
        tests=("tests/core/test_metrics.py", "tests/docs/test_reasons.py"),
    ),
    Mutant(
        wrong="the history of a store of several partitions holds as many events in each as it may in all",
        file="monitor/sweeper.py",
        old="most = -(-self._settings.events // self._store.partitions)",
        new="most = self._settings.events",
        tests=(
            "tests/store/test_sweeper.py::test_p26_the_history_of_all_partitions_together_holds_no_more_events_than_it_may",
        ),
    ),
    Mutant(
        wrong="each sweep of a blind monitor says in the log that it is blind",
        file="monitor/sweeper.py",
        old="if result.blind and partition not in self._blind:",
        new="if result.blind:",
        tests=(
            "tests/store/test_sweeper.py::test_a_monitor_that_is_blind_says_so_once_and_again_when_it_is_blind_again",
        ),
    ),
    Mutant(
        wrong="a partition that is slow is swept several times at once",
        file="monitor/sweeper.py",
        old="if one not in passes.busy and is_ours(one)]",
        new="if is_ours(one)]",
        tests=("tests/store/test_sweeper.py",),
    ),
    Mutant(
        wrong="a daemon never sweeps a partition of another one",
        file="monitor/ownership.py",
        old="return is_late or now_s",
        new="return now_s",
        tests=("tests/core/test_ownership.py",),
    ),
    Mutant(
        wrong="forgetting and trimming run every five minutes",
        file="monitor/scheduler.py",
        old="TIDY_INTERVAL_S: Final = 30.0",
        new="TIDY_INTERVAL_S: Final = 300.0",
        tests=("tests/docs/test_reasons.py", "tests/core/test_scheduler.py"),
    ),
    Mutant(
        wrong="a heartbeat to the watchdog that is withheld is counted at every look and not once an interval",
        file="monitor/daemon/watchdog.py",
        old="                        due_s += self._interval_s  # this ping is skipped\n",
        new="",
        tests=("tests/daemon/test_watchdog.py",),
    ),
    Mutant(
        wrong="a heartbeat to the watchdog that failed is tried again after a whole interval",
        file="monitor/daemon/watchdog.py",
        old="due_s += self._interval_s if sent else min(RETRY_S, self._interval_s)",
        new="due_s += self._interval_s",
        tests=("tests/daemon/test_watchdog.py",),
    ),
    Mutant(
        wrong="what is read first after a pause is taken though its sender may have given up",
        file="monitor/http/stall.py",
        old="return now_s < self._until_s or now_s > self._held_up_s",
        new="return now_s < self._until_s",
        tests=(
            "tests/acceptance/test_held_requests.py::test_p1_nor_is_one_that_came_over_a_connection_that_was_open_before_the_pause",
        ),
    ),
    Mutant(
        wrong="of the sockets of other processes only the first is relieved",
        file="monitor/http/listeners.py",
        old="for sock in sockets:",
        new="for sock in sockets[:1]:",
        tests=("tests/http/test_listeners.py",),
    ),
)
