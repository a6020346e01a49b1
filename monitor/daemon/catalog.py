"""Which configuration keys there are, read off the models, so that no second list can drift away from them.

Used for the environment's names, for "did you mean", and by the test that compares the documents with the models.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias, get_args, get_origin

from pydantic import BaseModel

from monitor.daemon.units import SizeMark

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Key: TypeAlias = tuple[str | int, ...]
"""A key's path from the top, ``("auth", "keys", 0, "kid")``; integers count tables of an array from 0."""

PREFIX: Final = "LASTSEEN_"
SEPARATOR: Final = "__"
_CLOSE_ENOUGH: Final = 0.7


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One key. ``path`` has no indexes; ``array`` is the path of the array of tables it stands in, or empty."""

    path: tuple[str, ...]
    array: tuple[str, ...]
    default: object
    """As the configuration would write it; None when there is none."""
    required: bool
    text: bool
    """Whether an environment variable's value is taken as a string, unparsed."""

    @property
    def variable(self) -> str:
        """The environment variable that sets it; only for a key outside arrays."""
        return PREFIX + SEPARATOR.join(self.path).upper()


def table_of(annotation: object) -> tuple[type[BaseModel] | None, bool]:
    """The model behind a field's annotation, and whether it is an array of such tables."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    if get_origin(annotation) is tuple:
        model, _ = table_of(get_args(annotation)[0])
        return model, True
    return None, False


def entries(model: type[BaseModel], path: tuple[str, ...] = (), array: tuple[str, ...] = ()) -> Iterator[Entry]:
    """Every key of ``model`` and of the tables in it, in the order of declaration."""
    for name, field in model.model_fields.items():
        here = (*path, field.alias or name)
        table, many = table_of(field.annotation)
        if table is not None:
            yield from entries(table, here, here if many else array)
            continue
        is_size = any(isinstance(mark, SizeMark) for mark in field.metadata)
        yield Entry(
            path=here,
            array=array,
            default=None if field.is_required() else field.default,
            required=field.is_required(),
            text=isinstance(field.default, str) and not is_size,
        )


def as_written(model: type[BaseModel], key: Key) -> Key:
    """``key`` with the file's names, where a validator of a default speaks of the attribute (``interval_ms``)."""
    table: type[BaseModel] | None = model
    written: Key = ()
    for part in key:
        field = table.model_fields.get(part) if table is not None and isinstance(part, str) else None
        written = (*written, part if field is None else field.alias or part)
        if isinstance(part, str):
            table = None if field is None else table_of(field.annotation)[0]
    return written


def names_at(model: type[BaseModel], key: Key) -> list[str]:
    """The names that the table at ``key`` may hold; none when there is no such table."""
    table: type[BaseModel] | None = model
    for part in key:
        if isinstance(part, str) and table is not None:
            fields = {field.alias or name: field for name, field in table.model_fields.items()}
            table = table_of(fields[part].annotation)[0] if part in fields else None
    return [] if table is None else [field.alias or name for name, field in table.model_fields.items()]


def suggestion(word: str, names: Iterable[str]) -> str | None:
    """The one of ``names`` that was probably meant."""
    close = difflib.get_close_matches(word, list(names), n=1, cutoff=_CLOSE_ENOUGH)
    return close[0] if close else None


def elsewhere(word: str, model: type[BaseModel]) -> str | None:
    """The dotted path of a key called ``word`` in any table, for one that was written in the wrong table."""
    return next((".".join(entry.path) for entry in entries(model) if entry.path[-1] == word), None)
