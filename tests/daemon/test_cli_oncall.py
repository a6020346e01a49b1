"""The commands that ask a running daemon: what they print, whom they ask as, and what the exit status says."""

import asyncio
import io
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from alerts.errors import PermanentDeliveryError
from alerts.groups.classify import worker_key
from alerts.groups.decisions import Decision
from alerts.groups.silences import silenced_until
from alerts.rendering.payload import GroupCounts
from monitor.auth import Scope
from monitor.daemon.cli.client import Client, ClientError, MisuseError
from monitor.daemon.commands import app
from monitor.events import Event, rfc3339
from tests.api.test_oncall import attempt_once, forget_test, held_back, note, recovered, refuse
from tests.daemon.test_cli import PROGRAM
from tests.support import api
from tests.support.alerts_fakes import Inbox, event
from tests.support.api import Api
from tests.support.incidents import record

valkey = pytest.mark.parametrize("store_url", ["valkey"], indirect=True)


@dataclass(frozen=True, kw_only=True)
class Ended:
    """Result of a command."""

    returncode: object
    stdout: str
    stderr: str


@dataclass(frozen=True, kw_only=True)
class Shell:
    """A folder with a configuration whose key is the server's, which listens where it says."""

    folder: Path
    lastseen: Api
    url: str

    @property
    def config(self) -> str:
        return str(self.folder / "lastseen.toml")

    async def run(self, *arguments: str, **environ: str) -> Ended:
        """Run a command in this process, which is quicker than a new one by a second."""
        return await asyncio.to_thread(self._run, list(arguments), environ)

    def _run(self, arguments: list[str], environ: dict[str, str]) -> Ended:
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            for name in [name for name in os.environ if name.upper().startswith("LASTSEEN_")]:
                patch.delenv(name)
            for name, value in {"USER": "anna", **environ}.items():
                patch.setenv(name, value)
            patch.delenv("SUDO_USER", raising=False)
            try:
                status = app(arguments, result_action="return_int_as_exit_code_else_zero")
            except SystemExit as ended:
                status = ended.code
        return Ended(returncode=status, stdout=out.getvalue(), stderr=err.getvalue())

    async def done(self, *arguments: str, tenant: str | None = "acme") -> str:
        """Output of a command that succeeds."""
        ended = await self.run(*arguments, *_of(tenant), "--config", self.config)
        assert (ended.returncode, ended.stderr) == (0, ""), ended
        return ended.stdout

    async def refused(self, status: int, *arguments: str, tenant: str | None = "acme") -> str:
        """Message of a command that fails."""
        ended = await self.run(*arguments, *_of(tenant), "--config", self.config)
        assert (ended.returncode, ended.stdout) == (status, ""), ended
        assert ended.stderr.count("\n") == 1
        return ended.stderr


def _of(tenant: str | None) -> tuple[str, ...]:
    return () if tenant is None else ("--tenant", tenant)


@asynccontextmanager
async def shell(store_url: str, folder: Path) -> AsyncIterator[Shell]:
    async with api.running(store_url) as lastseen, api.served(lastseen.app) as port:
        await lastseen.sweep()
        (folder / "secret").write_bytes(api.KEY.key)
        (folder / "lastseen.toml").write_text(
            f'[server]\nport = {port}\n[auth]\nissuer = "tests"\n'
            '[[auth.keys]]\nkid = "k1"\nalgorithm = "HS256"\nsecret_file = "secret"\n'
        )
        yield Shell(folder=folder, lastseen=lastseen, url=f"http://127.0.0.1:{port}")


@pytest.fixture
async def operator(store_url: str, tmp_path: Path) -> AsyncIterator[Shell]:
    async with shell(store_url, tmp_path) as running:
        yield running


@valkey
async def test_a_silence_is_begun_listed_and_ended(operator: Shell) -> None:
    await operator.lastseen.beat("db-1")
    words = ("--worker-id", "db-*", "--environment", "prod", "--for", "2h", "--comment", "failover")
    silence_id = (await operator.done("silence", "add", *words)).strip()
    [kept] = (await operator.lastseen.json("/api/v1/silences"))["silences"]
    assert kept["id"] == silence_id
    assert (kept["author"], kept["comment"], kept["state"]) == ("anna", "failover", "active")
    assert kept["matchers"] == {"environment": "prod", "worker_id": "db-*", "metadata": {}, "exact": False}
    line = await operator.done("silence", "list")
    for word in (silence_id, "active", "environment=prod worker_id=db-*", "anna", "failover"):
        assert word in line
    assert await operator.done("silence", "end", silence_id) == ""
    assert await operator.done("silence", "list") == ""
    assert json.loads(await operator.done("silence", "list", "--all", "--json"))["state"] == "ended"


@valkey
async def test_the_command_that_a_notification_suggests_works(operator: Shell) -> None:
    await operator.lastseen.beat("w")
    body = operator.lastseen.alerts.wording.single(event(), incident_id=None, reminder=0, health=None)
    command = json.loads(body)["data"]["silence"]
    assert command == "lastseen silence add --tenant acme --worker-id w --exact --for 2h"
    ended = await operator.run(*command.split()[1:], "--config", operator.config)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("sil_")


NAMES = (
    "*",
    "w*",
    "?",
    "[w]",
    " ",
    "a b",
    "-x",
    "--",
    "--for=1s",
    "it's",
    '"',
    "$(exit 3)",
    "`exit 3`",
    "!!",
    "\\",
    "a=b",
    "~",
    "é;#",
)


async def read_by_a_shell(command: str) -> list[str]:
    """The words that a real shell makes of a command of ours, without the program's name."""
    script = 'lastseen() { printf \'%s\\0\' "$@"; }; eval "$1"'
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", script, "bash", command, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0
    return printed.decode().split("\0")[:-1]


@valkey
@pytest.mark.parametrize("name", NAMES)
async def test_b5_the_command_in_a_page_run_as_printed_silences_this_worker_only(operator: Shell, name: str) -> None:
    lastseen = operator.lastseen
    for worker_id in (name, "w", "bystander"):
        assert (await lastseen.beat(worker_id, tenant=name)).status_code == 204
    down = event(worker_id=name, tenant=name)
    command = json.loads(lastseen.alerts.wording.single(down, incident_id=None, reminder=0, health=None))["data"][
        "silence"
    ]
    ended = await operator.run(*await read_by_a_shell(command), "--config", operator.config)
    assert (ended.returncode, ended.stderr) == (0, ""), command
    made = (await lastseen.alerts.silences.active([name]))[name]
    now_ms = lastseen.store.clock.now_ms()
    silenced = [
        one for one in (*NAMES, "w", "bystander") if silenced_until(made, event(worker_id=one, tenant=name), now_ms)
    ]
    assert silenced == [name]


@valkey
@pytest.mark.parametrize("name", NAMES)
async def test_b5_the_command_of_a_group_silences_this_group_only(operator: Shell, name: str) -> None:
    lastseen = operator.lastseen
    group = {"tenant": "acme", "environment": name, "metadata.rack": name}
    body = lastseen.alerts.wording.group(
        firing=True,
        group=group,
        counts=GroupCounts(firing=1, new=1, recovered=0, expected=None),
        events=[],
        truncated=1,
        since_ms=0,
        now_ms=0,
        incident_id=None,
        reminder=0,
        environment_incident=False,
    )
    command = json.loads(body)["data"]["silence"]
    assert (await operator.run(*await read_by_a_shell(command), "--config", operator.config)).returncode == 0, command
    made = (await lastseen.alerts.silences.active(["acme"]))["acme"]
    now_ms = lastseen.store.clock.now_ms()
    silenced = [
        (environment, rack)
        for environment in (*NAMES, "prod")
        for rack in (*NAMES, "r7")
        if silenced_until(
            made, event(environment_name=environment, worker_metadata_json=json.dumps({"rack": rack})), now_ms
        )
    ]
    assert silenced == [(name, name)]


@valkey
@pytest.mark.parametrize(("name", "why"), [("w?", "only wildcard"), ("[w]", "only wildcard"), ("*" * 9, "8 stars")])
async def test_c20_a_glob_that_the_configuration_refuses_is_refused_unless_exact(
    operator: Shell, name: str, why: str
) -> None:
    await operator.lastseen.beat("w", worker_metadata={"rack": name})
    for option, value in (("--worker-id", name), ("--environment", name), ("--metadata", f"rack={name}")):
        assert why in await operator.refused(2, "silence", "add", option, value, "--for", "1h")
    await operator.done("silence", "add", "--metadata", f"rack={name}", "--worker-id", "w", "--exact", "--for", "1h")
    assert f"worker_id=w metadata.rack={name} (exact)" in await operator.done("silence", "list")


@valkey
async def test_a_silence_may_begin_later_and_a_warning_goes_to_stderr(operator: Shell) -> None:
    words = ("--metadata", "rack=r7", "--metadata", "team=a=b", "--from", "2098-01-01T00:00:00Z")
    ended = await operator.run(
        *("silence", "add", *words, "--until", "2099-01-01T00:00:00+01:00", "--author", "ops"),
        *("--tenant", "acme", "--config", operator.config),
    )
    assert (ended.returncode, ended.stderr) == (0, "warning: it matches no worker that is known now\n")
    [kept] = (await operator.lastseen.json("/api/v1/silences"))["silences"]
    assert kept["matchers"]["metadata"] == {"rack": "r7", "team": "a=b"}
    assert (kept["starts_at"], kept["ends_at"]) == ("2098-01-01T00:00:00.000Z", "2098-12-31T23:00:00.000Z")
    assert (kept["state"], kept["author"]) == ("pending", "ops")


@valkey
async def test_what_cannot_be_is_status_2_and_named(operator: Shell) -> None:
    for words, said in (
        (("--worker-id", "w"), "--for or --until"),
        (("--worker-id", "w", "--for", "2h", "--until", "2099-01-01T00:00:00Z"), "--for or --until"),
        (("--worker-id", "w", "--for", "2"), "--for: a duration needs a unit"),
        (("--metadata", "rack", "--for", "2h"), "--metadata: must be name=pattern, got 'rack'"),
        (("--for", "2h"), "matchers is '{}': at least one of"),
        (("--worker-id", "w", "--until", "yesterday"), "ends_at is 'yesterday'"),
    ):
        assert said in await operator.refused(2, "silence", "add", *words)
    assert "'outcome' is 'x'" in await operator.refused(2, "deliveries", "list", "--outcome", "x")
    assert (await operator.lastseen.json("/api/v1/silences?state=all"))["silences"] == []


@valkey
async def test_incidents_are_listed_and_taken_over(operator: Shell) -> None:
    [incident_id] = await note(operator.lastseen, event())
    line = await operator.done("incidents", "list", "--environment", "prod")
    for word in (incident_id or "", "open", "prod", "worker.stale"):
        assert word in line
    assert "acknowledged by anna at " in await operator.done(
        "incidents", "ack", incident_id or "", "--comment", "on it"
    )
    assert "acknowledged by anna" in await operator.done("incidents", "list")
    assert json.loads(await operator.done("incidents", "list", "--json"))["ack"]["comment"] == "on it"
    assert "404" in await operator.refused(1, "incidents", "ack", "inc_x")


@valkey
async def test_an_incident_is_shown_with_the_reason_why_nothing_was_sent(operator: Shell) -> None:
    [incident_id] = await note(operator.lastseen, event())
    await held_back(operator.lastseen, event(), Decision.SILENCED, event().due_ms + 3_600_000)
    first, second = (await operator.done("incidents", "show", incident_id or "")).splitlines()
    assert first.split("  ")[0] == incident_id
    assert second == f"ops  not notified  silenced  next decision {rfc3339(event().due_ms + 3_600_000)}"
    shown = json.loads(await operator.done("incidents", "show", incident_id or "", "--json"))
    assert shown["notifications"][0]["decision"] == "silenced"
    assert "404" in await operator.refused(1, "incidents", "show", "inc_x")


@valkey
async def test_dead_letters_are_listed_shown_replayed_and_dropped(operator: Shell) -> None:
    lastseen = operator.lastseen
    await note(lastseen, event(), event(worker_id="v"))
    nid, other = (
        await attempt_once(lastseen, event(), refuse),
        await attempt_once(lastseen, event(worker_id="v"), refuse),
    )
    lines = (await operator.done("deliveries", "list")).splitlines()
    assert sorted(line.split()[0] for line in lines) == sorted([nid, other])
    assert "404 from ops" in lines[0]
    shown = json.loads(await operator.done("deliveries", "show", nid))
    assert shown["body"]["data"]["worker_id"] == "w"
    assert "queued" in await operator.done("deliveries", "replay", nid, "--receiver", "ops")
    assert nid in await operator.done("deliveries", "list", "--outcome", "queued")
    await note(lastseen, recovered(worker_id="v"))
    assert "with force" in await operator.refused(1, "deliveries", "replay", other)
    assert "queued" in await operator.done("deliveries", "replay", other, "--force")
    assert "it is queued" in await operator.refused(1, "deliveries", "drop", other)
    for wrong in ((), ("--all",), (nid, "--all", "--receiver", "ops"), ("--all", "--receiver", "ops", "--force")):
        assert "--all --receiver NAME" in await operator.refused(2, "deliveries", "replay", *wrong)
    await note(lastseen, event(worker_id="u"))
    await attempt_once(lastseen, event(worker_id="u"), refuse)
    counted = await operator.done("deliveries", "replay", "--all", "--receiver", "ops")
    assert counted == "1 replayed, 0 overtaken, 0 skipped\n"


@valkey
async def test_a_receiver_is_tested_and_enabled(operator: Shell) -> None:
    await operator.lastseen.alerts.groups["ops"].disable("410 Gone")
    assert "disabled: 410 Gone" in await operator.done("alerts", "list", tenant=None)
    assert await operator.done("alerts", "list") == ""  # a tenant's admin sees what belongs to the tenant
    assert "the scope 'operator'" in await operator.refused(1, "alerts", "enable", "ops")
    assert await operator.done("alerts", "enable", "ops", tenant=None) == "ops is enabled\n"
    assert "accepted the test" in await operator.done("alerts", "test", "ops", tenant=None)
    await forget_test(operator.lastseen, "ops")
    inbox = operator.lastseen.alerts.receivers["ops"]
    assert isinstance(inbox, Inbox)

    def answer(*_: object) -> None:
        raise PermanentDeliveryError("401 from ops")

    inbox.answer = answer
    assert await operator.refused(1, "alerts", "test", "ops", tenant=None) == "lastseen: 401 from ops\n"
    assert "tested less than 10 s ago" in await operator.refused(1, "alerts", "test", "ops", tenant=None)
    assert "there is no receiver 'pager'" in await operator.refused(1, "alerts", "test", "pager")


@valkey
async def test_a_token_that_is_given_is_used_and_needs_its_scope(operator: Shell) -> None:
    token = operator.lastseen.auth(scopes=("workers:read",))["authorization"].removeprefix("Bearer ")
    where = {"LASTSEEN_URL": operator.url, "LASTSEEN_TOKEN": token}
    listed = await operator.run("incidents", "list", **where)
    assert (listed.returncode, listed.stdout, listed.stderr) == (0, "", "")
    refused = await operator.run("silence", "add", "--worker-id", "w", "--for", "1h", **where)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "lacks the scope 'alerts:write'" in refused.stderr
    assert token not in refused.stderr


@valkey
async def test_what_is_given_goes_before_the_environment(operator: Shell) -> None:
    lastseen = operator.lastseen
    await lastseen.beat("w", tenant="globex")
    mine, other = (lastseen.auth(name)["authorization"].removeprefix("Bearer ") for name in ("globex", "acme"))
    begun = ("silence", "add", "--worker-id", "w", "--for", "1h", "--token", mine, "--url", operator.url)
    ended = await operator.run(*begun, LASTSEEN_TOKEN=other, LASTSEEN_URL="http://127.0.0.1:1")
    assert (ended.returncode, ended.stderr) == (0, "")
    kept = {name: await lastseen.json("/api/v1/silences", **lastseen.auth(name)) for name in ("globex", "acme")}
    assert {name: len(found["silences"]) for name, found in kept.items()} == {"globex": 1, "acme": 0}


@valkey
async def test_c15_an_unknown_tenant_is_said_and_a_contradiction_is_an_error(operator: Shell) -> None:
    lastseen = operator.lastseen
    await lastseen.beat("w")
    await lastseen.beat("w", tenant="globex")
    assert await operator.done("incidents", "list") == ""
    for what in ("incidents", "silence", "deliveries"):
        said = await operator.refused(1, what, "list", tenant="acmee")
        assert said == "lastseen: there is no worker of a tenant 'acmee'; there are workers of acme, globex\n"
    token = lastseen.auth("globex")["authorization"].removeprefix("Bearer ")
    ended = await operator.run("incidents", "list", "--tenant", "acme", "--token", token, "--config", operator.config)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "--tenant: is 'acme', but the token is for 'globex'\n"
    same = await operator.run("incidents", "list", "--tenant", "globex", "--token", token, "--config", operator.config)
    assert (same.returncode, same.stderr) == (0, "")


@valkey
async def test_c18_without_a_tenant_it_is_the_one_there_is_and_lists_are_of_all(operator: Shell) -> None:
    lastseen = operator.lastseen
    words = ("silence", "add", "--worker-id", "w", "--for", "1h")
    assert "no worker has sent a heartbeat yet" in await operator.refused(1, *words, tenant=None)
    await lastseen.beat("w")
    mine = (await operator.done(*words, tenant=None)).strip()
    assert mine in await operator.done("silence", "list", tenant=None)
    await lastseen.beat("w", tenant="globex")
    assert "--tenant: is required, the daemon has several: acme, globex" in await operator.refused(
        2, "silence", "end", mine, tenant=None
    )
    theirs = (await operator.done(*words, tenant="globex")).strip()
    lines = (await operator.done("silence", "list", tenant=None)).splitlines()
    assert [(line.split()[0], line.split()[4]) for line in lines] == [(mine, "acme"), (theirs, "globex")]
    await note(lastseen, event(), event(tenant="globex"))
    lines = (await operator.done("incidents", "list", tenant=None)).splitlines()
    assert {line.split()[3] for line in lines} == {"acme", "globex"}
    await attempt_once(lastseen, event(), refuse)
    nid = await attempt_once(lastseen, event(tenant="globex"), refuse)
    assert len((await operator.done("deliveries", "list", tenant=None)).splitlines()) == 2
    assert nid in await operator.done("deliveries", "replay", nid, tenant=None)


@valkey
async def test_c18_only_an_operator_sees_which_tenants_there_are(operator: Shell) -> None:
    lastseen = operator.lastseen
    await lastseen.beat("w", tenant="b")
    await lastseen.beat("w", tenant="a")
    assert (await lastseen.json("/api/v1/tenants", **lastseen.auth(scopes=(Scope.OPERATOR,))))["tenants"] == ["a", "b"]
    for restricted in ({"worker_id": "w"}, {"environments": ("prod",)}):
        headers = lastseen.auth(scopes=tuple(Scope), **restricted)
        assert (await lastseen.client.get("/api/v1/tenants", headers=headers)).status_code == 403
    assert (await lastseen.client.get("/api/v1/tenants")).status_code == 403
    await lastseen.client.delete("/api/v1/workers/w", headers=lastseen.auth("a"))
    assert (await lastseen.json("/api/v1/tenants", **lastseen.auth(scopes=(Scope.OPERATOR,))))["tenants"] == ["b"]


@valkey
async def test_b14_incidents_come_gravest_and_newest_first_members_under_their_environment(operator: Shell) -> None:
    incidents, now_ms = operator.lastseen.alerts.incidents, operator.lastseen.store.clock.now_ms()

    async def noted(*events: Event, part_of: str | None = None) -> None:
        await record(
            incidents, 0, events, lambda one: {"ops": worker_key(one)}, part_of=lambda _: part_of, now_ms=now_ms
        )

    due_ms = event().due_ms
    for number, (environment, size, at_ms) in enumerate((("prod", 200, due_ms), ("stage", 60, due_ms + 1_000))):
        dead = [event(worker_id=f"{environment}-{n}", environment_name=environment, due_ms=at_ms) for n in range(size)]
        await noted(*dead, part_of=f"inc_{number}{'0' * 31}")
    await noted(event(worker_id="old", due_ms=due_ms - 5_000), event(worker_id="new", due_ms=due_ms + 5_000))
    lines = (await operator.done("incidents", "list")).splitlines()
    whom = [line.split("  ")[4] for line in lines]
    assert whom == ["60 of 60 workers", "200 of 200 workers", "new", "old"]
    everything = await operator.run("incidents", "list", "--json", "--tenant", "acme", "--config", operator.config)
    assert len(everything.stdout.splitlines()) == 100
    assert everything.stderr == "lastseen: 100 of 264; --limit shows more\n"
    assert len((await operator.done("incidents", "list", "--json", "--limit", "264")).splitlines()) == 264
    cut = await operator.run("incidents", "list", "--limit", "3", "--tenant", "acme", "--config", operator.config)
    assert (cut.stdout.splitlines(), cut.stderr) == (lines[:3], "lastseen: 3 of 4; --limit shows more\n")


@valkey
async def test_b14_other_lists_say_that_they_are_cut(operator: Shell) -> None:
    await operator.lastseen.beat("w")
    for _ in range(3):
        await operator.done("silence", "add", "--worker-id", "w", "--for", "1h")
    cut = await operator.run("silence", "list", "--limit", "2", "--tenant", "acme", "--config", operator.config)
    assert len(cut.stdout.splitlines()) == 2
    assert cut.stderr == "lastseen: 2 shown, there are more; --limit shows more\n"
    assert len((await operator.done("silence", "list", "--limit", "3")).splitlines()) == 3
    # Also over tenants: the second has none, then one.
    await operator.lastseen.beat("w", tenant="globex")
    assert len((await operator.done("silence", "list", "--limit", "3", tenant=None)).splitlines()) == 3
    await operator.done("silence", "add", "--worker-id", "w", "--for", "1h", tenant="globex")
    cut = await operator.run("silence", "list", "--limit", "3", "--config", operator.config)
    assert (len(cut.stdout.splitlines()), cut.stderr) == (3, "lastseen: 3 shown, there are more; --limit shows more\n")


@valkey
async def test_names_that_a_terminal_would_obey_are_not_printed_as_they_are(operator: Shell) -> None:
    await note(operator.lastseen, event(worker_id="a\u202eb\x1b[2J"))
    line = await operator.done("incidents", "list")
    assert "a\\u202eb\\x1b[2J" in line


EVIL = "no\x1b]0;title\x07\u202e\nlastseen: forged\u200b"


def test_c11_what_a_daemon_answers_is_escaped_in_the_error(server: HTTPServer, tmp_path: Path) -> None:
    ANSWERS["/api/v1/incidents?state=open&limit=1000"] = (403, json.dumps({"detail": EVIL}).encode())
    shell = Shell(folder=tmp_path, lastseen=None, url="")  # type: ignore[arg-type]
    where = {"LASTSEEN_URL": f"http://127.0.0.1:{server.server_port}", "LASTSEEN_TOKEN": "t"}
    ended = shell._run(["incidents", "list"], where)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "lastseen: no\\x1b]0;title\\x07\\u202e\\nlastseen: forged\\u200b (HTTP 403)\n"


def test_c13_a_reader_that_goes_away_ends_a_command_silently(server: HTTPServer, tmp_path: Path) -> None:
    silence = {
        "matchers": {"environment": "e" * 200, "worker_id": None, "metadata": {}, "exact": False},
        **dict.fromkeys(("id", "state", "starts_at", "ends_at", "author", "comment"), "x"),
    }
    page = {"silences": [silence] * 1_000, "next_cursor": None}
    ANSWERS["/api/v1/silences?limit=1000"] = (200, json.dumps(page).encode())
    where = {"LASTSEEN_URL": f"http://127.0.0.1:{server.server_port}", "LASTSEEN_TOKEN": "t"}
    ended = subprocess.run(
        ["bash", "-c", f"{PROGRAM} silence list | head -3; echo ${{PIPESTATUS[0]}}"],
        cwd=tmp_path,
        env={**os.environ, **where},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    *lines, status = ended.stdout.splitlines()
    assert (len(lines), status, ended.stderr) == (3, "141", "")  # as `seq 1000000 | head -3`


def test_a_daemon_that_is_not_there_is_status_1_and_named(tmp_path: Path) -> None:
    ended = subprocess.run(
        [str(PROGRAM), "incidents", "list", "--token", "x.y.z", "--url", "http://127.0.0.1:1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(
        "lastseen: http://127.0.0.1:1 (from --url or $LASTSEEN_URL) does not answer as a daemon: "
    )


# The client


class _Handler(BaseHTTPRequestHandler):
    """Answers as the path says: `/<status>/<body>`."""

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers["authorization"]))  # type: ignore[attr-defined]
        status, body = ANSWERS.get(self.path, (200, b"{}"))
        self.send_response(status)
        if status == 302:
            self.send_header("location", "/api/v1/elsewhere")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


ANSWERS: dict[str, tuple[int, bytes]] = {
    "/api/v1/moved": (302, b""),
    "/api/v1/proxy": (502, b"<html>"),
    "/api/v1/bad": (422, b'{"detail": "limit is 0"}'),
    "/api/v1/odd": (200, b"hello"),
}


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    made = HTTPServer(("127.0.0.1", 0), _Handler)
    made.seen = []  # type: ignore[attr-defined]
    thread = Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def made(url: str) -> Client:
    return Client(url, "t", url_from="here", token_from="here")


def test_a_token_is_not_taken_to_where_an_answer_points(server: HTTPServer) -> None:
    client = made(f"http://127.0.0.1:{server.server_port}/")
    with pytest.raises(ClientError, match="302"):
        client.get("moved")
    assert server.seen == [("/api/v1/moved", "Bearer t")]  # type: ignore[attr-defined]


def test_what_is_no_answer_of_a_daemon_is_said_to_be_none(server: HTTPServer) -> None:
    client = made(f"http://127.0.0.1:{server.server_port}")
    with pytest.raises(ClientError, match="502"):
        client.get("proxy")
    with pytest.raises(MisuseError, match="limit is 0"):
        client.get("bad")
    with pytest.raises(ClientError, match="does not answer as a daemon"):
        client.get("odd")
    assert client.get("a/b", "..", x="ü&", y=None) == {}
    assert server.seen[-1][0] == "/api/v1/a%2Fb/..?x=%C3%BC%26"  # type: ignore[attr-defined]


@pytest.mark.parametrize("url", ["ftp://h", "127.0.0.1:8642", "http://", "file:///etc/passwd", "http://h/?q", "h"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="must be the"):
        made(url)
