"""How a configuration is refused: every problem as one line that says where it was written.

``file:line: section.key: message, got value`` or ``environment LASTSEEN_SECTION__KEY: message, got value``.
A value that is or may hold a secret is left out or masked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from monitor.daemon.catalog import Key, as_written, elsewhere, names_at, suggestion, table_of
from monitor.daemon.key_material import WEBHOOK_PREFIX, Surroundings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from monitor.daemon.toml_source import Place, Source, SourceProblem

_LONGEST_SHOWN: Final = 80
_HIDDEN_KEYS: Final = frozenset({"secret_env", "secret_envs"})
"""A secret pasted where its variable's name belongs is still a secret."""
_MESSAGES: Final[Mapping[str, str]] = {
    "value_error": "{error}",
    "literal_error": "must be one of {expected}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "missing": "is required",
    "int_type": "must be a whole number",
    "bool_type": "must be true or false",
    "string_type": "must be a string",
    "string_unicode": "is not valid Unicode",
    "model_type": "must be a table",
    "string_too_short": "must not be empty",
}


class ConfigError(ValueError):
    """The configuration is refused; ``lines`` holds every problem, and the text is one problem per line."""

    def __init__(self, lines: tuple[str, ...]) -> None:
        self.lines = lines
        super().__init__("\n".join(lines))


class Section(BaseModel):
    """A table of the configuration: values only, immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Url(str):
    """A URL whose ``repr`` shows no credentials: neither the user part, nor the query, nor a webhook's path."""

    __slots__ = ()

    def __repr__(self) -> str:
        """The masked form, quoted."""
        return repr(masked_url(self))


def masked_url(url: str) -> str:
    """``url`` with all that may be a credential replaced by ``***``; never fails, whatever the text is."""
    scheme, colon, rest = url.partition(":") if ":" in url else ("", "", url)
    slashes = "//" if rest.startswith("//") else ""
    user, at, host = rest.removeprefix("//").rpartition("@")
    host, question, _ = host.partition("?")
    if scheme not in {"redis", "rediss", "unix"}:  # their paths are a number, or name a socket; others may be secret
        host, slash, path = host.partition("/")
        host += slash + ("***" if path else "")
    return f"{scheme}{colon}{slashes}{'***@' if at or user else ''}{host}{'?***' if question else ''}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One reason to refuse, found by a validator.

    ``at`` is the key, relative to what is being validated. ``related`` are other keys, from the top:
    when ``at`` was not written, the first of them that was is where the reader is sent.
    """

    message: str
    at: Key = ()
    related: tuple[Key, ...] = ()


def refusal(*problems: Problem) -> PydanticCustomError:
    """What a validator raises for problems that are not all at its own place."""
    text = "; ".join(problem.message for problem in problems)
    return PydanticCustomError("refused", "{text}", {"text": text, "problems": problems})


def surroundings(info: ValidationInfo) -> Surroundings:
    """What ``load`` passed along; without it paths start at the working directory and no variable is set."""
    return info.context if isinstance(info.context, Surroundings) else Surroundings()


def dotted(key: Key) -> str:
    """``auth.keys[0].kid``."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def lines(error: ValidationError | None, source: Source, model: type[BaseModel]) -> tuple[str, ...]:
    """Every problem of a refused configuration, the file's in the order of its lines."""
    found = [(problem.line, _source_line(problem)) for problem in source.problems]
    for details in error.errors(include_url=False, include_input=False) if error else []:
        for key, problem in _problems(details, model):
            found.append(_line(key, problem, source))
    return tuple(line for _, line in sorted(found, key=lambda item: item[0]))


def _source_line(problem: SourceProblem) -> str:
    return f"{problem.where}: {problem.message}"


def _problems(details: ErrorDetails, model: type[BaseModel]) -> Iterator[tuple[Key, Problem]]:
    key: Key = details["loc"]
    if details["type"] != "extra_forbidden":
        key = as_written(model, key)
    context = details.get("ctx", {})
    if details["type"] == "refused":
        for problem in context["problems"]:
            yield (*key, *problem.at), problem
    else:
        yield key, Problem(message=_message(details, model))


def _message(details: ErrorDetails, model: type[BaseModel]) -> str:
    match details["type"]:
        case "extra_forbidden":
            return _unknown(details["loc"], model)
        case "tuple_type":
            return _list_message(details["loc"], model)
        case kind if kind in _MESSAGES:
            return _MESSAGES[kind].format(**details.get("ctx", {}))
        case _:
            return details["msg"]


def _unknown(key: Key, model: type[BaseModel]) -> str:
    word = str(key[-1])
    name = suggestion(word, names_at(model, key[:-1]))
    near = elsewhere(word, model) if name is None else dotted((*key[:-1], name))
    return "unknown key" + ("" if near is None else f"; did you mean {near}?")


def _list_message(key: Key, model: type[BaseModel]) -> str:
    table: type[BaseModel] | None = model
    many = False
    for part in key:
        fields = {} if table is None else {field.alias or name: field for name, field in table.model_fields.items()}
        table, many = table_of(fields[str(part)].annotation) if part in fields else (None, False)
    if table is not None and many:
        return f"is a list of tables: write [[{dotted(key)}]] above each"
    return 'must be a list, such as ["a", "b"]'


def _line(key: Key, problem: Problem, source: Source) -> tuple[int, str]:
    exact = source.exactly(key)
    related = next((place for other in problem.related if (place := source.exactly(other))), None)
    place = exact or related or source.nearest(key)
    if place is None:
        return 0, f"configuration: {dotted(key)}: {problem.message}"
    says_the_key = place.line == 0 and place.key == key[: len(place.key)]
    name = "" if says_the_key else f"{dotted(key)}: "
    got = _got(key, problem, place) if place is exact else ""
    return place.line, f"{place.where}: {name}{problem.message}{got}"


def _got(key: Key, problem: Problem, place: Place) -> str:
    names = {part for part in key if isinstance(part, str)}
    if place.raw is None or names & _HIDDEN_KEYS or problem.message.startswith("unknown key"):
        return ""
    shown = " ".join(place.raw.split())
    if WEBHOOK_PREFIX in shown:
        return ", got a value that is not shown, because it looks like a secret"
    if "url" in names or "://" in shown:
        quote = shown[:1] if shown[:1] in {'"', "'"} else ""
        shown = f"{quote}{masked_url(shown.strip(quote) if quote else shown)}{quote}"
    return f", got {shown if len(shown) <= _LONGEST_SHOWN else shown[:_LONGEST_SHOWN] + '...'}"
