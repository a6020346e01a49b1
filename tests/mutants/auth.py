"""Wrong changes to tokens, keys, revocations, scopes."""

from typing import Final

from tests.mutants.mutant import Mutant

MUTANTS: Final[tuple[Mutant, ...]] = (
    Mutant(
        wrong="the fast path ignores a UserKey header that contradicts the Authorization header",
        file="monitor/api/fast_path.py",
        old='b"userkey" in found or b"expect" in found',
        new='b"expect" in found',
        tests=("tests/api/test_fast_path.py::test_every_header_is_answered_the_same",),
    ),
    Mutant(
        wrong="of two Authorization headers the fast path takes the last",
        file="monitor/api/fast_path.py",
        old=" or len(found) != len(headers):",
        new=":",
        tests=("tests/api/test_fast_path.py::test_every_header_is_answered_the_same",),
    ),
    Mutant(
        wrong="an audience that begins with the configured one is accepted",
        file="monitor/auth/authenticator.py",
        old="if self._policy.audience not in audiences:",
        new="if not any(one.startswith(self._policy.audience) for one in audiences):",
        tests=("tests/core/test_auth.py",),
    ),
    Mutant(
        wrong="a token that expired up to ten days ago still is evidence of life",
        file="monitor/auth/principals.py",
        old="LATELY_MS: Final = 86_400_000",
        new="LATELY_MS: Final = 864_000_000",
        tests=("tests/core/test_auth.py", "tests/api/test_rejected_beats.py"),
    ),
    Mutant(
        wrong="a token that was verified before its revocation stays accepted",
        file="monitor/auth/authenticator.py",
        old="        self._revoked = revoked\n        self._remembered.clear()\n",
        new="        self._revoked = revoked\n",
        tests=(
            "tests/store/test_revocations.py::test_p24_a_revoked_token_is_refused_also_when_it_was_found_good_before",
        ),
    ),
    Mutant(
        wrong="a token issued in the very millisecond of its subject's revocation stays accepted",
        file="monitor/auth/revocations.py",
        old="issued_ms <= self._until_ms.get",
        new="issued_ms < self._until_ms.get",
        tests=(
            "tests/store/test_revocations.py::test_p24_a_revoked_token_is_refused_also_when_it_was_found_good_before",
            "tests/store/test_revocations.py::test_a_revocation_covers_its_tenants_tokens_alone",
            "tests/store/test_revocations.py::test_a_token_that_does_not_say_when_it_was_issued_counts_as_older",
        ),
    ),
    Mutant(
        wrong="of two revocations of one subject the one read last counts, not the latest",
        file="monitor/auth/revocations.py",
        old="self._until_ms[key] = max(until_ms, self._until_ms.get(key, 0))",
        new="self._until_ms[key] = until_ms",
        tests=(
            "tests/store/test_revocations.py::test_a_revocation_covers_its_tenants_tokens_alone",
            "tests/store/test_revocations.py::test_p24_a_subject_that_the_file_revokes_gets_no_new_token_by_the_command",
        ),
    ),
    Mutant(
        wrong="a token whose issue lies in the future may outlive auth.max_lifetime",
        file="monitor/auth/authenticator.py",
        old="begin_ms = min(issued_ms, now_ms + self._leeway_ms)",
        new="begin_ms = issued_ms",
        tests=("tests/core/test_auth.py",),
    ),
    Mutant(
        wrong="an admin token of some environments revokes tokens of the whole tenant",
        file="monitor/api/revocations.py",
        old="if request.user.is_restricted:",
        new="if request.user.worker_id is not None:",
        tests=("tests/store/test_revocations.py::test_only_an_unrestricted_admin_revokes_and_only_of_its_own_tenant",),
    ),
    Mutant(
        wrong="a revoked_file that cannot be read any more lifts its revocations at the store's next change",
        file="monitor/daemon/revoking.py",
        old="            self._logged_error = str(error)\n",
        new="            self._logged_error, self._in_file = str(error), []\n",
        tests=(
            "tests/store/test_revocations.py::test_the_file_is_read_again_when_it_changes_and_a_broken_one_keeps_what_it_was",
        ),
    ),
    Mutant(
        wrong="a generated signing key that its group may read is used",
        file="monitor/daemon/signing_key.py",
        old="_OTHERS_MAY: Final = stat.S_IRWXG | stat.S_IRWXO",
        new="_OTHERS_MAY: Final = stat.S_IRWXO",
        tests=("tests/daemon/test_signing_key.py",),
    ),
    Mutant(
        wrong="tokens are signed with the last HS256 key of the configuration, not the first",
        file="monitor/daemon/signing_key.py",
        old="return next((key for key in self.keys if",
        new="return next((key for key in reversed(self.keys) if",
        tests=("tests/daemon/test_cli.py::test_of_several_keys_the_first_that_can_sign_does",),
    ),
    Mutant(
        wrong="the token of the environment goes before the one given on the command line",
        file="monitor/daemon/cli/access.py",
        old="return self.token or os.environ.get(TOKEN)",
        new="return os.environ.get(TOKEN) or self.token",
        tests=("tests/daemon/test_cli_oncall.py::test_what_is_given_goes_before_the_environment",),
    ),
    Mutant(
        wrong="a restricted token with the scope operator acts for all tenants",
        file="monitor/auth/principals.py",
        old="return Scope.OPERATOR.value in self.scopes and not self.is_restricted",
        new="return Scope.OPERATOR.value in self.scopes",
        tests=(
            "tests/core/test_auth.py",
            "tests/api/test_oncall.py::test_b8_a_restricted_token_has_no_business_with_receivers",
            "tests/api/test_oncall.py::test_b8_an_operator_sees_and_replays_what_is_sent_to_any_tenant",
        ),
    ),
    Mutant(
        wrong="a token of one worker lists the incidents of its tenant's other workers",
        file="monitor/daemon/oncall/incidents.py",
        old="[one for one in page.incidents if _sees(caller, one)]",
        new="[*page.incidents]",
        tests=("tests/api/test_oncall.py::test_a_restricted_token_sees_its_own_incidents_only",),
    ),
    Mutant(
        wrong="a token whose environment is named like a glob silences all that fit the glob",
        file="monitor/daemon/oncall/silences.py",
        old='for field, value in (("environment", principal.environments), ("worker_id", principal.worker_id)):',
        new='for field, value in (("worker_id", principal.worker_id),):',
        tests=("tests/api/test_oncall.py::test_a_restricted_token_silences_only_what_it_may_see",),
    ),
    Mutant(
        wrong="a token of one worker sees and ends silences of its tenant's other workers",
        file="monitor/daemon/oncall/silences.py",
        old="worker_id=matchers.only(matchers.worker_id), environment_name",
        new="worker_id=matchers.worker_id and caller.worker_id, environment_name",
        tests=("tests/api/test_oncall.py::test_a_restricted_token_silences_only_what_it_may_see",),
    ),
    Mutant(
        wrong="what became of an event is shown to a token of another environment",
        file="monitor/daemon/oncall/deliveries.py",
        old="        worker_id=event.worker_id, environment_name=event.environment_name\n",
        new="        worker_id=event.worker_id, environment_name=next(iter(caller.environments or ()), None)\n",
        tests=("tests/api/test_oncall.py::test_p5_the_outcomes_of_an_event_are_shown_to_tokens_that_may_see_it",),
    ),
)
