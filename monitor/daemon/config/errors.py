"""Formats the problems of a refused configuration, one line each, with the position of the value.

``file:line: section.key: message, got value`` or ``environment LASTSEEN_SECTION__KEY: message, got value``.
A value that is or may contain a secret is omitted or masked.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from monitor.daemon.config.keys import KIND, Spot, elsewhere, kind_of, located, suggestion, written_fields
from monitor.daemon.config.sources import Place, Source
from monitor.settings.key_material import WEBHOOK_PREFIX
from monitor.settings.section import Key, Problem, dotted
from monitor.settings.urls import masked_url

_LONGEST_SHOWN: Final = 80
_HIDDEN_KEYS: Final = ("_env", "_envs")
"""Suffixes of keys that name environment variables. Hidden, because users paste the secret itself there by mistake."""
_MESSAGES: Final[Mapping[str, str]] = {
    "value_error": "{error}",
    "literal_error": "must be one of {expected}",
    "union_tag_invalid": "must be one of {expected_tags}",
    "union_tag_not_found": "is required",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "missing": "is required",
    "float_type": "must be a number",
    "int_type": "must be a whole number",
    "bool_type": "must be true or false",
    "string_type": "must be a string",
    "string_unicode": "is not valid Unicode",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
    "dict_type": "must be a table",
    "string_too_short": "must not be empty",
    "tuple_type": 'must be a list, such as ["a", "b"]',
}


def lines(error: ValidationError | None, source: Source, model: type[BaseModel]) -> tuple[str, ...]:
    """Every problem of a refused configuration; those of the file in line order."""
    found = [*source.problems]
    for details in error.errors(include_url=False, include_input=False) if error else []:
        for key, problem in _problems(details, model):
            found.append(_line(key, problem, source))
    return tuple(line for _, line in sorted(found, key=lambda item: item[0]))


def _problems(details: ErrorDetails, model: type[BaseModel]) -> Iterator[tuple[Key, Problem]]:
    kind, location, context = details["type"], details["loc"], details.get("ctx", {})
    # The last part of an unknown key is the written key, not an attribute name.
    spot = located(model, location[:-1] if kind == "extra_forbidden" else location)
    key = spot.key
    message = _MESSAGES[kind].format(**context) if kind in _MESSAGES else details["msg"]
    match kind:
        case "refused":
            for problem in context["problems"]:
                yield (*key, *problem.at), problem
            return
        case "extra_forbidden":
            key, message = (*key, location[-1]), _unknown(str(location[-1]), spot, model)
        case "union_tag_invalid" | "union_tag_not_found":
            key = (*key, KIND)
        case "tuple_type" if spot.tables:
            message = f"is a list of tables: write [[{dotted(key)}]] above each"
    yield key, Problem(message=message)


def _unknown(word: str, spot: Spot, model: type[BaseModel]) -> str:
    others = [kind_of(table) for table in spot.kinds if word in written_fields(table)]
    if others:
        (here,) = spot.tables
        return f"belongs to type {' or '.join(others)}, not {kind_of(here)}"
    name = suggestion(word, [name for table in spot.tables for name in written_fields(table)])
    near = elsewhere(word, model) if name is None else dotted((*spot.key, name))
    return "unknown key" + ("" if near is None else f"; did you mean {near}?")


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
    if (
        place.raw is None
        or any(name.endswith(_HIDDEN_KEYS) for name in names)
        or problem.message.startswith("unknown key")
    ):
        return ""
    shown = " ".join(place.raw.split())
    if WEBHOOK_PREFIX in shown:
        return ", got a value that is not shown, because it looks like a secret"
    if any(name.endswith("url") for name in names) or "://" in shown:
        quote = shown[:1] if shown[:1] in {'"', "'"} else ""
        shown = f"{quote}{masked_url(shown.strip(quote) if quote else shown)}{quote}"
    return f", got {shown if len(shown) <= _LONGEST_SHOWN else shown[:_LONGEST_SHOWN] + '...'}"
