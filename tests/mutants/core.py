"""Wrong changes to the pure core: deadlines, outage credit, statuses, evidence, shares."""

from typing import Final

from tests.mutants.mutant import Mutant

_EVIDENCE: Final = tuple(
    f"tests/intake/test_evidence.py::{name}"
    for name in (
        "test_p11_what_is_noted_is_read_with_the_worker_until_a_beat_is_accepted",
        "test_p11_one_worker_is_noted_once_in_a_while",
        "test_p11_evidence_that_has_waited_too_long_is_dropped",
        "test_p28_it_is_known_that_a_refusal_of_our_own_fault_was_dropped",
        "test_p28_it_is_known_how_long_refusals_of_our_own_fault_wait",
    )
)
_SHARED_EVIDENCE: Final = (
    "tests/api/test_tenants.py::test_p29_evidence_of_one_tenant_leaves_places_for_another_and_hides_no_deaths"
)

MUTANTS: Final[tuple[Mutant, ...]] = (
    # States.
    Mutant(
        wrong="a straggler whose announced absence has ended is shown as stopped until a sweep comes",
        file="monitor/liveness.py",
        old="if shown is Liveness.STOPPED and missed_ms",
        new="if stored is Liveness.STOPPED and missed_ms",
        tests=("tests/core/test_liveness.py",),
    ),
    Mutant(
        wrong="a worker that is started again after a clean stop counts as recovered",
        file="monitor/liveness.py",
        old="(Liveness.STOPPED, Trigger.BEAT): Transition(Liveness.ALIVE, EventKind.RESUMED)",
        new="(Liveness.STOPPED, Trigger.BEAT): Transition(Liveness.ALIVE, EventKind.RECOVERED)",
        tests=("tests/core/test_liveness.py",),
    ),
    Mutant(
        wrong="a worker that is missed after its announced absence is shown as stale since its last deadline",
        file="monitor/workers.py",
        old="if liveness is Liveness.STALE and self.missed_ms is not None:",
        new="if liveness is Liveness.STALE and self.missed_ms is None:",
        tests=("tests/store/test_absence.py",),
    ),
    Mutant(
        wrong="another partition holds a worker than the one in which earlier releases stored it",
        file="monitor/workers.py",
        old="""return zlib.crc32(b"%d:%b%b" % (len(tenant), tenant, key.worker_id.encode())) % partitions""",
        new="""return zlib.crc32(b"%b:%b" % (tenant, key.worker_id.encode())) % partitions""",
        tests=("tests/store/test_store.py::test_a_worker_is_in_the_partition_in_which_earlier_releases_stored_it",),
    ),
    Mutant(
        wrong="a beat that is refused since its tenant's share is used up does not move its worker's deadline",
        file="monitor/workers.py",
        old="return self in {Rejection.OVER_SHARE, Rejection.OVERLOADED}",
        new="return self is Rejection.OVERLOADED",
        tests=(
            "tests/api/test_tenants.py::test_p28_p29_evidence_of_a_share_that_is_used_up_moves_the_workers_own_deadline",
        ),
    ),
    # The pulse, and being behind.
    Mutant(
        wrong="a pulse waits for the answer to the one before",
        file="monitor/pulse.py",
        old="IN_FLIGHT: Final = 4",
        new="IN_FLIGHT: Final = 1",
        tests=("tests/store/test_pulse.py",),
    ),
    Mutant(
        wrong="a step back of the store's clock is a reason only where every partition has seen it",
        file="monitor/pulse.py",
        old="return max(self._skews_ms)",
        new="return min(self._skews_ms)",
        tests=("tests/store/test_pulse.py",),
    ),
    Mutant(
        wrong="a daemon that has ended its pulse for a stop calls itself blind two seconds later",
        file="monitor/pulse.py",
        old="        self._taken_s = []\n        await",
        new="        await",
        tests=("tests/store/test_pulse.py",),
    ),
    Mutant(
        wrong="a worker with a grace of a second waits for longer than a gap between pulses takes to show",
        file="monitor/intake/backlog.py",
        old="(graces.shortest_ms() - GAP_MS) / 1_000",
        new="graces.shortest_ms() / 1_000",
        tests=("tests/core/test_backlog.py",),
    ),
    Mutant(
        wrong="beats may wait twenty seconds before the daemon counts as behind",
        file="monitor/intake/backlog.py",
        old="LIMIT_S: Final = 2.0",
        new="LIMIT_S: Final = 20.0",
        tests=("tests/core/test_backlog.py",),
    ),
    # Evidence.
    Mutant(
        wrong="evidence that was lost counts for a moment that is too short to show as a gap between pulses",
        file="monitor/intake/evidence.py",
        old="LOST_S: Final = 1.0",
        new="LOST_S: Final = 0.1",
        tests=_EVIDENCE,
    ),
    Mutant(
        wrong="evidence that waited for twenty seconds is given to the store as of now",
        file="monitor/intake/evidence.py",
        old="OLDEST_S: Final = 2.0",
        new="OLDEST_S: Final = 20.0",
        tests=_EVIDENCE,
    ),
    Mutant(
        wrong="a worker is noted every seven seconds, longer than the shortest interval and grace",
        file="monitor/intake/evidence.py",
        old="SPACING_S: Final = 0.75",
        new="SPACING_S: Final = 7.5",
        tests=_EVIDENCE,
    ),
    Mutant(
        wrong="a tenant that has had its share of the places for evidence once has none any more",
        file="monitor/intake/evidence.py",
        old="            self._held.clear()\n",
        new="",
        tests=(_SHARED_EVIDENCE,),
    ),
    Mutant(
        wrong="what one tenant has too much of has the daemon count as blind for all",
        file="monitor/intake/evidence.py",
        old="if is_ours and not self._ours.is_over_share(evidence.key.tenant):",
        new="if is_ours:",
        tests=(_SHARED_EVIDENCE,),
    ),
    # Shares, rates.
    Mutant(
        wrong="what one tenant's request takes may be more than is left free for others by one",
        file="monitor/shares.py",
        old="return held > 0 and held + count > free - count",
        new="return held > 0 and held + count > free - count + 1",
        tests=("tests/core/test_shares.py",),
    ),
    Mutant(
        wrong="those who send many at once are remembered without a bound",
        file="monitor/rate_limit.py",
        old="if now_ns >= self._turn_ns or len(self._young) >= self._most:",
        new="if now_ns >= self._turn_ns:",
        tests=("tests/core/test_rate_limit.py",),
    ),
    # Time, events, files.
    Mutant(
        wrong="one answer of the store from far ahead sets the clock permanently",
        file="monitor/clock.py",
        old="        self._answer_ms = answer_ms\n",
        new="        self._answer_ms = max(self._answer_ms, answer_ms)\n",
        tests=("tests/core/test_clock.py",),
    ),
    Mutant(
        wrong="an event says for how long the worker had been what it was until that was noticed",
        file="monitor/events.py",
        old="seconds_in_old=(self.due_ms - self.since_ms) / 1000,",
        new="seconds_in_old=(self.detected_ms - self.since_ms) / 1000,",
        tests=("tests/core/test_events.py::test_data_is_what_webhooks_carry",),
    ),
    Mutant(
        wrong="a folder of ours in a mount may be open to a whole group",
        file="monitor/data_dir_ownership.py",
        old="& (stat.S_IRWXG | stat.S_IRWXO):",
        new="& stat.S_IRWXO:",
        tests=(
            "tests/daemon/test_trust.py::test_in_a_mount_that_root_gives_to_our_group_a_folder_inside_is_ours",
            "tests/daemon/test_trust.py::test_a_directory_that_others_may_change_is_refused_and_left_alone",
        ),
    ),
    Mutant(
        wrong="a link to nowhere in the place of the signing key is not refused",
        file="monitor/data_dir_ownership.py",
        old="if os.path.lexists(ours / name):",
        new="if os.path.exists(ours / name):",
        tests=(
            "tests/daemon/test_trust.py::test_what_is_a_link_or_another_user_s_is_refused_and_its_target_left_alone",
            "tests/daemon/test_trust.py::test_the_key_and_the_lock_are_opened_through_no_link",
        ),
    ),
    Mutant(
        wrong="a policy that evicts is a reason until a restart, also once it was set right",
        file="monitor/eviction.py",
        old="        self._policy = policy\n",
        new="        self._policy = policy or self._policy\n",
        tests=("tests/store/test_eviction.py",),
    ),
    Mutant(
        wrong="a probe waits behind all requests that came before it",
        file="monitor/pace.py",
        old="(self._urgent if urgent else self._usual).append(begin)",
        new="self._usual.append(begin)",
        tests=("tests/core/test_pace.py",),
    ),
)
