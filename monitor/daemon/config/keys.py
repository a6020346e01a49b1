"""The list of configuration keys, derived from the models, so that there is no second list to maintain.

Used for the names of environment variables, for "did you mean", and by the test that compares the documents with the
models.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Final, TypeAlias, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from monitor.settings.section import Key
from monitor.settings.units import SizeMark

Table: TypeAlias = type[BaseModel]

KIND: Final = "type"
"""The key that selects the kind of a table in an array of several kinds."""
PREFIX: Final = "LASTSEEN_"
SEPARATOR: Final = "__"
_CLOSE_ENOUGH: Final = 0.7


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One key. ``path`` has no indexes; ``array`` is the path of the enclosing array of tables, or empty."""

    path: tuple[str, ...]
    array: tuple[str, ...]
    kind: str | None
    """The ``type`` of the table that has this key; None if tables of all kinds have it."""
    default: object
    """The default as written in a configuration; None: no default."""
    required: bool
    text: bool
    """Whether the value of the environment variable is used as a string, unparsed."""

    @property
    def variable(self) -> str:
        """The environment variable that sets the key; only for keys outside arrays."""
        return PREFIX + SEPARATOR.join(self.path).upper()


@dataclass(frozen=True, kw_only=True, slots=True)
class Spot:
    """A position in the configuration. ``key`` has the names of the file.

    ``tables``: the possible tables at this position, narrowed down from ``kinds``. Empty: a value, or nothing.
    """

    key: Key
    tables: tuple[Table, ...]
    kinds: tuple[Table, ...]


def tables_of(annotation: object) -> tuple[tuple[Table, ...], bool]:
    """The models in a field's annotation (several for a union of tables), and whether the field is an array."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation,), False
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is tuple:
        return tables_of(arguments[0])[0], True
    if origin is Annotated:
        return tables_of(arguments[0])
    if origin in {Union, UnionType}:
        found = [tables_of(argument)[0] for argument in arguments]
        return (tuple(table for tables in found for table in tables), False) if all(found) else ((), False)
    return (), False


def kind_of(table: Table) -> str:
    """The value of ``type`` for a table that is one of several kinds."""
    return str(get_args(table.model_fields[KIND].annotation)[0])


def written_fields(table: Table) -> Mapping[str, FieldInfo]:
    """The fields of a table by their names in the file."""
    return {field.alias or name: field for name, field in table.model_fields.items()}


def entries(*kinds: Table, path: tuple[str, ...] = (), array: tuple[str, ...] = ()) -> Iterator[Entry]:
    """Every key of a table and its tables, in the order of declaration.

    For a table of several ``kinds``, the keys that all kinds have come first, once.
    """
    shared = set.intersection(*(set(table.model_fields) for table in kinds))
    for name, field in kinds[0].model_fields.items():
        if name in shared:
            yield from _field_entries(name, field, path, array, None)
    for table in kinds:
        for name, field in table.model_fields.items():
            if name not in shared:
                yield from _field_entries(name, field, path, array, kind_of(table))


def are_defaults(values: Mapping[str, object], known: Iterable[Entry]) -> bool:
    """Whether these tables have known keys only, each with its default."""
    defaults = {entry.path: entry.default for entry in known if not entry.array}

    def is_default(path: tuple[str, ...], value: object) -> bool:
        if isinstance(value, dict):
            return all(is_default((*path, name), one) for name, one in value.items())
        default = defaults.get(path)
        return value == (list(default) if isinstance(default, tuple) else default)

    return is_default((), values)


def _field_entries(
    name: str, field: FieldInfo, path: tuple[str, ...], array: tuple[str, ...], kind: str | None
) -> Iterator[Entry]:
    here = (*path, field.alias or name)
    tables, many = tables_of(field.annotation)
    if tables:
        yield from entries(*tables, path=here, array=here if many else array)
        return
    is_size = any(isinstance(mark, SizeMark) for mark in field.metadata)
    yield Entry(
        path=here,
        array=array,
        kind=kind,
        default=None if field.is_required() else field.default,
        required=field.is_required(),
        text=isinstance(field.default, str) and not is_size,
    )


def located(model: Table, location: Key) -> Spot:
    """The position of a Pydantic error in the configuration.

    The location in the error has the attribute's name (``interval_ms``) if a default was refused, and, in an array
    of tables of several kinds, the kind after the index.
    """
    tables: tuple[Table, ...] = (model,)
    kinds = tables
    key: Key = ()
    for part in location:
        if isinstance(part, int):
            key = (*key, part)
            continue
        if len(tables) > 1:
            tables = tuple(table for table in tables if kind_of(table) == part)
            continue
        known = {name: field for table in tables for name, field in table.model_fields.items()}
        field = known.get(part) or next((field for field in known.values() if field.alias == part), None)
        key = (*key, part if field is None else field.alias or part)
        kinds = tables = () if field is None else tables_of(field.annotation)[0]
    return Spot(key=key, tables=tables, kinds=kinds)


def suggestion(word: str, names: Iterable[str]) -> str | None:
    """The name closest to ``word``; None if none is close."""
    close = difflib.get_close_matches(word, list(names), n=1, cutoff=_CLOSE_ENOUGH)
    return close[0] if close else None


def elsewhere(word: str, model: type[BaseModel]) -> str | None:
    """The dotted path of a key named ``word`` in any table, for a key in the wrong table."""
    return next((".".join(entry.path) for entry in entries(model) if entry.path[-1] == word), None)
