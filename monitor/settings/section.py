"""A table of settings, and how its validators report errors with their keys."""

from dataclasses import dataclass
from typing import TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo
from pydantic_core import PydanticCustomError

from monitor.settings.key_material import Surroundings

Key: TypeAlias = tuple[str | int, ...]
"""A key's path from the top, ``("auth", "keys", 0, "kid")``; integers count tables of an array from 0."""


def dotted(key: Key) -> str:
    """Format a key, such as ``auth.keys[0].kid``."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


class Section(BaseModel):
    """A table of the configuration: values only, immutable, unknown keys refused.

    The key of an attribute ``interval_ms`` is ``interval``: its value has the unit.
    """

    model_config = ConfigDict(
        alias_generator=lambda name: name.removesuffix("_ms"), frozen=True, extra="forbid", hide_input_in_errors=True
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One error found by a validator.

    ``at`` is the key, relative to the validated value. ``related`` are other keys, from the top: if ``at`` was not
    written, the error is reported at the first of them that was.
    """

    message: str
    at: Key = ()
    related: tuple[Key, ...] = ()


def refusal(*problems: Problem) -> PydanticCustomError:
    """Build a validator's exception for errors that are not all at the validated value."""
    text = "; ".join(problem.message for problem in problems)
    return PydanticCustomError("refused", "{text}", {"text": text, "problems": problems})


def unique(key: str, message: str) -> AfterValidator:
    """Return a validator for an array of tables whose values of ``key`` differ; each repetition is an error."""

    def check(tables: tuple[Section, ...]) -> tuple[Section, ...]:
        values = [getattr(table, key) for table in tables]
        repeated = [index for index, value in enumerate(values) if value in values[:index]]
        if repeated:
            raise refusal(*(Problem(message=message, at=(index, key)) for index in repeated))
        return tables

    return AfterValidator(check)


def surroundings(info: ValidationInfo) -> Surroundings:
    """Return the context from ``load``; by default paths start at the working directory and no variable is set."""
    return info.context if isinstance(info.context, Surroundings) else Surroundings()
