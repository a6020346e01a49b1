"""Globs of the configuration: ``*`` stands for any run of characters, everything else for itself. Pure."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Final, TypeAlias

from pydantic import AfterValidator

MOST_STARS: Final = 8
"""Bounds the work of one match."""


def checked_glob(pattern: str) -> str:
    """The pattern, unless it is empty, has a wildcard of another kind, or too many stars.

    What passes means the same to ``fnmatch.fnmatchcase``, to Redis and to the reader.
    """
    if not pattern:
        raise ValueError("must not be empty")
    if set(pattern) & set("?[]"):
        raise ValueError("`*` is the only wildcard; `?`, `[` and `]` are refused")
    if pattern.count("*") > MOST_STARS:
        raise ValueError(f"has more than {MOST_STARS} stars")
    return pattern


def covers(pattern: str, other: str) -> bool:
    """Whether all that fits the other pattern fits this one: its stars, read as a text, do so only against a star."""
    return fnmatchcase(other, pattern)


Glob: TypeAlias = Annotated[str, AfterValidator(checked_glob)]
