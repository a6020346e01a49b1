"""Wrong changes to attempts, retries, leases, receivers, payload."""

from typing import Final

from tests.mutants.mutant import Mutant

MUTANTS: Final[tuple[Mutant, ...]] = (
    Mutant(
        wrong="an attempt's outcome is written to the group as it was before the attempt",
        file="alerts/delivery/loop.py",
        old="self._begun[plan.notification.nid] = replace(plan.claimed, version=version)",
        new="self._begun[plan.notification.nid] = replace(plan.claimed, version=version - 1)",
        tests=("tests/bench/test_costs.py",),
    ),
    Mutant(
        wrong="a part in which nothing could be claimed has its turn again at once",
        file="alerts/delivery/due_parts.py",
        old="            del self._due_ms[tag]\n",
        new="            self._due_ms[tag] += 0\n",
        tests=("tests/core/test_due_parts.py",),
    ),
    Mutant(
        wrong="an attempt that waited too long for a slot is sent on the rest of its lease",
        file="alerts/delivery/loop.py",
        old="return self._now_ms() > attempt.claimed.lease_end_ms - self._lease_ms + LEASE_MARGIN_S * 500",
        new="return False",
        tests=(
            "tests/alerts/test_service.py::test_p6_what_waited_for_a_slot_for_half_of_the_margin_is_given_back_unsent",
        ),
    ),
    Mutant(
        wrong="a receiver gets one attempt more at once than its concurrency allows",
        file="alerts/delivery/loop.py",
        old="while self._ready and len(self._in_flight) < self._concurrency",
        new="while self._ready and len(self._in_flight) <= self._concurrency",
        tests=("tests/alerts/test_service.py::test_p21_a_receiver_gets_no_more_attempts_at_once_than_its_concurrency",),
    ),
    Mutant(
        wrong="a notification leaves that the store has not confirmed",
        file="alerts/delivery/loop.py",
        old="if confirmation is Confirmation.UNCONFIRMED:",
        new="if confirmation is Confirmation.UNAVAILABLE:",
        tests=("tests/alerts/test_service.py::test_p23_without_confirmation_nothing_is_sent_and_it_is_logged_once",),
    ),
    Mutant(
        wrong="an attempt whose answer was lost counts as one that did not arrive",
        file="alerts/delivery/loop.py",
        old="schedule_retry(draft, due_ms=decision.due_ms, unknown=error.unknown)",
        new="schedule_retry(draft, due_ms=decision.due_ms, unknown=False)",
        tests=(
            "tests/alerts/routing/test_enqueue.py::test_p7_a_down_that_may_have_arrived_in_a_failed_attempt_gets_its_resolved",
            "tests/alerts/routing/test_enqueue.py::test_p18_a_down_that_was_given_up_and_may_have_arrived_gets_its_resolved",
        ),
    ),
    Mutant(
        wrong="an attempt that did not end in time counts as one that did not arrive",
        file="alerts/delivery/loop.py",
        old="return TransientDeliveryError(text, cause=Cause.TIMEOUT, unknown=True)",
        new="return TransientDeliveryError(text, cause=Cause.TIMEOUT, unknown=False)",
        tests=(
            "tests/alerts/routing/test_enqueue.py::test_p7_a_down_that_may_have_arrived_in_a_failed_attempt_gets_its_resolved",
        ),
    ),
    Mutant(
        wrong="no RESOLVED follows a DOWN of which an attempt before the last may have arrived",
        file="alerts/groups/attempts.py",
        old="if in_flight.unknown or unknown:",
        new="if unknown:",
        tests=("tests/core/test_worker_rules.py",),
    ),
    Mutant(
        wrong="a DOWN that may have arrived counts as one that did not after another attempt that failed for sure",
        file="alerts/groups/attempts.py",
        old="in_flight.unknown = in_flight.unknown or unknown",
        new="in_flight.unknown = unknown",
        tests=("tests/core/test_worker_rules.py",),
    ),
    Mutant(
        wrong="the time after which a notification is given up begins anew with each attempt",
        file="alerts/groups/attempts.py",
        old="in_flight.first_attempt_ms = in_flight.first_attempt_ms or draft.now_ms",
        new="in_flight.first_attempt_ms = draft.now_ms",
        tests=("tests/core/test_worker_rules.py",),
    ),
    Mutant(
        wrong="an attempt that was given back unsent counts as one that may have arrived",
        file="alerts/groups/attempts.py",
        old="    in_flight.open = False\n    in_flight.due_ms = draft.now_ms\n",
        new="    in_flight.due_ms = draft.now_ms\n",
        tests=("tests/core/test_worker_rules.py",),
    ),
    Mutant(
        wrong="a receiver's Retry-After is waited for however long it is",
        file="alerts/retry.py",
        old="due_ms=now_ms + min(asked_ms, policy.max_ms))",
        new="due_ms=now_ms + asked_ms)",
        tests=("tests/core/test_routes.py",),
    ),
    Mutant(
        wrong="a receiver is in trouble after five failures, however many acceptances lie between them",
        file="alerts/delivery/circuit_breaker.py",
        old="ended, self._failures = self.is_open, 0\n        return ended",
        new="ended = self.is_open\n        if ended:\n            self._failures = 0\n        return ended",
        tests=("tests/alerts/routing/test_mass_failure.py",),
    ),
    Mutant(
        wrong="a member of a group whose acknowledgement has lapsed still counts as acknowledged",
        file="alerts/routing/enqueue.py",
        old="            group.acks -= 1",
        new="            group.acks -= 0",
        tests=(
            "tests/alerts/delivery/test_rejected.py",
            "tests/alerts/routing/test_enqueue.py",
            "tests/core/test_group_rules.py",
        ),
    ),
    Mutant(
        wrong="a page that is refused again and again is retried with every acceptance",
        file="alerts/delivery/given_up.py",
        old=" or group.given_up.due_ms > now_ms:",
        new=":",
        tests=(
            "tests/alerts/test_service.py::test_p31_a_page_that_is_refused_for_good_is_not_retried_with_every_acceptance",
        ),
    ),
    Mutant(
        wrong="a receiver that has to hear again every minute is tried again after five minutes",
        file="alerts/service.py",
        old="longest_ms = min(policy.max_ms, receiver.resend_ms)",
        new="longest_ms = max(policy.max_ms, receiver.resend_ms)",
        tests=("tests/alerts/test_service.py::test_what_is_resent_periodically_is_tried_as_often_when_it_failed",),
    ),
    Mutant(
        wrong="a removed receiver is reported at each start",
        file="alerts/service.py",
        old="        await self._known.remove(name)\n",
        new="",
        tests=(
            "tests/alerts/test_service.py::test_a_receiver_that_is_no_longer_configured_is_reported_with_its_backlog",
        ),
    ),
    Mutant(
        wrong="a part that failed once is named as failing permanently",
        file="alerts/loops.py",
        old=" and asyncio.get_running_loop().time() - self._failed_s < self._pause_s + STEADY_S",
        new="",
        tests=("tests/core/test_supervision.py",),
    ),
    Mutant(
        wrong="a silence that ends early wakes only those among the first 500 groups",
        file="alerts/store/group_store.py",
        old="while page := await self.due(",
        new="if page := await self.due(",
        tests=(
            "tests/alerts/oncall/test_dead_letters.py::test_p17_every_group_that_waits_for_the_end_of_a_silence_is_checked_again",
        ),
    ),
    Mutant(
        wrong="a receiver that routing failed for once is named as failing permanently",
        file="alerts/routing/router.py",
        old="self._broken = {name: self._broken.get(name, 0) + 1 for name in errors}",
        new="self._broken |= {name: self._broken.get(name, 0) + 1 for name in errors}",
        tests=("tests/alerts/test_service.py::test_p30_a_receiver_that_routing_fails_for_ends_no_other_receiver",),
    ),
    Mutant(
        wrong="the metadata of objects in a list leaves as it is, whatever is to be redacted",
        file="alerts/rendering/redaction.py",
        old="return [self.cleaned(item) for item in value]",
        new="return list(value)",
        tests=("tests/core/test_payload.py",),
    ),
    Mutant(
        wrong="a page of a group shows the passwords in URLs that its workers reported",
        file="alerts/rendering/payload.py",
        old="events = [self._redaction.event(event) for event in events]",
        new="events = list(events)",
        tests=("tests/core/test_payload.py",),
    ),
    Mutant(
        wrong="a test of a receiver sends its DOWN and no RESOLVED",
        file="monitor/daemon/oncall/receivers.py",
        old="for notification in pair:",
        new="for notification in pair[:1]:",
        tests=("tests/api/test_oncall.py::test_a_test_is_a_down_and_its_resolved_of_a_worker_that_says_what_it_is",),
    ),
    Mutant(
        wrong="a request that left and was never answered counts as one that did not leave",
        file="alerts/receivers/http.py",
        old="sent=attempt.sent) from error",
        new="sent=False) from error",
        tests=("tests/alerts/receivers/test_every_type.py", "tests/alerts/receivers/test_webhook.py"),
    ),
    Mutant(
        wrong="an alert at Alertmanager ends when it is sent again a moment late",
        file="alerts/receivers/alertmanager.py",
        old="ends_ms = created_ms + ENDS_AFTER * self.resend_ms",
        new="ends_ms = created_ms + self.resend_ms",
        tests=("tests/alerts/receivers/test_alertmanager.py",),
    ),
)
