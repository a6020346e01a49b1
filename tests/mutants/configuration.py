"""Wrong changes to settings, files, secrets, the command line."""

from typing import Final

from tests.mutants.mutant import Mutant

MUTANTS: Final[tuple[Mutant, ...]] = (
    Mutant(
        wrong="a later environment rule is called useless when it covers the earlier one",
        file="monitor/daemon/config/model.py",
        old="if fits(first, glob)",
        new="if fits(glob, first)",
        tests=("tests/config/test_config.py",),
    ),
    Mutant(
        wrong="a webhook secret of 64 bytes is refused",
        file="monitor/settings/key_material.py",
        old="WEBHOOK_SECRET_BYTES: Final = range(24, 65)",
        new="WEBHOOK_SECRET_BYTES: Final = range(24, 64)",
        tests=("tests/config/test_secrets.py",),
    ),
    Mutant(
        wrong="of a URL with an @ in its query what follows the @ is shown",
        file="monitor/settings/urls.py",
        old='    if "?" in user:  #',
        new='    if "?" in host:  #',
        tests=("tests/config/test_secrets.py", "tests/config/test_store_urls.py"),
    ),
    Mutant(
        wrong="a slash in the store's password is put into the URL as it is",
        file="monitor/settings/store_urls.py",
        old="{quote(password, safe='')}",
        new="{quote(password)}",
        tests=("tests/config/test_config.py", "tests/config/test_store_urls.py"),
    ),
    Mutant(
        wrong="a variable that secret_envs names is refused when it begins with LASTSEEN_",
        file="monitor/daemon/config/sources.py",
        old=r'"_env$|_envs\[\d+\]$"',
        new=r'"_env$|_env\[\d+\]$"',
        tests=("tests/config/test_secrets.py", "tests/config/test_config.py"),
    ),
    Mutant(
        wrong="the longest interval bounds the grace that a beat declares",
        file="monitor/daemon/settings.py",
        old="max_grace_ms=usual.max_grace_ms,",
        new="max_grace_ms=usual.max_interval_ms,",
        tests=("tests/config/test_config.py",),
    ),
    Mutant(
        wrong="two replicas in the middle of a key rotation take each other for strangers",
        file="monitor/daemon/settings.py",
        old="for key in config.auth.keys)\n",
        new="for key in config.auth.keys[:1])\n",
        tests=("tests/config/test_config.py",),
    ),
    Mutant(
        wrong="a tenant's burst is that of a worker",
        file="monitor/daemon/settings.py",
        old="rate(limits.tenant_beats_per_second, limits.tenant_beats_burst)",
        new="rate(limits.tenant_beats_per_second, limits.worker_beats_burst)",
        tests=("tests/intake/test_limits.py",),
    ),
    Mutant(
        wrong="a log of one tenant's pages takes the lines of all tenants from the console",
        file="monitor/daemon/config/alerts.py",
        old="if shared & set(route.receivers) for kind in",
        new="if receivers & set(route.receivers) for kind in",
        tests=("tests/config/test_alerts.py",),
    ),
    Mutant(
        wrong="lastseen check prints the watchdog's address with its secret path",
        file="monitor/daemon/plan.py",
        old='yield f"watchdog: {masked_url(config.watchdog.target)}"',
        new='yield f"watchdog: {config.watchdog.target}"',
        tests=("tests/daemon/test_cli.py::test_check_prints_what_the_daemon_will_do_and_no_credential",),
    ),
    Mutant(
        wrong="a memory limit on a parent of the control group is not seen",
        file="monitor/embedded/memory.py",
        old="for one in (group, *group.parents):",
        new="for one in (group,):",
        tests=(
            "tests/store/test_embedded.py::test_the_store_s_memory_is_half_of_what_the_control_group_or_the_machine_has",
        ),
    ),
    Mutant(
        wrong="a server that is not the recorded orphan is shut down",
        file="monitor/embedded/data_dir.py",
        old='if client.info("server").get("process_id") != record.store_pid:',
        new='if client.info("server").get("process_id") is None:',
        tests=(
            "tests/store/test_embedded.py::test_a_server_that_is_not_the_recorded_process_is_left_alone",
            "tests/store/test_embedded.py::test_an_orphan_that_stays_is_asked_to_shut_down_and_its_data_is_kept",
        ),
    ),
    Mutant(
        wrong="files of a backup that the server made anew keep its mode, open to others",
        file="monitor/embedded/backup.py",
        old="            Path(directory, name).chmod(0o600)  # the server has replaced some of them\n",
        new="",
        tests=("tests/store/test_backup.py",),
        survives="monitor/parent_death.py gives the server a umask of 077, so what it makes is its owner's alone",
    ),
    Mutant(
        wrong="the console leaves out what was delivered to receivers other than the log",
        file="monitor/printable.py",
        old='(name == "delivery.delivered" and line.get("receiver") in self.receivers)',
        new='name == "delivery.delivered"',
        tests=("tests/core/test_logs.py",),
    ),
    Mutant(
        wrong="a token of an operator and more scopes is made without a tenant",
        file="monitor/daemon/cli/main.py",
        old="if set(scope) != {Scope.OPERATOR}:",
        new="if Scope.OPERATOR not in scope:",
        tests=(
            "tests/daemon/test_cli.py::test_what_cannot_be_in_a_token_is_status_2_and_named",
            "tests/daemon/test_cli.py::test_a_token_for_an_operator_needs_no_tenant",
        ),
    ),
    Mutant(
        wrong="auth.not_before without an offset is read in the time zone of the machine",
        file="monitor/daemon/config/auth.py",
        old="if moment is None or moment.tzinfo is None:",
        new="if moment is None:",
        tests=("tests/config/test_config.py",),
    ),
    Mutant(
        wrong="an interval of exactly liveness.max_interval is refused",
        file="monitor/daemon/config/model.py",
        old='("max", int.__gt__)',
        new='("max", int.__ge__)',
        tests=("tests/config/test_config.py",),
    ),
)
