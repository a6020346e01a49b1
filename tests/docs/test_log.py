"""Every warning of the log is in the document that says what it means and what to do, and no other is."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from alerts.delivery.confirmations import DURABILITY_EVENTS
from monitor.durability import Confirmation

ROOT: Final = Path(__file__).parents[2]
DOCUMENT: Final = (ROOT / "docs" / "log.md").read_text(encoding="utf-8")
LEVELS: Final = {"warning", "error", "critical", "exception"}
LOGGERS: Final = {"log", "_log", "self._log"}


def calls() -> Iterator[tuple[Path, ast.Call]]:
    for package in ("monitor", "alerts"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    yield path, node


def loud() -> Iterator[tuple[Path, ast.expr]]:
    """The first argument of each call that writes a line of these levels, also under another name of its own."""
    for path, call in calls():
        match call.func:
            case ast.Name(id="log" | "say") if "cli" not in path.parts:
                yield path, call.args[0]
            case ast.Attribute(value=value, attr=attr) if attr in LEVELS and ast.unparse(value) in LOGGERS:
                yield path, call.args[0]


def warned_of() -> set[str]:
    """The events; two places get them as values."""
    found = {
        str(call.args[0].value)
        for _, call in calls()
        if isinstance(call.func, ast.Name)
        and call.func.id == "StoreBackoff"
        and call.args
        and isinstance(call.args[0], ast.Constant)
    }
    for path, event in loud():
        match ast.unparse(event):
            case "self._unavailable":
                pass  # what StoreBackoff was made with
            case "DURABILITY_EVENTS[confirmation]":
                found |= {name for one, name in DURABILITY_EVENTS.items() if one is not Confirmation.CONFIRMED}
            case text:
                name = ast.literal_eval(text)
                assert re.fullmatch(r"[a-z_]+\.[a-z_]+", name), (path, text)
                found.add(name)
    return found


def test_each_warning_has_its_meaning_and_what_to_do_and_each_that_is_there_exists() -> None:
    rows = re.findall(r"(?m)^\| `([a-z_.]+)` \| (.+) \| (.+) \|$", DOCUMENT)
    names = [name for name, _, _ in rows]
    assert len(names) == len(set(names)) == DOCUMENT.count("\n| `")
    assert set(names) == warned_of()
    for name, means, do in rows:
        assert means.strip(), name
        assert do.strip(), name


def test_no_logger_goes_by_a_name_that_the_walk_does_not_know() -> None:
    for path, call in calls():
        if ast.unparse(call.func) in {"structlog.get_logger", "get_logger"}:
            text = path.read_text(encoding="utf-8")
            assert re.search(r"(?m)^ *(_log|log|self\._log)\b[^=]*= structlog\.get_logger\(", text), path
