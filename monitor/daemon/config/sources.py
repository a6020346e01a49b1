"""Sources of the configuration: the TOML file and the environment, with the position of each value.

Knows positions and texts, not their meaning: the caller passes the list of existing keys.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import toml_rs

from monitor.daemon.config.keys import PREFIX, SEPARATOR, Entry, suggestion
from monitor.settings.section import Key, dotted

_HEADER: Final = re.compile(r"^[ \t]*\[[ \t]*([A-Za-z0-9_.\- \t]+?)[ \t]*\]", re.MULTILINE)
_SERVICE_LINK: Final = re.compile(r"(?P<service>.+?)_(?:SERVICE_HOST|SERVICE_PORT(?:_.+)?|PORT(?:_[0-9]+_[A-Z]+.*)?)")
_NAMES_A_VARIABLE: Final = re.compile(r"_env$|_envs\[\d+\]$")
"""A key whose value is the name of a variable, such as ``secret_env`` or one of ``secret_envs``."""
_SYNTAX_EXCERPT_LINES: Final = 4
"""Lines to skip: a parser message begins with a position and an excerpt of the file, which may contain a secret."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Position of a key. ``line`` is 0 for the environment; ``raw`` is the text of the value, None for a table."""

    where: str
    line: int
    raw: str | None
    key: Key
    """The key at this position. Shorter than the requested one if that one is inside its value."""


class ConfigError(ValueError):
    """The configuration is invalid. ``lines`` has every problem; the message is these lines."""

    def __init__(self, lines: tuple[str, ...]) -> None:
        self.lines = lines
        super().__init__("\n".join(lines))


@dataclass(kw_only=True, slots=True)
class Source:
    """The configured values, nested as in TOML, and the position of each."""

    values: dict[str, object] = field(default_factory=dict)
    places: dict[Key, Place] = field(default_factory=dict)
    problems: list[tuple[int, str]] = field(default_factory=list)
    """Problems found before validation: the line (0 for the environment), and the text with its position."""

    def exactly(self, key: Key) -> Place | None:
        """Position of ``key`` itself, or of the environment variable whose value contains it."""
        for end in range(len(key), 0, -1):
            place = self.places.get(key[:end])
            if place is not None and (end == len(key) or place.line == 0):
                return place
        return None

    def nearest(self, key: Key) -> Place | None:
        """Position of the innermost table around ``key``, or of its first key if the table has no line."""
        for end in range(len(key), 0, -1):
            around = [place for written, place in self.places.items() if written[:end] == key[:end]]
            if around:
                return self.places.get(key[:end]) or min(around, key=lambda place: place.line)
        return None


def read_file(path: Path) -> Source:
    """Read a TOML file with the position of every key.

    Raises:
        ConfigError: the file cannot be read, is not UTF-8, or is not TOML.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError((f"{path}: cannot read the configuration file: {error.strerror}",)) from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError((f"{path}:{line}: is not UTF-8",)) from None
    try:
        document = toml_rs.load_with_metadata(text)
    except toml_rs.TOMLDecodeError as error:
        reason = " ".join(error.msg.splitlines()[_SYNTAX_EXCERPT_LINES:]) or "cannot be parsed"
        raise ConfigError((f"{path}:{error.lineno}: is not TOML: {reason}",)) from None
    source = Source(values=document.value)
    for header in _HEADER.finditer(text):
        key: Key = tuple(part.strip() for part in header[1].split("."))
        _note(source, path, key, line=text.count("\n", 0, header.start(1)) + 1, raw=None)
    _walk(source, path, (), document.meta["nodes"])
    return source


def _note(source: Source, path: Path, key: Key, *, line: int, raw: str | None) -> None:
    source.places[key] = Place(where=f"{path}:{line}", line=line, raw=raw, key=key)


def _first(line: object) -> int:
    """First line of a parser position, which is one number or (first, last)."""
    first = line[0] if isinstance(line, tuple) else line
    return first if isinstance(first, int) else 0


def _walk(source: Source, path: Path, key: Key, node: object) -> None:
    """Record the positions below ``node``: the nodes of a table, a value with its own position, or a list of these."""
    if isinstance(node, list):
        for index, item in enumerate(node):
            line = item["value_line"]
            _note(source, path, (*key, index), line=_first(line), raw=_raw(item))
            _walk(source, path, (*key, index), item["value"])
    elif isinstance(node, dict):
        for name, child in node.items():
            here = (*key, name)
            # A node of a table has no position of its own. If it has a key named key_line, that one is a dict.
            if isinstance(child.get("key_line"), int | tuple):
                _note(source, path, here, line=_first(child["key_line"]), raw=_raw(child))
                _walk(source, path, here, child["value"])
            else:
                _walk(source, path, here, child)


def _raw(node: Mapping[str, object]) -> str | None:
    value = node["value"]
    is_table = isinstance(value, dict) or (
        isinstance(value, list) and any(isinstance(item["value"], dict) for item in value)
    )
    return None if is_table else str(node["value_raw"])


def overlay(source: Source, environ: Mapping[str, str], known: Iterable[Entry]) -> None:
    """Override the values of the file by every ``LASTSEEN_SECTION__KEY``. Unknown names become problems.

    Ignored: variables that a key of the file such as ``secret_env`` names, and those that Kubernetes sets for
    a Service called ``lastseen`` or ``lastseen-...`` (``LASTSEEN_PORT``, ``LASTSEEN_SERVICE_HOST``, ...).
    """
    catalog = list(known)
    scalars = {entry.path: entry for entry in catalog if not entry.array}
    arrays = {entry.array for entry in catalog if entry.array}
    named = {text for key, text in _strings(source.values, ()) if _NAMES_A_VARIABLE.search(dotted(key))}
    taken: dict[Key, str] = {}
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable in named or _is_service_link(variable, environ):
            continue
        path = tuple(variable.removeprefix(PREFIX).lower().split(SEPARATOR))
        array = next((array for array in arrays if path[: len(array)] == array), None)
        if array is not None:
            message = f"{'.'.join(array)} is a list of tables, which only the configuration file can hold"
        elif path not in scalars:
            message = "names no configuration key" + _hint(path, scalars)
        elif path in taken:
            message = f"sets the same key as {taken[path]}"
        else:
            taken[path] = variable
            value = environ[variable]
            _set(source, scalars[path], variable, value)
            if not (len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" and scalars[path].text):
                continue
            message = "is enclosed in quotes: leave them out"
        source.problems.append((0, f"environment {variable}: {message}"))


def note_control_characters(source: Source) -> None:
    """Add a problem for each string with a control character: no setting allows them."""
    for key, text in _strings(source.values, ()):
        if any(unicodedata.category(character) == "Cc" for character in text):
            place = source.exactly(key) or source.nearest(key)
            where, line = (place.where, place.line) if place else ("configuration", 0)
            source.problems.append((line, f"{where}: {dotted(key)}: contains a control character"))


def _strings(node: object, key: Key) -> Iterator[tuple[Key, str]]:
    """Every string below a node, including the names of keys."""
    match node:
        case str():
            yield key, node
        case list():
            for index, item in enumerate(node):
                yield from _strings(item, (*key, index))
        case dict():
            for name, value in node.items():
                yield key, name
                yield from _strings(value, (*key, name))


def _set(source: Source, entry: Entry, variable: str, text: str) -> None:
    table: object = source.values
    for part in entry.path[:-1]:
        table = table.setdefault(part, {}) if isinstance(table, dict) else None
    if isinstance(table, dict):
        table[entry.path[-1]] = text if entry.text else _parsed(text)
        raw = json.dumps(text, ensure_ascii=False).encode(errors="backslashreplace").decode()
        for inside in [key for key in source.places if key[: len(entry.path)] == entry.path]:
            del source.places[inside]
        source.places[entry.path] = Place(where=f"environment {variable}", line=0, raw=raw, key=entry.path)


def _parsed(text: str) -> object:
    """Parse ``text`` as a TOML value; returns ``text`` itself if it is not one."""
    try:
        values = toml_rs.loads(f"value = {text}")
    except ValueError:
        return text
    return values["value"] if set(values) == {"value"} else text


def _hint(path: tuple[str, ...], scalars: Mapping[tuple[str, ...], Entry]) -> str:
    by_name = {SEPARATOR.join(known): entry.variable for known, entry in scalars.items()}
    near = suggestion(SEPARATOR.join(path), by_name)
    if near is None:
        near = next((SEPARATOR.join(known) for known in scalars if known[-1] == path[-1]), None)
    return "" if near is None else f"; did you mean {by_name[near]}?"


def _is_service_link(variable: str, environ: Mapping[str, str]) -> bool:
    link = _SERVICE_LINK.fullmatch(variable)
    return link is not None and SEPARATOR not in variable and f"{link['service']}_SERVICE_HOST" in environ
