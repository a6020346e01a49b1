"""Every ``lastseen`` command that a document shows is run against a real daemon, or at least read by the real program.

``serve`` and ``backup`` are only read: the tests of the README and of the drill run them. A command without its
arguments stands for its name, and is only looked up.
"""

import re
import shlex
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Final

import pytest

from monitor.daemon.commands import COMMANDS, app
from tests.api.test_oncall import attempt_once, forget_test, note, refuse
from tests.daemon.test_cli_oncall import Shell, valkey
from tests.daemon.test_cli_oncall import operator as operator  # noqa: PLC0414 - a fixture
from tests.support.alerts_fakes import event

ROOT: Final = Path(__file__).parents[2]
DOCUMENTS: Final = (
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "config.toml", "deploy/prometheus/lastseen.rules.yml")),
    *sorted(set((ROOT / "docs").rglob("*.md")) - {ROOT / "docs" / "tutorial.md"}),
)
"""All but the tutorial, whose commands build on each other: tests/acceptance/test_tutorial.py runs them."""
NAMES: Final = "|".join(COMMANDS)
ONLY_READ: Final = {"serve", "backup"}
WITHOUT_ARGUMENTS: Final = {
    "check",
    "incidents list",
    "silence list",
    "deliveries list",
    "alerts list",
    "alerts secret",
}


def _of(path: Path) -> Iterator[str]:
    """The commands in code of a document, without the program's name."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".md":
        yield from re.findall(rf"(?<![\w/.-])lastseen ((?:{NAMES})\b[-\w. ]*?)(?=[,)>\"]|  |$)", text, re.MULTILINE)
        return
    fence = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    for kind, block in fence.findall(text):
        for line in re.findall(rf"(?<![\w/.-])lastseen ((?:{NAMES})\b[^\n`]*)", block):
            yield line.partition({"json": '"', "sh": ')"'}.get(kind, "\n"))[0].partition(" > ")[0]
    for found in re.findall(rf"`lastseen ((?:{NAMES})\b[^`]*)`", fence.sub("", text)):
        yield from map(" ".join, product(*(word.split("|") for word in found.split(" "))))


SHOWN: Final = sorted({command.strip() for path in DOCUMENTS for command in _of(path)})


def test_the_commands_of_the_documents_are_found() -> None:
    assert len(SHOWN) > 30
    for one in ("alerts test NAME", "deliveries list --outcome queued", "deliveries drop", "serve --processes 2"):
        assert one in SHOWN
    assert "token create --tenant acme --scope heartbeat:write" in SHOWN
    assert "silence add --tenant acme --worker-id w1 --exact --for 2h" in SHOWN


@valkey
@pytest.mark.parametrize("command", SHOWN)
async def test_c18_every_command_in_the_documents_works(operator: Shell, command: str) -> None:
    words = shlex.split(command)
    name = " ".join(words[:2] if len(words) > 1 and not words[1].startswith("-") else words[:1])
    if name.split()[0] in ONLY_READ:
        name = name.split()[0]
    if (command == name and name not in WITHOUT_ARGUMENTS) or (name in ONLY_READ and words[-1].startswith("--")):
        ended = await operator.run(*name.split(), "--help")
        assert re.search(rf"Usage: lastseen {name}\b", ended.stdout), ended
        assert all(option in ended.stdout for option in words if option.startswith("--"))
        return
    given = await _placeholders(operator)
    words = [next((value for shape, value in given.items() if re.fullmatch(shape, word)), word) for word in words]
    if name in ONLY_READ:
        app.parse_args(words, exit_on_error=False, print_error=False)
        return
    await forget_test(operator.lastseen, "ops")
    ended = await operator.run(*words, *(() if name == "alerts secret" else ("--config", operator.config)))
    assert ended.returncode == 0, ended


async def _placeholders(shell: Shell) -> dict[str, str]:
    """A worker that is down with a dead letter and a silence, and what stands for them in the documents."""
    lastseen = shell.lastseen
    await lastseen.beat("w")
    [incident_id] = await note(lastseen, event())
    nid = await attempt_once(lastseen, event(), refuse)
    silence_id = (await shell.done("silence", "add", "--worker-id", "w", "--for", "1h")).strip()
    [registered] = (await lastseen.json("/api/v1/events"))["events"]
    return {
        r"sil_(\.\.\.|[0-9a-f]{32})": silence_id,
        r"ntf_([0-9a-f]*\.\.\.)": nid,
        r"inc_\.\.\.": incident_id or "",
        r"EVENT_ID|52b4\.\.\.": registered["data"]["event_id"],
        "NAME|RECEIVER": "ops",
        "N": "2",
        "PATH": "backup-1",
    }
