"""Wrong changes to intake, calls, rates, the fast path, lists of beats."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

MUTANTS: Final[tuple[Mutant, ...]] = (
    Mutant(
        wrong="beats in a call to the store that hangs are not answered at the time limit",
        file="monitor/intake/queue.py",
        old="for queue in (lane.in_flight, lane.waiting, *lane.alone.values()):",
        new="for queue in (lane.waiting, *lane.alone.values()):",
        tests=("tests/intake/test_queue.py",),
    ),
    Mutant(
        wrong="a beat overtakes the goodbye that its worker sent before it",
        file="monitor/intake/queue.py",
        old="is_alone = bool(lane.keys) and key in lane.keys",
        new="is_alone = False",
        tests=("tests/intake/test_queue.py",),
    ),
    Mutant(
        wrong="a goodbye overtakes a beat of its worker that came before it",
        file="monitor/intake/queue.py",
        old="if not lane.waiting or lane.waiting[0].until_s > queue[0].until_s:",
        new="if lane.alone:",
        tests=("tests/intake/test_queue.py",),
    ),
    Mutant(
        wrong="the bytes that a tenant has waiting are added to those of the count before",
        file="monitor/intake/queue.py",
        old="        self._held_bytes.clear()\n",
        new="",
        tests=("tests/api/test_tenants.py",),
    ),
    Mutant(
        wrong="beats in a call to the store do not count as waiting",
        file="monitor/intake/queue.py",
        old="firsts = (lane.waiting if lane.is_alone or not lane.in_flight else lane.in_flight for lane in lanes)",
        new="firsts = (lane.waiting for lane in lanes)",
        tests=("tests/intake/test_queue.py",),
    ),
    Mutant(
        wrong="the graces of workers that beat in lists do not count for how long a beat may wait",
        file="monitor/intake/batches.py",
        old="                self._graces.add(result.least_grace_ms)\n",
        new="",
        tests=("tests/intake/test_batches.py",),
    ),
    Mutant(
        wrong="a beat of a list gets the refusal of the beat at its place in another call",
        file="monitor/intake/batches.py",
        old="for index, (outcome, _) in zip(chunk, result.outcomes, strict=True):",
        new="for index, (outcome, _) in enumerate(result.outcomes):",
        tests=("tests/intake/test_batches.py",),
    ),
    Mutant(
        wrong="a refused beat is not logged after one of another tenant's worker of the same name",
        file="monitor/limit_log.py",
        old="which = hash((tenant, what))",
        new="which = hash(what)",
        tests=(
            "tests/core/test_limit_log.py",
            "tests/api/test_tenants.py::test_p29_log_lines_about_refused_beats_are_bounded_by_tenant",
        ),
    ),
    Mutant(
        wrong="the fast path takes a request whose sender waits for a 100 Continue",
        file="monitor/api/fast_path.py",
        old=' or b"expect" in found',
        new="",
        tests=("tests/api/test_fast_path.py",),
    ),
    Mutant(
        wrong="the fast path takes a slash in a path for a part of the worker's id",
        file="monitor/api/fast_path.py",
        old='            and b"/" not in target[len(_BEFORE_ID) : -len(_AFTER_ID)]\n',
        new="",
        tests=("tests/api/test_fast_path.py::test_every_target_is_answered_the_same",),
    ),
    Mutant(
        wrong="beats that are refused on the fast path are no signs of life",
        file="monitor/api/fast_path.py",
        old="                services.rejected_beats.refused(principal, beat.key.worker_id, error)\n",
        new="",
        tests=(
            "tests/api/test_fast_path.py::test_p28_a_full_intake_is_503_on_both_ways",
            "tests/api/test_fast_path.py::test_p28_beats_over_a_rate_are_429_on_both_ways",
        ),
    ),
    Mutant(
        wrong="of goodbyes the clean ones wait until they are durable, and the failures do not",
        file="monitor/api/heartbeats.py",
        old="if disconnect.trigger is Trigger.DISCONNECT_FAILURE:",
        new="if disconnect.trigger is not Trigger.DISCONNECT_FAILURE:",
        tests=("tests/api/test_heartbeats.py", "tests/store/test_confirm.py"),
    ),
    Mutant(
        wrong="a worker called heartbeat can't be deleted",
        file="monitor/api/raw_path.py",
        old='method in {"GET", "HEAD", "DELETE"}',
        new='method in {"GET", "HEAD"}',
        tests=("tests/api/test_paths.py",),
    ),
    Mutant(
        wrong="a worker over its rate gets a Retry-After up to a second too early",
        file="monitor/api/admission.py",
        old="min(-(-wait_ns // NS), LONGEST_S)",
        new="min(max(wait_ns // NS, 1), LONGEST_S)",
        tests=("tests/intake/test_limits.py",),
    ),
    Mutant(
        wrong="in a list a beat for an environment that the token does not cover takes the place of a good one",
        file="monitor/api/batch.py",
        old="elif environments is not None and beat.environment_name not in environments:",
        new="elif environments is not None and not environments:",
        tests=("tests/api/test_batch.py",),
    ),
    Mutant(
        wrong="each member of a gzip body may hold as many bytes as the whole body",
        file="monitor/api/inflate.py",
        old="        member = zlib.decompressobj(_GZIP)\n",
        new="        member = zlib.decompressobj(_GZIP)\n        size = 0\n",
        tests=("tests/api/test_batch.py",),
    ),
    Mutant(
        wrong="refused beats are signs of life of workers in environments that the token does not cover",
        file="monitor/api/rejected_beats.py",
        old="Evidence(key=key, allowed=principal.environments, rejection=rejection, subject=subject)",
        new="Evidence(key=key, allowed=None, rejection=rejection, subject=subject)",
        tests=("tests/api/test_rejected_beats.py", "tests/api/test_fast_path.py"),
    ),
    Mutant(
        wrong="of a long list that the daemon could not take, only the first thousand workers get more time",
        file="monitor/api/rejected_beats.py",
        old="most = None if rejection.moves_deadline else MOST_OF_A_BATCH",
        new="most = MOST_OF_A_BATCH",
        tests=("tests/api/test_rejected_beats.py", "tests/api/test_tenants.py"),
    ),
    Mutant(
        wrong="a list of the stopped workers lacks those whose stop no sweep has recorded yet",
        file="monitor/api/workers.py",
        old="overdue=bool(self.liveness & {Liveness.STALE, Liveness.STOPPED}),",
        new="overdue=Liveness.STALE in self.liveness,",
        tests=("tests/api/test_reading.py",),
    ),
    Mutant(
        wrong="partitions are asked at once for a list although the first of them fills its page",
        file="monitor/api/workers.py",
        old="at_once = min(2 * at_once, AT_ONCE) if is_sparse else 1",
        new="at_once = min(2 * at_once, AT_ONCE)",
        tests=("tests/api/test_pages.py::test_partitions_that_fill_a_page_are_not_asked_at_once",),
    ),
    Mutant(
        wrong="the status of a token for one worker calls it alive until the sweep comes",
        file="monitor/api/status.py",
        old="{worker.liveness(now_ms): 1}",
        new="{worker.stored: 1}",
        tests=("tests/api/test_reading.py",),
    ),
    Mutant(
        wrong="a filter for environments that the token does not cover shows all that it covers",
        file="monitor/api/query.py",
        old="tuple(name for name in allowed if name in given)",
        new="tuple(name for name in allowed if name in given) or allowed",
        tests=("tests/api/test_reading.py",),
    ),
    Mutant(
        wrong="a text of exactly as many characters as it may have is refused",
        file="monitor/api/json_body.py",
        old="if not 0 < len(value) <= most or",
        new="if not 0 < len(value) < most or",
        tests=(
            "tests/api/test_oncall.py",
            "tests/store/test_revocations.py::test_only_an_unrestricted_admin_revokes_and_only_of_its_own_tenant",
        ),
    ),
    Mutant(
        wrong="a tenant that is over its share is answered 503, as if the daemon were full",
        file="monitor/api/problems.py",
        old="OverShareError: Problem(429,",
        new="OverShareError: Problem(503,",
        tests=("tests/api/test_tenants.py",),
    ),
)
